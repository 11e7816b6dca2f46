"""Scores of a classification of sampled voxels, subject by subject, and intervals over subjects.

Voxels of one subject are no independent observations, so every interval is over subjects. A class that neither the
labels nor the prediction of a subject has is left out of its mean, and Dice is 0 where only the prediction has it, as
in `metrics.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepmedic.data.randomness import stream

_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5th percentiles of Student's t distribution with 1, 2, ... 30 degrees of freedom."""
_REPEATS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over subjects with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_plain(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class Confusions:
    """How the voxels of every subject were classified."""

    subjects: tuple[str, ...]
    counts: np.ndarray
    """float64 [subject, real class, predicted class]: voxels, or what they stand for."""

    @classmethod
    def of(
        cls,
        predicted: torch.Tensor,
        labels: torch.Tensor,
        subject_of: torch.Tensor,
        subjects: Sequence[str],
        classes: int,
        weights: torch.Tensor | None = None,
    ) -> Confusions:
        """Count the voxels.

        Args:
            predicted: int64 [voxel].
            labels: int64 [voxel].
            subject_of: int64 [voxel], position in `subjects`.
            subjects: their names.
            classes: the background included.
            weights: float64 [voxel], for how many voxels each stands; None: 1.
        """
        places = ((subject_of * classes + labels) * classes + predicted).numpy()
        given = None if weights is None else weights.double().numpy()
        counts = np.bincount(places, given, minlength=len(subjects) * classes * classes)
        return cls(tuple(subjects), counts.astype(np.float64).reshape(len(subjects), classes, classes))

    def dice(self) -> np.ndarray:
        """float64 [subject, class], nan where neither labels nor prediction have the class; class 0 included."""
        correct = np.diagonal(self.counts, axis1=1, axis2=2)
        return _ratios(2 * correct, self.counts.sum(axis=1) + self.counts.sum(axis=2))

    def foreground_dice(self) -> np.ndarray:
        """float64 [subject]: mean Dice of the classes but the background; nan for a subject without any of them."""
        return _means(self.dice()[:, 1:])

    def balanced_accuracy(self) -> np.ndarray:
        """float64 [subject]: mean over the classes that the labels have of the share that was found."""
        correct = np.diagonal(self.counts, axis1=1, axis2=2)
        return _means(_ratios(correct, self.counts.sum(axis=2)))

    def per_class(self) -> list[dict[str, float]]:
        """Dice, precision and recall of each class over the voxels of all subjects together."""
        counts = self.counts.sum(axis=0)
        correct, real, predicted = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
        values = zip(
            _ratios(2 * correct, real + predicted), _ratios(correct, predicted), _ratios(correct, real), strict=True
        )
        return [
            {"dice": float(dice), "precision": float(precision), "recall": float(recall)}
            for dice, precision, recall in values
        ]


def interval(values: np.ndarray, seed: int) -> Interval:
    """Mean over subjects and its 95 % bootstrap interval; subjects whose value is nan are left out.

    The expanded percentile interval of Hesterberg, "What teachers should know about the bootstrap" (2015): subjects are
    drawn with replacement, and the level is widened so that the interval is as long as Student's t makes it. With two
    or three subjects it is the range of their values; with one it is infinite.

    Args:
        values: float64 [subject].
        seed: of the draws.
    """
    known = values[~np.isnan(values)]
    count = len(known)
    if not count:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(known.mean())
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    draws = stream(seed, "bootstrap", count).integers(count, size=(_REPEATS, count))
    means = known[draws].mean(axis=1)
    tail = expanded_tail(count)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def expanded_tail(count: int) -> float:
    """Return the share of bootstrap means of `count` values, at least 2, below a 95 % interval as long as Student's."""
    student = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96 + 2.4 / (count - 1)
    return _normal_below(-student * math.sqrt(count / (count - 1)))


def _normal_below(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


def _ratios(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)


def _means(values: np.ndarray) -> np.ndarray:
    """Means over the second axis of what is not nan."""
    defined = ~np.isnan(values)
    return _ratios(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))
