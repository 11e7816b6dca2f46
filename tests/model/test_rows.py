"""Passes over rows of memory against the same on images, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deepmedic.model import rows

ALL_BUT_CHANNELS = (0, 2, 3, 4)
SHAPES = [(3, 4, 5, 6, 7), (2, 12, 3, 19, 20), (1, 1, 1, 1, 1), (5, 1, 7, 11, 13), (2, 30, 4, 3, 50)]
"""Rows of many lines, and of one line where many would be longer than the cache; a single channel."""
LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


@pytest.fixture(params=[2**18, 1], ids=["one block", "a block per row"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BLOCK", request.param)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread(values: Tensor) -> Tensor:
    return values.double().view(1, -1, 1, 1, 1)


@pytest.fixture(params=LAYOUTS, ids=["contiguous", "channels-last"])
def layout(request: pytest.FixtureRequest) -> torch.memory_format:
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_hold_what_images_hold(shape, layout: torch.memory_format) -> None:
    images = noise(*shape).contiguous(memory_format=layout)
    found = rows.as_rows(images)
    assert found.shape[1] <= max(1536, shape[1])
    assert torch.equal(rows.as_images(found, images), images)
    assert torch.equal(
        rows.as_images(rows.along(found, images[0, :, 0, 0, 0]).repeat(len(found), 1), images)[0],
        images[0, :, :1, :1, :1].expand(shape[1:]),
    )


def test_rows_of_images_stored_channels_last_are_a_view_of_them() -> None:
    images = noise(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    assert rows.as_rows(images).data_ptr() == images.data_ptr()
    assert rows.affine(images, torch.ones(3), torch.zeros(3)).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_statistics(shape, offset: float, layout: torch.memory_format) -> None:
    images = (offset + noise(*shape)).contiguous(memory_format=layout)
    mean, variance = rows.mean_and_variance(images, torch.float32)
    expected_variance, expected_mean = torch.var_mean(images.double(), dim=ALL_BUT_CHANNELS, correction=0)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance.double(), expected_variance, rtol=2e-6, atol=0)


@pytest.mark.parametrize("constant", [0.1, -1 / 3, 1e30, 16777217.0])
def test_statistics_of_a_constant_are_exact(constant: float) -> None:
    mean, variance = rows.mean_and_variance(torch.full((3, 2, 7, 11, 13), constant), torch.float32)
    assert mean.tolist() == [torch.tensor(constant).item()] * 2
    assert variance.tolist() == [0, 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_of_bfloat16_are_those_of_the_same_numbers_in_float32(shape, layout: torch.memory_format) -> None:
    images = (3 + noise(*shape)).bfloat16().contiguous(memory_format=layout)
    for found, expected in zip(
        rows.mean_and_variance(images, torch.float32),
        rows.mean_and_variance(images.float(), torch.float32),
        strict=True,
    ):
        assert torch.equal(found, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, variance = rows.mean_and_variance(images, torch.float32)
    assert torch.equal(variance, expected)
    assert mean.dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_rounded_once(shape, layout: torch.memory_format) -> None:
    images = noise(*shape).bfloat16().contiguous(memory_format=layout)
    scale, shift = noise(shape[1], seed=1), noise(shape[1], seed=2)
    found = rows.affine(images, scale, shift)
    exact = images.double() * spread(scale) + spread(shift)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_sums(shape, layout: torch.memory_format) -> None:
    images, values = (noise(*shape, seed=seed).contiguous(memory_format=layout) for seed in (1, 2))
    mean = noise(shape[1], seed=3)
    sums, products = rows.sums_with_deviations(values, images, mean)
    exact = values.double()
    torch.testing.assert_close(sums.double(), exact.sum(ALL_BUT_CHANNELS), rtol=1e-5, atol=1e-4)
    expected = (exact * (images.double() - spread(mean))).sum(ALL_BUT_CHANNELS)
    torch.testing.assert_close(products.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_weighted_sums(shape, layout: torch.memory_format) -> None:
    images, others = noise(*shape, seed=1).contiguous(memory_format=layout), noise(*shape, seed=2)
    one, two, three = (noise(shape[1], seed=seed) for seed in (3, 4, 5))
    expected = spread(one) * images.double() + spread(two) * others.double() + spread(three)
    found = rows.weighted_sum(images, one, others, two, three)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    expected = spread(one) * images.double() + spread(three)
    torch.testing.assert_close(rows.affine(images, one, three).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_weighted_sums_of_bfloat16_are_rounded_once(shape, layout: torch.memory_format) -> None:
    images, others = (noise(*shape, seed=seed).bfloat16().contiguous(memory_format=layout) for seed in (1, 2))
    one, two, three = (noise(shape[1], seed=seed) for seed in (3, 4, 5))
    exact = spread(one) * images.double() + spread(two) * others.double() + spread(three)
    found = rows.weighted_sum(images, one, others, two, three)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8 + 1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_added_values(shape, layout: torch.memory_format) -> None:
    images, upstream = (noise(*shape, seed=seed).contiguous(memory_format=layout) for seed in (1, 2))
    values = noise(shape[1], seed=3).requires_grad_()
    found = rows.add(images.requires_grad_(), values)
    assert torch.equal(found, images + values.view(1, -1, 1, 1, 1))
    of_images, of_values = torch.autograd.grad(found, (images, values), upstream)
    assert torch.equal(of_images, upstream)
    torch.testing.assert_close(of_values.double(), upstream.double().sum(ALL_BUT_CHANNELS), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_prelu(shape, layout: torch.memory_format) -> None:
    images, upstream = (noise(*shape, seed=seed).contiguous(memory_format=layout) for seed in (1, 2))
    images[0, 0, 0, 0, 0] = 0.0
    slope = noise(shape[1], seed=3)
    exact, exact_slope = images.double().requires_grad_(), slope.double().requires_grad_()
    result = functional.prelu(exact, exact_slope)
    expected = torch.autograd.grad(result, (exact, exact_slope), upstream.double())
    found = rows.prelu(images.requires_grad_(), slope.requires_grad_())
    torch.testing.assert_close(found.double(), result, rtol=1e-6, atol=0)
    of_images, of_slope = torch.autograd.grad(found, (images, slope), upstream)
    torch.testing.assert_close(of_images.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(of_slope.double(), expected[1], rtol=1e-5, atol=1e-4)
