"""Are voxel values fit for use? Errors say how many are not and where the first is; the caller names case and file."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from deepmedic.errors import DataError
from deepmedic.words import counted

_NEARLY_INTEGER = 1e-3
"""Labels this close to an integer, as interpolation or a scaling leaves them, are rounded."""
_MOST_SHOWN = 10


def finite_intensities(
    voxels: np.ndarray, notes: list[str], *, non_finite: Literal["refuse", "zero", "mean"]
) -> np.ndarray:
    """Return intensities as float32, all finite.

    Args:
        voxels: [x, y, z], any real type.
        notes: gets the number of voxels replaced.
        non_finite: what to do with voxels that are not a number or infinite in float32 (key `nonFiniteVoxels`):
            refuse, or replace by 0 or by the mean of the others.

    Raises:
        DataError: voxels are not finite and were not to be replaced, or none of them is finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = voxels.astype(np.float32, order="K", copy=False)
    finite = np.isfinite(values)
    if finite.all():
        return values
    found = _count_of(~finite, values)
    if non_finite == "refuse":
        raise DataError(
            f"{found} not finite (NaN, infinite, or too large for float32). Repair the image, or set "
            'nonFiniteVoxels = "zero" or "mean" to replace them.'
        )
    if non_finite == "mean" and not finite.any():
        raise DataError(f"{found} not finite, so there is no mean to replace them by. Repair or leave out the image.")
    value = float(values[finite].mean(dtype=np.float64)) if non_finite == "mean" else 0.0
    notes.append(f"{found} not finite; replaced by {value:g} (nonFiniteVoxels = {non_finite!r})")
    return np.where(finite, values, np.float32(value))


def label_map(voxels: np.ndarray, notes: list[str], *, classes: int) -> np.ndarray:
    """Return labels [x, y, z] as uint8, or uint16 above 256 classes.

    Raises:
        DataError: a label is not an integer (beyond 0.001), negative, or not below `classes`.
    """
    if voxels.dtype.kind == "f":
        voxels = _rounded(voxels, notes)
    if voxels.min() < 0 or voxels.max() >= classes:
        wrong = (voxels < 0) | (voxels >= classes)
        labels, counts = np.unique(voxels[wrong], return_counts=True)
        shown = [f"{int(label)} ({counted(count, 'voxel')})" for label, count in zip(labels, counts, strict=True)]
        more = f" and {len(shown) - _MOST_SHOWN} further labels" if len(shown) > _MOST_SHOWN else ""
        raise DataError(
            f"labels out of range: {', '.join(shown[:_MOST_SHOWN])}{more}, the first at {_first(wrong)}; allowed are 0 "
            f"to {classes - 1}, since the model has {classes} classes. Correct the labels or numberOfOutputClasses."
        )
    return voxels.astype(np.uint8 if classes <= 256 else np.uint16, order="K", copy=False)


def roi_mask(voxels: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return the mask [x, y, z] of voxels that are not zero, whatever their values.

    Raises:
        DataError: a voxel is not a number.
    """
    unknown = np.isnan(voxels) if voxels.dtype.kind == "f" else np.zeros(0, bool)
    if unknown.any():
        raise DataError(f"{_count_of(unknown, voxels)} not a number, so it is unknown whether they are in the mask.")
    if voxels.min() < 0:
        notes.append("the mask has negative values; they are inside, as everything that is not zero")
    mask = voxels != 0
    if not mask.any():
        notes.append("the mask is empty: no voxel of this case is in the region of interest")
    return mask


def weights(voxels: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return a map of sampling weights [x, y, z] as float32.

    Raises:
        DataError: a weight is negative or not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = voxels.astype(np.float32, order="K", copy=False)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise DataError(f"{_count_of(wrong, values)} negative or not finite; sampling weights must be 0 or more.")
    if not values.any():
        notes.append("it is zero everywhere: no voxel of this category is drawn from this case")
    return values


def _rounded(voxels: np.ndarray, notes: list[str]) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        nearest = np.rint(voxels)
        distance = np.abs(voxels - nearest)
        wrong = ~(distance <= _NEARLY_INTEGER)
    if wrong.any():
        raise DataError(
            f"{_count_of(wrong, voxels)} not an integer; labels must be whole numbers. Were they resampled? Use "
            "nearest-neighbour interpolation for labels."
        )
    inexact = np.count_nonzero(distance)
    if inexact:
        notes.append(
            f"{inexact} of {voxels.size} labels were off an integer, by up to {distance.max():.2g}, and are rounded"
        )
    return nearest


def _count_of(wrong: np.ndarray, voxels: np.ndarray) -> str:
    """Say how many voxels are affected, up to the word "are"."""
    index = _first(wrong)
    return f"{np.count_nonzero(wrong)} of {wrong.size} voxels (the first at {index}: {voxels[index]:g}) are"


def _first(wrong: np.ndarray) -> tuple[Any, ...]:
    return tuple(int(axis) for axis in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
