"""Segmenting a list of cases: read ahead, predict, score, save; for inference and for validation on whole volumes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from deepmedic.config.prediction import PredictionConfig
from deepmedic.config.scoring import ScoringConfig
from deepmedic.data.cases import Case
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, DataError
from deepmedic.inference.case_groups import CaseGroup
from deepmedic.inference.case_prediction import Member, is_plain, predict_case
from deepmedic.inference.case_reading import CaseSource, ReadCase, reading_ahead
from deepmedic.inference.evaluation import (
    CaseEvaluation,
    Purpose,
    described,
    evaluate_case,
    log_case,
    log_means,
    mean_dices,
)
from deepmedic.inference.execution import InferenceSettings, batch_limit
from deepmedic.inference.feature_maps import FeatureRanges
from deepmedic.inference.finishing import Finishing
from deepmedic.inference.flow import Flow
from deepmedic.inference.parts import Part, begin_anew, finish_part, run_digest
from deepmedic.inference.predictor import CasePlan, Prediction, Progress, plan_case, predict_together
from deepmedic.inference.results import ExistingResults, output_name
from deepmedic.inference.scoring import scoring_memory
from deepmedic.inference.survey import Saving, remove_stale, survey
from deepmedic.inference.tables import write_tables
from deepmedic.inference.writer import CaseResults, ResultWriter, memory_of
from deepmedic.metrics import MetricsRow, ThreeDices, mean_foreground_dice
from deepmedic.model.network import DeepMedicNet
from deepmedic.words import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions:
    """How a list of cases is segmented."""

    inference: InferenceSettings
    refinement: PredictionConfig = field(default_factory=PredictionConfig)
    """What is done beyond one plain pass."""
    purpose: Purpose = "Testing"
    saving: Saving | None = None
    """None: only scores are wanted."""
    part: Part | None = None
    """Only the cases of this part are segmented; None: all."""
    allow_skipped_cases: bool = False
    """Go on without the cases that cannot be read."""
    class_names: tuple[str, ...] | None = None
    scoring: ScoringConfig | None = None
    """What the tables have besides Dice, ratios and volumes; None: none of all that."""
    progress: Progress | None = None
    """Called after each batch of tiles; what it raises ends the segmentation."""
    flow: Flow | None = None
    """How many cases are in hand at once; None: as fits the device and the machine."""


@dataclass
class SegmentationSummary:
    """What came out, by index of the case."""

    evaluations: dict[int, CaseEvaluation] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)
    """Names of the cases predicted now."""
    kept: list[str] = field(default_factory=list)
    """Names of the cases whose results were there already."""
    failures: dict[str, str] = field(default_factory=dict)
    """Name of each case left out -> why."""
    whole_session: dict[int, CaseEvaluation] | None = None
    """Of the part of a session that found all other parts finished: the scores of all cases."""

    @property
    def rows(self) -> list[MetricsRow]:
        """Of all evaluated cases, in the order of the list."""
        return [row for _, evaluation in sorted(self.evaluations.items()) for row in evaluation.rows]

    @property
    def mean_dices(self) -> ThreeDices | None:
        """The means that the log shows; None if no case has labels."""
        return mean_dices([evaluation for _, evaluation in sorted(self.evaluations.items())])

    @property
    def mean_foreground_dice(self) -> float:
        """What the best checkpoint is chosen by; nan if it is not defined for any case."""
        return mean_foreground_dice(self.rows)

    @property
    def exit_code(self) -> int:
        return FINISHED_WITH_SKIPPED_CASES if self.failures else 0


def segment_cases(
    net: DeepMedicNet | Sequence[Member],
    data: CaseSource,
    options: SegmentationOptions,
    existing: dict[int, ExistingResults] | None = None,
) -> SegmentationSummary:
    """Segment all cases; the next ones are read while one is computed, and those before are scored and saved.

    If `options.inference` lets batches have tiles of several cases, small cases that follow each other are computed
    together (`CaseGroup`).

    With `options.saving`, cases whose results this run already wrote are kept, and `metrics.csv` and `metrics.json`
    cover all cases with labels (see `write_tables`).

    Args:
        net: on the device of `options.inference`; or the members of an ensemble.
        data: the cases.
        options: how.
        existing: what `survey` found, if that was asked for already.

    Raises:
        OutputHeldError: the output folder holds results of another run; nothing was computed or changed.
        DataError: a case cannot be used and cases may not be skipped; those before it are saved.
        ResourceError: memory or disk are not enough.
        ModelError: probabilities are not finite.
    """
    started = time.monotonic()
    log.debug("Starting full Segmentation of %s subjects", options.purpose)
    summary = SegmentationSummary()
    indices = list(range(len(data.cases))) if options.part is None else options.part.indices(len(data.cases))
    if existing is None:
        existing = survey(data.cases, options.saving, indices)
    for index, results in existing.items():
        _keep(index, data.cases[index], results, options, summary)
    remaining = [index for index in indices if index not in existing]
    flow = options.flow or Flow.of(options.inference.device, beside_training=options.purpose == "Validation")
    with ExitStack() as stack:
        writer = None
        if options.saving is not None:
            remove_stale(data.cases, options.saving.files)
            if options.saving.overwrite and options.saving.files.tables:
                begin_anew(options.saving.files.folder, options.part)
            writer = stack.enter_context(ResultWriter(options.saving.files, flow))
        members = (Member(net, options.inference.segment),) if isinstance(net, DeepMedicNet) else tuple(net)
        group: CaseGroup[_Waiting] = CaseGroup(
            partial(batch_limit, members[0].net.architecture, settings=options.inference)
        )
        run = _Run(members, options, writer, summary, group, stack.enter_context(Finishing(flow)))
        needs = [member.needs for member in members if member.needs is not None]
        reading = reading_ahead(data, remaining, needs, options.saving, flow, lambda: group.last_size)
        for index, read in stack.enter_context(reading):
            log.debug("Segmenting subject with index #%d: %s", index, data.cases[index].name)
            try:
                found = read()
            except DataError as problem:
                _segment(group.release(), run)
                _skip(data.cases[index], problem, run)
            else:
                _add(_Waiting(index, data.cases[index], found), run)
        _segment(group.release(), run)
        run.finishing.wait()
    _report(data.cases, options, summary)
    log.debug("TIMING: %s process lasted: %.2f secs.", options.purpose, time.monotonic() - started)
    log.debug("Finished full Segmentation of %s subjects", options.purpose)
    return summary


@dataclass(frozen=True)
class _Waiting:
    """One case to be predicted."""

    index: int
    case: Case
    read: ReadCase
    plan: CasePlan | None = None
    """Its tiles, if others may be computed with them."""

    @property
    def prepared(self) -> PreparedCase:
        """As the first model gets it."""
        return self.read.prepared[0]


@dataclass(frozen=True)
class _Run:
    members: tuple[Member, ...]
    options: SegmentationOptions
    writer: ResultWriter | None
    summary: SegmentationSummary
    group: CaseGroup[_Waiting]
    finishing: Finishing[CaseEvaluation | None]

    @property
    def feature_maps(self) -> FeatureRanges:
        """Those that are saved."""
        return self.writer.files.feature_maps if self.writer else {}


def _skip(case: Case, problem: DataError, run: _Run) -> None:
    """Note a case that cannot be read, or refuse to go on without it."""
    if not run.options.allow_skipped_cases:
        run.finishing.wait()
        raise problem
    log.warning("%s is skipped: %s", case.name, problem)
    run.summary.failures[case.name] = str(problem)


def _add(waiting: _Waiting, run: _Run) -> None:
    """Predict a case, or let it wait for others that are computed with it."""
    options, prepared = run.options, waiting.prepared
    if prepared.result_roi is not None and not prepared.result_roi.any():
        log.warning("%s: the ROI mask is empty, so the result is background everywhere.", waiting.case.name)
    way = None
    if options.inference.across_cases and is_plain(run.members, prepared, options.refinement):
        plan = plan_case(run.members[0].net, prepared, options.inference)
        waiting = replace(waiting, plan=plan)
        way = plan.first
    if not run.group.admits(way):
        _segment(run.group.release(), run)
    run.group.add(waiting, way)
    if run.group.is_full:
        _segment(run.group.release(), run)


def _segment(group: Sequence[_Waiting], run: _Run) -> None:
    """Predict, score and save the cases of a group."""
    if not group:
        return
    started = time.monotonic()
    predictions = _predictions(group, run)
    seconds = (time.monotonic() - started) / len(group)
    for _ in group:
        log.debug("TIMING: Segmentation of subject: %.2f secs.", seconds)

    def finish(evaluations: Sequence[CaseEvaluation | None]) -> None:
        for waiting, prediction, evaluation in zip(group, predictions, evaluations, strict=True):
            _finish(waiting, prediction, evaluation, seconds, run)

    scoring = [
        partial(_evaluate, waiting.case, waiting.prepared, prediction, run.options)
        for waiting, prediction in zip(group, predictions, strict=True)
    ]
    memory = sum(
        memory_of(prediction) + waiting.read.memory + _memory_to_score(waiting.prepared, run.options)
        for waiting, prediction in zip(group, predictions, strict=True)
    )
    run.finishing.begin(scoring, finish, memory)


def _predictions(group: Sequence[_Waiting], run: _Run) -> list[Prediction]:
    options = run.options
    plans = [waiting.plan for waiting in group if waiting.plan is not None]
    if len(plans) == len(group):
        net = run.members[0].net
        return predict_together(net, plans, options.inference, run.feature_maps, options.progress)
    return [
        predict_case(
            run.members, one.read.prepared, options.inference, options.refinement, run.feature_maps, options.progress
        )
        for one in group
    ]


def _finish(
    waiting: _Waiting, prediction: Prediction, evaluation: CaseEvaluation | None, seconds: float, run: _Run
) -> None:
    """Report and save one case."""
    options, case, record = run.options, waiting.case, waiting.read.record
    if evaluation is not None:
        run.summary.evaluations[waiting.index] = evaluation
        log_case(options.purpose, waiting.index, evaluation.dices)
    _say(case, f"segmented in {seconds:.1f} s", evaluation, options)
    if run.writer is not None and record is not None:
        record = record if evaluation is None else replace(record, evaluation=evaluation.to_plain())
        name = output_name(waiting.index, case)
        run.writer.submit(CaseResults(name, prediction, waiting.prepared.result_header, record))
    run.summary.computed.append(case.name)


def _evaluate(
    case: Case, prepared: PreparedCase, prediction: Prediction, options: SegmentationOptions
) -> CaseEvaluation | None:
    labels, roi = prepared.result_labels, prepared.result_roi
    if labels is None:
        return None
    spacing = prepared.result_header.spacing
    return evaluate_case(case.name, prediction, labels, roi, spacing, options.class_names, options.scoring)


def _memory_to_score(prepared: PreparedCase, options: SegmentationOptions) -> int:
    labels = prepared.result_labels
    return 0 if labels is None else scoring_memory(labels.numel(), options.scoring)


def _keep(
    index: int, case: Case, found: ExistingResults, options: SegmentationOptions, summary: SegmentationSummary
) -> None:
    log.debug("Results of subject with index #%d are kept: %s", index, case.name)
    summary.kept.append(case.name)
    evaluation = None
    if found.evaluation is not None:
        evaluation = summary.evaluations[index] = CaseEvaluation.from_plain(found.evaluation)
        log_case(options.purpose, index, evaluation.dices)
    _say(case, "kept from an earlier run", evaluation, options)


def _say(case: Case, what: str, evaluation: CaseEvaluation | None, options: SegmentationOptions) -> None:
    """One line per case for the console; in training, where cases are validated again and again, only for the log."""
    scores = f"; Dice: {described(evaluation.dices, options.class_names)}" if evaluation else ""
    level = logging.INFO if options.purpose == "Testing" else logging.DEBUG
    log.log(level, "%s: %s%s", case.name, what, scores)


def _report(cases: Sequence[Case], options: SegmentationOptions, summary: SegmentationSummary) -> None:
    means = summary.mean_dices
    if means is not None:
        log_means(options.purpose, means)
    saving = options.saving
    if saving is not None and saving.files.tables and options.part is not None:
        digest = run_digest(saving, [output_name(index, case) for index, case in enumerate(cases)])
        summary.whole_session = finish_part(
            saving.files.folder, options.part, digest, summary.evaluations, summary.failures
        )
    elif saving is not None and saving.files.tables:
        write_tables(saving.files.folder, summary.rows)
    if summary.failures:
        number = len(summary.failures)
        were = "was" if number == 1 else "were"
        log.warning("%s %s skipped: %s", counted(number, "case"), were, ", ".join(summary.failures))
