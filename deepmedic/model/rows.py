"""Passes over images on a CPU with one number per channel, at the same speed for few channels as for many.

Images on a CPU are stored channels-last, so that their innermost axis is as short as there are channels: 4 or 5 in a
small network. Loops over that axis take several times as long as the arithmetic in them. Here images are seen as rows
of memory, each of them one or all lines along z with their channels, and the numbers are repeated along a row.

Shapes: B batch, C channels; images are [B, C, x, y, z], rows [row, position], a position being a voxel and a channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_LONGEST_ROW = 4096
"""Positions for which a few numbers each stay in the fastest cache of a CPU."""


def as_rows(images: Tensor) -> Tensor:
    """Return images as rows: a view of them where they are stored channels-last, otherwise a copy."""
    _, channels, _, height, depth = images.shape
    length = height * depth * channels
    if length > _LONGEST_ROW:
        length = depth * channels
    return images.permute(0, 2, 3, 4, 1).reshape(-1, length)


def as_images(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows as images of the shape of `like`, from which such rows came."""
    batch, channels, *size = like.shape
    return rows.view(batch, *size, channels).permute(0, 4, 1, 2, 3)


def along(rows: Tensor, values: Tensor) -> Tensor:
    """Return one number per channel, [C], for every position of a row."""
    channels = len(values)
    return values.expand(rows.shape[1] // channels, channels).reshape(-1)


def mean_and_variance(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, [C] each; of one that is constant exactly that and 0."""
    rows, channels = as_rows(images), images.shape[1]
    reference = images[0, :, 0, 0, 0]
    # Sums of numbers that are all the same are not exact, unless these are 0.
    deviations = rows - along(rows, reference)
    means, variances = torch.batch_norm_update_stats(deviations, None, None, 0.0)  # of every position
    means, variances = means.view(-1, channels), variances.view(-1, channels)
    mean = means.mean(dim=0)
    return reference + mean, (variances + (means - mean).square()).mean(dim=0)


def affine(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return images * scale + shift, both [C]."""
    rows = as_rows(images)
    return as_images(torch.addcmul(along(rows, shift), rows, along(rows, scale)), images)


def sums_with_deviations(values: Tensor, images: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of `values` and that of `values` * (`images` - `mean`) over all voxels of a channel, [C] each.

    `values` have the shape of `images`; `mean` is [C].
    """
    rows, channels = as_rows(images), images.shape[1]
    ones = torch.ones(rows.shape[1], dtype=images.dtype)
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        as_rows(values), rows, None, None, None, along(rows, mean), ones, True, 0.0, [False, True, True]
    )
    return sums.view(-1, channels).sum(dim=0), products.view(-1, channels).sum(dim=0)


def weighted_sum(images: Tensor, weight: Tensor, others: Tensor, other_weight: Tensor, constant: Tensor) -> Tensor:
    """Return images * weight + others * other_weight + constant; `others` have the shape of `images`, the rest [C]."""
    rows = as_rows(images)
    total = torch.addcmul(along(rows, constant), rows, along(rows, weight))
    return as_images(total.addcmul_(as_rows(others), along(rows, other_weight)), images)


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
        of_positive = torch.ops.aten.threshold_backward(gradients, rows, 0)
        of_negative = gradients - of_positive
        _, of_slope = sums_with_deviations(as_images(of_negative, images), images, torch.zeros_like(slope))
        return as_images(of_positive.addcmul_(of_negative, along(rows, slope)), images), of_slope
