"""Cases as the viewer gets them: the right way round, cropped, in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_cases import PART, SIZE, SPACING, WHOLE, head, truth

from deepmedic.data.cases import ImageRef
from deepmedic.report import volumes
from deepmedic.report.content import CaseImages
from deepmedic.report.volumes import quantise, quantise_map, view_case


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SLA", "AIL"])
def test_axes_are_turned_to_right_anterior_superior(make_case: Callable[..., CaseImages], codes: str) -> None:
    case = view_case(make_case("one", codes))

    everything = tuple(slice(box.start - 2, box.stop + 2) for box in WHOLE)  # the head with its margin
    np.testing.assert_array_equal(case.labels, truth()[everything])
    assert case.shape == SIZE
    assert case.spacing == pytest.approx(SPACING)
    assert case.notes == []


@pytest.mark.parametrize("codes", ["RAS", "PIR", "LSA"])
def test_the_affine_says_where_a_shown_voxel_lies(make_case: Callable[..., CaseImages], codes: str) -> None:
    images = make_case("one", codes)
    case = view_case(images)
    assert images.labels is not None
    file = nib.load(images.labels.path)

    stored = np.argwhere(np.asarray(file.dataobj) == 2)
    wanted = nib.affines.apply_affine(file.affine, stored)
    found = nib.affines.apply_affine(case.affine, np.argwhere(case.labels == 2))

    order = np.lexsort(wanted.T)
    np.testing.assert_allclose(found[np.lexsort(found.T)], wanted[order], atol=1e-4)


def test_an_oblique_image_tells_its_angle(write_image: Callable[..., ImageRef]) -> None:
    turn = np.radians(12)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * SPACING

    case = view_case(CaseImages("tilted", channels=(write_image("tilted", head(), affine=affine),)))

    assert case.stored["oblique"] == pytest.approx(12.0, abs=0.05)


def test_the_background_around_the_head_is_cropped(write_image: Callable[..., ImageRef]) -> None:
    large = np.zeros((40, 30, 20), np.float32)
    large[10:20, 9:15, 5:12] = np.random.default_rng(0).uniform(1, 2, (10, 6, 7))
    labels = np.zeros(large.shape, np.uint8)
    labels[25, 10, 6] = 1

    case = view_case(CaseImages("far", (write_image("far", large),), write_image("label", labels)))

    assert case.stored["first"] == [8, 7, 3]
    assert case.shape == (28 - 8, 17 - 7, 14 - 3)
    assert case.labels is not None
    assert case.labels.sum() == 1


def test_an_image_without_constant_background_is_shown_whole(write_image: Callable[..., ImageRef]) -> None:
    noise = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)

    case = view_case(CaseImages("noise", (write_image("noise", noise),)))

    assert case.shape == SIZE
    assert case.channels[0][1].background is None


def test_large_volumes_are_thinned_along_the_finest_axis(
    write_image: Callable[..., ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "MOST_VOXELS", 600)
    noise = np.random.default_rng(0).integers(0, 9, SIZE).astype(np.uint8)

    case = view_case(CaseImages("noise", (write_image("noise", noise.astype(np.float32)),), write_image("l", noise)))

    assert case.stored["step"] == [2, 2, 1]
    assert case.spacing == pytest.approx((2.0, 3.0, 2.0))
    np.testing.assert_array_equal(case.labels, noise[::2, ::2])
    assert case.notes == ["shown is every 2 x 2 x 1th voxel; the files hold all of them"]


def test_images_that_cannot_be_read_are_noted(write_image: Callable[..., ImageRef], tmp_path) -> None:
    other = write_image("other", np.zeros((3, 3, 3), np.uint8))
    images = CaseImages("poor", (write_image("t1", head()),), other, ImageRef(tmp_path / "gone.nii.gz"))

    case = view_case(images)

    assert case.labels is None
    assert case.prediction is None
    assert f"labels: {other} has (3, 3, 3) voxels, other images {SIZE}" in case.notes[0]
    assert "segmentation cannot be shown" in case.notes[1]
    assert "gone.nii.gz" in case.notes[1]


def test_a_case_without_any_readable_image_says_so(tmp_path) -> None:
    case = view_case(CaseImages("gone", (ImageRef(tmp_path / "gone.nii.gz"),)))

    assert case.shape == (0, 0, 0)
    assert case.notes[-1] == "none of the images of this case can be shown"


def test_labels_and_probabilities_are_exact_or_rounded_once(make_case: Callable[..., CaseImages]) -> None:
    case = view_case(make_case("one"))

    assert set(np.unique(case.probabilities[1])) == {0, round(0.75 * 255)}
    assert [index for index, _ in case.channels] == [0, 2]
    assert case.prediction is not None
    assert case.prediction[PART].max() == 1


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float32, (4, 3, 2), elements=st.floats(-1000, 1000, width=32)))
def test_quantising_keeps_the_order_and_the_values_within_a_step(values: np.ndarray) -> None:
    volume = quantise(values, None)

    assert volume.codes.min() >= 1
    order = np.argsort(values.ravel(), kind="stable")
    assert (np.diff(volume.codes.ravel()[order].astype(int)) >= 0).all()
    step = (volume.high - volume.low) / 254
    back = volume.low + (volume.codes.astype(float) - 1) * step
    clipped = np.clip(values, volume.low, volume.high)
    np.testing.assert_allclose(back, clipped, atol=step * 0.51 + 1e-3)


def test_the_background_has_a_code_of_its_own() -> None:
    voxels = np.array([[[0.0, -1.0, 3.0, np.nan]]], np.float32)

    volume = quantise(voxels, 0.0)

    assert volume.codes.ravel()[0] == 0
    assert volume.codes.ravel()[3] == 1
    assert volume.background == 0.0


def test_an_image_of_one_value_is_shown_without_dividing_by_zero() -> None:
    assert set(quantise(np.full((2, 2, 2), 7.0), None).codes.ravel()) == {1}
    assert set(quantise(np.full((2, 2, 2), 7.0), 7.0).codes.ravel()) == {0}


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float32, (4, 3, 2), elements=st.floats(0, 100, width=32, allow_subnormal=False)))
def test_a_map_of_uncertainty_is_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    found = quantise_map(values)

    assert found.largest == values.max()
    step = found.largest / 255
    np.testing.assert_allclose(found.codes * step, values, rtol=1e-6, atol=step * 0.5001)


def test_what_is_certain_stays_zero_and_what_is_no_number_becomes_it() -> None:
    found = quantise_map(np.array([[[0.0, -1e-9, np.nan, np.inf, 0.25, 0.5]]], np.float32))

    assert found.codes.ravel().tolist() == [0, 0, 0, 0, 128, 255]
    assert found.largest == 0.5
    nothing = quantise_map(np.zeros((2, 2, 2), np.float32))
    assert nothing.largest == 0
    assert not nothing.codes.any()


@pytest.mark.parametrize("codes", ["RAS", "PIR"])
def test_maps_of_uncertainty_lie_where_the_images_do(
    make_case: Callable[..., CaseImages], write_image: Callable[..., ImageRef], tmp_path, codes: str
) -> None:
    entropy = np.zeros(SIZE, np.float32)
    entropy[PART] = 0.5
    maps = {"entropy": write_image("entropy", entropy, codes), "variance": ImageRef(tmp_path / "gone.nii.gz")}

    case = view_case(replace(make_case("one", codes), uncertainty=maps))

    assert list(case.uncertainty) == ["entropy"]
    np.testing.assert_array_equal(case.uncertainty["entropy"].codes == 255, case.labels == 2)
    assert len(case.notes) == 1
    assert "variance map cannot be shown" in case.notes[0]
