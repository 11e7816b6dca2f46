"""`-compare`: trainings that differ only in how their model starts, each scored on the same cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepmedic.analysis.comparison import RunScores
from deepmedic.arguments import Arguments
from deepmedic.config.comparison import ComparisonConfig
from deepmedic.config.plain import digest_of_plain
from deepmedic.data.cases import Case, duplicates_between, list_cases
from deepmedic.data.dataset import DataSet, read_data_set
from deepmedic.data.splits import subject_of
from deepmedic.errors import (
    FINISHED_WITH_SKIPPED_CASES,
    DataError,
    DeepMedicError,
    ModelError,
    OutputHeldError,
    ProblemList,
)
from deepmedic.files import write_json_atomically
from deepmedic.inference.parts import Part
from deepmedic.logs import log_refusal
from deepmedic.metrics import mean_of_numbers
from deepmedic.model_files import saved_files
from deepmedic.sessions.common import estimates
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.inference import testing
from deepmedic.sessions.inference.ensemble import needs_of
from deepmedic.sessions.models.weights import read_model
from deepmedic.sessions.training import training, training_plan
from deepmedic.sessions.training.training_plan import TrainingPlan
from deepmedic.sessions.transfer.comparison_configs import Compared
from deepmedic.sessions.transfer.comparison_runs import Run, Source, identity, runs_of

log = logging.getLogger(__name__)

_FORMAT = 1
_ENDED_WELL = (0, FINISHED_WITH_SKIPPED_CASES)


@dataclass
class ComparisonPlan:
    """A comparison that can be started: all checks but those of voxels are passed."""

    arguments: Arguments
    config: ComparisonConfig
    sources: list[Source]
    runs: list[Run]
    """All of them, in the order they are made."""
    finished: dict[str, RunScores]
    """Name of each run that was made before -> its scores."""
    trainings: list[TrainingPlan] = field(default_factory=list)
    """One for each architecture, source and initialisation that has runs to make, of all cases."""
    scored: list[DataSet] = field(default_factory=list)
    """What they are scored on, likewise."""
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Of the results."""
        return self.paths.comparisons

    @property
    def paths(self) -> SessionPaths:
        return SessionPaths(self.config.folder_for_output, self.config.session_name)

    @property
    def part(self) -> Part | None:
        """Of the runs, the part that this command makes; None: all of them."""
        return None if self.arguments.part is None else Part(*self.arguments.part)

    @property
    def mine(self) -> list[Run]:
        """The runs that this command makes: all, or with `-part i/n` every n-th."""
        return self.runs if self.part is None else [self.runs[index] for index in self.part.indices(len(self.runs))]

    @property
    def to_do(self) -> list[Run]:
        """Those of them that were not made before."""
        return [run for run in self.mine if run.name not in self.finished]

    @property
    def disk(self) -> int:
        """Bytes that the runs to do may write."""
        if not self.trainings:
            return 0
        each = (
            estimates.training_disk(plan.config, plan.beginning.model, plan.validation_volumes)
            + estimates.result_bytes(scored, scored.needs.classes)
            for plan, scored in zip(self.trainings, self.scored, strict=True)
        )
        return max(each) * len(self.to_do)


def prepare(arguments: Arguments, config: ComparisonConfig, compared: Sequence[Compared]) -> ComparisonPlan:
    """Read models, listing files and headers; check them together.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
        OutputHeldError: a run of this name was made with other settings, cases or weights.
    """
    problems = ProblemList()
    sources = []
    for named in config.sources:
        with problems.gather():
            path, _, sha256 = read_model(named)
            sources.append(Source(path, sha256))
    cases = [list_cases(one.training.data, "training", problems) for one in compared]
    scored = [_identity_of_scored(config, one, problems) for one in compared]
    problems.raise_if_any()
    folder = SessionPaths(config.folder_for_output, config.session_name).comparisons
    runs = runs_of(config, compared, sources, cases, scored, folder / "cases")
    plan = ComparisonPlan(arguments, config, sources, runs, {})
    for run in plan.runs:
        scores = None if arguments.overwrite else read_scores(plan, run)
        plan.finished |= {} if scores is None else {run.name: scores}
    _plan_trainings(plan)
    estimates.check_disk(config.folder_for_output, plan.disk)
    return plan


def make_runs(plan: ComparisonPlan) -> int:
    """Train and score the runs that are to do, one after the other; return the exit code.

    Raises:
        DeepMedicError: a run failed; those before it are kept.
    """
    code = 0
    for number, run in enumerate(plan.mine, 1):
        if run.name in plan.finished:
            continue
        log.info("Run %d of %d: %s", number, len(plan.mine), run.name)
        try:
            ended = _train_and_score(plan, run)
        except DeepMedicError as problem:
            log_refusal(SessionPaths(plan.config.folder_for_output, run.name).log, str(problem))
            log.warning("Run %s failed; what was finished before is kept.", run.name)
            raise
        if ended not in _ENDED_WELL:
            return ended
        code = max(code, ended)
    return code


def read_scores(plan: ComparisonPlan, run: Run) -> RunScores | None:
    """The scores of a run that was made before; None if it is not finished.

    Raises:
        OutputHeldError: it was made, or begun, with other settings, cases or weights.
    """
    path = _result_path(plan, run)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        other = found["fingerprint"] != run.fingerprint
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise OutputHeldError(
            f"{path}: is no result of a run ({problem}); remove it, and the run is made."
        ) from problem
    if other:
        raise OutputHeldError(
            f"{path}: this run was made, or begun, with another train, model or test config, or with other cases. "
            "Choose another sessionName, or add -overwrite to make all runs anew."
        )
    return None if found["dice"] is None else _scores(run, found["dice"])


