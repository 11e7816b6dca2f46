"""Resampled grids and volumes against scipy and nibabel, which know nothing of how they are made here."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to

from deepmedic.data import resampling
from deepmedic.data.case_headers import resampled_header
from deepmedic.data.nifti import array_header
from deepmedic.data.resampling import (
    labels_to_model_grid,
    mask_to_model_grid,
    needed_for_native,
    to_model_grid,
    to_native_grid,
)

OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([2.0, 1.5, 3.0]), [10, -20, 5])


def grid(shape=(9, 8, 7), affine=OBLIQUE):
    return array_header(shape, affine)


def by_nibabel(volume, affine, shape, target) -> np.ndarray:
    """nibabel's resampling by the two affines, the nearest value beyond the ends."""
    image = nib.Nifti1Image(np.asarray(volume, np.float64), affine)
    return np.asarray(resample_from_to(image, (shape, target), order=1, mode="nearest").dataobj)


def corner_places(header) -> np.ndarray:
    """The outer corners of the volume in millimetres."""
    corners = [(*corner, 1) for corner in itertools.product(*((-0.5, size - 0.5) for size in header.shape))]
    return (np.array(corners) @ header.affine.T)[:, :3]


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
)
def test_the_new_grid_has_the_spacing_and_the_centre(shape, spacing) -> None:
    native = grid(shape)
    found = resampled_header(native, spacing)
    if found.resampled_from is None:
        assert found is native
        return
    np.testing.assert_allclose(found.spacing, spacing, rtol=1e-12)
    np.testing.assert_allclose(corner_places(found).mean(axis=0), corner_places(native).mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(
        found.affine[:3, :3] / found.spacing, native.affine[:3, :3] / native.spacing, atol=1e-12, err_msg="directions"
    )
    for size, new, old_spacing, new_spacing in zip(native.shape, found.shape, native.spacing, spacing, strict=True):
        assert abs(new * new_spacing - size * old_spacing) <= new_spacing / 2 + 1e-9 or new == 1
    assert found.axis_codes == native.axis_codes
    assert found.resampled_from is native


def test_the_same_spacing_is_the_same_grid() -> None:
    native = grid()
    assert resampled_header(native, native.spacing) is native
    assert resampled_header(native, tuple(size * (1 + 1e-6) for size in native.spacing)) is native
    assert resampled_header(native, tuple(size * 1.02 for size in native.spacing)) is not native


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.3, 0.7, 2.9)])
def test_finer_images_are_those_of_nibabel(spacing) -> None:
    native = grid()
    header = resampled_header(native, spacing)
    volumes = np.random.default_rng(0).normal(size=(2, *native.shape)).astype(np.float32)
    found = to_model_grid(volumes, header)
    for one, volume in zip(found, volumes, strict=True):
        expected = by_nibabel(volume, native.affine, header.shape, header.affine)
        np.testing.assert_allclose(one, expected, atol=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.1, 0.9, 3.5), (5.0, 5.0, 5.0)])
def test_results_return_to_the_places_nibabel_says(spacing) -> None:
    native = grid()
    header = resampled_header(native, spacing)
    volume = np.random.default_rng(1).normal(size=header.shape).astype(np.float32)
    found = to_native_grid(torch.from_numpy(volume)[None], header)[0].numpy()
    np.testing.assert_allclose(found, by_nibabel(volume, header.affine, native.shape, native.affine), atol=1e-5)


def test_coarser_images_are_means_of_what_they_cover() -> None:
    """Twice as large voxels: a triangle over the four nearest, of weights 1, 3, 3, 1, cut at the ends."""
    native = grid((8, 1, 1), np.eye(4))
    header = resampled_header(native, (2.0, 1.0, 1.0))
    line = np.random.default_rng(2).normal(size=8)
    found = to_model_grid(line.astype(np.float32)[:, None, None], header)[:, 0, 0]
    expected = [
        np.average(line[low:high], weights=[1, 3, 3, 1][low - first : high - first])
        for first, low, high in ((-1, 0, 3), (1, 1, 5), (3, 3, 7), (5, 5, 8))
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_too_fine_for_the_new_grid_is_averaged() -> None:
    native = grid((24, 24, 24), np.eye(4))
    checkerboard = np.indices((24, 24, 24)).sum(axis=0) % 2
    found = to_model_grid(checkerboard, resampled_header(native, (3.0, 3.0, 3.0)))
    np.testing.assert_allclose(found, 0.5, atol=0.07)
    constant = to_model_grid(np.full((24, 24, 24), 7.0), resampled_header(native, (2.7, 0.6, 1.0)))
    np.testing.assert_allclose(constant, 7.0, rtol=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.7, 2.6), (2.0, 2.0, 2.0)])
