"""Convolutions of several voxels at once against torch's own in double precision."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from cpu_marks import needs_own_convolutions
from random_architectures import small_architecture
from torch import Tensor
from torch.nn import functional

from deepmedic.model import cpu_convolution
from deepmedic.model.layers import Convolution
from deepmedic.model.pathway import Block

pytestmark = needs_own_convolutions

CASES = [
    # maps in and out, kernel, size: voxels at once divide what is left along z, or do not
    (2, 4, (3, 3, 3), (6, 5, 11)),
    (4, 5, (3, 3, 3), (5, 4, 23)),
    (5, 6, (3, 3, 3), (4, 6, 8)),
    (12, 5, (1, 1, 1), (3, 4, 5)),
    (1, 1, (1, 1, 1), (1, 1, 1)),
    (3, 2, (1, 3, 5), (3, 4, 20)),
    (6, 1, (2, 1, 4), (3, 4, 5)),
    (20, 17, (3, 3, 3), (3, 4, 6)),
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("numbers", [8, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=["contiguous", "last"])
@pytest.mark.parametrize(("channels", "maps", "kernel", "size"), CASES)
def test_output_and_gradients_are_those_of_torch(
    channels: int, maps: int, kernel, size, layout, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_convolution, "_numbers_per_register", lambda: numbers)
    tensors = noise(3, channels, *size), noise(maps, channels, *kernel, seed=1), noise(maps, seed=2)
    images, weight, bias = (tensor.requires_grad_() for tensor in tensors)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    output, expected = cpu_convolution.convolve(images, weight, bias), functional.conv3d(*exact)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-4)
    assert output.is_contiguous(memory_format=torch.channels_last_3d)
    upstream = noise(*output.shape, seed=3).contiguous(memory_format=layout)
    gradients = torch.autograd.grad(output, (images, weight, bias), upstream)
    for gradient, reference in zip(gradients, torch.autograd.grad(expected, exact, upstream.double()), strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize(
    ("maps", "taps", "size", "numbers", "voxels"),
    [
        *[(4, 3, 23, 16, 4), (5, 3, 21, 16, 3), (6, 3, 19, 16, 2), (5, 1, 19, 16, 1), (16, 3, 19, 16, 1)],
        *[(4, 3, 1, 16, 1), (4, 3, 22, 8, 2), (8, 3, 22, 8, 1), (3, 3, 2, 8, 2)],
    ],
)
def test_as_many_voxels_as_fill_a_register(maps: int, taps: int, size: int, numbers: int, voxels: int) -> None:
    assert cpu_convolution._voxels_at_once(maps, taps, size, numbers) == voxels


def no_gradient_of_images(*_: Tensor) -> Tensor:
    raise AssertionError("the gradient for the images was computed")


def test_only_what_needs_a_gradient_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    images, weight = noise(1, 2, 3, 3, 9), noise(4, 2, 3, 3, 3, seed=1).requires_grad_()
    monkeypatch.setattr(cpu_convolution, "_gradient_of_images", no_gradient_of_images)
    cpu_convolution.convolve(images, weight).sum().backward()
    assert weight.grad is not None
    with pytest.raises(AssertionError, match="was computed"):
        cpu_convolution.convolve(images.requires_grad_(), weight).sum().backward()


@pytest.mark.parametrize("padding", ["valid", "mirror", "zero"])
def test_first_layer_learns_its_bias_without_a_gradient_for_the_image(padding, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = small_architecture()
    pathway = replace(architecture.normal, paddings=(padding,) * 3, dropout_rates=(0.0,) * 3)
    block = Block(architecture, pathway, 1, 2, sees_image=True)
    with torch.no_grad():
        block.normalization.bias.copy_(torch.tensor([0.5, -2.0]))
        block.convolution.weight.copy_(noise(4, 2, 3, 3, 3, seed=1))
    exact = copy.deepcopy(block).double()
    images = noise(2, 2, 5, 6, 7, seed=2)
    if padding != "zero":
        monkeypatch.setattr(cpu_convolution, "_gradient_of_images", no_gradient_of_images)
    output, expected = block(images), exact.convolution(images.double() + exact.normalization.bias.view(1, 2, 1, 1, 1))
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-4)
    upstream = noise(*output.shape, seed=3)
    output.backward(upstream)
    expected.backward(upstream.double())
    for own, reference in zip(block.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(own.grad.double(), reference.grad, rtol=1e-5, atol=1e-3)


def test_a_bias_is_not_added_after_padding_with_zeros() -> None:
    with pytest.raises(ValueError, match="padding with zeros"):
        Convolution(2, 3, (3, 3, 3), "zero").with_bias(noise(1, 2, 3, 3, 3), torch.ones(2))


@pytest.mark.parametrize("size", [(4, 13, 4), (11, 2, 6), (12, 7, 4)])
def test_a_single_channel_is_read_whatever_its_strides(size) -> None:
    """A stride of 1 for an axis of size 1 lets oneDNN read beyond the image."""
    single, weight = noise(2, 1, *size), noise(7, 1, 1, 2, 3, seed=1)
    images = torch.empty_like(single, memory_format=torch.channels_last_3d).copy_(single)
    assert images.stride(1) == 1
    found = cpu_convolution.convolve(images, weight).double()
    torch.testing.assert_close(found, functional.conv3d(single.double(), weight.double()), rtol=1e-5, atol=1e-4)
    images, weight = noise(2, 7, *size), noise(1, 7, 1, 2, 3, seed=1)
    exact = images.double().requires_grad_()
    expected = functional.conv3d(exact, weight.double())
    upstream = torch.empty_like(expected, dtype=torch.float32, memory_format=torch.channels_last_3d).fill_(0.5)
    output = cpu_convolution.convolve(images.requires_grad_(), weight)
    (gradient,) = torch.autograd.grad(output, images, upstream)
    (reference,) = torch.autograd.grad(expected, exact, upstream.double())
    torch.testing.assert_close(gradient.double(), reference, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["double", "bf16", "autocast"])
def test_other_precisions_are_left_to_torch(kind: str) -> None:
    images, weight = noise(1, 2, 3, 3, 3), noise(2, 2, 1, 1, 1)
    if kind == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not cpu_convolution.is_possible(images, weight)
        return
    dtype = {"double": torch.float64, "bf16": torch.bfloat16}[kind]
    assert not cpu_convolution.is_possible(images.to(dtype), weight.to(dtype))
