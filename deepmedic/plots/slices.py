"""Volumes of one scan turned to standard axes, and their slices as a radiologist looks at them.

In memory all volumes point right, anterior, superior. A slice is an image [row, column] with its first row at the top.
Axial and coronal slices follow the radiological convention: the patient's right is on the left of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti import VolumeHeader, in_ras, read_header, read_voxels, to_memory
from deepmedic.errors import DataError

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
CONVENTION = "radiological convention (the patient's right is on the left of axial and coronal slices)"

_NORMAL = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis that a plane is perpendicular to."""
_ENDS = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
_SAME_PLACE_MM = 0.1
"""Volumes whose corners differ by more do not belong to one scan."""
_MARGIN_MM = 6.0


@dataclass(frozen=True)
class Volume:
    """Voxels [x, y, z] that point right, anterior, superior, with their header."""

    voxels: np.ndarray
    header: VolumeHeader

    def slice(self, plane: Plane, centre: tuple[int, int, int], box: Box) -> np.ndarray:
        """Return the slice through `centre`, cut to `box`, as an image [row, column]."""
        normal = _NORMAL[plane]
        index: list[slice | int] = [slice(low, high) for low, high in box]
        index[normal] = centre[normal]
        image = self.voxels[tuple(index)]  # [first axis, second axis] of the plane
        # To the left: right for axial and coronal, anterior for sagittal slices. To the top: anterior or superior.
        return image.T[::-1, ::-1]


Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and the one after the last along x, y, z."""


def read_volume(path: Path) -> Volume:
    """Read a NIfTI volume and turn its axes, without resampling.

    Raises:
        DataError: no sound 3D NIfTI image.
        ResourceError: it does not fit in memory.
    """
    header = read_header(ImageRef(path))
    turned = in_ras(header)
    return Volume(to_memory(read_voxels(ImageRef(path), header), turned), turned)


def read_classes(path: Path, classes: int, scan: Volume) -> Volume:
    """Read the class of every voxel, whole numbers from 0 to `classes` - 1, on the grid of `scan`.

    Raises:
        DataError: another grid, or other values.
    """
    volume = read_volume(path)
    shapes = volume.header.shape, scan.header.shape
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{path}: has {_times(shapes[0])} voxels and the scan {scan.header.path} has {_times(shapes[1])} "
            "(along right, anterior, superior); they must belong together."
        )
    corners = _corners(shapes[0])
    distance = float(np.abs((volume.header.affine - scan.header.affine) @ corners).max())
    if distance > _SAME_PLACE_MM:
        raise DataError(
            f"{path}: lies elsewhere than the scan {scan.header.path}: their corners are up to {distance:.1f} mm "
            f"apart, at most {_SAME_PLACE_MM} mm are allowed."
        )
    found = np.unique(volume.voxels)
    strange = found[~np.isin(found, np.arange(classes))]
    if strange.size:
        raise DataError(
            f"{path}: holds the value {strange[0]:g}; allowed are the whole numbers 0 to {classes - 1}, "
            f"one for each of the {classes} classes."
        )
    return Volume(volume.voxels.astype(np.int64), volume.header)


def middle_of(mask: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel in the middle of the mask [x, y, z]: half of it lies to each side; of the array when empty."""
    places = np.nonzero(mask)
    if not places[0].size:
        x, y, z = (size // 2 for size in mask.shape)
        return x, y, z
    x, y, z = (int(np.median(along)) for along in places)
    return x, y, z


def box_of(mask: np.ndarray, spacing: tuple[float, float, float]) -> Box:
    """Return the box around a mask [x, y, z] with a margin of some millimetres; the whole array when it is empty."""
    if not mask.any():
        x, y, z = ((0, size) for size in mask.shape)
        return x, y, z
    bounds = []
    for axis, (size, step) in enumerate(zip(mask.shape, spacing, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        margin = round(_MARGIN_MM / step)
        bounds.append((max(0, int(inside[0]) - margin), min(size, int(inside[-1]) + 1 + margin)))
    x, y, z = bounds
    return x, y, z


def size_in_mm(plane: Plane, box: Box, spacing: tuple[float, float, float]) -> tuple[float, float]:
    """Return width and height of a slice."""
    lengths = [(high - low) * step for (low, high), step in zip(box, spacing, strict=True)]
    across, up = (axis for axis in range(3) if axis != _NORMAL[plane])
    return lengths[across], lengths[up]


def ends_of(plane: Plane) -> tuple[str, str]:
    """Return the letters for the left and the right side of a slice."""
    return _ENDS[plane]


def place_of(plane: Plane, centre: tuple[int, int, int], header: VolumeHeader) -> str:
    """Return where a slice lies: its world coordinate in millimetres at `centre`, "z = 12 mm"."""
    axis = _NORMAL[plane]
    position = (header.affine @ np.array([*centre, 1.0]))[axis]
    return f"{'xyz'[axis]} = {position:.0f} mm"


def _corners(shape: tuple[int, int, int]) -> np.ndarray:
    """The eight corners of a grid as columns [4, 8] of homogeneous voxel indices."""
    corners = [(x, y, z, 1) for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)]
    return np.array(corners, dtype=np.float64).T


def _times(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
