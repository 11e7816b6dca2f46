"""Class consistency and feature variety, against loops over pairs and hand-checkable features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from deepmedic.analysis.ccfv import ccfv, class_distance, energy


def wasserstein_by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    first, second = np.cov(one.T, bias=True), np.cov(other.T, bias=True)
    spread = np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    return math.sqrt(np.sum((one.mean(axis=0) - other.mean(axis=0)) ** 2) + max(spread, 0))


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_class_distance_is_the_mean_over_classes_and_pairs_of_subjects(seed) -> None:
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(40, 3)) for _ in range(3)]
    labels = [np.arange(40) % 3 for _ in range(3)]
    expected = [
        wasserstein_by_scipy(features[one][labels[one] == label], features[other][labels[other] == label])
        for label in (1, 2)
        for one, other in ((0, 1), (0, 2), (1, 2))
    ]
    found = class_distance([torch.tensor(part) for part in features], [torch.tensor(part) for part in labels], 3)
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


def test_of_many_subjects_some_pairs_stand_for_all() -> None:
    """Twenty subjects have 190 pairs; their features differ by one number, drawn for each."""
    rng = np.random.default_rng(0)
    moves = rng.normal(size=20)
    features = [torch.tensor([[move, 0.0], [move, 0.0]]) for move in moves]
    labels = [torch.ones(2, dtype=torch.int64)] * 20
    everyone = np.mean([abs(moves[i] - moves[j]) for i in range(20) for j in range(i)])
    assert class_distance(features, labels, 2) == pytest.approx(everyone, rel=0.15)


def test_energy_of_opposite_and_orthogonal_directions() -> None:
    """On the unit circle at 0, 90 and 180 degrees: distances sqrt 2, sqrt 2 and 2."""
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).double()
    assert energy(directions) == pytest.approx((2 / math.sqrt(2) + 1 / 2) / 3, rel=1e-3)


def test_energy_agrees_with_a_loop_over_pairs() -> None:
    values = np.random.default_rng(0).normal(size=(12, 4))
    expected = np.mean(
        [1 / math.sqrt(np.sum((values[i] - values[j]) ** 2) + 1e-3) for i in range(12) for j in range(i)]
    )
    assert energy(torch.tensor(values)) == pytest.approx(expected)


def test_consistent_and_varied_features_have_higher_scores(two_clouds) -> None:
    alike = [two_clouds(4.0, seed=seed) for seed in range(3)]
    labels = [own for _, own in alike]
    moved = [features + 3.0 * number for number, (features, _) in enumerate(alike)]
    collapsed = [features * torch.tensor([0.05, 0.05, 0.05, 0.05]) + 1.0 for features, _ in alike]
    good = ccfv([features for features, _ in alike], labels, 2)
    assert good.class_distance < ccfv(moved, labels, 2).class_distance
    assert good.variety > 2 * ccfv(collapsed, labels, 2).variety
    assert good.score == pytest.approx(math.log(good.variety / good.class_distance))
    assert good.score > ccfv(moved, labels, 2).score


def test_the_scale_of_features_does_not_matter(two_clouds) -> None:
    parts = [two_clouds(2.0, seed=seed) for seed in range(2)]
    labels = [own for _, own in parts]
    small, large = (ccfv([scale * values for values, _ in parts], labels, 2).score for scale in (1.0, 50.0))
    assert small == pytest.approx(large, rel=1e-5)


def test_without_two_subjects_that_have_a_class_there_is_no_score(two_clouds) -> None:
    features, labels = two_clouds(2.0)
    assert math.isnan(ccfv([features], [labels], 2).score)
    assert math.isnan(ccfv([features, features], [labels, torch.zeros_like(labels)], 2).score)
