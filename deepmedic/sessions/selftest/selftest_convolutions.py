"""Checks of the self-test on 3D convolutions, whose library is the part of a new machine that most often is at fault.

Known defects that these shapes are chosen for: kernels (3, 1, 1) with multiples of 8 channels on V100 in half precision
(pytorch issue 40275), gradients on H100 (150700), and bf16 feature maps above 2 GiB with cuDNN 9.8 to 9.14 (163539).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch.nn import functional

from deepmedic.config.options import Size3
from deepmedic.sessions.selftest.selftest_reference import Check, Comparison, NotTestedError, relative_difference

_FLOAT32, _BF16 = 1e-4, 1e-2
_ROOM_FOR_LARGE = 12 * 2**30
_LARGE: Size3 = (124, 1282, 722)


@dataclass(frozen=True)
class _Shape:
    """One convolution, without padding and bias."""

    channels: tuple[int, int]
    """In and out."""
    kernel: Size3
    size: Size3
    batch: int = 2


_SHAPES = (
    _Shape((2, 30), (3, 3, 3), (17, 17, 17), 4),
    _Shape((30, 40), (3, 3, 3), (13, 12, 11), 3),
    _Shape((100, 150), (1, 1, 1), (9, 9, 9)),
    _Shape((8, 16), (3, 1, 1), (9, 7, 13)),
    _Shape((4, 12), (5, 5, 5), (14, 9, 12)),
    _Shape((16, 5), (1, 3, 3), (9, 20, 20), 1),
)


@dataclass(frozen=True)
class _Reference:
    """Inputs and results of a convolution and its backward pass, float64 on the CPU.

    The inputs are numbers that bf16 can hold, so that all precisions compute the same convolution.
    """

    images: torch.Tensor
    weight: torch.Tensor
    upstream: torch.Tensor
    output: torch.Tensor
    image_gradient: torch.Tensor
    weight_gradient: torch.Tensor


def convolutions(device: torch.device, dtype: torch.dtype, layout: torch.memory_format, allowed: float) -> Comparison:
    """Output and both gradients of several convolutions, relative to the largest value of each."""
    if device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) < (8, 0):
        raise NotTestedError("this GPU has no bf16 arithmetic")
    errors = []
    for shape in _SHAPES:
        reference = _reference(shape)
        images, weight = (
            tensor.to(device, dtype).contiguous(memory_format=layout).requires_grad_()
            for tensor in (reference.images, reference.weight)
        )
        output = functional.conv3d(images, weight)
        output.backward(reference.upstream.to(device, dtype).contiguous(memory_format=layout))
        assert images.grad is not None
        assert weight.grad is not None
        errors += [
            relative_difference(output, reference.output),
            relative_difference(images.grad, reference.image_gradient),
            relative_difference(weight.grad, reference.weight_gradient),
        ]
    return Comparison("float64 on the CPU", max(errors), allowed)


def large_convolution(device: torch.device, size: Size3 = _LARGE) -> Comparison:
    """Corners of a convolution whose input and output take more than 2 GiB each in bf16."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise NotTestedError("this GPU has no bf16 arithmetic")
    if torch.cuda.mem_get_info(device)[0] < _ROOM_FOR_LARGE:
        raise NotTestedError(f"needs {_ROOM_FOR_LARGE / 2**30:.0f} GiB of free GPU memory")
    try:
        return _corners(device, size)
    except torch.OutOfMemoryError as problem:
        raise NotTestedError("the GPU's memory was not enough") from problem
    finally:
        torch.cuda.empty_cache()


def _corners(device: torch.device, size: Size3) -> Comparison:
    generator = torch.Generator(device).manual_seed(11)
    images = torch.randn(1, 16, *size, generator=generator, device=device, dtype=torch.bfloat16)
    weight = torch.randn(16, 16, 1, 3, 3, generator=generator, device=device, dtype=torch.bfloat16)
    with torch.inference_mode():
        output = functional.conv3d(images, weight)
        errors = []
        for x in range(0, size[0], max(1, size[0] // 4)):
            for end in (slice(0, 34), slice(-34, None)):
                part = functional.conv3d(images[:, :, x : x + 1, end, end].double().cpu(), weight.double().cpu())
                inner = slice(0, 32) if end.start == 0 else slice(-32, None)
                errors.append(relative_difference(output[:, :, x : x + 1, inner, inner], part))
    return Comparison("float64 on the CPU, corners", max(errors), _BF16)


@functools.cache
def _reference(shape: _Shape) -> _Reference:
    generator = torch.Generator().manual_seed(3)
    sizes = ((shape.batch, shape.channels[0], *shape.size), (shape.channels[1], shape.channels[0], *shape.kernel))
    images, weight = (_representable(size, generator).requires_grad_() for size in sizes)
    output = functional.conv3d(images, weight)
    upstream = _representable(tuple(output.shape), generator)
    output.backward(upstream)
    assert images.grad is not None
    assert weight.grad is not None
    return _Reference(images.detach(), weight.detach(), upstream, output.detach(), images.grad, weight.grad)


def _representable(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(size, generator=generator).bfloat16().double()


def _check(name: str, dtype: torch.dtype, layout: torch.memory_format, allowed: float) -> Check:
    return Check(f"conv3d, {name}", lambda device: convolutions(device, dtype, layout, allowed), all_threads=True)


CHECKS = (
    _check("float32", torch.float32, torch.contiguous_format, _FLOAT32),
    _check("float32, channels last", torch.float32, torch.channels_last_3d, _FLOAT32),
    _check("bf16", torch.bfloat16, torch.contiguous_format, _BF16),
    _check("bf16, channels last", torch.bfloat16, torch.channels_last_3d, _BF16),
    Check("conv3d, bf16 above 2 GiB", large_convolution, only_cuda=True),
)
