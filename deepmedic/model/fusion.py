"""The first layer of the FC pathway on outputs of several resolutions, computed at the resolution they have.

Outputs of low-resolution pathways are repeated before they are concatenated, so that layer sees the same numbers again
and again. Normalisation and activation of a cell (a voxel of low resolution) need be done once only, and along an axis
the three taps w0 w1 w2 of a convolution see at most two cells. With a factor of 4, of cells c and d:

    voxel            c     c     c     c  |  d     d     d     d
    sum there       ...    Sc    Sc    |     |    Sd    Sd   ...       S = w0 + w1 + w2
                             w0 c + w1 c + w2 d
                                    w0 c + w1 d + w2 d

The last voxel of c is S c + w2 (d - c), the first of d is S d - w0 (d - c): one product per cell, repeated, and two per
edge between cells, added to one voxel each. The same along all three axes makes 27 products per cell, where repeating
takes 27 per voxel. Neither rounding of the sums nor the difference of two cells loses more than float32 does anyway.

Shapes: B batch, C input channels, O output channels; images are [B, C, x, y, z], cells [B, x, y, z, C].
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from deepmedic.config.architecture import Padding
from deepmedic.config.options import Size3
from deepmedic.model.activation import BlockLayers, activate, normalized_and_activated
from deepmedic.model.layers import Bias, LowRankConvolution, scaled
from deepmedic.model.normalization import Statistics, constant_as_zero
from deepmedic.model.outputs import PathwayOutput, PathwayOutputs

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
    total: Tensor = convolution(terms[0], parts[0].channels, scale, padding).permute(0, 2, 3, 4, 1)
    products, lines = [], []
    for term, part in zip(terms[1:], parts[1:], strict=True):
        own_lines = _lines(convolution.weight.shape[2:], padding, part, outputs.size)
        cells = term.permute(0, 2, 3, 4, 1).contiguous()
        products.append(_products(cells, scaled(convolution.weight[:, part.channels], scale), *own_lines))
        lines.append(own_lines[0])
    if torch.is_grad_enabled() and any(own.cells.requires_grad for own in products):
        total = _AddSpread.apply(total, tuple(lines), *(tensor for own in products for tensor in own))
    else:
        total = _add_spread(total, products, lines)
    return total.permute(0, 4, 1, 2, 3)


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


# ---- Convolution ----


class _Line(NamedTuple):
    """How cells and voxels of the output lie along one axis."""

    dim: int
    """1, 2 or 3 for x, y, z."""
    factor: int
    start: int
    """First voxel that there is output for, counted from the first voxel of the first cell."""
    size: int
    """Voxels that there is output for."""

    def at(self, phase: int, count: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Index of those of `count` cells whose voxel `phase` has output, and index of these voxels.

        A phase from 0 to factor - 1 is a voxel of the cell itself.
        """
        first = phase - self.start
        skipped = max(0, -(first // self.factor))  # voxels before the output
        end = max(skipped, min(count, -(-(self.size - first) // self.factor)))
        voxels = slice(first + skipped * self.factor, max(0, first + end * self.factor), self.factor)
        before = (slice(None),) * self.dim
        return (*before, slice(skipped, end)), (*before, voxels)


def _lines(kernel: Sequence[int], padding: Padding, part: PathwayOutput, size: Size3) -> tuple[_Line, ...]:
    lines = []
    for axis, taps in enumerate(kernel):
        lost = taps - 1 if padding == "valid" else 0
        lines.append(_Line(axis + 1, part.factor[axis], part.skip[axis] + lost // 2, size[axis] - lost))
    return tuple(lines)


class _Products(NamedTuple):
    """Products of cells and kernels summed over some taps, along one axis; [B, x, y, z, channels] each."""

    cells: Tensor
    """For all voxels of each cell."""
    edges: Tensor | None
    """For the last voxel before (first half of the channels) and the first after each edge between cells."""


def _products(cells: Tensor, weight: Tensor, line: _Line, *inner_lines: _Line) -> _Products:
    """Convolve along the axis of `line`, on repeated cells along those of `inner_lines`.

    `weight` is [O, C, taps, ...], with as many numbers of taps as there are lines. With mirror padding, outermost cells
    have neighbours equal to themselves, so that there are no edges.
    """

    def along_inner_axes(cells: Tensor, weight: Tensor) -> Tensor:
        if not inner_lines:
            return functional.linear(cells, weight)
        products = _products(cells, weight, *inner_lines)
        if torch.is_grad_enabled() and products.cells.requires_grad:
            spread: Tensor = _Spread.apply(*products, inner_lines[0])
            return spread
        return _spread(products, inner_lines[0])

    of_cells = along_inner_axes(cells, weight.sum(dim=2))
    if weight.shape[2] == 1 or cells.shape[line.dim] == 1:
        return _Products(of_cells, None)
    both_sides = torch.cat([weight[:, :, 2], -weight[:, :, 0]])
    return _Products(of_cells, along_inner_axes(cells.diff(dim=line.dim), both_sides))


def _edge_parts(edges: Tensor, line: _Line) -> Sequence[tuple[Tensor, int]]:
    """Both halves of the channels, each with the phase of the cell before the edge that it belongs to."""
    before, after = edges.chunk(2, dim=-1)
    return (before, line.factor - 1), (after, line.factor)


def _spread(products: _Products, line: _Line) -> Tensor:
    """Write each product to its voxels."""
    size = list(products.cells.shape)
    size[line.dim] = line.size
    target = products.cells.new_empty(size)
    for phase in range(line.factor):
        cells, voxels = line.at(phase, products.cells.shape[line.dim])
        target[voxels] = products.cells[cells]
    return _add_edges(target, products.edges, line)


def _add_edges(target: Tensor, edges: Tensor | None, line: _Line) -> Tensor:
    if edges is not None:
        for part, phase in _edge_parts(edges, line):
            cells, voxels = line.at(phase, edges.shape[line.dim])
            target[voxels] += part[cells]
    return target


def _add_spread(target: Tensor, products: Sequence[_Products], lines: Sequence[_Line]) -> Tensor:
    """Add products of several pathways to their voxels in `target`, in place."""
    for own, line in zip(products, lines, strict=True):
        for phase in range(line.factor):
            cells, voxels = line.at(phase, own.cells.shape[line.dim])
            target[voxels] += own.cells[cells]
        _add_edges(target, own.edges, line)
    return target


def _gathered(gradient: Tensor, cells: torch.Size, edges: torch.Size | None, line: _Line) -> Iterator[Tensor | None]:
    """Gradients of products of these shapes, from that of the voxels they were written or added to."""
    of_cells = gradient.new_zeros(cells)
    for phase in range(line.factor):
        where, voxels = line.at(phase, cells[line.dim])
        of_cells[where] += gradient[voxels]
    yield of_cells
    if edges is None:
        yield None
        return
    of_edges = gradient.new_zeros(edges)
    for part, phase in _edge_parts(of_edges, line):
        where, voxels = line.at(phase, edges[line.dim])
        part[where] = gradient[voxels]
    yield of_edges


class _Spread(torch.autograd.Function):
    """`_spread` with a gradient."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, edges: Tensor | None, line: _Line) -> Tensor:
        ctx.shapes = cells.shape, None if edges is None else edges.shape, line
        return _spread(_Products(cells, edges), line)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *_gathered(gradient, *ctx.shapes), None


class _AddSpread(torch.autograd.Function):
    """`_add_spread` with a gradient, to a copy; products as cells and edges of each pathway in turn."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, lines: tuple[_Line, ...], *tensors: Tensor | None) -> Tensor:
        products = [
            _Products(cells, edges)
            for cells, edges in zip(tensors[::2], tensors[1::2], strict=True)
            if cells is not None
        ]
        shapes = [(own.cells.shape, None if own.edges is None else own.edges.shape) for own in products]
        ctx.shapes = [(*own, line) for own, line in zip(shapes, lines, strict=True)]
        return _add_spread(target.clone(), products, lines)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None, *(of for shapes in ctx.shapes for of in _gathered(gradient, *shapes))
