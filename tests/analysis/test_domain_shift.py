"""Distances of data sets: intensities, voxel sizes, what batch norm sees."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from deepmedic.analysis.domain_shift import feature_shifts, intensity_shifts, spacing_shift, stored_shift
from deepmedic.analysis.features import ChannelMoments
from deepmedic.data.intensities import intensity_fingerprint


def fingerprint(*channels: np.ndarray) -> dict:
    return intensity_fingerprint(SimpleNamespace(channels=np.stack(channels), roi=None))


def volume(mean: float, deviation: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, (20, 20, 20)).astype(np.float32)


def test_intensities_by_channel() -> None:
    source = [fingerprint(volume(0, 1, seed), volume(5, 2, seed + 10)) for seed in range(2)]
    target = [fingerprint(volume(0, 1, 30), volume(9, 4, 31))]
    near, far = intensity_shifts(source, target, ("T1", "T2"))
    assert (near.channel, near.shift, near.spread) == ("T1", pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05))
    assert near.wasserstein < 0.05
    assert (far.shift, far.spread) == (pytest.approx(2, abs=0.1), pytest.approx(2, abs=0.1))
    expected = wasserstein_distance(volume(5, 2, 10).ravel(), volume(9, 4, 31).ravel())
    assert far.wasserstein == pytest.approx(expected, rel=0.1)


def test_missing_channels_are_left_out() -> None:
    source, target = [fingerprint(volume(0, 1, 0), np.zeros((4, 4, 4)).repeat(125).reshape(20, 20, 20))], []
    target = [fingerprint(volume(0, 1, 1), volume(0, 1, 2))]
    assert [one.channel for one in intensity_shifts(source, target, ("T1", "T2"))] == ["T1"]


def test_voxel_sizes_and_shapes() -> None:
    headers = [
        SimpleNamespace(shape=shape, header=SimpleNamespace(spacing=spacing))
        for shape, spacing in (((10, 20, 30), (1.0, 1.0, 2.0)), ((20, 20, 50), (1.0, 1.0, 4.0)))
    ]
    data = SimpleNamespace(headers=headers, median_spacing=lambda: (1.0, 1.0, 3.0))
    model = SimpleNamespace(data=SimpleNamespace(spacing=(1.0, 2.0, 3.0)))
    found = spacing_shift(model, data)
    assert found["ratio"] == [1.0, 0.5, 1.0]
    assert found["targetRange"] == [[1.0, 1.0, 2.0], [1.0, 1.0, 4.0]]
    assert found["shapeMedian"] == [15.0, 20.0, 40.0]
    model.data.spacing = None
    assert spacing_shift(model, data)["ratio"] is None


def test_what_batch_norm_sees_against_what_it_remembers() -> None:
    """One channel moved by two deviations, the other as in training."""
    images = torch.randn(1, 2, 30, 30, 30, generator=torch.Generator().manual_seed(0))
    images[:, 0] = 3 * images[:, 0] + 6
    parameters = {
        "fc/1/bn_mean_rolling": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]),
        "fc/1/bn_var_rolling": torch.tensor([[9.0, 1.0], [9.0, 1.0]]),
        "fc/2/bn_mean_rolling": torch.zeros(2, 2),
        "fc/2/bn_var_rolling": torch.ones(2, 2),
    }
    moments = {name: ChannelMoments.of(images) for name in ("fc/1", "fc/2", "fc/3")}
    found = stored_shift(parameters, {"fc/1"}, moments)
    assert found == {"fc/1": pytest.approx(math.sqrt((2**2 + 0) / 2), abs=0.02)}


def test_layers_of_which_nothing_is_known_are_left_out() -> None:
    [one, other] = feature_shifts(("a", "b", "c"), {"a": 0.5}, {"c": 0.7})
    assert (one.layer, one.stored, one.measured) == ("a", 0.5, None)
    assert (other.layer, other.stored, other.measured) == ("c", None, 0.7)
