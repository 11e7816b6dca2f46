"""Padding of volumes by reflection without repeating the edge voxel."""

from __future__ import annotations

import numpy as np

from deepmedic.config.options import Size3

Padding3 = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Voxels before and after, along x, y, z."""


def extended(size: Size3, padding: Padding3, minimum: Size3 | None) -> Padding3:
    """Return `padding` with more voxels at the far end of each axis where the padded size is below `minimum`."""
    if minimum is None:
        return padding
    lacking = [max(0, minimum[axis] - size[axis] - sum(padding[axis])) for axis in range(3)]
    x, y, z = ((before, after + lack) for (before, after), lack in zip(padding, lacking, strict=True))
    return x, y, z


def reflect(array: np.ndarray, padding: Padding3) -> np.ndarray:
    """Pad the last three axes by reflection, by any number of voxels; an axis of one voxel is repeated.

    For 3 voxels 0 1 2 and padding (3, 4) the axis becomes 1 2 1 | 0 1 2 | 1 0 1 2.
    """
    leading, sizes = array.shape[:-3], array.shape[-3:]
    padded = np.empty((*leading, *(n + sum(pad) for n, pad in zip(sizes, padding, strict=True))), array.dtype)
    x, y, z = (slice(before, before + n) for n, (before, _) in zip(sizes, padding, strict=True))
    padded[..., x, y, z] = array
    # One axis after the other; corners take several turns, the last of which sees everything they depend on.
    for axis, (size, (before, after)) in enumerate(zip(sizes, padding, strict=True)):
        offsets = np.r_[-before:0, size : size + after]
        view = np.moveaxis(padded, len(leading) + axis, 0)
        view[offsets + before] = view[_mirrored(offsets, size) + before]
    return padded


def _mirrored(offsets: np.ndarray, size: int) -> np.ndarray:
    """Bring indices outside 0 to size - 1 back by reflecting them at the first and last voxel."""
    if size == 1:
        return np.zeros_like(offsets)
    period = 2 * (size - 1)
    within = offsets % period
    return np.minimum(within, period - within)
