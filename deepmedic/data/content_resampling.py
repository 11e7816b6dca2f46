"""Several volumes of one case resampled under one affine map, where they show something.

A scan commonly lies in air, and all volumes of a case turn in the same way. So positions are computed once for all of
them, and only where they meet the box outside which no volume has anything but the value of its corner. That is done on
a CPU, for splines of order 0 and 1 that clamp positions at the border; all else is left to `interpolation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from deepmedic.data.interpolation import (
    CLAMPING,
    VOXELS_AT_ONCE,
    Ranges,
    any_outside,
    input_positions,
    map_about_centre,
    resample_affine,
)

_FIRST_VOXEL: Ranges = ((0, 1), (0, 1), (0, 1))
_PLANES_AT_ONCE = 8
_PARALLEL = 1e-6
"""Voxels of the input per voxel of the output, below which a line counts as parallel to a plane."""


@dataclass(frozen=True)
class Volumes:
    """Volumes that are resampled in one way."""

    images: torch.Tensor
    """[image, x, y, z]; float32, or any type for order 0, which only copies values."""
    order: int
    """Of the spline, 0 to 3."""
    fill: torch.Tensor
    """[image], the value outside the volume in mode "constant"."""


def resample_together(parts: Sequence[Volumes], matrix: np.ndarray, mode: str) -> list[torch.Tensor]:
    """Resample volumes about their central voxel as `resample_affine` does, equal to it up to rounding.

    Args:
        parts: on one device, with one size along x, y, z.
        matrix: float64 [3, 3], from output to input voxels.
        mode: what lies outside, one of `interpolation.BOUNDARY_MODES`.

    Returns:
        One tensor per part, of the shape and type of its images.
    """
    simple = [part for part in parts if _is_simple(part, mode)]
    together = iter(_resample_content(simple, matrix, mode) if simple else ())
    return [
        next(together) if _is_simple(part, mode) else resample_affine(part.images, matrix, part.order, mode, part.fill)
        for part in parts
    ]


def content_of(volumes: Sequence[torch.Tensor]) -> Ranges:
    """A box outside which each image of volumes [image, x, y, z] has one value, that of its first voxel."""
    boxes = [box for box in map(_content_of_one, volumes) if box is not None]
    if not boxes:
        return _FIRST_VOXEL
    x, y, z = ((min(side[0] for side in sides), max(side[1] for side in sides)) for sides in zip(*boxes, strict=True))
    return x, y, z


def _is_simple(part: Volumes, mode: str) -> bool:
    return part.images.device.type == "cpu" and part.order <= 1 and mode in CLAMPING


def _resample_content(parts: Sequence[Volumes], matrix: np.ndarray, mode: str) -> list[torch.Tensor]:
    size = parts[0].images.shape[1:]
    content = _Content(parts, size)
    results = [part.images[:, :1, :1, :1].expand_as(part.images).clone() for part in parts]
    planes = max(1, VOXELS_AT_ONCE["cpu"] // max(size[1] * size[2], 1))
    for begin in range(0, size[0], planes):
        slab = (begin, min(begin + planes, size[0]))
        # The content is seen from a part of a slab only; what lies outside the volume may be seen from all of it.
        where = (slab, (0, size[1]), (0, size[2])) if mode == "constant" else content.seen_from(slab, matrix)
        positions = input_positions(matrix, size, where, torch.device("cpu"))
        content.put_values(results, where, positions)
        if mode == "constant":
            outside = any_outside(positions, size)
            for part, result in zip(parts, results, strict=True):
                for image, fill in zip(result[:, slice(*slab)], part.fill.to(result.dtype), strict=True):
                    image.masked_fill_(outside, fill)
    return results


class _Content:
    """The box of volumes outside which each of their images has the value of its corner."""

    def __init__(self, parts: Sequence[Volumes], size: torch.Size) -> None:
        self._size = size
        self._box = content_of([part.images for part in parts])
        # From one voxel before the box, which may have a share in what is seen, to one after it; at the end of the
        # volume that is the last voxel again, as clamped positions see it.
        self._first = [max(begin - 1, 0) for begin, _ in self._box]
        x, y, z = (end + 1 - first for (_, end), first in zip(self._box, self._first, strict=True))
        self._strides = (y * z, z, 1)
        self._orders = [part.order for part in parts]
        self._lines = [[_cut(image, self._first, (x, y, z)).view(-1) for image in part.images] for part in parts]

    def _limits(self) -> list[tuple[float, float]]:
        """Between which positions along each axis more than the value of the corner is seen."""
        return [
            (begin - 1 if begin > 0 else -np.inf, end if end < length else np.inf)
            for (begin, end), length in zip(self._box, self._size, strict=True)
        ]

    def seen_from(self, slab: tuple[int, int], matrix: np.ndarray) -> Ranges:
        """A part of the output slab begin <= x < end beyond which no voxel sees the content."""
        linear, shift = map_about_centre(matrix, self._size)
        x, y = np.arange(*slab, dtype=np.float64)[:, None], np.arange(self._size[1], dtype=np.float64)
        begin, end = np.zeros((len(x), len(y))), np.full((len(x), len(y)), float(self._size[2]))
        for axis, (low, high) in enumerate(self._limits()):
            # Along a line of voxels in direction z positions are start + slope * z. One voxel more than is seen does
            # no harm, so rounding does not matter.
            start, slope = linear[axis, 0] * x + linear[axis, 1] * y + shift[axis], linear[axis, 2]
            if abs(slope) < _PARALLEL:
                end[(start < low - 1) | (start > high + 1)] = 0
                continue
            one, other = (low - start) / slope, (high - start) / slope
            begin = np.maximum(begin, np.floor(np.minimum(one, other)) - 1)
            end = np.minimum(end, np.ceil(np.maximum(one, other)) + 2)
        crossing = begin < end
        rows = np.flatnonzero(crossing.any(axis=0))
        if len(rows) == 0:
            return slab, (0, 0), (0, 0)
        return slab, (int(rows[0]), int(rows[-1]) + 1), (int(begin[crossing].min()), int(end[crossing].max()))

    def put_values(self, results: Sequence[torch.Tensor], where: Ranges, positions: Sequence[torch.Tensor]) -> None:
        """Write the values at these positions into a part of results that are filled with the values of the corners.

        Args:
            results: [image, x, y, z] for each of the parts.
            where: the part of them.
            positions: float64 [x, y, z] for each axis of the input.
        """
        seeing = torch.ones_like(positions[0], dtype=torch.bool)
        for position, (low, high) in zip(positions, self._limits(), strict=True):
            if low > -np.inf:
                seeing &= position > low
            if high < np.inf:
                seeing &= position < high
        chosen = torch.nonzero(seeing.view(-1)).squeeze(1)
        within = [
            position.view(-1).index_select(0, chosen).clamp_(0, length - 1)
            for position, length in zip(positions, self._size, strict=True)
        ]
        taps = {order: self._taps(within, order) for order in set(self._orders)}
        x, y, z = (slice(*side) for side in where)
        for result, lines, order in zip(results, self._lines, self._orders, strict=True):
            for image, line in zip(result[:, x, y, z], lines, strict=True):
                image.copy_(
                    image.reshape(-1).index_copy(0, chosen, _interpolated(line, *taps[order])).view(image.shape)
                )

    def _taps(self, within: Sequence[torch.Tensor], order: int) -> tuple[torch.Tensor, list[tuple[int, torch.Tensor]]]:
        """Where in a line the first voxel around each position is; for order 1, how far the others are from it.

        Returns:
            int64 [position], and the distance and weight (float32 [position]) of every voxel around.
        """
        corners = [torch.floor(position + 0.5 if order == 0 else position) for position in within]
        first = torch.zeros((), dtype=torch.float64)
        for corner, begin, stride in zip(corners, self._first, self._strides, strict=True):
            first = first + (corner - begin) * stride
        if order == 0:
            return first.long(), []
        fractions = [position - corner for position, corner in zip(within, corners, strict=True)]
        x, y, z = (((1 - fraction).float(), fraction.float()) for fraction in fractions)
        taps = []
        for tap_x, tap_y in product((0, 1), repeat=2):
            row, weight = tap_x * self._strides[0] + tap_y * self._strides[1], x[tap_x] * y[tap_y]
            taps += [(row, weight * z[0]), (row + 1, weight * z[1])]
        return first.long(), taps


def _interpolated(line: torch.Tensor, first: torch.Tensor, taps: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """Weighted sum of the voxels of a flat volume around each position; without weights, the first ones."""
    if not taps:
        return line.index_select(0, first)
    total = torch.zeros(1)
    for distance, weight in taps:
        total = total + line[distance:].index_select(0, first).mul_(weight)
    return total


def _cut(image: torch.Tensor, first: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """A part of an image [x, y, z], contiguous; the last plane is repeated where the image ends before it."""
    part = torch.empty(*sizes, dtype=image.dtype)
    x, y, z = (min(size, length - begin) for size, length, begin in zip(sizes, image.shape, first, strict=True))
    part[:x, :y, :z] = image[first[0] : first[0] + x, first[1] : first[1] + y, first[2] : first[2] + z]
    for axis, present in enumerate((x, y, z)):
        if present < sizes[axis]:
            part.select(axis, present).copy_(part.select(axis, present - 1))
    return part


def _content_of_one(images: torch.Tensor) -> Ranges | None:
    """The box of one tensor of images [image, x, y, z]; None if each of them has one value only."""
    box, corners = [], images[:, :1, :1, :1]
    for axis in (1, 2, 3):
        blocks = range(0, images.shape[axis], _PLANES_AT_ONCE)
        first, last = _used_planes(images, corners, axis, blocks), _used_planes(images, corners, axis, blocks[::-1])
        if first is None or last is None:
            return None
        box.append((first[0], last[1]))
        images = images.narrow(axis, first[0], last[1] - first[0])
    return box[0], box[1], box[2]


def _used_planes(
    images: torch.Tensor, corners: torch.Tensor, axis: int, blocks: Iterable[int]
) -> tuple[int, int] | None:
    """First and one past the last plane that is not all corner values, in the first of some blocks that has any.

    So no more is looked at than air and the block in which it ends.
    """
    for begin in blocks:
        planes = images.narrow(axis, begin, min(_PLANES_AT_ONCE, images.shape[axis] - begin))
        differs = (planes != corners).movedim(axis, 0)
        if differs.any():
            used = torch.nonzero(differs.flatten(1).any(dim=1)).squeeze(1)
            return begin + int(used[0]), begin + int(used[-1]) + 1
    return None
