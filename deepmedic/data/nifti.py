"""Strict reading and exact writing of NIfTI volumes.

A volume is judged by its header first (`read_header`), then read whole (`read_voxels`). Under `orientation = "RAS"` a
case lives in memory with its axes turned (`in_axes`, `to_memory`) and its results are turned back (`to_native`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np

from deepmedic.data import nifti_affine
from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti_header import LARGEST_HEADER, Orientation, VolumeHeader, array_header, judge
from deepmedic.data.nifti_stream import read_range, read_start
from deepmedic.data.nifti_writer import write_volume
from deepmedic.errors import DataError, ResourceError

__all__ = [
    "VolumeHeader",
    "array_header",
    "in_axes",
    "in_ras",
    "read_header",
    "read_voxels",
    "to_memory",
    "to_native",
    "write_volume",
]

log = logging.getLogger(__name__)


def read_header(ref: ImageRef) -> VolumeHeader:
    """Return what the header of a `.nii` or `.nii.gz` file says; no voxel is read.

    Raises:
        DataError: no file, no NIfTI image, not 3D, of a kind that is not read, damaged, or at odds with its size.
        ResourceError: it does not fit in the memory of this machine.
    """
    with _listed(ref):
        return judge(ref.path, read_start(ref.path, LARGEST_HEADER), ref.volume)


def read_voxels(ref: ImageRef, header: VolumeHeader, notes: list[str] | None = None) -> np.ndarray:
    """Return the voxels [x, y, z] along the axes of the file, in the machine's byte order.

    The file is read to its end, so that the checksum of a compressed one counts. Integers and floats come as stored;
    with a scaling in the header they come as float64. Notes go to the log where no list for them is given.

    Raises:
        DataError: the file is damaged, of another length than announced, or has changed since `header` was read.
    """
    with _listed(ref):
        stored, note = read_range(
            ref.path,
            header.data_offset,
            header.voxel_bytes,
            header.total_bytes,
            head=header.raw,
            compressed=header.compressed,
        )
    if note and notes is not None:
        notes.append(note)
    elif note:
        log.warning("%s: %s", ref, note)
    voxels = stored.view(header.dtype).reshape(header.stored_shape, order="F")
    if header.scaled:
        return _scaled(voxels, header)
    return voxels.astype(header.dtype.newbyteorder("="), order="K", copy=False)


def in_ras(header: VolumeHeader) -> VolumeHeader:
    """Return the header of the same volume with its array axes turned to point right, anterior and superior."""
    return in_axes(header, "RAS")


def in_axes(header: VolumeHeader, codes: str) -> VolumeHeader:
    """Return the header of the same volume with its array axes turned to point where `codes` says, such as "LPS".

    Axes are only swapped and reversed, never resampled, so an oblique volume stays oblique.
    """
    wanted = nib.orientations.axcodes2ornt(tuple(codes))
    turn = nib.orientations.ornt_transform(nib.io_orientation(header.affine), wanted)
    (x, flip_x), (y, flip_y), (z, flip_z) = turn.astype(int).tolist()
    orientation: Orientation = ((x, flip_x), (y, flip_y), (z, flip_z))
    shape = [0, 0, 0]
    for stored_axis, (axis, _) in enumerate(orientation):
        shape[axis] = header.shape[stored_axis]
    affine = header.affine @ nib.orientations.inv_ornt_aff(np.array(orientation), header.shape)
    return replace(
        header,
        shape=(shape[0], shape[1], shape[2]),
        affine=affine,
        spacing=nifti_affine.spacing(affine),
        axis_codes=nifti_affine.axis_codes(affine),
        orientation=orientation,
    )


def to_memory(array: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """Turn an array whose last three axes are those of the file to the axes of `header`; a view where possible."""
    if header.orientation is None:
        return array
    leading = array.ndim - 3
    flipped = array[_flips(header.orientation)]
    source = [axis for axis, _ in header.orientation]
    return flipped.transpose([*range(leading), *(leading + source.index(axis) for axis in range(3))])


def to_native(array: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """Turn an array whose last three axes are those of `header` back to the axes of the file; undoes `to_memory`."""
    if header.orientation is None:
        return array
    leading = array.ndim - 3
    turned = array.transpose([*range(leading), *(leading + axis for axis, _ in header.orientation)])
    return turned[_flips(header.orientation)]


def _flips(orientation: Orientation) -> tuple[Any, ...]:
    """Index that reverses the stored axes that run the other way in memory."""
    return (..., *(slice(None, None, flip) for _, flip in orientation))


def _scaled(stored: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """Apply slope and intercept in float64; an overflow becomes infinite and is refused where values are checked."""
    with np.errstate(over="ignore", invalid="ignore"):
        voxels = stored.astype(np.float64, order="K")
        voxels *= header.slope
        voxels += header.inter
    return voxels


@contextmanager
def _listed(ref: ImageRef) -> Iterator[None]:
    """Add to an error where the user listed the image."""
    try:
        yield
    except (DataError, ResourceError) as problem:
        if not ref.listed_at:
            raise
        raise type(problem)(f"{problem} (listed at {ref.listed_at})") from problem
