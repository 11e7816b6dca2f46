"""What a session measured so far: counts and costs per subepoch, rates per epoch, Dice of whole volumes.

Only what was measured is kept, as plain lists in the checkpoint; every ratio and the CSV file follow from it. A
resumed session thus has the history of its checkpoint, whatever an interrupted run had written since.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepmedic import metrics
from deepmedic.metrics import mean_defined

Role = Literal["training", "validation"]
ROLES: tuple[Role, ...] = ("training", "validation")
SOURCE_TASK = "sourceTask"
"""Role of the rows of the source task in the CSV file."""
DICE_KINDS = ("dice1", "dice2", "dice3")
"""Prediction against truth; prediction within the ROI against truth; both within the ROI."""
RATIO_NAMES = ("accuracy", "sensitivity", "precision", "specificity", "dice")

BEFORE_TRAINING = -1
"""Stands for an epoch in scores of the source task."""

Counts = tuple[tuple[int, int, int, int], ...]
"""Per class, background first: real positives, real negatives, true positives, true negatives."""


@dataclass(frozen=True)
class SampleRecord:
    """One subepoch of training or of validation on samples."""

    counts: Counts
    cost: float | None = None
    """Mean over the training steps; None for validation."""

    @property
    def voxels(self) -> int:
        return self.counts[0][0] + self.counts[0][1]

    @property
    def correct(self) -> int:
        return sum(true_positives for _, _, true_positives, _ in self.counts)

    @property
    def accuracy(self) -> float | None:
        """Correctly classified voxels / all voxels; None without voxels."""
        return self.correct / self.voxels if self.voxels else None

    def counts_of(self, class_index: int) -> tuple[int, int, int, int]:
        """Counts of one class; index 0 stands for the whole foreground, as in all of the original's reports."""
        if class_index:
            return self.counts[class_index]
        real_positives, real_negatives, true_positives, true_negatives = self.counts[0]
        return real_negatives, real_positives, true_negatives, true_positives

    def ratios(self, class_index: int) -> metrics.Ratios:
        """Ratios of one class (0: whole foreground) as the original defines them.

        A class that the labels lack has neither sensitivity nor Dice, even if it was predicted.
        """
        return metrics.ratios_of(metrics.Counts(*self.counts_of(class_index)))


@dataclass(frozen=True)
class EpochRecord:
    """The settings of optimisation during one epoch."""

    learning_rate: float
    momentum: float


@dataclass(frozen=True)
class VolumeRecord:
    """Validation on whole volumes after one epoch."""

    dice: Mapping[str, Sequence[float | None]]
    """Kind -> per class (0: whole foreground) the mean over the cases that have it; None: no case has it."""
    foreground_dice: float | None = None
    """Mean over cases and foreground classes by the strict rule; chooses the best checkpoint."""


