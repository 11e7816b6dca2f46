"""What voxel values are refused, repaired or accepted, on volumes small enough to check by eye."""

import re

import numpy as np
import pytest

from deepmedic.data.voxel_checks import finite_intensities, label_map, roi_mask, weights
from deepmedic.errors import DataError


def volume(dtype: str = "f4") -> np.ndarray:
    return np.arange(64, dtype=dtype).reshape(4, 4, 4)


def test_finite_intensities_become_float32_unchanged() -> None:
    notes: list[str] = []
    found = finite_intensities(volume("i2"), notes, non_finite="refuse")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, volume())
    assert notes == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_that_are_not_finite_are_refused_with_count_and_place(value: float) -> None:
    voxels = volume("f8")
    voxels[1, 2, 3] = voxels[3, 0, 0] = value
    with pytest.raises(
        DataError, match=r"2 of 64 voxels \(the first at \(1, 2, 3\): .*\) are not finite.*nonFiniteVox"
    ):
        finite_intensities(voxels, [], non_finite="refuse")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_signalling_nan_is_refused_like_any_other(order: str) -> None:
    voxels = volume(f"{order}f4")
    voxels.view(f"{order}u4")[0, 0, 0] = 0x7F800001
    with pytest.raises(DataError, match=r"1 of 64 voxels .* are not finite"):
        finite_intensities(voxels, [], non_finite="refuse")
    with pytest.raises(DataError, match=r"1 of 64 voxels .* are not an integer"):
        label_map(voxels, [], classes=64)
    with pytest.raises(DataError, match=r"1 of 64 voxels .* are negative or not finite"):
        weights(voxels, [])


def test_voxels_that_are_not_finite_are_replaced_when_asked_and_counted() -> None:
    voxels = volume()
    voxels[0, 0, :] = np.nan, np.inf, 10, 20
    for choice, expected in (("zero", 0.0), ("mean", volume().ravel()[4:].sum() / 62 + 30 / 62)):
        notes: list[str] = []
        found = finite_intensities(voxels, notes, non_finite=choice)
        np.testing.assert_allclose(found[0, 0], [expected, expected, 10, 20], rtol=1e-6)
        np.testing.assert_array_equal(found[1:], voxels[1:])
        assert notes[0].startswith("2 of 64 voxels (the first at (0, 0, 0): nan) are not finite; replaced by ")
        assert notes[0].endswith(f"(nonFiniteVoxels = '{choice}')")


def test_an_image_without_any_finite_voxel_has_no_mean() -> None:
    nothing = np.full((4, 4, 4), np.nan, np.float32)
    with pytest.raises(DataError, match=r"64 of 64 voxels .* so there is no mean to replace them by"):
        finite_intensities(nothing, [], non_finite="mean")
    assert not finite_intensities(nothing, [], non_finite="zero").any()


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f4", "f8"])
def test_labels_of_any_type_become_the_smallest_integers(dtype: str) -> None:
    labels = (volume() % 5).astype(dtype)
    notes: list[str] = []
    found = label_map(labels, notes, classes=5)
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8
    assert notes == []
    assert label_map(labels, [], classes=256).dtype == np.uint8
    assert label_map(labels, [], classes=257).dtype == np.uint16


def test_labels_near_an_integer_are_rounded_with_a_note() -> None:
    labels = (volume("f8") % 3) + 1e-7 * (volume("f8") == 5)
    notes: list[str] = []
    np.testing.assert_array_equal(label_map(labels, notes, classes=3), volume() % 3)
    assert notes == ["1 of 64 labels were off an integer, by up to 1e-07, and are rounded"]


@pytest.mark.parametrize("value", [0.5, 1.002, np.nan, np.inf])
def test_labels_between_integers_are_refused(value: float) -> None:
    labels = volume() % 2
    labels[2, 1, 0] = value
    message = f"1 of 64 voxels (the first at (2, 1, 0): {value:g}) are not an integer"
    with pytest.raises(DataError, match=re.escape(message)):
        label_map(labels, [], classes=2)


@pytest.mark.parametrize(("value", "dtype"), [(7, "u1"), (-1, "i2"), (255, "u1"), (-1, "f4"), (2**40, "i8")])
def test_labels_out_of_range_are_refused_with_label_and_count(value: int, dtype: str) -> None:
    labels = (volume() % 5).astype(dtype)
    labels[0, 1, :] = value
    with pytest.raises(DataError, match=rf"out of range: {value} \(4 voxels\), the first at \(0, 1, 0\)") as refusal:
        label_map(labels, [], classes=5)
    assert "allowed are 0 to 4, since the model has 5 classes" in str(refusal.value).replace("\n", " ")


def test_many_labels_out_of_range_are_summed_up() -> None:
    with pytest.raises(DataError, match=r"2 \(1 voxel\), 3 .*, 11 \(1 voxel\) and 52 further labels, the first"):
        label_map(volume("i2"), [], classes=2)


def test_a_mask_is_what_is_not_zero_whatever_the_values() -> None:
    for values in ([0, 1, 2, 255], [0, 1e-9, 0.9999, 3]):
        notes: list[str] = []
        np.testing.assert_array_equal(
            roi_mask(np.array(values).reshape(4, 1, 1), notes).ravel(), [False, True, True, True]
        )
        assert notes == []
    roi_mask(np.array([0, -1]).reshape(2, 1, 1), notes := [])
    assert notes == ["the mask has negative values; they are inside, as everything that is not zero"]


def test_an_empty_mask_is_noted_and_one_with_nan_refused() -> None:
    notes: list[str] = []
    assert not roi_mask(np.zeros((4, 4, 4), "u1"), notes).any()
    assert notes == ["the mask is empty: no voxel of this case is in the region of interest"]
    mask = np.zeros((4, 4, 4))
    mask[0, 0, 1] = np.nan
    with pytest.raises(DataError, match=r"1 of 64 voxels \(the first at \(0, 0, 1\): nan\) are not a number"):
        roi_mask(mask, [])


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
def test_weights_must_be_finite_and_not_negative(value: float) -> None:
    maps = volume("f8")
    np.testing.assert_array_equal(weights(maps, []), volume())
    maps[3, 3, 3] = value
    with pytest.raises(DataError, match=r"1 of 64 voxels \(the first at \(3, 3, 3\).* are negative or not finite"):
        weights(maps, [])


def test_a_weight_map_of_zeros_is_noted() -> None:
    notes: list[str] = []
    weights(np.zeros((2, 2, 2)), notes)
    assert notes == ["it is zero everywhere: no voxel of this category is drawn from this case"]
