"""Passes over images on a CPU with one number per channel, at the same speed for few channels as for many.

Images on a CPU are stored channels-last, so that their innermost axis is as short as there are channels: 4 or 5 in a
small network. Loops over that axis take several times as long as the arithmetic in them. Here images are seen as rows
of memory, each of them one or all lines along z with their channels, and the numbers are repeated along a row.

Shapes: B batch, C channels; images are [B, C, x, y, z], rows [row, position], a position being a voxel and a channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_LONGEST_ROW = 1536
"""Positions for which a few numbers each stay in the fastest cache of a CPU."""
_BLOCK = 2**18
"""Positions for which a few numbers each stay in the cache of a core."""


def as_rows(images: Tensor) -> Tensor:
    """Return images as rows: a view of them where they are stored channels-last, otherwise a copy."""
    channels = images.shape[1]
    length = channels * _voxels_per_row(images.numel() // channels, channels)
    return images.permute(0, 2, 3, 4, 1).reshape(-1, length)


@lru_cache(maxsize=256)
def _voxels_per_row(voxels: int, channels: int) -> int:
    """Return the largest number of voxels that divides their whole number and makes rows of no more than the limit."""
    most = max(1, _LONGEST_ROW // channels)
    return next(count for count in range(most, 0, -1) if voxels % count == 0)


def as_images(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows as images of the shape of `like`, from which such rows came."""
    batch, channels, *size = like.shape
    return rows.view(batch, *size, channels).permute(0, 4, 1, 2, 3)


def along(rows: Tensor, values: Tensor) -> Tensor:
    """Return one number per channel, [C], for every position of a row; contiguous.

    What reads them may rely on that: batch norm's gradient on a CPU reads past the end of a single number seen often.
    """
    channels = len(values)
    return values.expand(rows.shape[1] // channels, channels).reshape(-1).contiguous()


def _in_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield blocks of rows, the same ones of all tensors, that stay in the cache while several passes are made."""
    if torch.compiler.is_compiling():
        yield tensors
        return
    count = max(1, torch.get_num_threads() * _BLOCK // tensors[0].shape[1])
    yield from zip(*(rows.split(count) for rows in tensors), strict=True)


def mean_and_variance(images: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, [C] each of type `dtype`; of a constant exactly that and 0."""
    rows, channels = as_rows(images), images.shape[1]
    reference = images[0, :, 0, 0, 0].to(dtype)
    references = along(rows, reference)
    of_blocks, counts = [], []
    for (block,) in _in_blocks(rows):
        # Sums of numbers that are all the same are not exact, unless these are 0.
        deviations = block - references if block.dtype == dtype else block.to(dtype).sub_(references)
        of_blocks.append(torch.batch_norm_update_stats(deviations, None, None, 0.0))  # of every position
        counts.append(len(block))
    means, variances = (list(values) for values in zip(*of_blocks, strict=True))
    mean = _mean_over_blocks(means, counts).view(-1, channels).mean(dim=0)
    along_row = along(rows, mean)
    squares = [variance + (own - along_row).square_() for variance, own in zip(variances, means, strict=True)]
    return reference + mean, _mean_over_blocks(squares, counts).view(-1, channels).mean(dim=0)


def _mean_over_blocks(of_blocks: list[Tensor], counts: list[int]) -> Tensor:
    """Return the mean over all rows from those over blocks of so many rows."""
    if len(counts) == 1:
        return of_blocks[0]
    shares = torch.tensor(counts, dtype=of_blocks[0].dtype) / sum(counts)
    return (torch.stack(of_blocks) * shares[:, None]).sum(dim=0)


def affine(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return images * scale + shift, both [C], rounded once to the type of the images."""
    rows = as_rows(images)
    scales, shifts = along(rows, scale), along(rows, shift)
    if images.dtype == scale.dtype:
        return as_images(torch.addcmul(shifts, rows, scales), images)
    zeros, ones = torch.zeros_like(scales), torch.ones_like(scales)
    return as_images(functional.batch_norm(rows, zeros, ones, scales, shifts, eps=0.0), images)


def sums_with_deviations(values: Tensor, images: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of `values` and that of `values` * (`images` - `mean`) over all voxels of a channel, [C] each.

    `values` have the shape of `images`; `mean` is [C].
    """
    channels = images.shape[1]
    rows = as_rows(images)
    sums, products = _sums_along_rows(as_rows(values), rows, along(rows, mean))
    return sums.view(-1, channels).sum(dim=0), products.view(-1, channels).sum(dim=0)


def _sums_along_rows(values: Tensor, others: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of `values` and that of `values` * (`others` - `mean`) over all rows, [position] each."""
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        values, others, None, None, None, mean, torch.ones_like(mean), True, 0.0, [False, True, True]
    )
    return sums, products


def weighted_sum(images: Tensor, weight: Tensor, others: Tensor, other_weight: Tensor, constant: Tensor) -> Tensor:
    """Return images * weight + others * other_weight + constant, rounded once to the type of the images.

    `others` have shape and type of `images`, the rest is [C].
    """
    rows, other_rows = as_rows(images), as_rows(others)
    weights, other_weights, constants = (along(rows, values) for values in (weight, other_weight, constant))
    if images.dtype == weight.dtype:
        return as_images(torch.addcmul(constants, rows, weights).addcmul_(other_rows, other_weights), images)
    total = torch.empty_like(rows)
    for block, other_block, result in _in_blocks(rows, other_rows, total):
        precise = torch.addcmul(constants, block.to(weight.dtype), weights)
        result.copy_(precise.addcmul_(other_block.to(weight.dtype), other_weights))
    return as_images(total, images)


def add(images: Tensor, values: Tensor) -> Tensor:
    """Return images + `values`, [C]; with a gradient."""
    total: Tensor = _Add.apply(images, values)
    return total


class _Add(torch.autograd.Function):
    """The plain sum, whose loops over few channels and whose gradient take several times as long."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor) -> Tensor:
        rows = as_rows(images)
        return as_images(rows + along(rows, values), images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        if not ctx.needs_input_grad[1]:
            return gradient, None
        return gradient, as_rows(gradient).sum(dim=0).view(-1, gradient.shape[1]).sum(dim=0)


def prelu(images: Tensor, slope: Tensor) -> Tensor:
    """Return images, their negative values multiplied by `slope`, [C]; with a gradient."""
    rectified: Tensor = _Rectify.apply(images, slope)
    return rectified


class _Rectify(torch.autograd.Function):
    """`functional.prelu` with the same numbers, which is several times as slow."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(images, slope)
        rows = as_rows(images)
        return as_images(functional.prelu(rows, along(rows, slope)), images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        images, slope = ctx.saved_tensors
        rows, gradients = as_rows(images), as_rows(gradient)
        of_images, slopes = torch.empty_like(rows), along(rows, slope)
        zeros = torch.zeros_like(slopes)
        of_slopes = zeros.to(torch.promote_types(slope.dtype, torch.float32), copy=True)
        for block, upstream, result in _in_blocks(rows, gradients, of_images):
            torch.ops.aten.threshold_backward(upstream, block, 0, grad_input=result)
            of_negative = upstream - result
            of_slopes += _sums_along_rows(of_negative, block, zeros)[1]
            result.addcmul_(of_negative, slopes)
        of_slope = of_slopes.view(-1, len(slope)).sum(dim=0).to(slope.dtype)
        return as_images(of_images, images), of_slope
