from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepmedic.errors import DataError
from deepmedic.plots import slices

SHAPE = (9, 11, 13)
WHOLE = ((0, 9), (0, 11), (0, 13))
CENTRE = (4, 5, 6)
CORNERS: dict[str, tuple[tuple[int, int, int], dict[slices.Plane, tuple[int | None, int | None]]]] = {
    # where a bright voxel lies -> in which corner of which slice it must be seen [row, column]
    "right": ((8, 5, 6), {"axial": (None, 0), "coronal": (None, 0)}),
    "left": ((0, 5, 6), {"axial": (None, -1), "coronal": (None, -1)}),
    "anterior": ((4, 10, 6), {"axial": (0, None), "sagittal": (None, 0)}),
    "posterior": ((4, 0, 6), {"axial": (-1, None), "sagittal": (None, -1)}),
    "superior": ((4, 5, 12), {"coronal": (0, None), "sagittal": (0, None)}),
    "inferior": ((4, 5, 0), {"coronal": (-1, None), "sagittal": (-1, None)}),
}


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("side", CORNERS)
def test_each_side_of_the_patient_is_where_a_radiologist_looks_for_it(
    write_nifti: Callable[..., Path], side: str, axes: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    place, seen = CORNERS[side]
    world = np.zeros(SHAPE, np.int16)  # voxels along right, anterior, superior
    world[place] = 7
    affine, stored = np.eye(4), world.transpose(axes)
    affine[:3, :3] = np.eye(3)[:, axes]
    for axis, flip in enumerate(flips):
        if flip < 0:
            stored = np.flip(stored, axis)
            affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
            affine[:3, axis] *= -1
    volume = slices.read_volume(write_nifti("scan.nii.gz", np.ascontiguousarray(stored), affine))
    for plane, (row, column) in seen.items():
        image = volume.slice(plane, CENTRE, WHOLE)
        found_row, found_column = (int(index[0]) for index in np.nonzero(image == 7))
        assert row is None or found_row == row % image.shape[0]
        assert column is None or found_column == column % image.shape[1]


def test_letters_name_the_sides() -> None:
    assert {plane: slices.ends_of(plane) for plane in slices.PLANES} == {
        "axial": ("R", "L"),
        "coronal": ("R", "L"),
        "sagittal": ("A", "P"),
    }


def test_slices_are_as_large_as_the_voxels_say() -> None:
    box: slices.Box = ((1, 5), (2, 8), (0, 10))
    spacing = (1.0, 2.0, 3.0)  # 4 mm, 12 mm, 30 mm
    assert slices.size_in_mm("axial", box, spacing) == (4.0, 12.0)
    assert slices.size_in_mm("coronal", box, spacing) == (4.0, 30.0)
    assert slices.size_in_mm("sagittal", box, spacing) == (12.0, 30.0)


def test_the_place_of_a_slice_is_its_world_coordinate(write_nifti: Callable[..., Path]) -> None:
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    volume = slices.read_volume(write_nifti("scan.nii.gz", np.zeros((91, 109, 91), np.uint8), affine))
    centre = (45, 63, 40)  # counted from the left, the back and below
    assert [slices.place_of(plane, centre, volume.header) for plane in slices.PLANES] == [
        "z = 8 mm",
        "y = 0 mm",
        "x = 0 mm",
    ]


def test_the_middle_has_half_of_the_mask_to_each_side() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 3:8, 12] = True
    assert slices.middle_of(mask) == (3, 5, 12)
    assert slices.middle_of(np.zeros(SHAPE, bool)) == (4, 5, 6)


def test_the_box_has_a_margin_in_millimetres_within_the_volume() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[20, 1, 10:30] = True
    assert slices.box_of(mask, (1.0, 2.0, 3.0)) == ((14, 27), (0, 5), (8, 32))
    assert slices.box_of(np.zeros((4, 5, 6), bool), (1.0, 1.0, 1.0)) == ((0, 4), (0, 5), (0, 6))


def test_classes_of_another_grid_place_or_kind_are_refused(write_nifti: Callable[..., Path]) -> None:
    scan = slices.read_volume(write_nifti("scan.nii.gz", np.ones((4, 5, 6), np.int16)))
    small = write_nifti("small.nii.gz", np.zeros((4, 5, 5), np.uint8))
    with pytest.raises(DataError, match=r"small\.nii\.gz: has 4x5x5 voxels and the scan .* has 4x5x6"):
        slices.read_classes(small, 3, scan)
    shifted = np.diag([2.0, 2.0, 2.0, 1.0])
    shifted[1, 3] = 3.5
    elsewhere = write_nifti("elsewhere.nii.gz", np.zeros((4, 5, 6), np.uint8), shifted)
    with pytest.raises(DataError, match=r"elsewhere\.nii\.gz: lies elsewhere .* up to 3\.5 mm apart"):
        slices.read_classes(elsewhere, 3, scan)
    for value in (3, 0.5, -1):
        strange = write_nifti("strange.nii.gz", np.full((4, 5, 6), value, np.float32))
        with pytest.raises(DataError, match=rf"strange\.nii\.gz: holds the value {value:g}; allowed .* 0 to 2"):
            slices.read_classes(strange, 3, scan)


def test_classes_stored_along_other_axes_are_turned_to_the_scan(write_nifti: Callable[..., Path]) -> None:
    labels = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(np.uint8) % 3
    scan = slices.read_volume(write_nifti("scan.nii.gz", np.ones((4, 5, 6), np.int16)))
    flipped = np.diag([-2.0, 2.0, 2.0, 1.0])
    flipped[0, 3] = 6.0
    other = write_nifti("labels.nii.gz", labels[::-1].copy(), flipped)
    np.testing.assert_array_equal(slices.read_classes(other, 3, scan).voxels, labels)
