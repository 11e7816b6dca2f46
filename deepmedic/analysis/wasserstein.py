"""How far the intensities of two data sets are apart: 1-Wasserstein distances, and the shift of means.

In one dimension the 1-Wasserstein (earth mover's) distance is the area between the two cumulative distributions, or
between the two quantile functions (Vallender 1974; Villani, "Optimal Transport", 2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def between_samples(one: np.ndarray, other: np.ndarray) -> float:
    """Return the distance between two samples of numbers [value], of any sizes above 0, in their unit."""
    return between_histograms(one, np.ones(len(one)), other, np.ones(len(other)))


def between_histograms(
    values: np.ndarray, weights: np.ndarray, other_values: np.ndarray, other_weights: np.ndarray
) -> float:
    """Return the distance between two distributions that have weight on some values, in the unit of the values.

    Args:
        values: float [bin], in any order.
        weights: float [bin], not negative, with a positive sum, to which they are scaled.
        other_values: of the other distribution.
        other_weights: of the other distribution.
    """
    places = np.concatenate([values, other_values]).astype(np.float64)
    masses = np.concatenate([weights / np.sum(weights), -(other_weights / np.sum(other_weights))])
    order = np.argsort(places, kind="stable")
    difference = np.cumsum(masses[order])[:-1]
    return float(np.sum(np.abs(difference) * np.diff(places[order])))


def between_quantiles(levels: Sequence[float], one: Sequence[float], other: Sequence[float]) -> float:
    """Return the distance between two distributions of which some quantiles are known.

    Between the levels quantile functions are taken to be straight lines, below the first and above the last constant.

    Args:
        levels: rising, between 0 and 1.
        one: the values at the levels.
        other: the same of the other distribution.
    """
    gaps = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    heads = [levels[0], 1 - levels[-1]]
    area = heads[0] * abs(gaps[0]) + heads[1] * abs(gaps[-1])
    for width, left, right in zip(np.diff(levels), gaps[:-1], gaps[1:], strict=True):
        area += width * _mean_height(float(left), float(right))
    return float(area)


def shift(mean: float, deviation: float, other_mean: float) -> float:
    """Return |mean - other mean| / deviation, both of the source; infinite for a constant source that differs."""
    if deviation > 0:
        return abs(mean - other_mean) / deviation
    return 0.0 if mean == other_mean else math.inf


def _mean_height(left: float, right: float) -> float:
    """Mean of the absolute value of a straight line from one height to another."""
    if left * right >= 0:
        return abs(left + right) / 2
    return (left**2 + right**2) / (2 * abs(right - left))
