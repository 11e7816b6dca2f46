"""Linear probes, against another optimiser and a case that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from deepmedic.analysis.linear_probe import RIDGE, fit_probe


def test_is_the_minimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(50, 3)) * [1, 5, 0.2] + [0, 4, 1], rng.integers(0, 3, 50)
    features[:, 0] += labels
    inputs = (features - features.mean(axis=0)) / features.std(axis=0)
    shares = 1 / (3 * np.bincount(labels)[labels])

    def cost(flat: np.ndarray) -> float:
        weights, bias = flat[:9].reshape(3, 3), flat[9:]
        scores = inputs @ weights + bias
        top = scores.max(axis=1)
        logs = scores[np.arange(50), labels] - top - np.log(np.exp(scores - top[:, None]).sum(axis=1))
        return -(shares * logs).sum() + RIDGE / 2 * (weights**2).sum()

    expected = minimize(cost, np.zeros(12), method="BFGS", options={"gtol": 1e-8}).x[:9].reshape(3, 3)
    found = fit_probe(torch.tensor(features), torch.tensor(labels), 3)
    np.testing.assert_allclose(found.weights, expected, atol=2e-5)


def test_the_gradient_is_nothing_at_the_minimum_also_with_more_channels_than_voxels() -> None:
    """The cost is written out once more, and torch derives it."""
    generator = torch.Generator().manual_seed(3)
    for voxels, channels in ((40, 3), (60, 90)):
        mixed = torch.randn((voxels, channels), generator=generator) * torch.arange(1, channels + 1)
        mixed[:, 0] += mixed[:, 1]
        labels = torch.arange(voxels) % 3
        probe = fit_probe(mixed, labels, 3)
        weights, bias = probe.weights.clone().requires_grad_(), probe.bias.clone().requires_grad_()
        values = mixed.double()
        scores = (values - values.mean(dim=0)) / values.std(dim=0, correction=0) @ weights + bias
        shares = 1 / (3 * labels.bincount()[labels])
        cost = (shares * torch.nn.functional.cross_entropy(scores, labels, reduction="none")).sum()
        (cost + RIDGE / 2 * weights.square().sum()).backward()
        assert weights.grad.abs().max() < 1e-6
        assert bias.grad.abs().max() < 1e-6
        assert weights.abs().max() > 0.1


def test_separates_what_is_separable_and_guesses_what_is_noise(two_clouds) -> None:
    for apart, lowest, highest in ((8.0, 0.99, 1.0), (0.0, 0.3, 0.7)):
        features, labels = two_clouds(apart, 200)
        probe = fit_probe(features, labels, 2)
        queries, wanted = two_clouds(apart, 200, seed=1)
        right = (probe.log_probabilities(queries).argmax(dim=1) == wanted).double().mean()
        assert lowest <= right <= highest


def test_rare_classes_weigh_as_much_as_frequent_ones(two_clouds) -> None:
    features, labels = two_clouds(2.0, 400)
    rare = (labels == 0) | (torch.arange(400) % 8 == 1)
    probe = fit_probe(features[rare], labels[rare], 2)
    middle = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert probe.log_probabilities(middle).exp()[0, 1] == pytest.approx(0.5, abs=0.15)
    assert probe.log_probabilities(middle, torch.tensor([0.95, 0.05])).exp()[0, 1] < 0.1


def test_a_class_that_is_absent_from_the_fit_is_never_predicted(two_clouds) -> None:
    features, labels = two_clouds(2.0)
    probabilities = fit_probe(features, labels, 4).log_probabilities(features).exp()
    assert (probabilities[:, 2:] == 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(60, dtype=torch.float64))


def test_constant_channels_change_nothing(two_clouds) -> None:
    features, labels = two_clouds(2.0)
    more = torch.cat([features, torch.full((60, 2), 1e4)], dim=1)
    torch.testing.assert_close(fit_probe(more, labels, 2).weights[:4], fit_probe(features, labels, 2).weights)


def test_repeats_to_the_bit(two_clouds) -> None:
    features, labels = two_clouds(1.0)
    assert torch.equal(fit_probe(features, labels, 2).weights, fit_probe(features, labels, 2).weights)
