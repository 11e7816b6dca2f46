"""The table at the end of a cross-validation: Dice per fold and class, and over all subjects, each held out once."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepmedic.bootstrap import Bootstrap
from deepmedic.files import write_json_atomically, write_text_atomically
from deepmedic.metrics import format_ratio

_COLUMNS = ("fold", "class_name", "subjects", "undefined", "mean", "sd", "ci_low", "ci_high")
_ALL = "all"


@dataclass(frozen=True)
class Score:
    """Dice of one class in one held-out case; nan where neither labels nor prediction have the class."""

    fold: int
    subject: str
    case: str
    class_name: str
    dice: float


@dataclass(frozen=True)
class FoldTable:
    """All scores of a cross-validation, and what is said of them.

    The value of a subject is the mean over its cases. Means and standard deviations (with n - 1) are over subjects, and
    so is the bootstrap; subjects whose value is not defined are counted and left out.
    """

    session: str
    model: str
    """Which model of each fold was used: "final" or "best"."""
    held_out: Mapping[int, Sequence[str]]
    """The subjects held out of each fold, whether they could be scored or not."""
    scores: Sequence[Score]
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    @property
    def classes(self) -> list[str]:
        return list(dict.fromkeys(score.class_name for score in self.scores))

    @property
    def folds(self) -> list[int]:
        return sorted(self.held_out)

    @property
    def not_scored(self) -> dict[int, list[str]]:
        """Held-out subjects without any score, by fold: their cases were skipped. No mean has them."""
        scored = {(score.fold, score.subject) for score in self.scores}
        missing = {fold: [name for name in self.held_out[fold] if (fold, name) not in scored] for fold in self.folds}
        return {fold: names for fold, names in missing.items() if names}

    def lines(self) -> list[dict[str, Any]]:
        """One line per fold and class, then one per class over all subjects, each with its interval."""
        found = [self._line(fold, name) for fold in self.folds for name in self.classes]
        return found + [self._line(None, name) for name in self.classes]

    def to_plain(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "session": self.session,
            "model": self.model,
            "folds": len(self.folds),
            "notScored": {str(fold): names for fold, names in self.not_scored.items()},
            "interval": {**self.bootstrap.to_plain(), "method": "percentile bootstrap over subjects"},
            "summary": self.lines(),
            "scores": [vars(score) for score in self.scores],
        }

    def to_text(self) -> str:
        """The table for the console: a row per fold, a column per class."""
        lines = self.lines()

        def row(title: str, fold: int | str, *keys: str) -> list[str]:
            of_fold = [line for line in lines if line["fold"] == fold]
            shown = [" to ".join(_number(line[key]) for key in keys) for line in of_fold]
            return [title, str(of_fold[0]["subjects"]), *shown]

        rows = [["", "subjects", *self.classes]]
        rows += [row(f"fold {fold}", fold, "mean") for fold in self.folds]
        rows += [row("mean", _ALL, "mean"), row("sd", _ALL, "sd"), row("95 % CI", _ALL, "ci_low", "ci_high")]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        shown = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        return "\n".join("  ".join(row) for row in shown)

    def write(self, folder: Path) -> list[Path]:
        """Write `cross_validation.csv` and `.json` and return their paths; equal scores give equal bytes.

        Raises:
            ResourceError: a file cannot be written.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.lines())
        paths = [folder / "cross_validation.csv", folder / "cross_validation.json"]
        write_text_atomically(paths[0], text.getvalue())
        write_json_atomically(paths[1], self.to_plain())
        return paths

    def _line(self, fold: int | None, class_name: str) -> dict[str, Any]:
        chosen = [score for score in self.scores if score.class_name == class_name and fold in (None, score.fold)]
        values = np.array(list(_of_subjects(chosen).values()))
        defined = values[~np.isnan(values)]
        low, high = self.bootstrap.intervals(values[:, np.newaxis])[0]
        return {
            "fold": _ALL if fold is None else fold,
            "class_name": class_name,
            "subjects": len(values),
            "undefined": len(values) - len(defined),
            "mean": float(defined.mean()) if len(defined) else math.nan,
            "sd": float(defined.std(ddof=1)) if len(defined) > 1 else math.nan,
            "ci_low": float(low),
            "ci_high": float(high),
        }


def scores_of_fold(fold: int, rows: Sequence[Mapping[str, Any]], subjects: Mapping[str, str]) -> list[Score]:
    """The scores in the rows of a session's `metrics.json`.

    Args:
        fold: number of the fold.
        rows: one per case and class.
        subjects: name of a case's results -> subject.
    """
    return [Score(fold, subjects[row["case"]], row["case"], row["class_name"], float(row["dice"])) for row in rows]


def _of_subjects(scores: Sequence[Score]) -> dict[str, float]:
    """Subject -> mean Dice of its cases where it is defined; nan where it is defined for none."""
    cases: dict[str, list[float]] = {}
    for score in scores:
        values = cases.setdefault(score.subject, [])
        if not math.isnan(score.dice):
            values.append(score.dice)
    return {subject: math.fsum(values) / len(values) if values else math.nan for subject, values in cases.items()}


def _number(value: float) -> str:
    return format_ratio(None if math.isnan(value) else value)
