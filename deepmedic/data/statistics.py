"""Statistics of voxel values that arrive in pieces, in constant memory and linear time: moments, zeros, percentiles."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTS = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
"""Percentiles that are reported of intensities."""

_CHUNK = 1 << 21
_DROPPED_BITS = 14
_BUCKETS = 1 << (32 - _DROPPED_BITS)
_HALF = _BUCKETS // 2


class ValueStatistics:
    """Count, mean, standard deviation, extremes, zeros and percentiles of all values added so far.

    Mean and sum of squared deviations are combined in float64 (Chan, Golub, LeVeque, The American Statistician 37,
    1983), so they do not lose digits when the mean is large. Percentiles come from a histogram over the leading 18
    bits of a float32 (sign, exponent, 9 bits of the mantissa): whatever the range of the values, the bucket of a
    percentile is 1/512 of its value wide, and what is returned is at most 0.1 % from the exact one. It takes 2 MiB.
    """

    def __init__(self) -> None:
        self.count = 0
        self.zeros = 0
        self.mean = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf
        self._squares = 0.0
        """Sum of squared deviations from the mean."""
        self._histogram = np.zeros(_BUCKETS, np.int64)

    @classmethod
    def of(cls, values: np.ndarray) -> ValueStatistics:
        """The statistics of one array of finite numbers, of any shape."""
        found = cls()
        found.add(values)
        return found

    def add(self, values: np.ndarray) -> None:
        """Count further values; they must be finite in float32."""
        flat = values.reshape(-1).astype(np.float32, copy=False)
        for start in range(0, flat.size, _CHUNK):
            self._add_chunk(flat[start : start + _CHUNK])

    def merge(self, other: ValueStatistics) -> None:
        """Count what another object has counted."""
        self._histogram += other._histogram
        self.zeros += other.zeros
        self._combine(other.count, other.mean, other._squares, (other.minimum, other.maximum))

    @property
    def std(self) -> float:
        """Standard deviation of the values, taken as the whole population."""
        return math.sqrt(self._squares / self.count) if self.count else math.nan

    @property
    def constant(self) -> bool:
        """Whether there are values, and all of them are the same."""
        return self.count > 0 and self.minimum == self.maximum

    @property
    def share_of_zeros(self) -> float:
        return self.zeros / self.count if self.count else math.nan

    def percentile(self, percent: float) -> float:
        """The smallest value that at least so many percent of the values do not exceed, within 0.1 %."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(percent / 100 * self.count))
        ascending = np.concatenate([self._histogram[_HALF:][::-1], self._histogram[:_HALF]])
        place = int(np.searchsorted(np.cumsum(ascending), rank))
        value = -_middle(_HALF - 1 - place) if place < _HALF else _middle(place - _HALF)
        return min(max(value, self.minimum), self.maximum)

    def to_plain(self, percents: Sequence[float] = PERCENTS) -> dict[str, Any]:
        """Plain numbers for a table or JSON."""
        if not self.count:
            return {"voxels": 0}
        return {
            "voxels": self.count,
            "mean": self.mean,
            "std": self.std,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "percentiles": {f"{percent:g}": self.percentile(percent) for percent in percents},
            "shareOfZeros": self.share_of_zeros,
        }

    def _add_chunk(self, values: np.ndarray) -> None:
        exact = values.astype(np.float64)
        mean = float(exact.mean())
        exact -= mean
        self.zeros += int(values.size - np.count_nonzero(values))
        buckets = np.ascontiguousarray(values).view(np.uint32) >> _DROPPED_BITS
        self._histogram += np.bincount(buckets, minlength=_BUCKETS)
        extremes = float(values.min()), float(values.max())
        self._combine(values.size, mean, float(np.dot(exact, exact)), extremes)

    def _combine(self, count: int, mean: float, squares: float, extremes: tuple[float, float]) -> None:
        if not count:
            return
        total = self.count + count
        apart = mean - self.mean
        self._squares += squares + apart * apart * self.count * count / total
        self.mean += apart * count / total
        self.count = total
        self.minimum, self.maximum = min(self.minimum, extremes[0]), max(self.maximum, extremes[1])


def label_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 [classes]: how many voxels have each label; labels are whole numbers below `classes`."""
    return np.bincount(labels.reshape(-1), minlength=classes)[:classes].astype(np.int64)


def digest(voxels: np.ndarray) -> str | None:
    """A digest of shape and values [x, y, z], whatever file they came from; None for a constant image.

    Two images with one digest have the same voxels. Constant images (an empty mask) tell nothing about their origin.
    """
    if voxels.size and (voxels == voxels.flat[0]).all():
        return None
    content = hashlib.blake2b(repr(voxels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(voxels).view(np.uint8).data)
    return content.hexdigest()


def _middle(bucket: int) -> float:
    """The middle of a bucket of positive numbers; the first one holds 0 and what is too small to matter."""
    if bucket == 0:
        return 0.0
    edges = np.array([bucket << _DROPPED_BITS, (bucket + 1) << _DROPPED_BITS], np.uint32).view(np.float32)
    return float(edges.astype(np.float64).mean())
