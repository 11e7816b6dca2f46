"""LogME against the evidence computed as a multivariate normal density, and against a search for its maximum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from deepmedic.analysis.logme import LinearModel, logme


def model_of(features: np.ndarray, target: np.ndarray) -> LinearModel:
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    return LinearModel(torch.tensor(left.T @ target), torch.tensor(singular**2), target @ target, *features.shape)


def density(features: np.ndarray, target: np.ndarray, alpha: float, beta: float) -> float:
    """log p(y): y is normal around 0 with covariance 1 / beta + F F^T / alpha."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    return multivariate_normal.logpdf(target, cov=covariance)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 999),
    shape=st.sampled_from([(12, 3), (5, 8), (1, 1)]),
    alpha=st.sampled_from([0.1, 1.0, 30.0]),
    beta=st.sampled_from([0.5, 7.0]),
)
def test_evidence_is_the_density_of_the_targets(seed, shape, alpha, beta) -> None:
    rng = np.random.default_rng(seed)
    features, target = rng.normal(size=shape), rng.normal(size=shape[0])
    found = model_of(features, target).log_evidence(alpha, beta)
    assert found == pytest.approx(density(features, target, alpha, beta), rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_precisions_found_are_those_of_most_evidence(seed) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(40, 4))
    target = features @ [1.0, -0.5, 0.0, 0.2] + 0.3 * rng.normal(size=40)
    model = model_of(features, target)
    best = minimize(lambda logs: -density(features, target, *np.exp(logs)), [0.0, 0.0], method="Nelder-Mead")
    assert model.log_evidence(*model.best_precisions()) == pytest.approx(-best.fun, abs=1e-3)


def test_is_the_mean_over_the_classes_per_voxel(two_clouds) -> None:
    features, labels = two_clouds(1.0, 30)
    both = []
    for label in range(2):
        model = model_of(features.double().numpy(), (labels == label).double().numpy())
        both.append(model.log_evidence(*model.best_precisions()) / 30)
    assert logme(features, labels, 3) == pytest.approx(sum(both) / 2)


def test_is_higher_the_better_features_tell_classes_apart(two_clouds) -> None:
    values = [logme(*two_clouds(apart), 2) for apart in (0.0, 1.0, 2.0, 4.0)]
    assert values == sorted(values)
    assert values[0] < values[-1] - 0.2


def test_a_single_class_has_no_value(two_clouds) -> None:
    features, _ = two_clouds(1.0)
    assert math.isnan(logme(features, torch.zeros(60, dtype=torch.int64), 2))


def test_useless_and_perfect_features_have_finite_values() -> None:
    labels = torch.arange(20) % 2
    assert math.isfinite(logme(torch.zeros(20, 3), labels, 2))
    assert math.isfinite(logme(torch.nn.functional.one_hot(labels, 2).float(), labels, 2))
