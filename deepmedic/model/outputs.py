"""What the parallel pathways give to the FC pathway: feature maps of several resolutions, and what they stand for.

Shapes: images are [B, channels, x, y, z]; a voxel of a low-resolution pathway is called a cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

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
        return fast_layout(torch.cat(repeated, dim=1))

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
    batch, channels, width, height, depth = images.shape
    x, y, z = factor
    blocks = images[:, :, :, None, :, None, :, None].expand(batch, channels, width, x, height, y, depth, z)
    repeated = blocks.reshape(batch, channels, width * x, height * y, depth * z)
    (width, height, depth), (x, y, z) = size, skip
    return repeated[..., x : x + width, y : y + height, z : z + depth]
