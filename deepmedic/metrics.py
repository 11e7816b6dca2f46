"""Agreement of a predicted segmentation with the labels: counts of voxels, ratios from them, rows per case and class.

Two conventions for empty classes live here, and are kept apart. The log and the `auto` schedule follow the original
DeepMedic: a ratio that is not defined is None, shown as "N/A", and skipped in means. The tables (`metrics.csv`,
`metrics.json`) and the choice of the best checkpoint drop nothing: Dice is 0 where only the prediction has the class,
and nan, counted as undefined, where neither has. In both, entry 0 stands for the whole foreground (all classes but
the background merged), never for the background.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from deepmedic.words import classes_by_number

WHOLE_FOREGROUND = "whole foreground"
"""The name of all classes but the background as one."""

_VOXELS_TIMES_CLASSES = 1 << 26
"""How many comparisons are held in memory at once."""
_NUMBERS_IN_A_BYTE = 256
_CLASSES_IN_A_BYTE = 15
"""Up to so many classes, a pair of them (and of a value that is none) has a number that fits into a byte."""


def confusion_counts(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Real positives, real negatives, true positives and true negatives of each class against all others.

    Args:
        predicted: class of each voxel, of any shape and any signed integer type or uint8.
        labels: the same shape, on the same device.
        classes: number of classes, the background included.

    Returns:
        int64 [classes, 4] on the same device, without waiting for it; sums over batches are plain additions.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"predicted {tuple(predicted.shape)} and labels {tuple(labels.shape)} differ in shape")
    if labels.device.type == "cpu" and classes <= _CLASSES_IN_A_BYTE:
        return _counts_of_pairs(_pairs_of_classes(predicted, labels, classes))
    predicted, labels = (_wide_enough(values, classes) for values in (predicted, labels))
    voxels = max(1, _VOXELS_TIMES_CLASSES // classes)
    parts = zip(predicted.reshape(-1).split(voxels), labels.reshape(-1).split(voxels), strict=True)
    counts = [_counts_of_part(predicted_part, labels_part, classes) for predicted_part, labels_part in parts]
    return torch.stack(counts).sum(dim=0)


def most_probable(scores: torch.Tensor, dim: int) -> torch.Tensor:
    """The class of the highest score along `dim`, the first one of equals; uint8, int32 above 256 classes.

    The same as `argmax` of scores that are numbers. On a CPU, where `dim` is commonly not the innermost one, that takes
    thirty times as long, and `max` five times: masks and indices are slow there, bytes and comparisons are not.
    """
    dtype = torch.uint8 if scores.shape[dim] <= _NUMBERS_IN_A_BYTE else torch.int32
    if scores.device.type != "cpu":
        return scores.max(dim=dim).indices.to(dtype)
    highest, *others = scores.unbind(dim)
    winner = torch.zeros_like(highest, dtype=dtype)
    for number, score in enumerate(others, start=1):
        # Numbers of classes rise, so a class that is ahead of all before it is the largest number.
        torch.maximum(winner, (score > highest).to(dtype).mul_(number), out=winner)
        highest = torch.maximum(highest, score)
    return winner


def _pairs_of_classes(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """How often each predicted class met each label, int64 [classes + 1, classes + 1]; the last of both: any other.

    One pass over the voxels, with few classes in bytes: a tenth of the time of comparing with each class in turn.
    """
    kinds = classes + 1
    dtype = torch.uint8 if classes <= _CLASSES_IN_A_BYTE else torch.int32
    codes = _clamped(predicted, classes, dtype) * kinds + _clamped(labels, classes, dtype)
    return torch.bincount(codes, minlength=kinds * kinds).view(kinds, kinds)


def _clamped(values: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    """Classes in that type, one-dimensional; whatever is none of them becomes `classes`."""
    values = _wide_enough(values.reshape(-1), classes)
    if values.dtype != torch.uint8:
        values = torch.where(values < 0, classes, values)
    return values.clamp(max=classes).to(dtype)


def _wide_enough(values: torch.Tensor, classes: int) -> torch.Tensor:
    """The same numbers in a type that holds the number of classes too: a class beyond it would wrap to another one."""
    return values.int() if classes > torch.iinfo(values.dtype).max else values


def _counts_of_pairs(pairs: torch.Tensor) -> torch.Tensor:
    """The counts of `confusion_counts` from `_pairs_of_classes`."""
    predicted, real, true_positives = (of[:-1] for of in (pairs.sum(dim=1), pairs.sum(dim=0), pairs.diagonal()))
    real_negatives = pairs.sum() - real
    return torch.stack([real, real_negatives, true_positives, real_negatives - predicted + true_positives], dim=1)


def _counts_of_part(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    wanted = torch.arange(classes, device=labels.device).unsqueeze(1)
    is_predicted = predicted.unsqueeze(0) == wanted.to(predicted.dtype)  # [classes, voxels]
    is_real = labels.unsqueeze(0) == wanted.to(labels.dtype)
    real_positives = is_real.sum(dim=1)
    true_positives = (is_real & is_predicted).sum(dim=1)
    real_negatives = labels.numel() - real_positives
    true_negatives = real_negatives - is_predicted.sum(dim=1) + true_positives
    return torch.stack([real_positives, real_negatives, true_positives, true_negatives], dim=1)


def confusion_matrix(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """How many voxels of each class were given each class: int64 [class in labels, class predicted].

    Takes what `confusion_counts` takes; voxels whose value is no class are not among them.
    """
    return _pairs_of_classes(predicted, labels, classes)[:-1, :-1].T


@dataclass(frozen=True)
class Counts:
    """Voxels of one class against all others."""

    real_positives: int
    real_negatives: int
    true_positives: int
    true_negatives: int

    @property
    def predicted_positives(self) -> int:
        return self.true_positives + self.real_negatives - self.true_negatives

    @property
    def voxels(self) -> int:
        return self.real_positives + self.real_negatives


def counts_per_class(counts: torch.Tensor | Sequence[Sequence[int]]) -> list[Counts]:
    """The rows of `confusion_counts` [classes, 4], with the whole foreground in place of the background."""
    table = counts.tolist() if isinstance(counts, torch.Tensor) else counts
    background = Counts(*(int(number) for number in table[0]))
    foreground = Counts(
        real_positives=background.real_negatives,
        real_negatives=background.real_positives,
        true_positives=background.true_negatives,
        true_negatives=background.true_positives,
    )
    return [foreground, *(Counts(*(int(number) for number in row)) for row in table[1:])]


def merged_counts(matrix: torch.Tensor, merged: Sequence[int]) -> Counts:
    """Counts of several classes as one, from `confusion_matrix`."""
    chosen = list(merged)
    real, predicted = int(matrix[chosen].sum()), int(matrix[:, chosen].sum())
    true, voxels = int(matrix[chosen][:, chosen].sum()), int(matrix.sum())
    return Counts(
        real_positives=real,
        real_negatives=voxels - real,
        true_positives=true,
        true_negatives=voxels - real - predicted + true,
    )


@dataclass(frozen=True)
class Ratios:
    """The ratios of the log; None where one is not defined."""

    accuracy: float | None
    sensitivity: float | None
    precision: float | None
    specificity: float | None
    dice: float | None


def ratios_of(counts: Counts) -> Ratios:
    """Ratios by the original's rules: sensitivity and Dice are undefined when the labels lack the class."""
    real, true = counts.real_positives, counts.true_positives
    return Ratios(
        accuracy=_ratio(true + counts.true_negatives, counts.voxels),
        sensitivity=_ratio(true, real),
        precision=_ratio(true, counts.predicted_positives),
        specificity=_ratio(counts.true_negatives, counts.real_negatives),
        dice=_ratio(2 * true, counts.predicted_positives + real) if real else None,
    )


