"""Mirror padding of images, [B, C, x, y, z], and its gradient.

As in cba|abc|cba: the edge voxel is repeated, unlike in torch's "reflect".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepmedic import geometry


def mirror_pad(images: Tensor, sides: geometry.Sides3) -> Tensor:
    """Repeat as many voxels as `sides` say before the first and after the last one of each axis, nearest first."""
    if not torch.is_grad_enabled():
        return _pad(images, sides)
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        padded: Tensor = _MirrorPad.apply(images, sides)
        return padded
    for axis, (before, after) in enumerate(sides, 2):
        if before or after:
            size = images.shape[axis]
            first = images.narrow(axis, 0, before).flip(axis)
            last = images.narrow(axis, size - after, after).flip(axis)
            images = torch.cat([first, images, last], dim=axis)
    return images


class _MirrorPad(torch.autograd.Function):
    """`mirror_pad` with one copy of the images in each direction, in place of several for each axis."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, sides: geometry.Sides3) -> Tensor:
        ctx.sides = sides
        return _pad(images, sides)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        places = [list(_places(size, *both)) for size, both in zip(gradient.shape[2:], ctx.sides, strict=True)]
        inside, *borders = product(*places)
        total = _part(gradient, [place.padded for place in inside]).clone(memory_format=torch.channels_last_3d)
        for border in borders:
            flipped = [axis for axis, place in enumerate(border, 2) if place.is_mirrored]
            of_border = _part(gradient, [place.padded for place in border]).flip(flipped)
            _part(total, [place.source for place in border]).add_(of_border)
        return total, None


class _Place(NamedTuple):
    """A part of one axis of padded images."""

    padded: slice
    source: slice
    """The voxels of the images that it holds."""
    is_mirrored: bool


def _places(padded_size: int, before: int, after: int) -> Iterator[_Place]:
    """Yield the inside of an axis, then what was added before and after."""
    end = padded_size - after
    size = end - before
    yield _Place(slice(before, end), slice(0, size), is_mirrored=False)
    if before:
        yield _Place(slice(0, before), slice(0, before), is_mirrored=True)
    if after:
        yield _Place(slice(end, padded_size), slice(size - after, size), is_mirrored=True)


def _part(images: Tensor, box: list[slice]) -> Tensor:
    return images[(slice(None), slice(None), *box)]


def _pad(images: Tensor, sides: geometry.Sides3) -> Tensor:
    size = [length + before + after for length, (before, after) in zip(images.shape[2:], sides, strict=True)]
    layout = torch.channels_last_3d if images.device.type == "cpu" else torch.contiguous_format
    padded = torch.empty((*images.shape[:2], *size), dtype=images.dtype, device=images.device, memory_format=layout)
    inside = padded
    for axis, (before, _) in enumerate(sides, 2):
        inside = inside.narrow(axis, before, images.shape[axis])
    inside.copy_(images)
    # Axis by axis over the full size of the others: edges of later axes are written once more when their turn comes.
    for axis, (before, after) in enumerate(sides, 2):
        end = before + images.shape[axis]
        padded.narrow(axis, 0, before).copy_(padded.narrow(axis, before, before).flip(axis))
        padded.narrow(axis, end, after).copy_(padded.narrow(axis, end - after, after).flip(axis))
    return padded
