"""`-check` of a cross-validation: its folds, and what all of them together need."""

from __future__ import annotations

from deepmedic import devices
from deepmedic.config.plain import to_plain
from deepmedic.data.memory import bytes_as_text
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, ProblemList
from deepmedic.locks import refuse_if_held
from deepmedic.sessions.checking import check
from deepmedic.sessions.checking.data_check import DataFindings, read_all
from deepmedic.sessions.common import estimates
from deepmedic.sessions.training.cross_validation import CrossValidationPlan


def check_folds(plan: CrossValidationPlan) -> int:
    """Check a cross-validation to the last voxel; returns the exit code that the run would begin with.

    Every fold has all cases, in training or held out, so they are read once.

    Raises:
        DeepMedicError: everything that is wrong, listed together.
    """
    for fold in plan.folds:
        refuse_if_held(fold.training.paths.folder, fold.training.paths.session)
        refuse_if_held(fold.scored_in.folder, fold.scored_in.session)
    first = plan.folds[0].training
    config, model, problems = first.config, first.beginning.model.config, ProblemList()
    found = DataFindings.of_model(model)
    skipped = read_all(first.training, problems, config.sampling, found)
    skipped |= read_all(plan.folds[0].held_out, problems, config.sampling, found)
    problems.raise_if_any()
    steps = sum(check.remaining_steps(fold.training) for fold in plan.folds)
    one, network = check.seconds_per_step(first), first.beginning.model.network()
    with devices.session_numerics(first.device, config.execution):
        scoring = sum(estimates.seconds_of_inference(network, fold.held_out, first.device) for fold in plan.folds)
    findings = {
        "session": plan.paths.session,
        "output": str(plan.paths.folder),
        "device": devices.describe(first.device),
        "folds": {
            fold.training.paths.session: {
                "begins": check.beginning_of(fold.training),
                "trains on": sorted(case.name for case in fold.training.training.cases),
                "held out": sorted(case.name for case in fold.held_out.cases),
            }
            for fold in plan.folds
        },
        "skippedCases": skipped,
        "estimated": {
            "time": f"{one * steps / 3600:.2f} hours for {steps} steps of {one:.3g} s in all folds (measured on one "
            f"segment), {scoring / 3600:.2g} hours for scoring, and what validation takes",
            "disk": bytes_as_text(plan.disk),
        },
        "notes": [*dict.fromkeys(note for fold in plan.folds for note in fold.training.notes), *found.repeated],
        "settings": to_plain(config),
    }
    check.report(findings, plan.arguments, first.beginning.report, found)
    return FINISHED_WITH_SKIPPED_CASES if skipped else 0
