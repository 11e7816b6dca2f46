"""Where the tiles of a volume lie: the original's tiling, in the original's order.

A *tile* is a segment at a known place of a volume. It is given by its `start`, the voxel of the (padded) volume where
its input region begins; the box it predicts begins one margin further. All arithmetic is integers, axes x, y, z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3

Box = tuple[slice, slice, slice]
Range = tuple[int, int]
"""First voxel along an axis, and one past the last."""


@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles of one volume and what each of them contributes to it; later tiles overwrite earlier ones."""

    segment: Size3
    """Input size of a tile."""
    starts: torch.Tensor
    """int64 [tile, 3] on the CPU: first voxel of each tile's input region."""
    lower: torch.Tensor
    """int64 [tile, 3]: first voxel of the volume that each tile writes."""
    upper: torch.Tensor
    """int64 [tile, 3]: one past the last voxel that each tile writes."""
    margin: Size3
    """Voxels between the start of a tile and the first one it predicts."""

    def __len__(self) -> int:
        return len(self.starts)

    def part(self, first: int, last: int) -> Tiling:
        """Return the tiling of tiles first..last-1, or up to the end."""
        starts, lower, upper = (table[first:last] for table in (self.starts, self.lower, self.upper))
        return Tiling(self.segment, starts, lower, upper, self.margin)

    def written_boxes(self, first: int, last: int) -> list[tuple[Box, Box]]:
        """Return for tiles first..last-1 where they write: (box in the volume, box in the tile's prediction)."""
        rows = zip(*(table[first:last].tolist() for table in (self.starts, self.lower, self.upper)), strict=True)
        boxes = []
        for start, lower, upper in rows:
            origin = [start[axis] + self.margin[axis] for axis in range(3)]
            inside_tile = ([low - zero for low, zero in zip(corner, origin, strict=True)] for corner in (lower, upper))
            boxes.append((_box(lower, upper), _box(*inside_tile)))
        return boxes


def axis_starts(length: int, segment: int, stride: int) -> list[int]:
    """Return where tiles begin along one axis: every `stride` voxels, the last one pushed back inside.

    Raises:
        ValueError: the volume is shorter than a tile, so it had to be padded first.
    """
    if length < segment:
        raise ValueError(f"a volume of {length} voxels cannot hold a tile of {segment}; pad it to {segment} first")
    count = 1 + -(-(length - segment) // stride)
    return [min(index * stride, length - segment) for index in range(count)]


def segment_tiles(volume: Size3, segment: Size3, stride: Size3, roi: torch.Tensor | None = None) -> torch.Tensor:
    """Return the starts of the tiles the original DeepMedic uses, in its order (x fastest, z slowest).

    Args:
        volume: size of the (padded) volume, voxels.
        segment: input size of a tile, at most the volume's.
        stride: size of the box a tile predicts, by which tiles advance.
        roi: bool [x, y, z]; a tile is kept if any voxel of its INPUT region is inside. None keeps all.

    Returns:
        int64 [tile, 3] on the CPU; empty when the ROI is.
    """
    starts = [axis_starts(*lengths) for lengths in zip(volume, segment, stride, strict=True)]
    grid = torch.tensor([(x, y, z) for z, y, x in product(*reversed(starts))], dtype=torch.int64)
    if roi is None:
        return grid
    kept = boxes_touching(roi, [[(start, start + segment[axis]) for start in starts[axis]] for axis in range(3)])
    return grid[kept.permute(2, 1, 0).reshape(-1)]


def filled_count(tiles: int, batch_size: int) -> int:
    """Return the number of tiles the original logs: filled up to a multiple of the batch size."""
    return -(-tiles // batch_size) * batch_size


def bounding_box(mask: torch.Tensor, origin: Sequence[int] = (0, 0, 0)) -> list[Range] | None:
    """Return per axis the extent of all true voxels of a mask; None if there are none.

    Args:
        mask: bool [x, y, z] on any device.
        origin: what its first voxel is called.
    """
    plane = mask.any(dim=2)
    occupied = [torch.nonzero(line) for line in (plane.any(dim=1), plane.any(dim=0), mask.any(dim=0).any(dim=0))]
    if not len(occupied[0]):
        return None
    return [(zero + int(found[0]), zero + int(found[-1]) + 1) for zero, found in zip(origin, occupied, strict=True)]


def boxes_touching(mask: torch.Tensor, ranges: Sequence[Sequence[Range]]) -> torch.Tensor:
    """Tell which boxes of a grid hold any true voxel of `mask`.

    Args:
        mask: bool [x, y, z].
        ranges: per axis the (first, one past last) voxel of each row of boxes.

    Returns:
        bool [rows along x, rows along y, rows along z] on the CPU.
    """
    # Reducing axis by axis reads the mask about once instead of once per box.
    reduced = mask.bool()
    for axis, rows in enumerate(ranges):
        reduced = torch.stack([reduced.narrow(axis, low, high - low).any(dim=axis) for low, high in rows], dim=axis)
    return reduced.cpu()


def tiling_by_segments(
    architecture: Architecture, volume: Size3, segment: Size3, roi: torch.Tensor | None = None
) -> Tiling:
    """Tile a (padded) volume exactly as the original does: `tiling = "segments"`.

    Args:
        architecture: of the network; gives the size a tile predicts and its margins.
        volume: size of the volume, voxels.
        segment: input size of a tile.
        roi: bool [x, y, z] or None, see `segment_tiles`.
    """
    predicted = architecture.output_size(segment)
    margin = margin_before(architecture, segment)
    starts = segment_tiles(volume, segment, predicted, roi)
    lower = starts + torch.tensor(margin)
    return Tiling(segment, starts, lower, lower + torch.tensor(predicted), margin)


def margin_before(architecture: Architecture, segment: Size3) -> Size3:
    """Voxels between the start of a tile and the first one it predicts."""
    x, y, z = (before for before, _ in architecture.margins(segment))
    return x, y, z


def _box(lower: Sequence[int], upper: Sequence[int]) -> Box:
    x, y, z = (slice(low, high) for low, high in zip(lower, upper, strict=True))
    return x, y, z
