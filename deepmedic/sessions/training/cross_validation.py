"""`-crossValidate K`: one training session per fold, each scored on the subjects held out of it, and one table."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from deepmedic.arguments import Arguments
from deepmedic.config.load import load_test_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.training import TrainConfig
from deepmedic.data.case_headers import check_without_model
from deepmedic.data.dataset import DataSet
from deepmedic.data.splits import VALIDATION, subject_of
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, DeepMedicError, OutputHeldError, ProblemList
from deepmedic.files import remove_stale_temporaries
from deepmedic.logs import EventLog, log_refusal
from deepmedic.model_files import saved_files
from deepmedic.sessions.common import estimates
from deepmedic.sessions.common.fold_table import FoldTable, Score, scores_of_fold
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.inference import testing
from deepmedic.sessions.reports.reporting import after_session, refresh
from deepmedic.sessions.reports.session_record import CROSS_VALIDATION
from deepmedic.sessions.training import training, training_plan
from deepmedic.sessions.training.split_files import test_config_text, write_if_changed
from deepmedic.sessions.training.splitting import SessionSplit, folds_of_command
from deepmedic.sessions.training.training_plan import TrainingPlan

log = logging.getLogger(__name__)

_ENDED_WELL = (0, FINISHED_WITH_SKIPPED_CASES)


@dataclass
class Fold:
    """One fold: a training session and the cases that it is scored on."""

    number: int
    split: SessionSplit
    training: TrainingPlan
    held_out: DataSet

    @property
    def scored_in(self) -> SessionPaths:
        """The inference session that scores the fold."""
        return self.training.paths.held_out

    @property
    def disk(self) -> int:
        """Bytes that the fold may write."""
        plan = self.training
        models = estimates.training_disk(plan.config, plan.beginning.model, plan.validation_volumes)
        return models + estimates.result_bytes(self.held_out, self.held_out.needs.classes)


@dataclass
class CrossValidationPlan:
    """A cross-validation that can be started: all checks but those of voxels are passed."""

    arguments: Arguments
    paths: SessionPaths
    """Of the whole; each fold has its own."""
    folds: list[Fold]
    """Those that this command runs."""

    @property
    def disk(self) -> int:
        """Bytes that all folds together may write."""
        return sum(fold.disk for fold in self.folds)


def prepare(arguments: Arguments, config: TrainConfig, model_config: ModelConfig | None) -> CrossValidationPlan:
    """Split the cases and plan the session of each fold; the first fold has all cases, so it shows all problems.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    problems = ProblemList()
    splits = folds_of_command(arguments, config, problems)
    if not splits:
        check_without_model(config.data, "training", config.preprocessing, problems, needs_labels=True)
        problems.raise_if_any()
        raise AssertionError("a cross-validation without folds was not refused")
    numbers = range(1, len(splits) + 1) if arguments.fold is None else [arguments.fold]
    plan = CrossValidationPlan(
        arguments,
        SessionPaths(config.folder_for_output, config.session_name),
        [_fold(arguments, config, model_config, number, splits[number - 1]) for number in numbers],
    )
    estimates.check_disk(plan.paths.folder, plan.disk)
    return plan


def run(plan: CrossValidationPlan) -> int:
    """Run all folds, those that are interrupted or not begun; return the exit code.

    Raises:
        DeepMedicError: a fold failed; those before it are finished.
    """
    codes, scores = [], list[Score]()
    wanted = plan.folds[0].training.config.report
    for fold in plan.folds:
        _announce(fold)
    refresh(plan.paths, wanted)
    for fold in plan.folds:
        log.info("Fold %d: session %s, %s.", fold.number, fold.training.paths.session, fold.split.counted())
        try:
            codes.append(training.run(fold.training))
            if codes[-1] in _ENDED_WELL:
                codes.append(_score(fold))
        except DeepMedicError as problem:
            log_refusal(fold.training.paths.log, str(problem))
            raise
        finally:
            refresh(plan.paths, wanted)
        if codes[-1] not in _ENDED_WELL:
            return codes[-1]
        scores += _scores(fold)
    if plan.arguments.fold is None:
        _report(plan, scores)
    else:
        log.info(
            "Fold %d is finished. Next: when all folds are, the same command without -fold makes the table and "
            "the report; it does not train them again.",
            plan.arguments.fold,
        )
    return max(codes)


