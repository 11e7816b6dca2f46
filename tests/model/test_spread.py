"""Convolution of repeated cells, in both ways, against repeating and convolving them in double precision."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from deepmedic.model import compilation, compiled_spread, spread, spread_kernels
from deepmedic.model.spread import Line, RepeatedCells

Size3 = tuple[int, int, int]


class Source(NamedTuple):
    factor: Size3
    skip: Size3 = (0, 0, 0)
    channels: int = 2


class Layer(NamedTuple):
    """A convolution of several sources; `size` is that of its output."""

    kernel: Size3
    padding: str
    size: Size3
    sources: tuple[Source, ...]
    batch: int = 2
    maps: int = 3

    def line(self, source: Source, axis: int) -> Line:
        lost = self.kernel[axis] - 1 if self.padding == "valid" else 0
        return Line(axis + 1, source.factor[axis], source.skip[axis] + lost // 2, self.size[axis])

    def tensors(self, dtype: torch.dtype) -> list[Tensor]:
        """The target, then cells and weight of each source."""
        generator = torch.Generator().manual_seed(0)
        shapes: list[tuple[int, ...]] = [(self.batch, *self.size, self.maps)]
        for source in self.sources:
            ends = [first + length for first, length in zip(source.skip, self.input_size, strict=True)]
            cells = [-(-end // factor) for end, factor in zip(ends, source.factor, strict=True)]
            shapes += [(self.batch, *cells, source.channels), (self.maps, source.channels, *self.kernel)]
        return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]

    @property
    def input_size(self) -> Size3:
        x, y, z = (
            length + (taps - 1 if self.padding == "valid" else 0)
            for length, taps in zip(self.size, self.kernel, strict=True)
        )
        return x, y, z

    def convolved(self, way: ModuleType, target: Tensor, *pairs: Tensor) -> Tensor:
        sources = []
        for source, cells, weight in zip(self.sources, pairs[::2], pairs[1::2], strict=True):
            x, y, z = (self.line(source, axis) for axis in range(3))
            sources.append(RepeatedCells(cells, weight, (x, y, z)))
        return way.add_convolved(target.clone(), sources)

    def at_full_resolution(self, target: Tensor, *pairs: Tensor) -> Tensor:
        total = target.permute(0, 4, 1, 2, 3)
        for source, cells, weight in zip(self.sources, pairs[::2], pairs[1::2], strict=True):
            voxels = cells.permute(0, 4, 1, 2, 3)
            for axis, length in enumerate(self.input_size):
                repeated = voxels.repeat_interleave(source.factor[axis], dim=axis + 2)
                voxels = repeated.narrow(axis + 2, source.skip[axis], length)
            if self.padding == "mirror":
                x, y, z = (taps // 2 for taps in self.kernel)
                voxels = functional.pad(voxels, (z, z, y, y, x, x), mode="replicate")
            total = total + functional.conv3d(voxels, weight)
        return total.permute(0, 2, 3, 4, 1)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    def source() -> Source:
        factor = draw(st.tuples(*[st.integers(1, 5)] * 3))
        x, y, z = (draw(st.integers(0, times - 1)) for times in factor)
        return Source(factor, (x, y, z), draw(st.integers(1, 3)))

    return Layer(
        kernel=draw(st.tuples(*[st.sampled_from([1, 3, 3])] * 3)),
        padding=draw(st.sampled_from(["valid", "mirror"])),
        size=draw(st.tuples(*[st.integers(1, 8)] * 3)),
        sources=tuple(source() for _ in range(draw(st.integers(1, 3)))),
        batch=draw(st.integers(1, 2)),
        maps=draw(st.integers(1, 20)),
    )


WHOLE = Layer((3, 3, 3), "mirror", (15, 15, 15), (Source((3, 3, 3)), Source((5, 5, 5))))
CUT = Layer((3, 1, 3), "valid", (7, 4, 9), (Source((1, 2, 3), (0, 1, 2)), Source((4, 1, 2), (3, 0, 1))), batch=1)


def values_and_gradients(function, tensors: list[Tensor]) -> list[Tensor]:
    result = function(*tensors)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    return [result.detach(), *torch.autograd.grad(result, tensors, upstream.to(result.dtype))]


def in_both_precisions(layer: Layer, way: ModuleType, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """What one way gives and what is right: the result, then the gradients for target, cells and weights."""
    tensors = layer.tensors(dtype)
    found = values_and_gradients(lambda *given: layer.convolved(way, *given), tensors)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    return list(zip(found, values_and_gradients(layer.at_full_resolution, exact), strict=True))


@pytest.mark.parametrize(
    ("way", "dtype", "tolerance"),
    [
        pytest.param(spread, torch.float64, 1e-12, id="torch"),
        pytest.param(compiled_spread, torch.float32, 1e-5, id="numba"),
    ],
)
@settings(max_examples=100, deadline=None)
@given(layer=layers())
@example(WHOLE)
@example(CUT)
def test_values_and_gradients_are_those_at_full_resolution(way, dtype, tolerance: float, layer: Layer) -> None:
    for found, expected in in_both_precisions(layer, way, dtype):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("layer", [WHOLE, CUT])
def test_bfloat16_is_rounded_less_often_than_by_torch(layer: Layer) -> None:
    errors = {
        way: [
            ((found.double() - expected).square().mean() / expected.square().mean()).sqrt().item()
            for found, expected in in_both_precisions(layer, way, torch.bfloat16)
        ]
        for way in (spread, compiled_spread)
    }
    assert all(error < 0.006 for error in errors[compiled_spread])  # roundings of factors, product and result
    assert errors[compiled_spread][1] == 0  # the gradient for the target is the upstream one
    assert sum(errors[compiled_spread]) < 0.9 * sum(errors[spread])


def test_types_are_those_of_the_target() -> None:
    """As autocast gives them: the target rounded, cells rounded or not, weights in float32."""
    tensors = WHOLE.tensors(torch.float32)
    exact = WHOLE.at_full_resolution(*(tensor.detach().double() for tensor in tensors))
    tensors[0] = tensors[0].detach().bfloat16()
    found = WHOLE.convolved(compiled_spread, *tensors)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-6 * exact.abs().max().item())
    of_cells, of_weight = torch.autograd.grad(found.float().square().sum(), tensors[1:3])
    assert of_cells.dtype == of_weight.dtype == torch.float32


@pytest.mark.parametrize("frozen", [1, 2])
def test_only_wanted_gradients_are_computed(frozen: int) -> None:
    tensors = CUT.tensors(torch.float32)
    wanted = [tensor for number, tensor in enumerate(tensors) if number != frozen]
    expected = torch.autograd.grad(CUT.convolved(compiled_spread, *tensors).square().sum(), wanted)
    tensors[frozen].requires_grad_(False)
    found = torch.autograd.grad(CUT.convolved(compiled_spread, *tensors).square().sum(), wanted)
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("with_gradient", [True, False])
def test_the_target_is_overwritten(with_gradient: bool) -> None:
    """A copy of it would be the largest tensor of a network."""
    target, cells, weight, *_ = WHOLE.tensors(torch.float32)
    target = target.detach()
    with torch.set_grad_enabled(with_gradient):
        lines = (Line(1, 3, 0, 15), Line(2, 3, 0, 15), Line(3, 3, 0, 15))
        total = compiled_spread.add_convolved(target, [RepeatedCells(cells, weight, lines)])
    assert total.data_ptr() == target.data_ptr()
    assert total.requires_grad is with_gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    voxels, cells, weight, *_ = (tensor.detach() for tensor in WHOLE.tensors(dtype))
    source = RepeatedCells(cells, weight, tuple(WHOLE.line(WHOLE.sources[0], axis) for axis in range(3)))
    tables = compiled_spread._tables(WHOLE.batch, (compiled_spread._Grid.of(source),))
    products = torch.randn(tables.products, WHOLE.maps, generator=torch.Generator().manual_seed(2)).to(dtype)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)  # the fixture of this folder takes it back
        total, sums = voxels.clone(), torch.full_like(products, torch.nan)
        spread_kernels.add_products(total, products, tables.of_voxel, tables.rows)
        spread_kernels.sum_voxels(voxels, sums, tables.of_cell, tables.rows)
        results.append((total, sums))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_each_way_where_it_can_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compilation.is_possible(), "the environment of the tests has numba"
    assert compiled_spread.takes(torch.zeros(1, 2, 2, 2, 3))
    assert not compiled_spread.takes(torch.zeros(1, 2, 2, 2, 3, dtype=torch.float64))
    assert not compiled_spread.takes(torch.zeros(1, 2, 0, 2, 3))
    monkeypatch.setattr(compilation, "is_possible", lambda: False)
    assert not compiled_spread.takes(torch.zeros(1, 2, 2, 2, 3))
