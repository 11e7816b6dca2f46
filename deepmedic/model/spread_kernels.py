"""Loops that numba compiles for `compiled_spread`: each of them reads or writes every voxel once.

A *source* is a low-resolution pathway. Along each axis, its products are of three kinds: `OWN` is for all voxels of a
cell, `BEFORE` for the last voxel before an edge between cells, `AFTER` for the first one after it. The kinds along x, y
and z together make 27 kinds of products. Tables of int64, as long as the longest axis needs, say which belongs where:

    of_voxel   [source, axis, kind, voxel]     place along the axis of the product for a voxel, -1 where there is none
    of_cell    [source, axis, kind, cell, 3]   place along the axis of the product for voxels of a cell, -1 where there
                                               is none; the first of these voxels; the first that is none of them
    rows       [source, kind along x, y, z, 5] row of the first product; rows from a sample to the next, and from a
                                               place along x, y, z to the next

Products are [row, O], voxels [B, x, y, z, O]; numbers are those of `kernel_numbers`. Sums are in float32; each of them
is computed by one thread, in the same order whatever the number of threads.

Importing this module needs numba.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from deepmedic.model.compilation import Kernel
from deepmedic.model.kernel_numbers import number, rounded

OWN, BEFORE, AFTER = range(3)
_SOURCE, _KIND, _FIRST_ROW, _STEP = range(4)


@Kernel
def add_products(voxels: Any, products: Any, of_voxel: Any, rows: Any) -> None:
    """Add to each of `voxels`, in place, the products for it."""
    batch, width, height, depth, channels = voxels.shape
    for line in numba.prange(batch * width * height):
        sample, x, y = line // (width * height), line // height % width, line % height
        runs, count = _runs_for_line(sample, x, y, of_voxel, rows)
        total = np.empty(channels, np.float32)
        for z in range(depth):
            for channel in range(channels):
                total[channel] = number(voxels[sample, x, y, z, channel])
            for run in range(count):
                place = of_voxel[runs[run, _SOURCE], 2, runs[run, _KIND], z]
                if place >= 0:
                    _add_row(products, runs[run, _FIRST_ROW] + runs[run, _STEP] * place, total)
            for channel in range(channels):
                voxels[sample, x, y, z, channel] = rounded(total[channel], voxels[sample, x, y, z, channel])


@numba.njit
def _runs_for_line(sample: Any, x: Any, y: Any, of_voxel: Any, rows: Any) -> Any:
    """Return the runs of products along z for a line of voxels, [run, 4], and how many there are.

    Of each run: its source, its kind along z, its first row, and how many rows further the next place along z is.
    """
    runs, count = np.empty((27 * len(rows), 4), np.int64), 0
    for source in range(len(rows)):
        for kind_x in range(3):
            place_x = of_voxel[source, 0, kind_x, x]
            for kind_y in range(3):
                place_y = of_voxel[source, 1, kind_y, y]
                if place_x < 0 or place_y < 0:
                    continue
                for kind_z in range(3):
                    kinds = (source, kind_x, kind_y, kind_z)
                    runs[count, _SOURCE], runs[count, _KIND] = source, kind_z
                    runs[count, _FIRST_ROW] = _row(rows, kinds, (sample, place_x, place_y, 0))
                    runs[count, _STEP] = rows[source, kind_x, kind_y, kind_z, 4]
                    count += 1
    return runs, count


@numba.njit
def _add_row(products: Any, row: Any, total: Any) -> None:
    for channel in range(len(total)):
        total[channel] += number(products[row, channel])


@Kernel
def sum_voxels(voxels: Any, products: Any, of_cell: Any, rows: Any) -> None:
    """Write to each of `products` the sum of the voxels that it is for."""
    sources, cells = len(rows), of_cell.shape[3]
    for layer in numba.prange(len(voxels) * sources * cells):
        sample, source, x = layer // (sources * cells), layer // cells % sources, layer % cells
        total = np.empty(voxels.shape[4], np.float32)
        for y in range(cells):
            for z in range(cells):
                _sum_voxels_of(source, voxels, (sample, x, y, z), of_cell, rows, total, products)


@numba.njit
def _sum_voxels_of(source: Any, voxels: Any, cell: Any, of_cell: Any, rows: Any, total: Any, products: Any) -> None:
    """Write those products that are for voxels of one cell."""
    sample, x, y, z = cell
    for kind_x in range(3):
        place_x, first_x, end_x = _along(of_cell, source, 0, kind_x, x)
        if place_x < 0:
            continue
        for kind_y in range(3):
            place_y, first_y, end_y = _along(of_cell, source, 1, kind_y, y)
            if place_y < 0:
                continue
            for kind_z in range(3):
                place_z, first_z, end_z = _along(of_cell, source, 2, kind_z, z)
                if place_z < 0:
                    continue
                _sum_box(voxels, sample, (first_x, first_y, first_z), (end_x, end_y, end_z), total)
                row = _row(rows, (source, kind_x, kind_y, kind_z), (sample, place_x, place_y, place_z))
                for channel in range(len(total)):
                    products[row, channel] = rounded(total[channel], products[row, channel])


@numba.njit
def _along(of_cell: Any, source: Any, axis: Any, kind: Any, cell: Any) -> Any:
    """Return the place of a product along an axis, and the first and the end of its voxels in a cell."""
    along = of_cell[source, axis, kind, cell]
    return along[0], along[1], along[2]


@numba.njit
def _sum_box(voxels: Any, sample: Any, first: Any, end: Any, total: Any) -> None:
    for channel in range(len(total)):
        total[channel] = 0
    for x in range(first[0], end[0]):
        for y in range(first[1], end[1]):
            for z in range(first[2], end[2]):
                for channel in range(len(total)):
                    total[channel] += number(voxels[sample, x, y, z, channel])


@numba.njit
def _row(rows: Any, kinds: Any, places: Any) -> Any:
    """Return the row of a product, given its source and kinds, and its sample and places."""
    source, kind_x, kind_y, kind_z = kinds
    row = rows[source, kind_x, kind_y, kind_z, 0]
    for axis in range(4):
        row += rows[source, kind_x, kind_y, kind_z, 1 + axis] * places[axis]
    return row
