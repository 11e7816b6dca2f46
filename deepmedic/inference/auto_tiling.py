"""Tiles chosen for speed: `tiling = "auto"`.

The result does not depend on the tiles. Tiles start on common multiples of the subsampling factors, so that all of them
sample the low-resolution pathways on one grid, and each tile writes only voxels whose context it holds in full: where
convolutions pad, the outermost predicted voxels are left to the neighbouring tile, except at the border of the volume.
Tiles can therefore be made smaller when memory is short without changing a label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.errors import ResourceError
from deepmedic.inference.forward_cost import forward_cost
from deepmedic.inference.tiling import Range, Tiling, bounding_box, boxes_touching, margin_before

_MOST_TILES_PER_AXIS = 24  # more of them are almost all halo
_MOST_COUNTED = 500  # layouts whose tiles outside the ROI are counted, the most promising ones first
_COARSE = 4  # voxels per block along each axis when they are counted


@dataclass(frozen=True)
class _AxisLayout:
    """Tiles along one axis: equally long, each writing its part of the voxels needed."""

    length: int
    """Input voxels of a tile."""
    starts: tuple[int, ...]
    written: tuple[Range, ...]
    """Voxels of the volume each tile may write, (first, one past last)."""

    @cached_property
    def blocks(self) -> np.ndarray:
        """int64 [first or one past last, tile]: the blocks of `_COARSE` voxels that hold any of these voxels."""
        low, high = np.array(self.written).T
        return np.stack([low // _COARSE, -(-high // _COARSE)])


@dataclass(frozen=True)
class _Axis:
    """What decides the layouts along one axis."""

    volume: int
    needed: Range
    margin: Range
    context: Range
    """Predicted voxels before and after that depend on the padding of convolutions."""
    multiple: int


def auto_tiles(architecture: Architecture, volume: Size3, memory: int, roi: torch.Tensor | None = None) -> Tiling:
    """Choose tiles that cover the ROI with the fewest multiplications that fit into memory.

    Args:
        architecture: of the network.
        volume: size of the (padded) volume, voxels.
        memory: bytes that the forward pass of one tile may take.
        roi: bool [x, y, z]; only tiles whose PREDICTED box touches it are kept. None: the whole volume.

    Raises:
        ResourceError: not even the smallest tile fits into `memory`.
    """
    margins = architecture.margins(volume)
    predicted = [(before, size - after) for size, (before, after) in zip(volume, margins, strict=True)]
    needed: list[Range] | None = predicted
    if roi is not None:
        (x0, x1), (y0, y1), (z0, z1) = predicted
        needed = bounding_box(roi[x0:x1, y0:y1, z0:z1], (x0, y0, z0))
    if needed is None:
        nothing = torch.empty([0, 3], dtype=torch.int64)
        return Tiling(volume, nothing, nothing, nothing, margin_before(architecture, volume))
    contexts, multiples = padded_context(architecture), common_multiples(architecture)
    axes = [_Axis(*values) for values in zip(volume, needed, margins, contexts, multiples, strict=True)]
    blocks = None if roi is None else _BlockSums(_coarse(roi))
    best = _cheapest(architecture, [axis_layouts(axis) for axis in axes], memory, blocks)
    if best is None:
        raise ResourceError(
            f"The smallest tile for a volume of {volume[0]}x{volume[1]}x{volume[2]} voxels needs more than the "
            f"{memory / 2**20:.0f} MiB allowed for it; allow more memory or use a device with more."
        )
    return _tiling(architecture, best, roi)


def common_multiples(architecture: Architecture) -> Size3:
    """Return per axis the least common multiple of all subsampling factors."""
    x, y, z = (math.lcm(1, *(pathway.factor[axis] for pathway in architecture.subsampled)) for axis in range(3))
    return x, y, z


def padded_context(architecture: Architecture) -> tuple[Range, Range, Range]:
    """Return per axis how many predicted voxels at either end of a tile depend on padding inside the network.

    A padded convolution with kernel k adds (k - 1) // 2 voxels before and the rest after.
    """
    padded = [
        kernel
        for pathway in (architecture.normal, architecture.fc)
        for kernel, padding in zip(pathway.kernels, pathway.paddings, strict=True)
        if padding != "valid"
    ]
    x, y, z = ((sum((k[axis] - 1) // 2 for k in padded), sum(k[axis] // 2 for k in padded)) for axis in range(3))
    return x, y, z


def axis_layouts(axis: _Axis) -> list[_AxisLayout]:
    """Return for each possible number of tiles along one axis the layout with the shortest tiles."""
    shortest: dict[int, _AxisLayout] = {}
    for length in range(axis.volume, sum(axis.margin), -1):
        starts = _axis_starts(axis, length)
        if 0 < len(starts) <= _MOST_TILES_PER_AXIS:
            written = tuple(_written(axis, length, start) for start in starts)
            shortest[len(starts)] = _AxisLayout(length, starts, written)
    return list(shortest.values())


def _axis_starts(axis: _Axis, length: int) -> tuple[int, ...]:
    """Where tiles of one length begin so that together they write all voxels needed; empty if they cannot."""
    last_possible = (axis.volume - length) // axis.multiple * axis.multiple
    # A tile that starts at s > 0 writes from s + margin + context on; one at 0 from its margin on.
    lost_before = axis.margin[0] + axis.context[0]
    reached = axis.needed[0]
    starts: list[int] = []
    while reached < axis.needed[1]:
        start = min(max((reached - lost_before) // axis.multiple * axis.multiple, 0), last_possible)
        if starts and start <= starts[-1]:
            return ()
        starts.append(start)
        reached = max(reached, _written(axis, length, start)[1])
    return tuple(starts)


def _written(axis: _Axis, length: int, start: int) -> Range:
    """The voxels a tile may write: those predicted with full context."""
    end = start + length
    first = start + axis.margin[0] + (axis.context[0] if start > 0 else 0)
    return first, end - axis.margin[1] - (axis.context[1] if end < axis.volume else 0)


def _coarse(roi: torch.Tensor) -> torch.Tensor:
    """bool [x, y, z] on the CPU: which blocks of `_COARSE`^3 voxels hold any of the ROI."""
    filler = [-length % _COARSE for length in roi.shape]
    padded = functional.pad(roi, (0, filler[2], 0, filler[1], 0, filler[0]))
    x, y, z = (length // _COARSE for length in padded.shape)
    return padded.view(x, _COARSE, y, _COARSE, z, _COARSE).any(dim=5).any(dim=3).any(dim=1).cpu()


class _BlockSums:
    """Tells quickly how many boxes of a grid hold any of the blocks of a ROI, for hundreds of grids."""

    def __init__(self, blocks: torch.Tensor) -> None:
        """Sum up the blocks, bool [x, y, z], so that the number in a box is a matter of its corners."""
        sums = np.pad(blocks.numpy().astype(np.int64), ((1, 0), (1, 0), (1, 0)))
        for axis in range(3):
            sums = sums.cumsum(axis=axis)
        self._sums = sums

    @property
    def total(self) -> int:
        """Number of blocks."""
        return int(self._sums[-1, -1, -1])

    def touched(self, layout: _Layout) -> int:
        """Number of tiles that write a voxel of a block."""
        sums = self._sums
        for axis, tiles in enumerate(layout.axes):
            low, high = tiles.blocks
            sums = sums.take(high, axis=axis) - sums.take(low, axis=axis)
        return int(np.count_nonzero(sums))


@dataclass(frozen=True)
class _Layout:
    """Tiles along all three axes."""

    axes: tuple[_AxisLayout, ...]
    cost_per_tile: int

    @property
    def segment(self) -> Size3:
        x, y, z = (axis.length for axis in self.axes)
        return x, y, z


def _cheapest(
    architecture: Architecture, per_axis: list[list[_AxisLayout]], memory: int, blocks: _BlockSums | None
) -> _Layout | None:
    """The layout that fits into memory and takes the fewest multiplications for the tiles that touch the ROI.

    Args:
        architecture: of the network.
        per_axis: the layouts to choose from along x, y, z.
        memory: bytes for one tile.
        blocks: those of the ROI; None: all tiles are computed.
    """
    lengths = np.ix_(*([layout.length for layout in layouts] for layouts in per_axis))
    x, y, z = np.ix_(*([len(layout.starts) for layout in layouts] for layouts in per_axis))
    u, v, w = np.ix_(*([max(high - low for low, high in layout.written) for layout in axis] for axis in per_axis))
    cost = forward_cost(architecture, lengths)
    tiles = (x * y * z).astype(np.float64)
    # No layout can do with fewer tiles than the ROI fills; all layouts of a whole volume keep all their tiles.
    fewest = tiles if blocks is None else np.minimum(tiles, blocks.total * _COARSE**3 / (u * v * w))
    at_least = np.where(cost.fits(memory), cost.multiplications * fewest, np.inf)
    best, best_total = None, np.inf
    for where in np.argsort(at_least, axis=None, kind="stable")[:_MOST_COUNTED]:
        index = np.unravel_index(where, at_least.shape)
        if at_least[index] >= best_total:
            break
        axes = tuple(choices[number] for choices, number in zip(per_axis, index, strict=True))
        layout = _Layout(axes, int(cost.multiplications[index]))
        total = layout.cost_per_tile * (int(tiles[index]) if blocks is None else blocks.touched(layout))
        if total < best_total:
            best, best_total = layout, total
    return best


def _kept(layout: _Layout, roi: torch.Tensor | None) -> torch.Tensor:
    """bool [tiles along x, y, z]: those that write any voxel of the ROI."""
    if roi is None:
        return torch.ones([len(axis.starts) for axis in layout.axes], dtype=torch.bool)
    return boxes_touching(roi, [axis.written for axis in layout.axes])


def _tiling(architecture: Architecture, layout: _Layout, roi: torch.Tensor | None) -> Tiling:
    chosen = _kept(layout, roi).permute(2, 1, 0).nonzero().flip(1)  # [tile, axis], x fastest
    corners = []
    for axis, index in zip(layout.axes, chosen.unbind(1), strict=True):
        rows = [(start, *written) for start, written in zip(axis.starts, axis.written, strict=True)]
        corners.append(torch.tensor(rows)[index])
    starts, lower, upper = torch.stack(corners, dim=1).unbind(2)  # [tile, axis, 3]
    return Tiling(layout.segment, starts, lower, upper, margin_before(architecture, layout.segment))
