"""Normalisation, activation and dropout of images on a CPU, in passes over memory that numba compiles.

For where the optional package numba is installed; `takes` says so. Otherwise `rows` does the same in many more passes.

Shapes: B batch, C channels; images are [B, C, x, y, z].
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepmedic.model import compilation

_LONGEST_ROW = 480
"""Positions whose parameters and sums stay in the fastest cache of a core, beside the numbers they are applied to."""
_TYPES = (torch.float32, torch.bfloat16)


class Normalization(NamedTuple):
    """What a number x of a channel becomes: (x - mean) / std * gamma + beta; [C] each, float32."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor
    """0 for a channel that is constant, which becomes beta."""
    epsilon: float
    of_batch: bool
    """Mean and variance are those of the very images: the gradient takes into account that they depend on them."""


def takes(images: Tensor) -> bool:
    """Whether the functions of this module take images like these, here and now."""
    return images.dtype in _TYPES and images.numel() > 0 and compilation.is_possible_for(images)


def mean_and_variance(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, float32 [C] each; of a constant exactly that and 0."""
    numbers, channels = _in_memory(images), images.shape[1]
    # Sums of numbers that are all the same are not exact, unless these are 0.
    reference = images[0, :, 0, 0, 0].float()
    references = _along_a_row(reference)
    counts = _counts_of_blocks(len(numbers), len(references))
    means, squares = numbers.new_empty(2, *counts.shape, dtype=torch.float32).unbind()
    _kernels().statistics(numbers, references, means, squares)
    voxels = len(numbers) // channels
    mean = (means * counts).sum(dim=0).view(-1, channels).sum(dim=0) / voxels
    deviations = means - _along_a_row(mean)
    variance = (squares + deviations.square_().mul_(counts)).sum(dim=0).view(-1, channels).sum(dim=0) / voxels
    return reference + mean.float(), variance.float()


def normalize_and_rectify(
    images: Tensor, normalization: Normalization, slope: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return normalised images, what is not positive in them multiplied by `slope`, times `mask`; with a gradient.

    All in float32, rounded once to the type of the images.

    Args:
        images: for which `takes` is true.
        normalization: of them.
        slope: [C], float32.
        mask: uint8, one number for each of the images, in the order of images stored channels-last.
    """
    gamma, beta, *fixed = normalization
    rectified: Tensor = _NormalizeAndRectify.apply(images, gamma, beta, slope, mask, *fixed)
    return rectified


class _NormalizeAndRectify(torch.autograd.Function):
    """Keeps the images alone: what the gradients need beside them is computed once more."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, gamma: Tensor, beta: Tensor, slope: Tensor, mask: Tensor | None, *fixed: Any
    ) -> Tensor:
        mean, variance, epsilon, ctx.of_batch = fixed
        inverse_std = (variance + epsilon).rsqrt_().mul_(variance > 0)  # 0: constants have nothing to scale
        ctx.save_for_backward(images, gamma, beta, slope, mask, mean, inverse_std)
        numbers = _in_memory(images)
        result = torch.empty_like(numbers)
        _kernels().rectify(numbers, _along_a_row(mean, gamma * inverse_std, beta, slope), mask, result)
        return _as_images(result, images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, gamma, beta, slope, mask, mean, inverse_std = ctx.saved_tensors
        numbers, upstream = _in_memory(images), _in_memory(gradient)
        scale = gamma * inverse_std
        of_images, of_gamma, of_beta, of_slope = None, None, None, None
        of_deviation = constant = torch.zeros_like(gamma)
        if ctx.of_batch or any(ctx.needs_input_grad[1:4]):
            parameters = _along_a_row(mean, scale, beta, slope)
            of_beta, of_deviations, of_slope = _sums(numbers, upstream, parameters, mask, len(gamma))
            of_gamma = of_deviations * inverse_std
        if of_beta is not None and ctx.of_batch:
            # scale * (d - mean of d - deviation / std * mean of (d * deviation / std)), d the gradient for the sum
            voxels = len(numbers) // len(gamma)
            of_deviation, constant = -scale * inverse_std * of_gamma / voxels, -scale * of_beta / voxels
        if ctx.needs_input_grad[0]:
            result = torch.empty_like(numbers)
            parameters = _along_a_row(mean, scale, beta, slope, of_deviation, constant)
            _kernels().gradients(numbers, upstream, parameters, mask, result)
            of_images = _as_images(result, images)
        return of_images, of_gamma, of_beta, of_slope, *[None] * 5


def _sums(
    numbers: Tensor, upstream: Tensor, parameters: Tensor, mask: Tensor | None, channels: int
) -> tuple[Tensor, ...]:
    """Return the three sums over all voxels that gradients for parameters are made of, [C] each."""
    length = parameters.shape[1]
    sums = parameters.new_empty(_kernels().blocks(len(numbers), length), 3, length)
    _kernels().sums(numbers, upstream, parameters, mask, sums)
    return sums.sum(dim=0).view(3, -1, channels).sum(dim=1).unbind()


def _in_memory(images: Tensor) -> Tensor:
    """Return the numbers of images in the order of channels-last storage, [number]; a view of images stored so."""
    return images.detach().permute(0, 2, 3, 4, 1).reshape(-1).contiguous()  # of one number repeated that is a view too


def _as_images(numbers: Tensor, like: Tensor) -> Tensor:
    batch, channels, *size = like.shape
    return numbers.view(batch, *size, channels).permute(0, 4, 1, 2, 3)


def _along_a_row(*parameters: Tensor) -> Tensor:
    """Return parameters of each channel for every position of a row: [position] of one, else [parameter, position]."""
    channels = len(parameters[0])
    together = torch.stack(parameters) if len(parameters) > 1 else parameters[0]
    return together.repeat(*[1] * (together.ndim - 1), max(1, _LONGEST_ROW // channels))


def _counts_of_blocks(numbers: int, length: int) -> Tensor:
    """Return how many numbers each block has at each position, float64 [block, position]; the last row may be short."""
    rows_per_block = _kernels().ROWS_PER_BLOCK
    rows = (numbers - torch.arange(length) + length - 1) // length
    first = torch.arange(_kernels().blocks(numbers, length))[:, None] * rows_per_block
    return (rows - first).clamp_(0, rows_per_block).double()


@cache
def _kernels() -> ModuleType:
    """The compiled loops, which can be imported only where numba is installed."""
    from deepmedic.model import row_kernels

    return row_kernels
