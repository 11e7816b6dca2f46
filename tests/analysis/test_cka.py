"""CKA against the definition of HSIC by sums over quadruples, its invariances, and what is not defined."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.analysis.cka import cka


def noise(rows: int, channels: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, channels)))


def hsic_by_definition(kernel: np.ndarray, other: np.ndarray) -> float:
    """The unbiased HSIC: a mean over all ordered quadruples of different rows (Song et al., equation 4)."""
    total, count = 0.0, 0
    for i, j, q, r in permutations(range(len(kernel)), 4):
        total += kernel[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
        count += 1
    return total / count


class TestAgainstTheDefinition:
    @settings(max_examples=10, deadline=None)
    @given(rows=st.integers(4, 8), channels=st.integers(1, 4), seed=st.integers(0, 1000))
    def test_one_batch_is_the_ratio_of_hsics(self, rows, channels, seed) -> None:
        first, second = noise(rows, channels, seed), noise(rows, channels + 1, seed + 1)
        k, m = (one.numpy() @ one.numpy().T for one in (first, second))
        expected = hsic_by_definition(k, m) / np.sqrt(hsic_by_definition(k, k) * hsic_by_definition(m, m))
        assert cka([first, second]).values[0, 1] == pytest.approx(expected, rel=1e-8, abs=1e-10)

    def test_numerators_and_denominators_of_batches_are_added_before_dividing(self) -> None:
        first, second = noise(12, 3, 0), noise(12, 3, 1)
        sums = np.zeros((2, 2))
        for part in (slice(0, 6), slice(6, 12)):
            kernels = [one[part].numpy() @ one[part].numpy().T for one in (first, second)]
            sums += [[hsic_by_definition(k, m) for m in kernels] for k in kernels]
        expected = sums[0, 1] / np.sqrt(sums[0, 0] * sums[1, 1])
        assert cka([first, second], batch=6).values[0, 1] == pytest.approx(expected, rel=1e-8)


class TestProperties:
    def test_of_a_representation_with_itself_it_is_1(self) -> None:
        assert cka([noise(600, 5, 0)]).values == pytest.approx(1.0, abs=1e-12)

    def test_it_does_not_depend_on_rotation_scale_and_place(self) -> None:
        first, second = noise(700, 6, 0), noise(700, 4, 1)
        second[:, 0] += first[:, 0]
        rotation = torch.linalg.qr(noise(6, 6, 2))[0]
        moved = 1000.0 * (first @ rotation) + 50.0
        values = cka([first, moved, second]).values
        assert values[0, 1] == pytest.approx(1.0, abs=1e-6)
        assert values[0, 2] == pytest.approx(values[1, 2], abs=1e-6)
        assert values[0, 2] > 0.1

    def test_of_independent_noise_it_is_near_0_also_with_more_channels_than_rows_of_a_batch(self) -> None:
        values = cka([noise(2048, 400, 0), noise(2048, 300, 1)]).values
        assert abs(values[0, 1]) < 0.02

    def test_it_is_symmetric(self) -> None:
        values = cka([noise(300, 3, seed) for seed in range(3)]).values
        np.testing.assert_allclose(values, values.T, atol=1e-12)


class TestNotDefined:
    def test_fewer_than_four_rows(self) -> None:
        found = cka([noise(3, 2, 0), noise(3, 2, 1)])
        assert np.isnan(found.values).all()
        assert found.reasons == dict.fromkeys((0, 1), "3 voxels, of which at least 4 are needed")

    def test_constant_features(self) -> None:
        found = cka([noise(20, 2, 0), torch.full((20, 3), 0.1), noise(20, 2, 1)])
        assert np.isnan(found.values[1]).all()
        assert np.isnan(found.values[:, 1]).all()
        assert np.isfinite(found.values[np.ix_([0, 2], [0, 2])]).all()
        assert found.reasons == {1: "the features are constant"}

    def test_other_numbers_of_rows_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"the representations have \[5, 6\] rows"):
            cka([noise(5, 2, 0), noise(6, 2, 0)])