def overall_accuracy(counts: torch.Tensor | Sequence[Sequence[int]]) -> float | None:
    """Voxels given their right class, of all voxels, from `confusion_counts` [classes, 4]."""
    table = counts.tolist() if isinstance(counts, torch.Tensor) else counts
    return _ratio(sum(row[2] for row in table), table[0][0] + table[0][1])


def mean_defined(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are defined; None when none is."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def mean_of_numbers(values: Iterable[float]) -> float:
    """The mean of the values that are not nan; nan when all are."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def mean_ratios(ratios: Sequence[Ratios]) -> Ratios:
    """Means over subepochs or subjects, each ratio over those where it is defined."""
    return Ratios(*(mean_defined(getattr(one, ratio.name) for one in ratios) for ratio in fields(Ratios)))


def format_ratio(value: float | None, digits: int = 4) -> str:
    """As the original's log shows it: "0.1234", or "N/A"."""
    return "N/A" if value is None else f"{value:.{digits}f}"


@dataclass(frozen=True)
class ThreeDices:
    """The three Dice coefficients of the log; each list has the whole foreground first, then class 1, 2, ..."""

    dice1: list[float | None]
    """Prediction against labels, on the whole volume."""
    dice2: list[float | None]
    """Prediction inside the ROI against all labels."""
    dice3: list[float | None]
    """Both inside the ROI."""


def dice_123(predicted: torch.Tensor, labels: torch.Tensor, roi: torch.Tensor | None, classes: int) -> ThreeDices:
    """The log's Dice coefficients of one volume; all three are equal without an ROI.

    Args:
        predicted: class of each voxel, integers [x, y, z].
        labels: the same shape.
        roi: bool, the same shape, or None.
        classes: number of classes, the background included.
    """
    dice1 = _dices(predicted, labels, classes)
    if roi is None:
        return ThreeDices(dice1, list(dice1), list(dice1))
    inside = roi.to(torch.bool)
    predicted_inside = predicted * inside
    return ThreeDices(
        dice1, _dices(predicted_inside, labels, classes), _dices(predicted_inside, labels * inside, classes)
    )


def _dices(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> list[float | None]:
    return [ratios_of(counts).dice for counts in counts_per_class(confusion_counts(predicted, labels, classes))]


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one line of the tables is about: a class, or several classes as one."""

    class_index: int | None
    """0: the whole foreground; None: a region that the config names."""
    class_name: str
    classes: tuple[int, ...]
    """The labels that belong to it."""


def scored_classes(
    classes: int, class_names: Sequence[str] | None = None, regions: Mapping[str, Sequence[int]] | None = None
) -> list[Scored]:
    """The whole foreground, then class 1, 2, ..., then regions.

    Args:
        classes: number of classes, the background included.
        class_names: one per class, the background included; None: "class 1", ...
        regions: classes that are merged, by name.
    """
    names = class_names or classes_by_number(classes)
    foreground = Scored(class_index=0, class_name=WHOLE_FOREGROUND, classes=tuple(range(1, classes)))
    single = [Scored(class_index=index, class_name=names[index], classes=(index,)) for index in range(1, classes)]
    merged = [
        Scored(class_index=None, class_name=name, classes=tuple(sorted(members)))
        for name, members in (regions or {}).items()
    ]
    return [foreground, *single, *merged]


@dataclass(frozen=True, kw_only=True)
class MetricsRow(Scored):
    """One line of `metrics.csv`: one case, and a class or region. Ratios that are not defined are nan."""

    case: str
    dice: float
    sensitivity: float
    precision: float
    specificity: float
    volume_predicted_ml: float
    volume_truth_ml: float
    voxels_predicted: int
    voxels_truth: int
    voxels_in_both: int
    further: Mapping[str, float] = field(default_factory=dict)
    """Further columns, such as distances: the same names in every row; inf for a distance to an empty mask."""

    def as_dict(self) -> dict[str, Any]:
        """Column name -> value, in the order of the table."""
        own = {name: getattr(self, name) for name in OWN_COLUMNS}
        return {**own, "classes": list(self.classes), **self.further}


OWN_COLUMNS = ("case", *(column.name for column in fields(MetricsRow) if column.name not in ("case", "further")))
"""The columns that every table has."""


def metrics_row(
    case: str, scored: Scored, counts: Counts, voxel_volume_mm3: float, further: Mapping[str, float] | None = None
) -> MetricsRow:
    """One row.

    Args:
        case: name of the case.
        scored: what is scored.
        counts: its voxels, over the whole volume.
        voxel_volume_mm3: volume of a voxel in mm^3.
        further: further columns.
    """
    ratios = ratios_of(counts)
    return MetricsRow(
        case=case,
        class_index=scored.class_index,
        class_name=scored.class_name,
        classes=scored.classes,
        dice=dice_or_nan(counts),
        sensitivity=_nan_if_none(ratios.sensitivity),
        precision=_nan_if_none(ratios.precision),
        specificity=_nan_if_none(ratios.specificity),
        volume_predicted_ml=counts.predicted_positives * voxel_volume_mm3 / 1000,
        volume_truth_ml=counts.real_positives * voxel_volume_mm3 / 1000,
        voxels_predicted=counts.predicted_positives,
        voxels_truth=counts.real_positives,
        voxels_in_both=counts.true_positives,
        further=further or {},
    )


def metrics_rows(
    case: str,
    counts: torch.Tensor | Sequence[Sequence[int]],
    voxel_volume_mm3: float,
    class_names: Sequence[str] | None = None,
    further: Sequence[Mapping[str, float]] | None = None,
) -> list[MetricsRow]:
    """The rows of one case: the whole foreground, then class 1, 2, ...

    Args:
        case: name of the case.
        counts: of `confusion_counts` [classes, 4], over the whole volume.
        voxel_volume_mm3: volume of a voxel in mm^3.
        class_names: one per class, the background included; None: "class 1", ...
        further: further columns of each row.
    """
    per_class = counts_per_class(counts)
    scored = scored_classes(len(per_class), class_names)
    columns = further or [{}] * len(per_class)
    return [
        metrics_row(case, one, found, voxel_volume_mm3, more)
        for one, found, more in zip(scored, per_class, columns, strict=True)
    ]


def dice_or_nan(counts: Counts) -> float:
    """Dice as the tables have it: 0 if only one of labels and prediction has the class, nan if neither has it."""
    return _nan_if_none(_ratio(2 * counts.true_positives, counts.predicted_positives + counts.real_positives))


def mean_foreground_dice(rows: Sequence[MetricsRow]) -> float:
    """Mean over the classes (not the whole foreground) of their mean Dice over cases; decides on the best checkpoint.

    Cases where neither labels nor prediction have a class are left out of that class's mean; nan when no class is left.
    """
    of_class: dict[int, list[float]] = {}
    for row in rows:
        if row.class_index:
            of_class.setdefault(row.class_index, []).append(row.dice)
    means = [mean for mean in map(mean_without_nan, of_class.values()) if not math.isnan(mean)]
    return math.fsum(means) / len(means) if means else math.nan


def mean_without_nan(values: Iterable[float]) -> float:
    """The mean of the values that are not nan; nan without any."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value
