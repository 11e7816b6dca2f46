"""`-check`: what a run would do and need, after everything it would read was read, voxels included."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from deepmedic import devices
from deepmedic.arguments import Arguments
from deepmedic.config.plain import to_plain
from deepmedic.config.training import TrainConfig
from deepmedic.data.memory import bytes_as_text
from deepmedic.data.residency import volume_bytes
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, ProblemList
from deepmedic.files import write_json_atomically
from deepmedic.inference.case_prediction import mirrorings
from deepmedic.inference.parts import refuse_if_overlapping, session_name
from deepmedic.locks import refuse_if_held
from deepmedic.model import parameters
from deepmedic.sessions.checking.data_check import DataFindings, read_all
from deepmedic.sessions.common import estimates
from deepmedic.sessions.inference.ensemble import members_of
from deepmedic.sessions.inference.testing import TestPlan, find_existing
from deepmedic.sessions.models.new_model import NewModelPlan
from deepmedic.sessions.training.changed_files import in_short
from deepmedic.sessions.training.training_plan import TrainingPlan
from deepmedic.sessions.training.training_session import exit_code_of
from deepmedic.training import phases
from deepmedic.transfer.report import TransferReport

log = logging.getLogger(__name__)


def training(plan: TrainingPlan, told: dict[str, Any] | None = None, needs: dict[str, str] | None = None) -> int:
    """Check a training session to the last voxel; returns the exit code that the run would begin with.

    Args:
        plan: of the session.
        told: instead of what is told of a training, where trainings are made for something else; None: nothing.
        needs: what it needs; None: the rest of the training.

    Raises:
        DeepMedicError: everything that is wrong, listed together.
    """
    refuse_if_held(plan.paths.folder, plan.paths.session)
    findings = {
        "session": plan.paths.session,
        "output": str(plan.paths.folder),
        "begins": beginning_of(plan),
        "device": devices.describe(plan.device),
        "receptiveField": list(plan.beginning.model.architecture.receptive_field),
        "parameters": parameters.count_parameters(plan.beginning.model.network()),
        **(told or {}),
    }
    if plan.beginning.kind == "finished":
        report(findings | {"settings": to_plain(plan.config)}, plan.arguments)
        return exit_code_of(plan.beginning.state)
    if plan.config.phases:
        findings["phases"] = {
            phase.name: phases.describe(plan.config, index) for index, phase in enumerate(plan.config.phases)
        }
    config, problems, skipped = plan.config, ProblemList(), dict(plan.beginning.state.skipped)
    validation = plan.validation or plan.validation_volumes
    found = DataFindings.of_model(plan.beginning.model.config)
    skipped |= read_all(plan.training, problems, config.sampling, found)
    if validation is not None:
        skipped |= read_all(validation, problems, config.validation_sampling if plan.validation else None, found)
    source = plan.source_task.data if plan.source_task is not None else None
    if source is not None:  # of another task: it does not count for what is suggested
        skipped |= read_all(source, problems, None, DataFindings.of_model(plan.beginning.model.config))
    problems.raise_if_any()
    findings["cases"] = {data.role: len(data) for data in (plan.training, validation, source) if data}
    if plan.split is not None:
        findings["split"] = {part: sorted(plan.split.split.cases_of(part)) for part in plan.split.split.parts}
    findings["skippedCases"] = skipped
    findings["estimated"] = needs_of_training(plan) if needs is None else needs
    settings = to_plain(config)
    found.suggest(plan.beginning.model.config, settings, plan.device)
    notes = [*plan.beginning.notes, *plan.notes, *found.repeated]
    report(findings | {"notes": notes, "settings": settings}, plan.arguments, plan.beginning.report, found)
    return FINISHED_WITH_SKIPPED_CASES if skipped else 0


def testing(plan: TestPlan) -> int:
    """Check an inference session to the last voxel; returns the exit code that the run would begin with.

    Raises:
        DeepMedicError: everything that is wrong, listed together.
    """
    refuse_if_held(plan.paths.folder, session_name(plan.paths.session, plan.part))
    refuse_if_overlapping(plan.paths.folder, plan.paths.session, plan.part)
    kept, problems = find_existing(plan), ProblemList()
    found = DataFindings.of_model(plan.model.config)
    skipped = read_all(plan.data, problems, None, found)
    problems.raise_if_any()
    config, architecture = plan.config, plan.model.architecture
    batch = max(
        estimates.activation_bytes(
            one.model.architecture, one.model.config.segment_size_inference, config.batch_size, training=False
        )
        for one in plan.models
    )
    findings = {
        "session": plan.paths.session,
        "output": str(plan.paths.folder),
        **_models(plan),
        "device": devices.describe(plan.device),
        "cases": {plan.data.role: len(plan.data), **_part(plan), "kept from before": len(kept)},
        "skippedCases": skipped,
        "tiling": plan.tiling,
        "predictionsPerCase": plan.passes,
        "estimated": {
            "time": f"{_hours(plan)} for all cases (measured on one tile)",
            "memoryOfOneBatch": bytes_as_text(batch),
            "disk": bytes_as_text(estimates.result_bytes(plan.data, architecture.classes)),
        },
        "notes": [*plan.notes, *found.repeated],
        "settings": to_plain(config),
    }
    report(findings, plan.arguments, data=found)
    return FINISHED_WITH_SKIPPED_CASES if skipped else 0


def new_model(plan: NewModelPlan, arguments: Arguments) -> int:
    """Say what `-newModel` would create."""
    findings = {
        "model": plan.config.name,
        "output": str(plan.folder),
        "parameters": parameters.count_parameters(plan.model.network()),
        "receptiveField": list(plan.config.architecture.receptive_field),
        "estimated": {"disk": bytes_as_text(estimates.parameter_bytes(plan.model))},
        "notes": list(plan.config.source.notes),
        "settings": plan.config.to_dict(),
    }
    report(findings, arguments, plan.report)
    return 0


def beginning_of(plan: TrainingPlan) -> str:
    """Whether the session starts, goes on or is finished, in words."""
    beginning, position = plan.beginning, plan.beginning.state.position
    changed = [*beginning.changes, *in_short(beginning.changed_files)]
    changes = f"; changed: {', '.join(changed)}" if changed else ""
    if beginning.kind == "finished":
        return f"finished: {position.epoch} epochs are trained; nothing would be done{changes}"
    if beginning.kind == "resumed":
        return f"goes on from {beginning.path}, epoch {position.epoch}, subepoch {position.subepoch}{changes}"
    return f"starts from {beginning.path}" if beginning.path else "starts with a new model"


def steps_per_epoch(config: TrainConfig) -> int:
    """Training steps of an epoch."""
    return max(config.segments_per_subepoch // config.batch_size, 1) * config.subepochs


def remaining_steps(plan: TrainingPlan) -> int:
    """Training steps that a session still has to take."""
    config, done = plan.config, plan.beginning.state.position.epoch
    return 0 if plan.beginning.kind == "finished" else (config.total_epochs - done) * steps_per_epoch(config)


def seconds_per_step(plan: TrainingPlan) -> float:
    """Measured on one segment."""
    config, model = plan.config, plan.beginning.model
    with devices.session_numerics(plan.device, config.execution):
        return estimates.seconds_per_step(
            model.network(), model.config.segment_size_train, config.batch_size, plan.device
        )


def needs_of_training(plan: TrainingPlan) -> dict[str, str]:
    """Time, memory and disk that the rest of a training session needs."""
    steps, one = remaining_steps(plan), seconds_per_step(plan)
    volumes, budget = volume_memory(plan)
    return {
        "time": f"{one * steps / 3600:.2f} hours for {steps} steps of {one:.3g} s (measured on one segment), and what "
        "validation takes",
        "memoryOfVolumes": f"{bytes_as_text(volumes)} (at most {bytes_as_text(budget)})",
        "memoryOfOneStep": bytes_as_text(step_memory(plan)),
        "disk": bytes_as_text(estimates.training_disk(plan.config, plan.beginning.model, plan.validation_volumes)),
    }


def volume_memory(plan: TrainingPlan) -> tuple[int, int]:
    """Bytes that the volumes of a training take, and that they may take."""
    budget = plan.budgets.training + plan.budgets.validation
    return min(sum(volume_bytes(data) for data in (plan.training, plan.validation) if data), budget), budget


def step_memory(plan: TrainingPlan) -> int:
    """Bytes that a training step takes."""
    model = plan.beginning.model
    segment, batch = model.config.segment_size_train, plan.config.batch_size
    return estimates.activation_bytes(model.architecture, segment, batch, training=True)


def _part(plan: TestPlan) -> dict[str, int]:
    return {} if plan.part is None else {f"in {plan.part}": len(plan.part.indices(len(plan.data)))}


def _models(plan: TestPlan) -> dict[str, Any]:
    paths = [str(one.path) for one in plan.models]
    return {"model": paths[0]} if len(paths) == 1 else {"models": paths}


def _hours(plan: TestPlan) -> str:
    chosen = plan.config.prediction
    tiles = 1 if chosen.blending == "none" else (1 - chosen.overlap) ** -3
    with devices.session_numerics(plan.device, plan.config.execution):
        once = sum(
            estimates.seconds_of_inference(member.net, plan.data, plan.device, member.segment)
            for member in members_of(plan.models, plan.device)
        )
    return f"{once * len(mirrorings(chosen)) * tiles / 3600:.2g} hours"


def report(
    findings: dict[str, Any],
    arguments: Arguments,
    transfer: TransferReport | None = None,
    data: DataFindings | None = None,
) -> None:
    """Print what was found, and write it as JSON where the command line names a file."""
    lines = ["OK", *_lines(findings, "")]
    if data is not None:
        lines += data.lines()
        findings = {**findings, **data.to_plain()}
    if transfer is not None:
        lines += ["transfer:", transfer.to_text()]
        findings = {**findings, "transfer": transfer.to_plain()}
    if arguments.output is not None and not arguments.segment:  # there it names the segmentation
        write_json_atomically(Path(arguments.output), findings)
    log.info("%s", "\n".join(lines))


def _lines(findings: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in findings.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and key == "notes":
            lines += [f"{indent}{key}:", *(f"{indent}  - {note}" for note in value)]
        else:
            shown = value if isinstance(value, str) else json.dumps(value, default=str)
            lines.append(f"{indent}{key}: {shown}")
    return lines
