"""Agreement of a predicted segmentation with the labels: counts of voxels, ratios from them, tables per case and class.

Two conventions for empty classes live here, and are kept apart. The log and the `auto` schedule follow the original
DeepMedic: a ratio that is not defined is None, shown as "N/A", and skipped in means. The tables (`metrics.csv`,
`metrics.json`) and the choice of the best checkpoint drop nothing: Dice is 0 where only the prediction has the class,
and nan, counted as undefined, where neither has. In both, entry 0 stands for the whole foreground (all classes but
the background merged), never for the background.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from deepmedic.files import write_json_atomically, write_text_atomically

_VOXELS_TIMES_CLASSES = 1 << 26
"""How many comparisons are held in memory at once."""


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
    voxels = max(1, _VOXELS_TIMES_CLASSES // classes)
    parts = zip(predicted.reshape(-1).split(voxels), labels.reshape(-1).split(voxels), strict=True)
    counts = [_counts_of_part(predicted_part, labels_part, classes) for predicted_part, labels_part in parts]
    return torch.stack(counts).sum(dim=0)


def _counts_of_part(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    wanted = torch.arange(classes, device=labels.device).unsqueeze(1)
    is_predicted = predicted.unsqueeze(0) == wanted.to(predicted.dtype)  # [classes, voxels]
    is_real = labels.unsqueeze(0) == wanted.to(labels.dtype)
    real_positives = is_real.sum(dim=1)
    true_positives = (is_real & is_predicted).sum(dim=1)
    real_negatives = labels.numel() - real_positives
    true_negatives = real_negatives - is_predicted.sum(dim=1) + true_positives
    return torch.stack([real_positives, real_negatives, true_positives, true_negatives], dim=1)


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


@dataclass(frozen=True)
class MetricsRow:
    """One line of `metrics.csv`: one case and class. Ratios that are not defined are nan."""

    case: str
    class_index: int
    """0: the whole foreground."""
    class_name: str
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
        own = {column.name: getattr(self, column.name) for column in fields(self) if column.name != "further"}
        return {**own, **self.further}


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
    classes = counts_per_class(counts)
    names = class_names or [f"class {index}" for index in range(len(classes))]
    rows = []
    for index, one in enumerate(classes):
        ratios = ratios_of(one)
        rows.append(
            MetricsRow(
                case=case,
                class_index=index,
                class_name=names[index] if index else "whole foreground",
                dice=_nan_if_none(_ratio(2 * one.true_positives, one.predicted_positives + one.real_positives)),
                sensitivity=_nan_if_none(ratios.sensitivity),
                precision=_nan_if_none(ratios.precision),
                specificity=_nan_if_none(ratios.specificity),
                volume_predicted_ml=one.predicted_positives * voxel_volume_mm3 / 1000,
                volume_truth_ml=one.real_positives * voxel_volume_mm3 / 1000,
                voxels_predicted=one.predicted_positives,
                voxels_truth=one.real_positives,
                voxels_in_both=one.true_positives,
                further={} if further is None else further[index],
            )
        )
    return rows


def mean_foreground_dice(rows: Sequence[MetricsRow]) -> float:
    """Mean over the classes (not the whole foreground) of their mean Dice over cases; decides on the best checkpoint.

    Cases where neither labels nor prediction have a class are left out of that class's mean; nan when no class is left.
    """
    means = [mean for index, mean in _means_per_class(rows, "dice").items() if index > 0 and not math.isnan(mean)]
    return math.fsum(means) / len(means) if means else math.nan


def summary(rows: Sequence[MetricsRow]) -> list[dict[str, Any]]:
    """Per class: cases, and of each column its mean over the cases where it is defined, and how many are not.

    An infinite distance makes the mean infinite; it is never dropped.
    """
    lines = []
    for index in sorted({row.class_index for row in rows}):
        of_class = [row.as_dict() for row in rows if row.class_index == index]
        columns = [name for name, value in of_class[0].items() if isinstance(value, float)]
        values = {name: [row[name] for row in of_class] for name in columns}
        lines.append(
            {
                "class_index": index,
                "class_name": of_class[0]["class_name"],
                "cases": len(of_class),
                "mean": {name: _mean_without_nan(values[name]) for name in columns},
                "undefined": {name: sum(math.isnan(value) for value in values[name]) for name in columns},
                "infinite": {name: sum(math.isinf(value) for value in values[name]) for name in columns},
            }
        )
    return lines


def write_metrics_csv(path: Path, rows: Sequence[MetricsRow]) -> None:
    """Write `metrics.csv`; equal rows give equal bytes, and numbers are written in full (nan, inf included).

    Raises:
        ResourceError: the file cannot be written.
    """
    columns = list(rows[0].as_dict()) if rows else _OWN_COLUMNS
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.as_dict() for row in rows)
    write_text_atomically(path, text.getvalue())


def write_metrics_json(path: Path, rows: Sequence[MetricsRow]) -> None:
    """Write `metrics.json`: the same rows, their summary per class, and the mean foreground Dice.

    Raises:
        ResourceError: the file cannot be written.
    """
    content = {
        "mean_foreground_dice": mean_foreground_dice(rows),
        "summary": summary(rows),
        "rows": [row.as_dict() for row in rows],
    }
    write_json_atomically(path, content)


_OWN_COLUMNS = [column.name for column in fields(MetricsRow) if column.name != "further"]


def _means_per_class(rows: Sequence[MetricsRow], column: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row.class_index, []).append(getattr(row, column))
    return {index: _mean_without_nan(of_class) for index, of_class in values.items()}


def _mean_without_nan(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value
