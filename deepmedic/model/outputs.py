"""What the parallel pathways give to the FC pathway: feature maps of several resolutions, and what they stand for.

Shapes: images are [B, channels, x, y, z]; a voxel of a low-resolution pathway is called a cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepmedic.config.options import Size3
from deepmedic.model.layers import fast_layout


class PathwayOutput(NamedTuple):
    """What one pathway gives."""

    images: Tensor
    factor: Size3
    skip: Size3
    channels: slice
    """Its channels among those of all pathways."""


@dataclass(frozen=True)
class PathwayOutputs:
    """What the parallel pathways give, in order; stands for all of it repeated, cropped and concatenated."""

    images: tuple[Tensor, ...]
    """[B, channels, x, y, z] each, the normal pathway first."""
    factors: tuple[Size3, ...]
    """How often each is repeated along x, y, z."""
    skips: tuple[Size3, ...] = ()
    """How many voxels of each pathway's first cell lie before the first voxel; empty: none."""

    @property
    def size(self) -> Size3:
        """Size at full resolution, that of the normal pathway's output."""
        x, y, z = self.images[0].shape[2:]
        return x, y, z

    def full_resolution(self) -> Tensor:
        """Repeat and concatenate: [B, sum of channels, x, y, z]."""
        repeated = [repeat(part.images, part.factor, self.size, part.skip) for part in self.parts()]
        if repeated[0].device.type != "cpu":
            return torch.cat(repeated, dim=1)
        # All channels of a voxel side by side, as they are stored: along the axis of channels it takes twice as long.
        voxels = torch.cat([part.permute(0, 2, 3, 4, 1) for part in repeated], dim=4)
        return voxels.permute(0, 4, 1, 2, 3)

    def parts(self) -> Iterator[PathwayOutput]:
        """What each pathway gives, in order."""
        ends = accumulate((images.shape[1] for images in self.images), initial=0)
        skips = self.skips or [(0, 0, 0)] * len(self.images)
        for images, factor, skip, (first, end) in zip(self.images, self.factors, skips, pairwise(ends), strict=True):
            yield PathwayOutput(images, factor, skip, slice(first, end))

    def box(self, start: Size3, size: Size3) -> PathwayOutputs:
        """The same for the box of `size` voxels that begins at voxel `start` of full resolution."""
        images, skips = [], []
        for part in self.parts():
            before = [skip + begin for skip, begin in zip(part.skip, start, strict=True)]
            index: list[slice] = [slice(None), slice(None)]
            for first, length, factor in zip(before, size, part.factor, strict=True):
                index.append(slice(first // factor, -(-(first + length) // factor)))
            x, y, z = (first % factor for first, factor in zip(before, part.factor, strict=True))
            images.append(fast_layout(part.images[tuple(index)]))
            skips.append((x, y, z))
        return PathwayOutputs(tuple(images), self.factors, tuple(skips))


def repeat(images: Tensor, factor: Size3, size: Size3, skip: Size3 = (0, 0, 0)) -> Tensor:
    """Repeat each voxel `factor` times along x, y, z; leave out the first `skip`, and at the end all beyond `size`."""
    if factor == (1, 1, 1):
        return images
    if images.device.type == "cpu":
        repeated: Tensor = _RepeatOnCpu.apply(images, factor, size, skip)
        return repeated
    batch, channels, width, height, depth = images.shape
    x, y, z = factor
    blocks = images[:, :, :, None, :, None, :, None].expand(batch, channels, width, x, height, y, depth, z)
    repeated = blocks.reshape(batch, channels, width * x, height * y, depth * z)
    (width, height, depth), (x, y, z) = size, skip
    return repeated[..., x : x + width, y : y + height, z : z + depth]


class _RepeatOnCpu(torch.autograd.Function):
    """`repeat` axis by axis, the last one first: most of the work is done on images that are still small."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, factor: Size3, size: Size3, skip: Size3) -> Tensor:
        ctx.places = factor, skip, images.shape[2:]
        voxels = images.permute(0, 2, 3, 4, 1)
        for axis in (2, 1, 0):
            cells = torch.arange(skip[axis], skip[axis] + size[axis]) // factor[axis]
            voxels = voxels.index_select(axis + 1, cells)
        return voxels.permute(0, 4, 1, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        factor, skip, cells = ctx.places
        sums = gradient.permute(0, 2, 3, 4, 1)
        for axis in range(3):
            sums = _sums_over_cells(sums, axis + 1, cells[axis], factor[axis], skip[axis])
        return sums.permute(0, 4, 1, 2, 3), None, None, None


def _sums_over_cells(voxels: Tensor, axis: int, cells: int, factor: int, skip: int) -> Tensor:
    """Return the sums over the voxels of each cell along one axis; those of cells without voxels are 0."""
    shape = list(voxels.shape)
    shape[axis] = cells
    sums = voxels.new_zeros(shape)
    for first in range(min(factor, voxels.shape[axis])):
        own = voxels[(slice(None),) * axis + (slice(first, None, factor),)]
        sums.narrow(axis, (first + skip) // factor, own.shape[axis]).add_(own)
    return sums
