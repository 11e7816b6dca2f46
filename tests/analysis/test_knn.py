"""Weighted nearest neighbours, against a loop and hand-checkable banks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.analysis import knn
from deepmedic.analysis.knn import default_neighbours, vote
from deepmedic.errors import DataError


def test_votes_counted_by_hand() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    [found] = vote(bank, torch.tensor([1, 0, 1]), torch.tensor([[5.0, 0.0]]), 3, neighbours=2).tolist()
    first, second = math.exp(1 / 0.1), math.exp(0 / 0.1)
    assert found == pytest.approx([second / (first + second), first / (first + second), 0.0])


@settings(max_examples=20)
@given(seed=st.integers(0, 999), neighbours=st.integers(1, 12))
def test_agrees_with_a_loop_over_queries(seed, neighbours) -> None:
    rng = np.random.default_rng(seed)
    bank, queries = rng.normal(size=(12, 3)), rng.normal(size=(5, 3))
    labels = rng.integers(0, 3, 12)
    found = vote(torch.tensor(bank), torch.tensor(labels), torch.tensor(queries), 3, neighbours)
    for row, query in enumerate(queries):
        similarity = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-similarity)[:neighbours]
        weights = np.exp(similarity[nearest] / 0.1)
        expected = [weights[labels[nearest] == label].sum() / weights.sum() for label in range(3)]
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_identical_features_are_all_recognised(two_clouds) -> None:
    features, labels = two_clouds(3.0)
    votes = vote(features, labels, features, 2, neighbours=1)
    assert torch.equal(votes.argmax(dim=1), labels)


def test_the_scale_of_features_does_not_matter(two_clouds) -> None:
    features, labels = two_clouds(2.0)
    torch.testing.assert_close(vote(features, labels, features, 2), vote(7 * features, labels, 0.1 * features, 2))


def test_parts_of_the_queries_change_nothing(two_clouds, monkeypatch) -> None:
    features, labels = two_clouds(1.0)
    whole = vote(features, labels, features, 2)
    monkeypatch.setattr(knn, "_SIMILARITIES", 100)
    torch.testing.assert_close(vote(features, labels, features, 2), whole)


@pytest.mark.parametrize(("bank", "expected"), [(5, 1), (19, 1), (450, 45), (2000, 200), (90000, 200)])
def test_default_number_of_neighbours(bank, expected) -> None:
    assert default_neighbours(bank) == expected


@pytest.mark.parametrize("neighbours", [0, 61])
def test_more_neighbours_than_voxels_are_refused(two_clouds, neighbours) -> None:
    features, labels = two_clouds(1.0)
    with pytest.raises(DataError, match=f"{neighbours} nearest neighbours were asked for, and the bank has 60 voxels"):
        vote(features, labels, features, 2, neighbours)
