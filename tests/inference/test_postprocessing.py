"""Removal of components against scipy's labelling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import ndimage

from deepmedic.config.prediction import PredictionConfig
from deepmedic.inference.postprocessing import without_small_components

SPACING = (1.0, 2.0, 0.5)
STRUCTURES = {6: 1, 18: 2, 26: 3}


def slow(labels: np.ndarray, chosen: PredictionConfig) -> np.ndarray:
    """Class by class, component by component."""
    labels = labels.copy()
    structure = ndimage.generate_binary_structure(3, STRUCTURES[chosen.connectivity])
    voxel = np.prod(SPACING) if chosen.size_unit == "mm3" else 1.0
    for number in range(3):
        keep = bool(chosen.keep_largest and chosen.keep_largest[number])
        minimum = chosen.minimum_sizes[number] if chosen.minimum_sizes else 0
        components, count = ndimage.label(labels > 0 if number == 0 else labels == number, structure)
        sizes = [(components == index).sum() for index in range(1, count + 1)]
        stay = [index for index in range(count) if sizes[index] * voxel >= minimum]
        if keep and stay:
            stay = [max(stay, key=lambda index: (sizes[index], -index))]
        for index in range(count):
            if index not in stay:
                labels[components == index + 1] = 0
    return labels


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.1, 0.3, 0.6]),
    connectivity=st.sampled_from([6, 18, 26]),
    keep=st.sampled_from([(), (False, True, True), (True, False, False), (True, True, False)]),
    sizes=st.sampled_from([(), (0.0, 3.0, 5.0), (4.0, 0.0, 2.0)]),
    unit=st.sampled_from(["mm3", "voxels"]),
)
def test_what_stays_is_what_scipy_says(seed, density, connectivity, keep, sizes, unit) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 3, (7, 8, 6)) * (rng.random((7, 8, 6)) < density)).astype(np.uint8)
    chosen = PredictionConfig(keep_largest=keep, minimum_sizes=sizes, connectivity=connectivity, size_unit=unit)
    given_labels = torch.from_numpy(labels.copy())
    found = without_small_components(given_labels, SPACING, chosen)
    np.testing.assert_array_equal(found.numpy(), slow(labels, chosen))
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(given_labels.numpy(), labels)


def test_a_size_in_millimetres_counts_the_volume_of_voxels() -> None:
    labels = torch.zeros(8, 8, 8, dtype=torch.uint8)
    labels[0:2, 0, 0] = 1  # 2 mm3
    labels[4:7, 4, 4] = 1  # 3 mm3
    found = without_small_components(labels, SPACING, PredictionConfig(minimum_sizes=(0, 3.0, 0)))
    assert (int(found[0:2].sum()), int(found[4:7].sum())) == (0, 3)
    tenths = without_small_components(labels, (0.1, 0.1, 0.1), PredictionConfig(minimum_sizes=(0, 0.003, 0)))
    assert int(tenths.sum()) == 3


def test_the_largest_of_all_classes_together_may_hold_several_classes() -> None:
    labels = torch.zeros(9, 9, 9, dtype=torch.uint8)
    labels[1:4, 1, 1] = 1
    labels[4:6, 1, 1] = 2
    labels[1:5, 7, 7] = 2
    found = without_small_components(labels, SPACING, PredictionConfig(keep_largest=(True, False, False)))
    assert torch.equal(found[:, 1], labels[:, 1])
    assert not found[:, 7].any()


def test_of_equally_large_components_the_first_stays() -> None:
    labels = torch.zeros(6, 6, 6, dtype=torch.uint8)
    labels[0, 0, 0] = labels[5, 5, 5] = 2
    found = without_small_components(labels, SPACING, PredictionConfig(keep_largest=(False, False, True)))
    assert found.nonzero().tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("classes", [1, 2])
def test_nothing_to_remove(classes) -> None:
    labels = torch.zeros(4, 4, 4, dtype=torch.uint8)
    chosen = PredictionConfig(keep_largest=(True,) * (classes + 1), minimum_sizes=(9.0,) * (classes + 1))
    assert not without_small_components(labels, SPACING, chosen).any()
