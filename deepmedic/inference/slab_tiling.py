"""Slabs: one tile for each slice of the ROI, as large as the ROI is there.

A brain fills about half of its bounding box, and small tiles that follow it are mostly halo. Cut across one axis into
slabs, each with its own bounding box, it takes about a third less than tiles of one size. Slabs begin where tiles of
`tiling = "auto"` may begin, so they give the same result as these (`deepmedic.inference.auto_tiling`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.inference.auto_tiling import common_multiples, padded_context
from deepmedic.inference.forward_cost import forward_cost, parallel_multiplications
from deepmedic.inference.tiling import Range, Tiling, margin_before

_THICKNESS = 16  # voxels: slabs are this thick or a multiple of it, rounded up to where they may begin
_MOST_MULTIPLES = 6


@dataclass(frozen=True)
class _Slabs:
    """Boxes of the ROI, one tile each."""

    starts: np.ndarray
    """int64 [slab, axis]: first voxel of the tile."""
    lower: np.ndarray
    """int64 [slab, axis]: first voxel that the tile writes."""
    upper: np.ndarray
    """int64 [slab, axis]: one past the last voxel that it writes."""
    ends: np.ndarray
    """int64 [slab, axis]: one past the last voxel of the tile."""
    needed: np.ndarray
    """int64 [slab, axis]: voxels of the tile that decide what the box needs."""

    @property
    def lengths(self) -> list[np.ndarray]:
        """Of the tiles, along x, y and z; int64 [slab] each."""
        return list((self.ends - self.starts).T)


def slab_tiles(architecture: Architecture, volume: Size3, memory: int, roi: torch.Tensor) -> tuple[Tiling, ...]:
    """Cut the ROI into the slabs that take the fewest multiplications; empty if none fit into memory.

    Args:
        architecture: of the network.
        volume: size of the (padded) volume, voxels.
        memory: bytes that the forward pass of one tile may take.
        roi: bool [x, y, z].

    Returns:
        A tiling of one tile for each slab, in the order of the axis they follow.
    """
    margins = architecture.margins(volume)
    box = tuple(slice(before, size - after) for size, (before, after) in zip(volume, margins, strict=True))
    predictable = roi[box].bool()
    if not bool(predictable.any()):
        return ()
    pairs = {axis: predictable.any(dim=axis).cpu().numpy() for axis in range(3)}
    best, least = None, np.inf
    for axis, multiple, context in zip(
        range(3), common_multiples(architecture), padded_context(architecture), strict=True
    ):
        for thickness in _thicknesses(multiple):
            slabs = _cut(architecture, volume, _boxes(pairs, axis, thickness, context[0]))
            cost = forward_cost(architecture, slabs.lengths)
            # The FC pathway follows the ROI within each slab, and takes about as much whatever the slabs are.
            total = float(parallel_multiplications(architecture, list(slabs.needed.T)).sum())
            if cost.fits(memory).all() and total < least:
                best, least = slabs, total
    return () if best is None else _tilings(architecture, best)


def _thicknesses(multiple: int) -> list[int]:
    smallest = -(-_THICKNESS // multiple) * multiple
    return [count * smallest for count in range(1, _MOST_MULTIPLES + 1)]


def _boxes(pairs: dict[int, np.ndarray], axis: int, thickness: int, context: int) -> np.ndarray:
    """Bounding boxes of the ROI within each slab, int64 [slab, axis, first and one past last] from the margin on.

    `pairs` holds, for each axis, the ROI projected along it. The first slab is thicker by `context`, the voxels that
    every later tile leaves to the one before it, so that the later ones begin where tiles may begin.
    """
    first, second = (other for other in range(3) if other != axis)
    # Projected along one of the other axes, the ROI keeps `axis` and the other one, in their order.
    by_slice = {first: _along_first(pairs[second], axis, second), second: _along_first(pairs[first], axis, first)}
    boxes = []
    cuts = [0, *range(thickness + context, len(by_slice[first]), thickness), len(by_slice[first])]
    for begin, end in pairwise(cuts):
        part = {other: by_slice[other][begin:end] for other in (first, second)}
        rows = np.flatnonzero(part[first].any(axis=1))
        if len(rows):
            found = {axis: (begin + rows[0], begin + rows[-1] + 1)}
            found |= {other: _extent(np.any(part[other], axis=0)) for other in (first, second)}
            boxes.append([found[0], found[1], found[2]])
    return np.array(boxes, dtype=np.int64)


def _along_first(projection: np.ndarray, axis: int, projected: int) -> np.ndarray:
    """The projection along `projected` with `axis` as its first dimension."""
    kept = [other for other in range(3) if other != projected]
    return projection if kept[0] == axis else projection.T


def _extent(line: np.ndarray | np.bool) -> Range:
    found = np.flatnonzero(line)
    return int(found[0]), int(found[-1]) + 1


def _cut(architecture: Architecture, volume: Size3, boxes: np.ndarray) -> _Slabs:
    """The tiles that predict these boxes with full context, beginning where tiles may begin."""
    margins, contexts = np.array(architecture.margins(volume)), np.array(padded_context(architecture))
    multiples, size = np.array(common_multiples(architecture)), np.array(volume)
    lost = margins + contexts
    wanted = boxes + margins[:, :1]
    starts = np.maximum((wanted[..., 0] - lost[:, 0]) // multiples * multiples, 0)
    ends = np.minimum(wanted[..., 1] + lost[:, 1], size)
    lower = starts + margins[:, 0] + np.where(starts > 0, contexts[:, 0], 0)
    upper = ends - margins[:, 1] - np.where(ends < size, contexts[:, 1], 0)
    needed = np.minimum(wanted[..., 1] + lost[:, 1], size) - np.maximum(wanted[..., 0] - lost[:, 0], 0)
    return _Slabs(starts, lower, upper, ends, needed)


def _tilings(architecture: Architecture, slabs: _Slabs) -> tuple[Tiling, ...]:
    tilings = []
    for start, lower, upper, end in zip(slabs.starts, slabs.lower, slabs.upper, slabs.ends, strict=True):
        x, y, z = (int(length) for length in end - start)
        first, low, high = (torch.from_numpy(row)[None] for row in (start, lower, upper))
        tilings.append(Tiling((x, y, z), first, low, high, margin_before(architecture, (x, y, z))))
    return tuple(tilings)
