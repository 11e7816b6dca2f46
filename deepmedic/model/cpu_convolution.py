"""Convolutions on a CPU that compute several voxels at once, for layers with few feature maps.

oneDNN computes as many feature maps of a voxel at once as a register has numbers: 16 with AVX-512, 8 with AVX2. With 5
feature maps most of a register is empty. Here neighbours along z become feature maps of one voxel: a kernel of 3 taps
is written several times into a longer one, shifted by one voxel each, and applied with a stride. Of two voxels at once:

    first voxel     w0 w1 w2  0
    second voxel     0 w0 w1 w2

Images are stored channels-last, so that the result, seen as twice as many voxels, is what a plain convolution gives, up
to the order of sums. The multiplications by zero are the price: 4 taps where 3 do; with 10 of 16 numbers of a register
in use, it still takes three quarters of the time.

Shapes: B batch, C input channels, O output channels; images are [B, C, x, y, z], weights [O, C, x, y, z].
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from deepmedic.config.options import Size3
from deepmedic.model import winograd

_NUMBERS_PER_REGISTER = {"AVX512": 16, "AVX2": 8}
"""float32, by what torch found the CPU to be capable of; elsewhere, nothing is known about oneDNN's kernels."""
_MOST_VOXELS = 8
_WORTH_IT = 0.8
"""Share of the arithmetic that several voxels at once may take, beside that of one by one."""
_ONE: Size3 = (1, 1, 1)
_NO_PADDING: Size3 = (0, 0, 0)


