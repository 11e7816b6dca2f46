"""Convolution of repeated cells on a CPU: products of all low-resolution pathways added in one pass over the voxels.

For where the optional package numba is installed; `takes` says so. Otherwise `spread`, which explains the products,
does the same in many more passes over memory.

Shapes: B batch, C input channels, O output channels; cells are [B, x, y, z, C], voxels [B, x, y, z, O].
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepmedic.config.options import Size3
from deepmedic.model import compilation
from deepmedic.model.spread import Line, RepeatedCells

_TYPES = (torch.float32, torch.bfloat16)


def takes(target: Tensor) -> bool:
    """Whether `add_convolved` takes a target like this, here and now."""
    return target.dtype in _TYPES and target.numel() > 0 and compilation.is_possible_for(target)


def add_convolved(target: Tensor, sources: Sequence[RepeatedCells]) -> Tensor:
    """Return `target`, [B, x, y, z, O], plus what all sources make of its voxels; overwrites `target`.

    Products are rounded to the type of the target, and so are their factors; all sums are in float32.
    """
    factors = [factor.to(target.dtype) for source in sources for pair in _factors(source) for factor in pair]
    tables = _tables(len(target), tuple(_Grid.of(source) for source in sources))
    total: Tensor = _AddProducts.apply(target, tables, *factors)
    return total


# ---- Products: those of the same kinds along all axes, but for the sides of edges, come from one matrix product ----


def _factors(source: RepeatedCells) -> list[tuple[Tensor, Tensor]]:
    """Return what products are made of, [place, C] and [side * O, C]: cells, or differences of neighbours, and weights.

    In float32, in the order of `_Grid.with_edges`; sides vary fastest along z.
    """
    taps_first = source.weight.float().permute(2, 3, 4, 0, 1).contiguous()
    pairs = [(source.cells.float(), taps_first)]
    for dim in (1, 2, 3):
        pairs = [along for pair in pairs for along in _along(dim, *pair)]
    return [(cells.flatten(0, 3), weight.flatten(0, -2)) for cells, weight in pairs]


def _along(dim: int, cells: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the factors of products of cells, and those of edges, along one axis: the first one of `weight`."""
    yield cells, weight.sum(dim=0)
    if _edges(cells.shape[dim], len(weight)):
        yield cells.diff(dim=dim), torch.stack([weight[2], -weight[0]], dim=-3)


def _edges(cells: int, taps: int) -> int:
    return cells - 1 if taps == 3 else 0


class _AddProducts(torch.autograd.Function):
    """Products are computed, added and forgotten; so are their gradients."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, tables: _Tables, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        ctx.tables = tables
        products = target.new_empty(tables.products, target.shape[-1])
        for own, cells, weight in _by_factors(products, factors):
            torch.mm(cells, weight.t(), out=own)
        voxels = target.detach().contiguous()
        _kernels().add_products(voxels, products, tables.of_voxel, tables.rows)
        return voxels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        factors, tables = ctx.saved_tensors, ctx.tables
        products = gradient.new_empty(tables.products, gradient.shape[-1])
        _kernels().sum_voxels(gradient.contiguous(), products, tables.of_cell, tables.rows)
        of_factors, needed = [], iter(ctx.needs_input_grad[2:])
        for own, cells, weight in _by_factors(products, factors):
            of_factors.append(own @ weight if next(needed) else None)
            of_factors.append(own.t() @ cells if next(needed) else None)
        return gradient, None, *of_factors


def _by_factors(products: Tensor, factors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield products, a view [place, side * O], with the factors they are made of."""
    first = 0
    for cells, weight in zip(factors[::2], factors[1::2], strict=True):
        end = first + len(cells) * len(weight)
        yield products.view(-1)[first:end].view(len(cells), len(weight)), cells, weight
        first = end


# ---- Tables of where products belong, as `spread_kernels` describes them ----


class _Grid(NamedTuple):
    """How the cells of one source lie."""

    lines: tuple[Line, Line, Line]
    cells: Size3
    edges: Size3

    @classmethod
    def of(cls, source: RepeatedCells) -> _Grid:
        _, width, height, depth, _ = source.cells.shape
        cells = width, height, depth
        x, y, z = map(_edges, cells, source.weight.shape[2:])
        return cls(source.lines, cells, (x, y, z))

    def with_edges(self) -> Iterator[tuple[bool, ...]]:
        """Yield along which axes products are those of edges."""
        yield from itertools.product(*((False, True) if edges else (False,) for edges in self.edges))


class _Tables(NamedTuple):
    """The tables of `spread_kernels`."""

    of_voxel: Any
    of_cell: Any
    rows: Any
    products: int
    """Rows of all products."""


@lru_cache(maxsize=256)
def _tables(batch: int, grids: tuple[_Grid, ...]) -> _Tables:
    voxels = max(line.size for grid in grids for line in grid.lines)
    cells = max(count for grid in grids for count in grid.cells)
    of_voxel = np.full((len(grids), 3, 3, voxels), -1)
    of_cell = np.full((len(grids), 3, 3, cells, 3), -1)
    for source, grid in enumerate(grids):
        for axis in range(3):
            for kind, cell, place, first, end in _products_along(grid, axis):
                of_cell[source, axis, kind, cell] = place, first, end
                of_voxel[source, axis, kind, first:end] = place
    return _Tables(of_voxel, of_cell, *_rows(batch, grids))


def _products_along(grid: _Grid, axis: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield kind, cell and place of each product along an axis, and the first and the end of its voxels in the cell."""
    kinds, line = _kernels(), grid.lines[axis]
    for cell in range(grid.cells[axis]):
        first = cell * line.factor - line.start
        end = first + line.factor
        yield kinds.OWN, cell, cell, line.inside(first), line.inside(end)
        if cell < grid.edges[axis]:
            yield kinds.BEFORE, cell, cell, line.inside(end - 1), line.inside(end)
        if 0 < cell <= grid.edges[axis]:
            yield kinds.AFTER, cell, cell - 1, line.inside(first), line.inside(first + 1)


def _rows(batch: int, grids: Sequence[_Grid]) -> tuple[Any, int]:
    """Return where rows begin and how far apart they are, and how many there are."""
    kernels = _kernels()
    rows, first = np.zeros((len(grids), 3, 3, 3, 5), np.int64), 0
    for source, grid in enumerate(grids):
        for with_edges in grid.with_edges():
            x, y, z = (grid.edges[axis] if has else grid.cells[axis] for axis, has in enumerate(with_edges))
            of_axes = [(kernels.BEFORE, kernels.AFTER) if has else (kernels.OWN,) for has in with_edges]
            sides = list(itertools.product(*of_axes))
            steps = [len(sides) * places for places in (x * y * z, y * z, z, 1)]
            for side, kinds in enumerate(sides):
                rows[source][kinds] = first + side, *steps
            first += batch * steps[0]
    return rows, first


@cache
def _kernels() -> ModuleType:
    """The compiled loops, which can be imported only where numba is installed."""
    from deepmedic.model import spread_kernels

    return spread_kernels
