"""Distances between intensities, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, wasserstein_distance

from deepmedic.analysis.wasserstein import between_histograms, between_quantiles, between_samples, shift


@settings(max_examples=25)
@given(seed=st.integers(0, 999), counts=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_is_that_of_scipy(seed, counts) -> None:
    rng = np.random.default_rng(seed)
    one, other = (rng.integers(-4, 5, count).astype(float) for count in counts)
    weights, other_weights = (rng.random(count) + 0.1 for count in counts)
    assert between_samples(one, other) == pytest.approx(wasserstein_distance(one, other))
    assert between_histograms(one, weights, other, other_weights) == pytest.approx(
        wasserstein_distance(one, other, weights, other_weights)
    )


def test_moving_everything_by_two_is_a_distance_of_two() -> None:
    values = np.array([0.0, 1.0, 5.0])
    assert between_samples(values, values + 2) == pytest.approx(2.0)
    assert between_quantiles([0.1, 0.5, 0.9], [0.0, 1.0, 5.0], [2.0, 3.0, 7.0]) == pytest.approx(2.0)


def test_quantile_functions_that_cross_are_areas_of_triangles() -> None:
    """From -1 to 3 between the levels 0 and 1: triangles of 1/4 * 1 / 2 and 3/4 * 3 / 2."""
    assert between_quantiles([0.0, 1.0], [-1.0, 3.0], [0.0, 0.0]) == pytest.approx(1 / 8 + 9 / 8)


def test_many_quantiles_give_the_distance_of_the_samples() -> None:
    levels = np.linspace(0.005, 0.995, 199)
    narrow, wide = norm.ppf(levels), norm.ppf(levels, 0.5, 2.0)
    fine = np.linspace(1e-4, 1 - 1e-4, 20001)
    expected = wasserstein_distance(norm.ppf(fine), norm.ppf(fine, 0.5, 2.0))
    assert between_quantiles(levels, narrow, wide) == pytest.approx(expected, rel=0.02)


def test_shift_is_in_deviations_of_the_source() -> None:
    assert shift(1.0, 2.0, -3.0) == 2.0
    assert shift(1.0, 0.0, 1.0) == 0.0
    assert shift(1.0, 0.0, 2.0) == math.inf