def is_possible(images: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` takes these."""
    return (
        not torch.compiler.is_compiling()
        and images.device.type == "cpu"
        and images.dtype == weight.dtype == torch.float32
        and torch.backends.cpu.get_cpu_capability() in _NUMBERS_PER_REGISTER
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the cross-correlation without padding plus `bias`, [O]; stored channels-last.

    Layers with many feature maps are left to `winograd`.
    """
    result: Tensor = _Convolve.apply(images, weight, bias)
    return result


class _Convolve(torch.autograd.Function):
    """`functional.conv3d` with both passes in the way that is the fastest."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(images, weight)
        ctx.by_winograd = bias is None and winograd.pays(images, weight)
        return winograd.convolve(images, weight) if ctx.by_winograd else _convolve(images, weight, bias, _NO_PADDING)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        needs_images, needs_weight, needs_bias = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        if ctx.by_winograd:
            return *winograd.gradients(gradient, images, weight, (needs_images, needs_weight)), None
        of_images = _gradient_of_images(gradient, images, weight) if needs_images else None
        of_weight = _gradient_of_weight(gradient, images, weight) if needs_weight else None
        return of_images, of_weight, _lines(gradient).sum(dim=0) if needs_bias else None


def _convolve(images: Tensor, weight: Tensor, bias: Tensor | None, padding: Size3) -> Tensor:
    out_channels, _, _, _, taps = weight.shape
    size = images.shape[4] + 2 * padding[2] - taps + 1
    voxels = _voxels_at_once(out_channels, taps, size, _numbers_per_register())
    if voxels == 1:
        return by_onednn(images, weight, bias, padding)
    # Where the voxels do not divide the size, one or more before the first are computed too.
    surplus = -size % voxels
    wide = _shifted_kernels(weight, voxels)
    bias = None if bias is None else bias.repeat(voxels)
    x, y, z = padding
    result = by_onednn(images, wide, bias, (x, y, z + surplus), (1, 1, voxels))
    batch, _, width, height, _ = result.shape
    lines = result.permute(0, 2, 3, 4, 1).reshape(batch, width, height, size + surplus, out_channels)
    return lines[:, :, :, surplus:].contiguous().permute(0, 4, 1, 2, 3)


def _gradient_of_images(gradient: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    channels, taps = weight.shape[1], weight.shape[4]
    kernel = weight.shape[2:]
    if kernel != _ONE and _voxels_at_once(channels, taps, images.shape[4], _numbers_per_register()) == 1:
        return _onednn_backward(gradient, images, weight, (_NO_PADDING, _ONE), [True, False, False])[0]
    x, y, z = (size - 1 for size in kernel)
    turned = weight.flip(2, 3, 4).transpose(0, 1).clone(memory_format=torch.contiguous_format)
    return _convolve(gradient, turned, None, (x, y, z))


def _gradient_of_weight(gradient: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    if weight.shape[2:] == _ONE:
        return (_lines(gradient).t() @ _lines(images)).view(weight.shape)
    out_channels, taps = weight.shape[0], weight.shape[4]
    batch, _, width, height, size = gradient.shape
    voxels = _voxels_at_once(out_channels, taps, size, _numbers_per_register())
    if voxels == 1:
        return _onednn_backward(gradient, images, weight, (_NO_PADDING, _ONE), [False, True, False])[1]
    surplus = -size % voxels
    lines = gradient.permute(0, 2, 3, 4, 1)
    if surplus:
        lines = functional.pad(lines, (0, 0, surplus, 0))
    folded = lines.reshape(batch, width, height, -1, voxels * out_channels).permute(0, 4, 1, 2, 3)
    wide = weight.new_empty(voxels * out_channels, *weight.shape[1:4], taps + voxels - 1)  # its shape matters only
    of_wide = _onednn_backward(folded, images, wide, ((0, 0, surplus), (1, 1, voxels)), [False, True, False])[1]
    return _own_taps(of_wide.contiguous().view(voxels, out_channels, *wide.shape[1:]), taps).sum(dim=0)


def _shifted_kernels(weight: Tensor, voxels: int) -> Tensor:
    """Return the kernels of `voxels` neighbours along z, [voxels * O, C, x, y, taps + voxels - 1]."""
    out_channels, *others, taps = weight.shape
    wide = weight.new_zeros(voxels, out_channels, *others, taps + voxels - 1)
    _own_taps(wide, taps).copy_(weight)
    return wide.flatten(0, 1)


def _own_taps(wide: Tensor, taps: int) -> Tensor:
    """Return those taps of [voxel, O, C, x, y, tap] that are not zero: a view, [voxel, O, C, x, y, `taps`]."""
    of_voxel, *others, of_tap = wide.stride()
    return wide.as_strided((*wide.shape[:-1], taps), (of_voxel + of_tap, *others, of_tap))


def _lines(images: Tensor) -> Tensor:
    """Return images stored channels-last as [voxel, C], a view."""
    return images.permute(0, 2, 3, 4, 1).reshape(-1, images.shape[1])


def by_onednn(
    images: Tensor, weight: Tensor, bias: Tensor | None, padding: Size3 = _NO_PADDING, stride: Size3 = _ONE
) -> Tensor:
    """`functional.conv3d` by oneDNN, whatever the size; without a gradient, of float32 and bfloat16."""
    result: Tensor = torch.ops.aten.mkldnn_convolution(_plainly_strided(images), weight, bias, padding, stride, _ONE, 1)
    return result


def _onednn_backward(
    gradient: Tensor, images: Tensor, weight: Tensor, padding_and_stride: tuple[Size3, Size3], wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    padding, stride = padding_and_stride
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        *(_plainly_strided(tensor) for tensor in (gradient, images)),
        *(weight, None, stride, padding, _ONE, False, _NO_PADDING, 1, wanted),
    )
    return gradients


def _plainly_strided(images: Tensor) -> Tensor:
    """Give images of a single channel the strides of contiguous ones: of others, oneDNN reads what is not theirs."""
    return images[:, 0].unsqueeze(1) if images.shape[1] == 1 else images


def _numbers_per_register() -> int:
    return _NUMBERS_PER_REGISTER[torch.backends.cpu.get_cpu_capability()]


@lru_cache(maxsize=256)
def _voxels_at_once(out_channels: int, taps: int, size: int, numbers: int) -> int:
    """Return how many of the `size` voxels along z are best computed at once, with `numbers` per register."""

    def arithmetic(voxels: int) -> int:
        registers = -(-voxels * out_channels // numbers)
        return registers * (taps + voxels - 1) * -(-size // voxels)

    best = min(range(1, min(_MOST_VOXELS, size) + 1), key=arithmetic)
    return best if arithmetic(best) <= _WORTH_IT * arithmetic(1) else 1
