"""Where the voxels of a NIfTI image lie: its affine, and how two of them compare. Millimetres throughout."""

from __future__ import annotations

import itertools
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from deepmedic.config.options import Size3
from deepmedic.errors import DataError

Spacing = tuple[float, float, float]
"""Millimetres per voxel along three axes."""

_TO_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Codes of the spatial unit: metre, millimetre, micrometre; 0 (not said) is taken as millimetre."""
_SMALLEST_DETERMINANT = 1e-6
"""Of the direction columns scaled to length 1; 0 would mean that all voxels lie in one plane."""
_QUATERNION_THRESHOLD = 3 * float(np.finfo(np.float32).eps)
_FORMS_AGREE = 0.1
"""Millimetres between sform and qform from which on the user is told."""


def stored_affine(path: Path, record: Any, shape: Size3, notes: list[str]) -> np.ndarray:
    """Return the affine in millimetres, float64 [4, 4]: sform if its code says so, else qform, else from voxel sizes.

    The choice is nibabel's. What is unusual is added to `notes`.

    Raises:
        DataError: voxel sizes or affine are not finite, zero, or put all voxels in one plane.
    """
    sizes = np.asarray(record["pixdim"][1:4], np.float64)
    if not np.isfinite(sizes).all() or not sizes.all():
        raise DataError(
            f"{path}: the header's voxel sizes (pixdim) are {_numbers(sizes)}; they must be finite and not 0. "
            "Correct the header or save the image again."
        )
    has_sform, has_qform = int(record["sform_code"]) > 0, int(record["qform_code"]) > 0
    if has_sform:
        matrix = np.array([record["srow_x"], record["srow_y"], record["srow_z"]], np.float64)
    elif has_qform:
        matrix = _qform(path, record)
    else:
        matrix = _from_voxel_sizes(sizes, shape)
        notes.append("the header has no orientation (sform and qform codes are 0); x is taken to point left")
    affine = _checked(path, matrix * _unit(record), "sform" if has_sform else "qform" if has_qform else "pixdim")
    if has_sform and has_qform:
        _compare_forms(path, record, affine, shape, notes)
    return affine


def spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Distance between neighbouring voxels along the three array axes, in millimetres."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def axis_codes(affine: np.ndarray) -> str:
    """Direction to which each array axis points most, for instance "RAS"."""
    return _axis_codes_of(affine.tobytes(), affine.dtype)


@lru_cache(maxsize=1024)
def _axis_codes_of(affine: bytes, dtype: np.dtype[Any]) -> str:
    """Many images have one affine, those of a case at least, and the codes take a decomposition of it."""
    return "".join(nib.aff2axcodes(np.frombuffer(affine, dtype).reshape(4, 4)))


def corner_distance(first: np.ndarray, second: np.ndarray, shape: Size3) -> float:
    """Largest distance in millimetres between the places that two affines give to a corner of the volume."""
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*((-0.5, size - 0.5) for size in shape))])
    difference = corners @ (first - second)[:3].T
    return float(np.sqrt((difference**2).sum(axis=1)).max())


def _qform(path: Path, record: Any) -> np.ndarray:
    """Rotation from the unit quaternion (its first part follows from the other three), voxel sizes and offset."""
    imaginary = np.array([record[f"quatern_{part}"] for part in "bcd"], np.float64)
    sizes = np.abs(np.asarray(record["pixdim"][1:4], np.float64))
    offset = np.array([record[f"qoffset_{axis}"] for axis in "xyz"], np.float64)
    if not np.isfinite(imaginary).all() or imaginary @ imaginary > 1 + _QUATERNION_THRESHOLD:
        raise DataError(
            f"{path}: the header's rotation is damaged: quaternion b, c, d are {_numbers(imaginary)}, whose squares "
            "must add up to 1 at most. Correct the header or save the image again."
        )
    quaternion = nib.quaternions.fillpositive(imaginary, _QUATERNION_THRESHOLD)
    rotation = nib.quaternions.quat2mat(quaternion).astype(np.float64)
    if record["pixdim"][0] < 0:
        sizes[2] = -sizes[2]
    return np.column_stack([rotation * sizes, offset])


def _from_voxel_sizes(sizes: np.ndarray, shape: Size3) -> np.ndarray:
    """NIfTI's "method 1" as nibabel reads it: x points left, and the middle of the volume is the origin."""
    directions = np.abs(sizes) * [-1, 1, 1]
    middle = (np.array(shape) - 1) / 2
    return np.column_stack([np.diag(directions), -directions * middle])


def _checked(path: Path, matrix: np.ndarray, source: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lengths = np.sqrt((matrix[:, :3] ** 2).sum(axis=0))
        determinant = np.linalg.det(matrix[:, :3] / lengths) if lengths.all() else 0.0
    if not np.isfinite(matrix).all() or not np.isfinite(lengths).all():
        raise DataError(f"{path}: the header's {source} has values that are not finite: {_numbers(matrix.ravel())}.")
    if not abs(determinant) > _SMALLEST_DETERMINANT:
        raise DataError(
            f"{path}: the header's {source} puts all voxels in one plane (its matrix {_numbers(matrix.ravel())} is "
            "singular). Correct the header or save the image again."
        )
    return np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])


def _compare_forms(path: Path, record: Any, affine: np.ndarray, shape: Size3, notes: list[str]) -> None:
    try:
        qform = _checked(path, _qform(path, record) * _unit(record), "qform")
    except DataError:
        notes.append("the header's qform is unusable; its sform is used")
        return
    distance = corner_distance(affine, qform, shape)
    if distance > _FORMS_AGREE:
        notes.append(f"the header's sform and qform differ by up to {distance:.1f} mm; sform is used")


def _unit(record: Any) -> float:
    return _TO_MILLIMETRES.get(int(record["xyzt_units"]) & 7, 1.0)


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values)
