"""H-score and shrinkage against their definitions, written out as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.analysis.h_score import h_score, ledoit_wolf


def shrinkage_by_definition(centred: np.ndarray) -> float:
    """Ledoit and Wolf (2004): b^2 / d^2 with b^2 the mean squared distance of x x^T from S, divided by n."""
    voxels, channels = centred.shape
    covariance = sum(np.outer(row, row) for row in centred) / voxels
    target = np.trace(covariance) / channels * np.eye(channels)
    distance = np.sum((covariance - target) ** 2)
    scatter = sum(np.sum((np.outer(row, row) - covariance) ** 2) for row in centred) / voxels**2
    return min(scatter, distance) / distance


@settings(max_examples=20)
@given(seed=st.integers(0, 999), shape=st.sampled_from([(8, 2), (30, 5), (6, 12)]))
def test_shrinkage_is_that_of_ledoit_and_wolf(seed, shape) -> None:
    values = np.random.default_rng(seed).normal(size=shape) * np.arange(1, shape[1] + 1)
    centred = values - values.mean(axis=0)
    assert ledoit_wolf(torch.tensor(centred)) == pytest.approx(shrinkage_by_definition(centred))


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_is_the_trace_of_the_definition(seed) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 40)
    features = rng.normal(size=(40, 4)) + labels[:, None] * [1.0, 0.0, -2.0, 0.5]
    centred = features - features.mean(axis=0)
    amount = shrinkage_by_definition(centred)
    covariance = centred.T @ centred / 40
    shrunk = (1 - amount) * covariance + amount * np.trace(covariance) / 4 * np.eye(4)
    of_class = np.stack([centred[labels == label].mean(axis=0) for label in labels])
    expected = (1 - amount) * np.trace(np.linalg.inv(shrunk) @ (of_class.T @ of_class / 40))
    assert h_score(torch.tensor(features), torch.tensor(labels)) == pytest.approx(expected)


def test_a_case_that_can_be_checked_by_hand() -> None:
    """Without spread within classes all variation of the one channel is between them: 1 for two classes."""
    labels = torch.tensor([0, 0, 1, 1])
    assert h_score(torch.tensor([[1.0], [1.0], [3.0], [3.0]]), labels) == pytest.approx(1.0)
    assert h_score(torch.tensor([[1.0], [3.0], [1.0], [3.0]]), labels) == pytest.approx(0.0)


def test_constant_and_repeated_channels_do_no_harm() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    column = torch.tensor([[1.0], [1.0], [3.0], [3.0]])
    assert h_score(torch.ones(4, 3), labels) == 0.0
    assert 0.5 < h_score(torch.cat([column, column, torch.ones(4, 1)], dim=1), labels) <= 1.0


def test_the_scale_of_features_does_not_matter(two_clouds) -> None:
    features, labels = two_clouds(2.0)
    assert h_score(1000 * features, labels) == pytest.approx(h_score(features, labels), rel=1e-4)


def test_is_higher_the_better_features_tell_classes_apart(two_clouds) -> None:
    values = [h_score(*two_clouds(apart)) for apart in (0.0, 1.0, 2.0, 4.0)]
    assert values == sorted(values)
    assert values[0] < 0.15 < 0.7 < values[-1] < 1.0