@dataclass
class History:
    """All records of a session, each under its epoch (and role and subepoch); a repeated one replaces the first."""

    samples: dict[tuple[Role, int, int], SampleRecord] = field(default_factory=dict)
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    volumes: dict[int, VolumeRecord] = field(default_factory=dict)
    phases: dict[int, str] = field(default_factory=dict)
    """Name of the phase that an epoch belongs to; empty for a training without phases."""
    source_task: dict[int, VolumeRecord] = field(default_factory=dict)
    """Of the task that the model knew before, after epochs of this one and `BEFORE_TRAINING`."""

    def subepochs(self, role: Role, epoch: int) -> list[SampleRecord]:
        """Records of one epoch in the order of its subepochs."""
        keys = sorted(key for key in self.samples if key[:2] == (role, epoch))
        return [self.samples[key] for key in keys]

    def mean_accuracy(self, role: Role, epoch: int) -> float | None:
        """Mean over the epoch's subepochs of the accuracy, 0 to 1; what the schedule `auto` looks at."""
        return mean_defined([record.accuracy for record in self.subepochs(role, epoch)])

    def samples_score(self, epoch: int) -> float | None:
        """Mean Dice of the foreground classes on the validation samples of one epoch, its subepochs pooled.

        A class that is predicted but absent counts as 0; one neither present nor predicted is left out; None if that
        holds for all of them. Chooses the best checkpoint where whole volumes are not validated.
        """
        records = self.subepochs("validation", epoch)
        if not records:
            return None
        return mean_defined(
            [_strict_dice([record.counts[c] for record in records]) for c in range(1, len(records[0].counts))]
        )

    def next_step(self, role: Role, subepochs: int) -> int:
        """Index of the first subepoch since the start without a record; there are `subepochs` per epoch."""
        return max((epoch * subepochs + subepoch + 1 for of, epoch, subepoch in self.samples if of == role), default=0)

    def to_plain(self) -> dict[str, Any]:
        """Return everything as lists, strings and numbers, for a checkpoint."""
        further: dict[str, Any] = {}  # where there are any
        if self.phases:
            further["phases"] = [[epoch, name] for epoch, name in self.phases.items()]
        if self.source_task:
            further["sourceTask"] = _plain_volumes(self.source_task)
        return further | {
            "samples": [
                [*key, record.cost, [list(counts) for counts in record.counts]] for key, record in self.samples.items()
            ],
            "epochs": [[epoch, record.learning_rate, record.momentum] for epoch, record in self.epochs.items()],
            "volumes": _plain_volumes(self.volumes),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> History:
        """Restore what `to_plain` returned."""
        history = cls()
        for role, epoch, subepoch, cost, counts in plain["samples"]:
            rows = tuple((row[0], row[1], row[2], row[3]) for row in counts)
            history.samples[role, epoch, subepoch] = SampleRecord(rows, cost)
        for epoch, learning_rate, momentum in plain["epochs"]:
            history.epochs[epoch] = EpochRecord(learning_rate, momentum)
        for epoch, dice, foreground_dice in plain["volumes"]:
            history.volumes[epoch] = VolumeRecord(dice, foreground_dice)
        for epoch, dice, foreground_dice in plain.get("sourceTask", ()):
            history.source_task[epoch] = VolumeRecord(dice, foreground_dice)
        history.phases.update(dict(plain.get("phases", ())))
        return history

    def csv(self) -> str:
        """Return the history as CSV, equal for equal histories: one row per epoch, subepoch, role and class.

        Rows without a subepoch hold means over the epoch. Role "volumes" is validation on whole volumes. Class "all"
        holds what concerns all classes, "foreground" all classes but the background together. An empty cell does not
        apply, "nan" is undefined (a class without voxels). A training in phases has a column with their names.
        Role "sourceTask" is the task that the model knew before; epoch -1 stands for before the training.
        """
        file = io.StringIO()
        columns = (*_COLUMNS, "phase") if self.phases else _COLUMNS
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for epoch in sorted(
            {key[1] for key in self.samples} | set(self.epochs) | set(self.volumes) | set(self.source_task)
        ):
            phase = {"phase": self.phases.get(epoch, "")} if self.phases else {}
            writer.writerows(row | phase for row in self._rows_of_epoch(epoch))
        return file.getvalue()

    def _rows_of_epoch(self, epoch: int) -> list[dict[str, str]]:
        rows: list[dict[str, str]] = []
        for key in sorted((key for key in self.samples if key[1] == epoch), key=lambda key: (key[2], key[0])):
            rows += _sample_rows(_place(epoch, str(key[2]), key[0]), [self.samples[key]])
        for role in ROLES:
            records = self.subepochs(role, epoch)
            if records:
                rows += _sample_rows(_place(epoch, "", role), records, self.epochs.get(epoch))
        if epoch in self.volumes:
            rows += _volume_rows(_place(epoch, "", "volumes"), self.volumes[epoch])
        if epoch in self.source_task:
            rows += _volume_rows(_place(epoch, "", SOURCE_TASK), self.source_task[epoch])
        return rows


_COLUMNS = ("epoch", "subepoch", "role", "class", "cost", *RATIO_NAMES, *DICE_KINDS, "learning_rate", "momentum")


def _plain_volumes(records: Mapping[int, VolumeRecord]) -> list[list[Any]]:
    return [
        [epoch, {kind: list(values) for kind, values in record.dice.items()}, record.foreground_dice]
        for epoch, record in records.items()
    ]


def _strict_dice(counts: Sequence[tuple[int, int, int, int]]) -> float | None:
    """Dice of one class over several records; None only if it is neither present nor predicted."""
    real = sum(real_positives for real_positives, _, _, _ in counts)
    true = sum(true_positives for _, _, true_positives, _ in counts)
    predicted = true + sum(real_negatives - true_negatives for _, real_negatives, _, true_negatives in counts)
    return 2 * true / (predicted + real) if predicted + real else None


def _place(epoch: int, subepoch: str, role: str) -> dict[str, str]:
    return {"epoch": str(epoch), "subepoch": subepoch, "role": role}


def class_label(class_index: int) -> str:
    """Name of a class in the CSV file; index 0 stands for the whole foreground."""
    return str(class_index) if class_index else "foreground"


def _sample_rows(
    place: dict[str, str], records: Sequence[SampleRecord], epoch: EpochRecord | None = None
) -> list[dict[str, str]]:
    """Rows of the means over `records`: one for all classes, then one per class."""
    overall = place | {"class": "all", "accuracy": _number(mean_defined([record.accuracy for record in records]))}
    if any(record.cost is not None for record in records):
        overall["cost"] = _number(mean_defined([record.cost for record in records]))
        if epoch is not None:
            overall |= {"learning_rate": _number(epoch.learning_rate), "momentum": _number(epoch.momentum)}
    rows = [overall]
    for class_index in range(len(records[0].counts)):
        ratios = [record.ratios(class_index) for record in records]
        means = {name: _number(mean_defined([getattr(ratio, name) for ratio in ratios])) for name in RATIO_NAMES}
        rows.append(place | {"class": class_label(class_index)} | means)
    return rows


def _volume_rows(place: dict[str, str], record: VolumeRecord) -> list[dict[str, str]]:
    rows = [place | {"class": "all", "dice": _number(record.foreground_dice)}]
    for class_index in range(max((len(values) for values in record.dice.values()), default=0)):
        means = {kind: _number(record.dice[kind][class_index]) for kind in DICE_KINDS if kind in record.dice}
        rows.append(place | {"class": class_label(class_index)} | means)
    return rows


def _number(value: float | None) -> str:
    return "nan" if value is None or math.isnan(value) else repr(float(value))