def test_a_sphere_keeps_its_centre_and_volume(spacing) -> None:
    affine = nib.affines.from_matvec(np.diag([-1.2, 0.9, 1.5]), [30, -12, 7])
    native = grid((40, 44, 30), affine)
    centre, radius = np.array([9.0, 6.0, 30.0]), 10.0
    voxels = np.stack(np.meshgrid(*map(np.arange, native.shape), indexing="ij"), axis=-1)
    places = voxels @ affine[:3, :3].T + affine[:3, 3]
    sphere = (np.linalg.norm(places - centre, axis=-1) < radius).astype(np.uint8) * 3
    header = resampled_header(native, spacing)
    found = labels_to_model_grid(sphere, header)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 3}
    indices = np.argwhere(found)
    mean = indices.mean(axis=0) @ header.affine[:3, :3].T + header.affine[:3, 3]
    np.testing.assert_allclose(mean, centre, atol=0.15)
    volume = len(indices) * np.prod(header.spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.05)
    back = to_native_grid(torch.from_numpy((found > 0).astype(np.float32)), header).numpy() > 0.5
    dice = 2 * (back & (sphere > 0)).sum() / (back.sum() + (sphere > 0).sum())
    assert dice > 0.94


def test_labels_are_never_interpolated() -> None:
    """Between classes 1 and 5 there is no class 3."""
    native = grid((12, 6, 6), np.eye(4))
    labels = np.where(np.arange(12) < 6, 1, 5).astype(np.uint16)[:, None, None] * np.ones((12, 6, 6), np.uint16)
    for spacing in ((0.7, 1.0, 1.0), (2.5, 1.0, 1.3)):
        found = labels_to_model_grid(labels, resampled_header(native, spacing))
        assert (set(np.unique(found)), found.dtype) == ({1, 5}, np.uint16)
        assert (np.diff(found.astype(int), axis=0) >= 0).all()


def test_a_mask_keeps_what_is_inside_by_half() -> None:
    native = grid((12, 12, 12), np.eye(4))
    mask = np.zeros((12, 12, 12), bool)
    mask[2:10, 4:8, 1:11] = True
    found = mask_to_model_grid(mask, resampled_header(native, (2.0, 2.0, 2.0)))
    assert found.dtype == bool
    assert found.sum() * 8 == pytest.approx(mask.sum(), rel=0.15)
    finer = resampled_header(native, (0.5, 0.5, 0.5))
    assert mask_to_model_grid(mask, finer).sum() / 8 == pytest.approx(mask.sum(), rel=0.1)


@hypothesis_settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), spacing=st.tuples(*[st.floats(0.5, 4)] * 3))
def test_all_that_a_mask_is_interpolated_from_is_needed(seed, spacing) -> None:
    """Changing what is not needed changes nothing inside the mask."""
    native = grid((6, 5, 4), np.diag([1.0, 1.5, 2.0, 1.0]))
    header = resampled_header(native, spacing)
    if header.resampled_from is None:
        return
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.random(native.shape) < 0.1)
    needed = needed_for_native(mask, header)
    volume = torch.from_numpy(rng.normal(size=header.shape).astype(np.float32))
    before, after = (to_native_grid(one, header) for one in (volume, torch.where(needed, volume, 99.0)))
    assert torch.equal(before[mask], after[mask])
    assert needed.any() == mask.any()


def test_a_header_of_files_is_not_one_of_a_resampled_grid() -> None:
    with pytest.raises(ValueError, match="not one of a resampled grid"):
        resampling.to_model_grid(np.zeros((9, 8, 7)), grid())
