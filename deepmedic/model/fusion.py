"""The first layer of the FC pathway on outputs of several resolutions, computed at the resolution they have.

Outputs of low-resolution pathways are repeated before they are concatenated, so that layer sees the same numbers again
and again. Normalisation and activation of a cell (a voxel of low resolution) need be done once only, and much of the
convolution too: `spread` says how.

Shapes: B batch, C input channels, O output channels; images are [B, C, x, y, z], cells [B, x, y, z, C].
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepmedic.config.architecture import Padding
from deepmedic.config.options import Size3
from deepmedic.model import compiled_spread, spread
from deepmedic.model.activation import BlockLayers, activate, normalized_and_activated
from deepmedic.model.layers import Bias, LowRankConvolution, scaled
from deepmedic.model.normalization import Statistics, constant_as_zero
from deepmedic.model.outputs import PathwayOutput, PathwayOutputs
from deepmedic.model.spread import Line

_TAPS_WORTH_A_NUMBER = 3.5
"""Taps at full resolution that take the time of writing one number per voxel and channel, as measured on a CPU."""


def pays(layers: BlockLayers, outputs: PathwayOutputs) -> bool:
    """Whether `apply_block` can take these layers and is faster than the same at full resolution."""
    convolution = layers.convolution
    if isinstance(convolution, LowRankConvolution) or layers.dropout.draws or len(outputs.images) == 1:
        return False
    kernel = convolution.weight.shape[2:]
    if not set(kernel) <= {1, 3} or (convolution.padding == "zero" and 3 in kernel):
        return False
    return all(_is_faster(kernel, part.shape[2:], outputs.size) for part in outputs.images[1:])


def _is_faster(kernel: Sequence[int], cells: Sequence[int], voxels: Sequence[int]) -> bool:
    """Whether numbers written per output voxel, after spreading along z, y and x, are few beside the taps saved."""
    after_each_axis = accumulate(
        (taps * count / size for taps, count, size in zip(kernel, cells, voxels, strict=True)), operator.mul
    )
    return sum(after_each_axis) <= 1 + math.prod(kernel) / _TAPS_WORTH_A_NUMBER


def apply_block(layers: BlockLayers, outputs: PathwayOutputs, *, unpadded: bool = False) -> Tensor:
    """Return what the layers make of `outputs.full_resolution()`, [B, O, x, y, z].

    The kernel has 1 or 3 voxels along each axis, padding is "valid" or "mirror" where it has 3, and as good as "valid"
    if `unpadded`; dropout draws nothing.
    """
    convolution = layers.convolution
    if isinstance(convolution, LowRankConvolution):
        raise TypeError("a low-rank convolution takes feature maps of one resolution")
    parts, terms = list(outputs.parts()), _activated(layers, outputs)
    scale = layers.dropout.scale
    padding = "valid" if unpadded else convolution.padding
    of_normal: Tensor = convolution(terms[0], parts[0].channels, scale, padding).permute(0, 2, 3, 4, 1)
    sources = []
    for term, part in zip(terms[1:], parts[1:], strict=True):
        cells = term.permute(0, 2, 3, 4, 1).contiguous()
        weight = scaled(convolution.weight[:, part.channels], scale)
        sources.append(spread.RepeatedCells(cells, weight, _lines(weight.shape[2:], padding, part, outputs.size)))
    add_convolved = compiled_spread.add_convolved if compiled_spread.takes(of_normal) else spread.add_convolved
    return add_convolved(of_normal, sources).permute(0, 4, 1, 2, 3)


def _lines(kernel: Sequence[int], padding: Padding, part: PathwayOutput, size: Size3) -> tuple[Line, Line, Line]:
    """How cells and voxels of the output lie along x, y, z."""
    lost = [taps - 1 if padding == "valid" else 0 for taps in kernel]
    x, y, z = (
        Line(axis + 1, part.factor[axis], part.skip[axis] + lost[axis] // 2, size[axis] - lost[axis])
        for axis in range(3)
    )
    return x, y, z


# ---- Normalisation: statistics of repeated voxels are those of cells, each counted as often as it is repeated ----


def _activated(layers: BlockLayers, outputs: PathwayOutputs) -> list[Tensor]:
    normalization, activation = layers.normalization, layers.activation
    parts = list(outputs.parts())
    if isinstance(normalization, Bias):
        return [activate(activation, normalization(part.images, part.channels), part.channels) for part in parts]
    if normalization.uses_stored_statistics:
        stored = normalization.stored_statistics
        return [normalized_and_activated(layers, part.images, stored(part.channels), part.channels) for part in parts]
    normal, *low_resolution = parts
    statistics_type = normalization.bn_mean_rolling.dtype
    counts = [_counts(part, outputs.size).to(statistics_type) for part in low_resolution]
    statistics = [normalization.batch_statistics(normal.images)]
    for part, count in zip(low_resolution, counts, strict=True):
        statistics.append(_counted_statistics(part.images.detach().to(statistics_type), count))
    normalization.remember(*(torch.cat(of_parts) for of_parts in zip(*statistics, strict=True)))
    own = Statistics(*statistics[0], of_batch=True)
    values = [normalized_and_activated(layers, normal.images, own, normal.channels)]
    for part, count, own_statistics in zip(low_resolution, counts, statistics[1:], strict=True):
        standardized = _StandardizeByCountedBatch.apply(part.images, *own_statistics, count, normalization.epsilon)
        gamma, beta = (_per_channel(value[part.channels]) for value in (normalization.bn_gamma, normalization.bn_beta))
        normalized = torch.addcmul(beta, standardized, gamma).to(part.images.dtype)
        values.append(activate(activation, normalized, part.channels))
    return values


def _counts(part: PathwayOutput, size: Size3) -> Tensor:
    """Voxels that each cell stands for, float32 [x, y, z]: fewer for the first and the last cells, which are cut."""
    counts = torch.ones((), device=part.images.device)
    for axis, (cells, times, skip, voxels) in enumerate(
        zip(part.images.shape[2:], part.factor, part.skip, size, strict=True)
    ):
        edges = torch.arange(cells + 1, device=part.images.device, dtype=torch.float32) * times
        along = edges.clamp(skip, skip + voxels).diff()
        counts = counts * along.view([-1 if other == axis else 1 for other in range(3)])
    return counts


def _counted_statistics(images: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, [C] each."""
    voxels = images.shape[0] * counts.sum()
    # Subtracting one voxel of each channel first makes channels that are constant exactly so.
    reference = images[:1, :, :1, :1, :1]
    deviations = images - reference
    shift = (deviations * counts).sum(dim=(0, 2, 3, 4)) / voxels
    deviations -= shift.view(1, -1, 1, 1, 1)
    variance = (deviations.square_() * counts).sum(dim=(0, 2, 3, 4)) / voxels
    return constant_as_zero(reference.flatten() + shift, variance)


class _StandardizeByCountedBatch(torch.autograd.Function):
    """Give cells mean 0 and variance 1 over the voxels they stand for; the gradient knows that both depend on them."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, mean: Tensor, variance: Tensor, counts: Tensor, epsilon: float) -> Tensor:
        inverse_std = torch.where(variance > 0, (variance + epsilon).rsqrt(), 0.0)  # 0: constants stay 0, no gradient
        standardized = (images - _per_channel(mean)) * _per_channel(inverse_std)
        ctx.save_for_backward(standardized, inverse_std, counts)
        ctx.images_type = images.dtype
        return standardized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        standardized, inverse_std, counts = ctx.saved_tensors
        shares = counts / (gradient.shape[0] * counts.sum())
        of_mean = _per_channel(gradient.sum(dim=(0, 2, 3, 4)))
        of_scale = _per_channel((gradient * standardized).sum(dim=(0, 2, 3, 4)))
        of_statistics = torch.addcmul(of_mean, standardized, of_scale) * shares
        return ((gradient - of_statistics) * _per_channel(inverse_std)).to(ctx.images_type), None, None, None, None


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)
