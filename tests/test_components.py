import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from deepmedic.components import bounding_box, label_components

STRUCTURES = {6: 1, 18: 2, 26: 3}
"""Of scipy: how many coordinates of neighbours differ."""


def reference(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, int]:
    """scipy's components, numbered by their first voxels."""
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURES[connectivity]))
    _, first = np.unique(labels.ravel(), return_index=True)
    order = np.argsort(np.argsort(first[1:])) + 1 if (labels == 0).any() else np.argsort(np.argsort(first)) + 1
    return np.concatenate([[0], order])[labels] if count else labels, count


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.6, 0.95])
def test_components_of_random_masks_are_those_of_scipy(connectivity, density):
    mask = np.random.default_rng(7).random((13, 17, 11)) < density
    labels, count = label_components(mask, connectivity)
    expected, expected_count = reference(mask, connectivity)
    assert count == expected_count
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)


@settings(max_examples=60, deadline=None)
@given(
    mask=arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)),
    connectivity=st.sampled_from([6, 18, 26]),
)
def test_components_of_any_small_mask_are_those_of_scipy(mask, connectivity):
    labels, count = label_components(mask, connectivity)
    expected, expected_count = reference(mask, connectivity)
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("other", "joined"),
    [
        ((1, 1, 2), {6: True, 18: True, 26: True}),
        ((1, 2, 0), {6: False, 18: True, 26: True}),
        ((2, 0, 1), {6: False, 18: True, 26: True}),
        ((2, 0, 2), {6: False, 18: False, 26: True}),
        ((0, 2, 0), {6: False, 18: False, 26: True}),
        ((1, 1, 3), {6: False, 18: False, 26: False}),
    ],
    ids=["face", "edge-yz", "edge-xy", "corner", "other-corner", "apart"],
)
def test_what_touches_depends_on_the_connectivity(other, joined):
    mask = np.zeros((3, 3, 4), bool)
    mask[1, 1, 1] = mask[other] = True
    assert {connectivity: label_components(mask, connectivity)[1] == 1 for connectivity in joined} == joined


def test_voxels_at_opposite_borders_do_not_touch():
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, 4] = mask[0, 1, 0] = mask[0, 3, 2] = mask[1, 0, 2] = mask[2, 3, 4] = True
    assert label_components(mask)[1] == 5


def test_a_spiral_is_one_component():
    """Its runs are joined only after many steps from neighbour to neighbour."""
    mask = np.zeros((1, 41, 41), bool)
    for ring in range(0, 20, 2):
        mask[0, ring : 41 - ring, ring] = mask[0, ring : 41 - ring, 40 - ring] = True
        mask[0, ring, ring : 41 - ring] = mask[0, 40 - ring, ring : 41 - ring] = True
    for ring in range(0, 18, 2):
        mask[0, ring + 1, ring + 1 if ring % 4 else 39 - ring] = False
        mask[0, ring + 1, ring + 2] = True
    assert label_components(mask, 6)[1] == reference(mask, 6)[1] == 1


def test_labels_and_masks_of_any_type_are_masks():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[0, 0, 0], mask[3, 3, 3], mask[3, 3, 2] = 3, 7, 1
    labels, count = label_components(mask)
    assert count == 2
    assert np.bincount(labels.ravel()).tolist() == [61, 1, 2]
    mirrored, _ = label_components(mask[::-1].astype(np.float32))
    np.testing.assert_array_equal(mirrored > 0, mask[::-1] > 0)


def test_an_empty_mask_has_no_components():
    labels, count = label_components(np.zeros((2, 3, 4), bool))
    assert count == 0
    assert labels.shape == (2, 3, 4)
    assert not labels.any()
    assert bounding_box(np.zeros((2, 3, 4), bool)) is None


def test_the_bounding_box_holds_everything_and_no_more():
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))


def test_other_shapes_and_connectivities_are_refused():
    with pytest.raises(ValueError, match=r"found a mask of shape \[4, 4\]; allowed is \[x, y, z\]"):
        label_components(np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="connectivity 8; allowed are 6, 18 and 26"):
        label_components(np.zeros((4, 4, 4), bool), 8)
