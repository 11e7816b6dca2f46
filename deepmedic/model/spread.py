"""Convolution of repeated cells, computed at the resolution that the cells have.

Outputs of low-resolution pathways are repeated before they are concatenated: a cell, which is a voxel of low
resolution, stands for several voxels along each axis. The three taps w0 w1 w2 of a convolution along an axis see at
most two cells. With a factor of 4, of cells c and d:

    voxel            c     c     c     c  |  d     d     d     d
    sum there       ...    Sc    Sc    |     |    Sd    Sd   ...       S = w0 + w1 + w2
                             w0 c + w1 c + w2 d
                                    w0 c + w1 d + w2 d

The last voxel of c is S c + w2 (d - c), the first of d is S d - w0 (d - c): one product per cell, repeated, and two per
edge between cells, added to one voxel each. The same along all three axes makes 27 products per cell, where repeating
takes 27 per voxel. Neither rounding of the sums nor the difference of two cells loses more than float32 does anyway.

Here products are spread to voxels one axis after the other; `compiled_spread` does the same in one pass over memory.

Shapes: B batch, C input channels, O output channels; cells are [B, x, y, z, C], voxels [B, x, y, z, O].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Line(NamedTuple):
    """How cells and voxels of the output lie along one axis."""

    dim: int
    """1, 2 or 3 for x, y, z."""
    factor: int
    start: int
    """First voxel that there is output for, counted from the first voxel of the first cell."""
    size: int
    """Voxels that there is output for."""

    def inside(self, voxel: int) -> int:
        """The voxel, or the nearest bound of the output."""
        return max(0, min(voxel, self.size))

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


class RepeatedCells(NamedTuple):
    """Cells to be convolved as if each was repeated over the voxels that it stands for."""

    cells: Tensor
    """[B, x, y, z, C]."""
    weight: Tensor
    """[O, C, x, y, z], with 1 or 3 taps along each axis.

    With mirror padding, outermost cells have neighbours equal to themselves, so that there are no edges beyond them.
    """
    lines: tuple[Line, Line, Line]
    """Along x, y, z."""


def add_convolved(target: Tensor, sources: Sequence[RepeatedCells]) -> Tensor:
    """Return `target`, [B, x, y, z, O], plus what all sources make of its voxels; may overwrite `target`."""
    products = [_products(source.cells, source.weight, *source.lines) for source in sources]
    lines = tuple(source.lines[0] for source in sources)
    if torch.is_grad_enabled() and any(own.cells.requires_grad for own in products):
        total: Tensor = _AddSpread.apply(target, lines, *(tensor for own in products for tensor in own))
        return total
    return _add_spread(target, products, lines)


class _Products(NamedTuple):
    """Products of cells and kernels summed over some taps, along one axis; [B, x, y, z, channels] each."""

    cells: Tensor
    """For all voxels of each cell."""
    edges: Tensor | None
    """For the last voxel before (first half of the channels) and the first after each edge between cells."""


def _products(cells: Tensor, weight: Tensor, line: Line, *inner_lines: Line) -> _Products:
    """Convolve along the axis of `line`, on repeated cells along those of `inner_lines`.

    `weight` is [O, C, taps, ...], with as many numbers of taps as there are lines.
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


def _edge_parts(edges: Tensor, line: Line) -> Sequence[tuple[Tensor, int]]:
    """Both halves of the channels, each with the phase of the cell before the edge that it belongs to."""
    before, after = edges.chunk(2, dim=-1)
    return (before, line.factor - 1), (after, line.factor)


def _spread(products: _Products, line: Line) -> Tensor:
    """Write each product to its voxels."""
    size = list(products.cells.shape)
    size[line.dim] = line.size
    target = products.cells.new_empty(size)
    for phase in range(line.factor):
        cells, voxels = line.at(phase, products.cells.shape[line.dim])
        target[voxels] = products.cells[cells]
    return _add_edges(target, products.edges, line)


def _add_edges(target: Tensor, edges: Tensor | None, line: Line) -> Tensor:
    if edges is not None:
        for part, phase in _edge_parts(edges, line):
            cells, voxels = line.at(phase, edges.shape[line.dim])
            target[voxels] += part[cells]
    return target


def _add_spread(target: Tensor, products: Sequence[_Products], lines: Sequence[Line]) -> Tensor:
    """Add products of several pathways to their voxels in `target`, in place."""
    for own, line in zip(products, lines, strict=True):
        for phase in range(line.factor):
            cells, voxels = line.at(phase, own.cells.shape[line.dim])
            target[voxels] += own.cells[cells]
        _add_edges(target, own.edges, line)
    return target


def _gathered(gradient: Tensor, cells: torch.Size, edges: torch.Size | None, line: Line) -> Iterator[Tensor | None]:
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
    def forward(ctx: Any, cells: Tensor, edges: Tensor | None, line: Line) -> Tensor:
        ctx.shapes = cells.shape, None if edges is None else edges.shape, line
        return _spread(_Products(cells, edges), line)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *_gathered(gradient, *ctx.shapes), None


class _AddSpread(torch.autograd.Function):
    """`_add_spread` with a gradient, to a copy; products as cells and edges of each pathway in turn."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, lines: tuple[Line, ...], *tensors: Tensor | None) -> Tensor:
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
