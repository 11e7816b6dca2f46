"""The folds of a cross-validation as their files tell: how far each one is, and the scores of what it held out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepmedic.data.splits import VALIDATION, Split, read_split
from deepmedic.errors import DeepMedicError
from deepmedic.model_files import saved_files
from deepmedic.sessions.common.fold_table import Score, scores_of_fold
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.reports.report_tables import read_metrics
from deepmedic.sessions.reports.session_record import CROSS_VALIDATION, has_finished, last_run

FINISHED = "finished"


@dataclass(frozen=True)
class FoldRecord:
    """One fold of a cross-validation."""

    number: int
    paths: SessionPaths
    """Of its training."""
    split: Split
    """Its training part, and the held-out subjects as the validation part."""
    state: str
    """FINISHED, or what is still missing, in words."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What its training noted of itself."""
    scores: Sequence[Score] = ()
    """Of the held-out cases; none unless it is finished."""
    case_means: Mapping[str, float] = field(default_factory=dict)
    """Mean Dice of each scored case over its classes."""

    @property
    def is_finished(self) -> bool:
        return self.state == FINISHED

    @property
    def model(self) -> str:
        """Which of its models is scored: "final" or "best"."""
        return str(self.record.get("settings", {}).get("crossValidationModel", "final"))

    def subjects(self, part: str) -> list[str]:
        """Names of the subjects that it trains on (TRAINING) or holds out (VALIDATION)."""
        return [subject.name for subject in self.split.parts[part]]


def read_folds(paths: SessionPaths) -> list[FoldRecord]:
    """Read how far the folds of a cross-validation are.

    Args:
        paths: of the whole.

    Raises:
        DataError: the stored split cannot be read.
        OSError, ValueError, LookupError: scores of a fold that is finished cannot be read.
    """
    folds = read_split(paths.splits / "folds.json")
    return [_read(paths, folds, part, number) for number, part in enumerate(folds.parts, 1)]


def _read(whole: SessionPaths, folds: Split, part: str, number: int) -> FoldRecord:
    split, paths = folds.fold(part), whole.fold(number)
    record, training = _training(paths, split)
    fold = FoldRecord(number, paths, split, training, record)
    if not fold.is_finished:
        return fold
    scoring = _scoring(fold)
    if scoring != FINISHED:
        return FoldRecord(number, paths, split, scoring, record)
    listed = whole.splits / part / VALIDATION
    names, subjects = (_lines(listed / f"{column}.cfg") for column in ("names", "subjects"))
    subject_of = dict(zip(names, subjects, strict=True))
    results = paths.held_out.predictions
    rows = _rows(results / "metrics.json")
    if any(row["case"] not in subject_of for row in rows):
        state = f"trained; other cases than those held out of it were scored as {paths.held_out.session}"
        return FoldRecord(number, paths, split, state, record)
    metrics = read_metrics(results / "metrics.csv")
    scores = scores_of_fold(number, rows, subject_of)
    return FoldRecord(number, paths, split, FINISHED, record, scores, metrics.scores if metrics else {})


def _training(paths: SessionPaths, split: Split) -> tuple[dict[str, Any], str]:
    """What the last run of a fold's training noted, and how far it came."""
    record, since = last_run(paths, "training")
    origin = (record.get("origin") or {}).get("split") or {}
    if not record:
        begun = paths.models.is_dir()
        return {}, f"not known, since its record is missing: logs/{paths.events.name}" if begun else "not begun"
    if origin.get("sha256") != split.digest:
        return {}, "not begun; a session of its name trained on other subjects"
    if has_finished(since):
        return record, _finished(since)
    epochs = [event for event in since if event.get("event") == "epoch"]
    done = f"{epochs[-1]['epoch'] + 1} of {epochs[-1]['epochs']} epochs" if epochs else "no epoch of its last run"
    return record, f"in training or interrupted: {done} finished"


def _finished(since: Sequence[Mapping[str, Any]]) -> str:
    """FINISHED, unless a command that began later has still to train the fold on, or anew."""
    coming = [event for event in since if event.get("event") == CROSS_VALIDATION]
    if coming and coming[-1]["begins"] != "finished":
        again = "on" if coming[-1]["begins"] == "resumed" else "anew"
        return f"finished, but to be trained {again} by the command that began {coming[-1]['time'][:19]}"
    return FINISHED


def _scoring(fold: FoldRecord) -> str:
    """Whether the held-out cases were scored, and by the model that the fold has now."""
    record, since = last_run(fold.paths.held_out, "inference")
    if not any(event.get("event") == "segmented" for event in since):
        return "trained; its held-out cases are not scored yet"
    try:
        models = [file.path.name for file in saved_files(fold.paths.models)[0] if file.tag == fold.model]
    except DeepMedicError:
        models = []  # removed or moved elsewhere; what was scored was its model then
    if models and Path(record["model"]["file"]).name != models[0]:
        return "trained on; its scores are those of an earlier model"
    return FINISHED


def _rows(metrics: Path) -> list[dict[str, Any]]:
    """The scores of a fold's cases; none where no case could be scored."""
    return json.loads(metrics.read_text(encoding="utf-8"))["rows"] if metrics.is_file() else []


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
