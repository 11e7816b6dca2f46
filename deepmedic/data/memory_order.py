"""The order of voxels in memory: files have x running fastest, arrays and tensors have z."""

from __future__ import annotations

import numpy as np

_RUN_BYTES = 256
"""Bytes read in one run along the axis that runs fastest: a few lines of the processor's cache."""
_ROWS = 8


def in_c_order(volume: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
    """Return an array [x, y, z] in C order (z fastest): itself if it is so, else a copy.

    numpy copies row by row of the result, and takes each element of a row from another line of the cache, which is
    gone before its next element is asked for; worst where the size is a power of two, whose lines all fall into one
    place of the cache: 256^3 voxels take six times as long. So small blocks are copied, each by way of a buffer whose
    rows do not fall into one place.

    Args:
        volume: of any type and order, also a view with axes reversed or swapped.
        into: an array of that shape to be filled and returned; its own type and order.
    """
    if into is None and volume.flags.c_contiguous:
        return volume
    found = np.empty(volume.shape, volume.dtype) if into is None else into
    fastest = min(range(3), key=lambda axis: abs(volume.strides[axis]) if volume.shape[axis] > 1 else np.inf)
    if fastest == 2 or not volume.size:
        found[...] = volume
        return found
    source, target = (np.moveaxis(array, fastest, 0) for array in (volume, found))
    length, rows, depth = source.shape
    run = max(1, _RUN_BYTES // volume.itemsize)
    # One row more than is used: consecutive planes then do not begin at multiples of a power of two.
    buffer = np.empty((depth, _ROWS + 1, run), volume.dtype).transpose(2, 1, 0)
    for first in range(0, length, run):
        for row in range(0, rows, _ROWS):
            block = source[first : first + run, row : row + _ROWS]
            held = buffer[: block.shape[0], : block.shape[1]]
            held[...] = block
            target[first : first + run, row : row + _ROWS] = held
    return found


def in_file_order(volume: np.ndarray) -> np.ndarray:
    """Return an array [x, y, z] in the order of a NIfTI file (x fastest): itself if it is so, else a copy."""
    return in_c_order(volume.transpose()).transpose()
