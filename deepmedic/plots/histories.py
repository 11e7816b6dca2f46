"""What a training session measured, read back from its metric history as curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from deepmedic.errors import DataError
from deepmedic.metrics import mean_of_numbers
from deepmedic.training.history import DICE_KINDS, RATIO_NAMES, ROLES, SOURCE_TASK, Role

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
        means = [mean_of_numbers(self.y[max(0, at - before) : at + after + 1]) for at in range(len(self.y))]
        return Curve(self.x, tuple(means))


@dataclass(frozen=True)
class HistoryRow:
    """One row of a history: an epoch or subepoch, a role and a class."""

    epoch: int
    subepoch: int | None
    """None: mean over the epoch."""
    role: str
    """"training" or "validation" on samples; "volumes": validation on whole volumes; "sourceTask": the task before."""
    class_label: str
    values: dict[str, float]
    """Those that the row has, by column; nan: not defined."""
    phase: str = ""
    """Of a training in phases."""


@dataclass(frozen=True)
class PhaseChange:
    """The mean validation Dice before and at the end of a phase."""

    phase: str
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.phase}: {self.before:.4f} -> {self.after:.4f} ({self.after - self.before:+.4f})"


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
        own = (row for row in self.rows if row.role != SOURCE_TASK)
        return 1 + max((int(row.class_label) for row in own if row.class_label.isdecimal()), default=0)

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

    def on_source_task(self) -> Curve:
        """Return the mean foreground Dice of the task that the model knew before, from before the training on."""
        return _curve([(row.epoch + 1.0, row.values["dice"]) for row in self._means(SOURCE_TASK)])

    def phase_changes(self) -> list[PhaseChange]:
        """Return how the mean validation Dice changed in each phase after the first one, where it was measured.

        On whole volumes where there are any, else the mean over classes on samples; from the last value of the phase
        before to the last one of the phase.
        """
        scores = {row.epoch: row.values["dice"] for row in self._means("volumes")} or self._means_on_samples()
        borders = self.phase_borders()
        changes = []
        for number, (start, name) in enumerate(borders):
            end = borders[number + 1][0] if number + 1 < len(borders) else self.epochs
            before = [scores[epoch] for epoch in sorted(scores) if epoch < start]
            during = [scores[epoch] for epoch in sorted(scores) if start <= epoch < end]
            if before and during:
                changes.append(PhaseChange(name, before[-1], during[-1]))
        return changes

    def _means(self, role: str) -> list[HistoryRow]:
        """Rows of a role with the mean over classes that chooses the best checkpoint."""
        return [
            row
            for row in self.rows
            if (row.role, row.class_label) == (role, ALL_CLASSES) and not math.isnan(row.values.get("dice", math.nan))
        ]

    def _means_on_samples(self) -> dict[int, float]:
        """Mean Dice of the classes on validation samples, by epoch."""
        by_epoch: dict[int, list[float]] = {}
        for row in self.rows:
            label, dice = row.class_label, row.values.get("dice", math.nan)
            of_class = label.isdecimal() and label != "0"
            if row.role == "validation" and row.subepoch is None and of_class and not math.isnan(dice):
                by_epoch.setdefault(row.epoch, []).append(dice)
        return {epoch: sum(values) / len(values) for epoch, values in by_epoch.items()}

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
        is_class = label.isdecimal() or label in (ALL_CLASSES, FOREGROUND)
        if cells["role"] not in (*ROLES, "volumes", SOURCE_TASK) or not is_class:
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