def _plan_trainings(plan: ComparisonPlan) -> None:
    """Plan one training of every start, so that what is wrong with any shows before the first run."""
    problems = ProblemList()
    known: set[tuple[str, str | None, str]] = set()
    for run in plan.to_do:
        start = (run.compared.model.name, run.source.sha256 if run.source else None, run.initialisation.name)
        if start in known:
            continue
        known.add(start)
        with problems.gather():
            whole = replace(run.training, data=run.compared.training.data)
            planned = training_plan.prepare(run.arguments(plan.arguments), whole, run.compared.model)
            _add_scored(plan, run, planned)
        if len(known) == 1:
            problems.raise_if_any()  # what is wrong with the data is wrong for all of them
    problems.raise_if_any()


def _add_scored(plan: ComparisonPlan, run: Run, planned: TrainingPlan) -> None:
    model, problems = planned.beginning.model, ProblemList()
    data = run.compared.scoring.data
    scored = read_data_set(
        data, "inference", planned.config.preprocessing, needs_of(model), problems, needs_labels=True
    )
    shared = duplicates_between(planned.training.cases, scored.cases, "scored")
    for line in shared if planned.config.strict_splits else ():
        problems.add(DataError(f"{line}; take it out of one of the sets, or set strictSplits = false."))
    problems.raise_if_any()
    plan.trainings.append(planned)
    plan.scored.append(scored)
    plan.notes += [note for note in (*planned.notes, *scored.notes, *shared) if note not in plan.notes]


def _train_and_score(plan: ComparisonPlan, run: Run) -> int:
    path = _result_path(plan, run)
    begun = {"format": _FORMAT, "fingerprint": run.fingerprint, **_described(run), "model": None, "dice": None}
    write_json_atomically(path, begun)
    if run.cases.listing is not None:
        run.cases.listing.write()
    planned = training_plan.prepare(run.arguments(plan.arguments), run.training, run.compared.model)
    code = training.run(planned)
    if code not in _ENDED_WELL:
        return code
    model = _model_of(plan, planned)
    scoring_code, dice = _score(plan, run, model)
    if scoring_code not in _ENDED_WELL:
        return scoring_code
    write_json_atomically(path, {**begun, "model": str(model), "dice": dice})
    plan.finished[run.name] = _scores(run, dice)
    return max(code, scoring_code)


def _score(plan: ComparisonPlan, run: Run, model: Path) -> tuple[int, dict[str, float]]:
    """Segment the cases with a run's model; return the exit code and the mean foreground Dice of every subject."""
    arguments = Arguments(test=plan.config.testing or plan.config.training, device=plan.arguments.device)
    config = replace(run.compared.scoring, session_name=f"{run.name}_scored", model_path=model)
    planned = testing.prepare(arguments, config, None)
    try:
        testing.find_existing(planned)
    except OutputHeldError as problem:
        log.info("Results of an earlier model are replaced: %s", problem)
        planned = replace(planned, arguments=replace(arguments, overwrite=True))
    code = testing.run(planned)
    if code not in _ENDED_WELL:
        return code, {}
    rows = json.loads((planned.paths.predictions / "metrics.json").read_text(encoding="utf-8"))["rows"]
    subjects = {case.name: subject_of(case) for case in planned.data.cases}
    return code, dice_of_subjects(rows, subjects)


def dice_of_subjects(rows: Sequence[Mapping[str, Any]], subjects: Mapping[str, str]) -> dict[str, float]:
    """Mean Dice of the classes but the background, of every subject: of each case, then over its cases.

    Args:
        rows: of `metrics.json`, one per case and class; those of the whole foreground and of regions do not count.
        subjects: name of a case -> subject.
    """
    cases: dict[str, list[float]] = {}
    for row in rows:
        if row["class_index"]:
            cases.setdefault(row["case"], []).append(float(row["dice"]))
    found: dict[str, list[float]] = {}
    for case, values in cases.items():
        found.setdefault(subjects[case], []).append(mean_of_numbers(values))
    return {subject: mean_of_numbers(values) for subject, values in sorted(found.items())}


def _model_of(plan: ComparisonPlan, planned: TrainingPlan) -> Path:
    wanted, folder = plan.config.scored_model, planned.paths.models
    found = next((file.path for file in saved_files(folder)[0] if file.tag == wanted), None)
    if found is None:
        raise ModelError(f"{folder}: the run is finished, and there is no {wanted} model to score; was it removed?")
    return found


def _identity_of_scored(config: ComparisonConfig, one: Compared, problems: ProblemList) -> str:
    cases: list[Case] = list_cases(one.scoring.data, "inference", problems)
    return digest_of_plain([identity(cases), config.scored_model])


def _described(run: Run) -> dict[str, Any]:
    return {
        "session": run.name,
        "architecture": run.compared.model.name,
        "source": None if run.source is None else {"file": str(run.source.path), "sha256": run.source.sha256},
        "initialisation": run.initialisation.name,
        "trainingCases": [case.name for case in run.cases.cases],
        "seed": run.seed,
    }


def _scores(run: Run, dice: Mapping[str, float]) -> RunScores:
    source = None if run.source is None else run.source.name
    values = {str(subject): float(value) for subject, value in dice.items()}
    return RunScores(run.compared.model.name, source, run.initialisation.name, run.cases.subjects, run.seed, values)


def _result_path(plan: ComparisonPlan, run: Run) -> Path:
    return plan.folder / "runs" / f"{run.name}.json"
