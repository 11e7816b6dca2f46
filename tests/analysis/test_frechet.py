"""Distances between normal distributions, against scipy's matrix root and formulas for special cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from deepmedic.analysis.frechet import (
    Gaussian,
    relative_diagonal_distance,
    relative_distance,
    squared_distance,
    squared_distance_of_samples,
)


def random_gaussian(rng: np.random.Generator, channels: int) -> Gaussian:
    half = rng.normal(size=(channels, channels))
    return Gaussian(torch.tensor(rng.normal(size=channels)), torch.tensor(half @ half.T))


@settings(max_examples=25)
@given(seed=st.integers(0, 999), channels=st.integers(1, 6))
def test_is_the_formula_with_the_matrix_root_of_scipy(seed, channels) -> None:
    rng = np.random.default_rng(seed)
    one, other = random_gaussian(rng, channels), random_gaussian(rng, channels)
    root = np.real(sqrtm(one.covariance.numpy() @ other.covariance.numpy()))
    expected = float((one.mean - other.mean).square().sum())
    expected += float(one.covariance.trace() + other.covariance.trace()) - 2 * np.trace(root)
    assert squared_distance(one, other) == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert squared_distance(other, one) == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_one_channel_by_hand() -> None:
    """Means 1 and 4, deviations 2 and 6: 3^2 + 4^2."""
    one = Gaussian(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    other = Gaussian(torch.tensor([4.0]).double(), torch.tensor([[36.0]]).double())
    assert squared_distance(one, other) == pytest.approx(25.0)
    assert relative_distance(one, other) == pytest.approx(5 / 2)
    assert relative_diagonal_distance(
        (one.mean, one.covariance[0]), (other.mean, other.covariance[0])
    ) == pytest.approx(5 / 2)


def test_a_shift_moves_the_mean_only(two_clouds) -> None:
    features, _ = two_clouds(1.0)
    moved = features + torch.tensor([3.0, 0.0, 0.0, 4.0])
    assert squared_distance(Gaussian.fitted(features), Gaussian.fitted(moved)) == pytest.approx(25.0, rel=1e-4)
    assert squared_distance(Gaussian.fitted(features), Gaussian.fitted(features)) == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 999), voxels=st.sampled_from([(2, 3), (5, 40), (30, 8)]))
def test_samples_have_the_distance_of_their_fits(seed, voxels) -> None:
    rng = np.random.default_rng(seed)
    one, other = (torch.tensor(rng.normal(size=(count, 6)) * (1 + number)) for number, count in enumerate(voxels))
    expected = squared_distance(Gaussian.fitted(one), Gaussian.fitted(other))
    assert squared_distance_of_samples(one, other) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_fewer_voxels_than_channels_have_a_distance() -> None:
    rng = np.random.default_rng(0)
    one, other = (Gaussian.fitted(torch.tensor(rng.normal(size=(3, 9)))) for _ in range(2))
    assert 0 < squared_distance(one, other) < math.inf


def test_a_fit_is_that_of_numpy_and_is_regularised_by_the_mean_variance() -> None:
    values = np.random.default_rng(1).normal(size=(20, 3)) * [1, 2, 3]
    fit, more = Gaussian.fitted(torch.tensor(values)), Gaussian.fitted(torch.tensor(values), 0.1)
    expected = np.cov(values.T, bias=True)
    np.testing.assert_allclose(fit.covariance, expected)
    np.testing.assert_allclose(more.covariance, expected + 0.1 * np.trace(expected) / 3 * np.eye(3))


def test_relative_distances_do_not_depend_on_the_scale(two_clouds) -> None:
    features, _ = two_clouds(1.0)
    pairs = [(scale * features, scale * (1.5 * features + 1)) for scale in (1.0, 100.0)]
    small, large = (relative_distance(Gaussian.fitted(one), Gaussian.fitted(other)) for one, other in pairs)
    assert small == pytest.approx(large, rel=1e-4)


def test_channels_that_are_constant_in_the_source_are_left_out() -> None:
    mean, variance = torch.tensor([0.0, 7.0]), torch.tensor([1.0, 0.0])
    assert relative_diagonal_distance((mean, variance), (mean + 2, variance)) == pytest.approx(2.0)
    assert math.isnan(relative_diagonal_distance((mean[1:], variance[1:]), (mean[1:], variance[1:])))
    assert math.isnan(relative_distance(Gaussian.fitted(torch.ones(3, 2)), Gaussian.fitted(torch.ones(3, 2))))