def _announce(fold: Fold) -> None:
    """Note in the record of a fold what this command will do with it, so that nobody takes what is there for that."""
    events = fold.training.paths.events
    if events.is_file():
        EventLog(events).write(CROSS_VALIDATION, begins=fold.training.beginning.kind)


def _fold(
    arguments: Arguments, config: TrainConfig, model_config: ModelConfig | None, number: int, split: SessionSplit
) -> Fold:
    whole = SessionPaths(config.folder_for_output, config.session_name)
    own = replace(config, session_name=whole.fold(number).session)
    plan = training_plan.prepare(arguments, own, model_config, fold=split)
    assert plan.held_out is not None
    return Fold(number, split, plan, plan.held_out)


def _score(fold: Fold) -> int:
    """Segment and score the held-out cases with the fold's model; results that are there already are kept."""
    config, part = fold.training.config, fold.split.part(VALIDATION)
    fold.split.write(config)
    text = test_config_text(config, fold.scored_in.session, part)
    path = fold.split.folder / "heldOut.cfg"
    write_if_changed(path, f"{text}cnnModelFilePath = {json.dumps(str(_model_of(fold)), ensure_ascii=False)}\n")
    arguments = Arguments(test=path, device=fold.training.arguments.device)
    plan = testing.prepare(arguments, load_test_config(path), None)
    try:
        testing.find_existing(plan)
    except OutputHeldError as problem:
        log.info("The results of fold %d were made by an earlier model and are replaced: %s", fold.number, problem)
        plan = replace(plan, arguments=replace(arguments, overwrite=True))
    return testing.run(plan)


def _model_of(fold: Fold) -> Path:
    wanted = fold.training.config.cross_validation_model
    return next(file.path for file in saved_files(fold.training.paths.models)[0] if file.tag == wanted)


def _scores(fold: Fold) -> list[Score]:
    subjects = {str(case.output_name): subject_of(case) for case in fold.split.cases}
    metrics = fold.scored_in.predictions / "metrics.json"
    rows = json.loads(metrics.read_text(encoding="utf-8"))["rows"] if metrics.is_file() else []
    return scores_of_fold(fold.number, rows, subjects)


def _report(plan: CrossValidationPlan, scores: list[Score]) -> None:
    first = plan.folds[0].training
    held_out = {fold.number: [subject.name for subject in fold.split.split.parts[VALIDATION]] for fold in plan.folds}
    table = FoldTable(plan.paths.session, first.config.cross_validation_model, held_out, scores)
    if not scores:
        log.warning("No held-out case could be scored; there is no table.")
        return
    remove_stale_temporaries(plan.paths.predictions)
    paths = table.write(plan.paths.predictions)
    log.info(
        "Cross-validation of %s: Dice of the held-out subjects, %s model of each fold\n%s",
        plan.paths.session,
        table.model,
        table.to_text(),
    )
    for number, names in table.not_scored.items():
        log.warning("Not scored, and in no mean: of fold %d %s", number, ", ".join(names))
    log.info("Table: %s", ", ".join(map(str, paths)))
    after_session(plan.paths, first.config.report)
    again = f"the same command without -crossValidate {plan.arguments.cross_validate}"
    log.info("Next: train on all cases: %s%s", again, _without_validation(first.config))


def _without_validation(config: TrainConfig) -> str:
    """What else to change to train on all cases: none is left to validate on."""
    on = {
        "performValidationOnSamplesThroughoutTraining": config.validate_on_samples,
        "performFullInferenceOnValidationImagesEveryFewEpochs": config.validate_on_volumes,
    }
    keys = [key for key, is_on in on.items() if is_on]
    return f", with {' and '.join(f'{key} = false' for key in keys)}: no case is left to validate on" if keys else ""
