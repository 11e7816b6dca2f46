"""What a training session measured, read back from its metric history as curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from deepmedic.errors import DataError
from deepmedic.training.history import DICE_KINDS, RATIO_NAMES, ROLES, Role

ALL_CLASSES = "all"
FOREGROUND = "foreground"
"""What the history calls the rows that concern all classes, and all but the background taken together."""

ENDING = ".metrics.csv"
"""Of the history of a session, `logs/<session>.metrics.csv`."""
_PLACE = ("epoch", "subepoch", "role", "class")
_VALUES = ("cost", *RATIO_NAMES, *DICE_KINDS, "learning_rate")


@dataclass(frozen=True)
class Curve:
    """A measured quantity over the training."""

    x: tuple[float, ...]
    """Epochs trained when it was measured; a training subepoch stands at its middle."""
    y: tuple[float, ...]
    """nan where it is not defined."""

    @property
    def is_empty(self) -> bool:
        """True when no value is defined."""
        return all(math.isnan(value) for value in self.y)

    def smoothed(self, window: int) -> Curve:
        """Replace each value by the mean of the `window` values around it, undefined ones left out.

        Around it, so that a smoothed curve does not lag behind; near the ends they are fewer.
        """
        before, after = (window - 1) // 2, window // 2
        means = [_mean(self.y[max(0, at - before) : at + after + 1]) for at in range(len(self.y))]
        return Curve(self.x, tuple(means))


@dataclass(frozen=True)
class HistoryRow:
    """One row of a history: an epoch or subepoch, a role and a class."""

    epoch: int
    subepoch: int | None
    """None: mean over the epoch."""
    role: str
    """"training" or "validation" on samples, or "volumes": validation on whole volumes."""
    class_label: str
    values: dict[str, float]
    """Those that the row has, by column; nan: not defined."""
    phase: str = ""
    """Of a training in phases."""


@dataclass(frozen=True)
class SessionHistory:
    """What one session measured."""

    name: str
    source: Path
    """The file that it was read from."""
    rows: tuple[HistoryRow, ...]
    class_names: tuple[str, ...] = ()
    """One per class, the background included; empty where the history does not come with names."""

    @property
    def epochs(self) -> int:
        """Epochs begun."""
        return max(row.epoch for row in self.rows) + 1

    @property
    def subepochs(self) -> int:
        """Subepochs of an epoch."""
        return max((row.subepoch for row in self.rows if row.subepoch is not None), default=0) + 1

    @property
    def classes(self) -> int:
        """Number of classes, the background included."""
        return 1 + max((int(row.class_label) for row in self.rows if row.class_label.isdecimal()), default=0)

    def name_of(self, class_index: int) -> str:
        """Name of a class for a legend; index 0 stands for the whole foreground."""
        if class_index == 0:
            return "whole foreground"
        return self.class_names[class_index] if class_index < len(self.class_names) else f"class {class_index}"

    def on_samples(self, role: Role, metric: str, class_index: int | None = None) -> Curve:
        """Return a metric on samples per subepoch, of one class (0: whole foreground) or of all together (None)."""
        label = ALL_CLASSES if class_index is None else str(class_index or FOREGROUND)
        offset = 0.5 if role == "training" else 0.0  # validation comes before the training of its subepoch
        points = [
            (row.epoch + (row.subepoch + offset) / self.subepochs, row.values[metric])
            for row in self.rows
            if row.subepoch is not None and (row.role, row.class_label) == (role, label) and metric in row.values
        ]
        return _curve(points)

    def on_volumes(self, class_index: int, kind: str = "dice2") -> Curve:
        """Return the mean Dice of one class (0: whole foreground) over whole volumes, after the epochs that have it."""
        label = str(class_index or FOREGROUND)
        points = [
            (row.epoch + 1.0, row.values[kind])
            for row in self.rows
            if (row.role, row.class_label) == ("volumes", label) and kind in row.values
        ]
        return _curve(points)

    def learning_rate(self) -> Curve:
        """Return the learning rate at the beginning of each finished epoch, and again at the end of the last one."""
        points = [(float(row.epoch), row.values["learning_rate"]) for row in self.rows if "learning_rate" in row.values]
        return _curve([*points, (points[-1][0] + 1, points[-1][1])] if points else [])

    def phase_borders(self) -> list[tuple[int, str]]:
        """Return the epochs at which a phase after the first one begins, with its name."""
        phases = {row.epoch: row.phase for row in self.rows if row.phase}
        epochs = sorted(phases)
        return [(epoch, phases[epoch]) for before, epoch in pairwise(epochs) if phases[epoch] != phases[before]]


def parse_history(text: str, source: Path) -> tuple[HistoryRow, ...]:
    """Return the rows of a history in the CSV form that training writes.

    Raises:
        DataError: it has other columns, a cell that is no number, or no rows.
    """
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in (*_PLACE, *_VALUES) if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"{source}: is not the metric history of a training session: it lacks the column(s) {', '.join(missing)}. "
            f"Name a file logs/<session>{ENDING} that -train wrote."
        )
    rows = tuple(_row(cells, f"{source}:{reader.line_num}") for cells in reader)
    if not rows:
        raise DataError(f"{source}: there is nothing to plot yet: no subepoch of this session is finished.")
    return rows


def _row(cells: dict[str, str], place: str) -> HistoryRow:
    try:
        label = cells["class"]
        if cells["role"] not in (*ROLES, "volumes") or not (label.isdecimal() or label in (ALL_CLASSES, FOREGROUND)):
            raise ValueError(f"role {cells['role']!r} and class {label!r}")
        return HistoryRow(
            epoch=int(cells["epoch"]),
            subepoch=int(cells["subepoch"]) if cells["subepoch"] else None,
            role=cells["role"],
            class_label=label,
            values={name: float(cells[name]) for name in _VALUES if cells[name]},
            phase=cells.get("phase") or "",
        )
    except (ValueError, TypeError) as problem:
        raise DataError(
            f"{place}: this row is not as -train writes it ({problem}). Run the same -train command again: it goes on "
            "from its checkpoint and writes its history anew; or name a saved model, which holds it too."
        ) from problem


def _curve(points: Iterable[tuple[float, float]]) -> Curve:
    ordered = sorted(points, key=lambda point: point[0])
    return Curve(tuple(x for x, _ in ordered), tuple(y for _, y in ordered))


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
