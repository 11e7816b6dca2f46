"""Batch normalisation with statistics of the last training batches.

Shapes: B batch, C channels, N rolling window; images are [B, C, x, y, z].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from deepmedic.model import compiled_rows, rows

_ALL_BUT_CHANNELS = (0, 2, 3, 4)
ALL_CHANNELS = slice(None)


def values_of(values: Tensor, channels: slice) -> Tensor:
    """Return the values of some channels; of all of them without the copies that the gradient of a part costs."""
    return values if channels == ALL_CHANNELS else values[channels]


class Statistics(NamedTuple):
    """What images are normalised with, [C] each."""

    mean: Tensor
    variance: Tensor
    """Biased; 0 for channels that are constant."""
    of_batch: bool
    """They are those of the very images, and depend on them."""


class RollingBatchNorm(nn.Module):
    """Batch normalisation whose statistics for inference are means over the last N training batches.

    Ioffe and Szegedy, "Batch Normalization" (2015), with a window of batches in place of an exponential average.
    Statistics are computed and kept in float32 whatever the type of the images. Rows of the window start at mean 0 and
    variance 1; each training batch overwrites the next row with its mean and its biased variance.

    A channel that is constant over the batch has nothing to scale: it becomes `bn_beta` and passes no gradient on.
    """

    bn_mean_rolling: Tensor
    bn_var_rolling: Tensor
    next_row: Tensor

    def __init__(self, channels: int, window: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.stored_statistics_only = False
        """Normalise with the stored statistics in training too, and leave them as they are (frozen layers)."""
        self.bn_gamma = nn.Parameter(torch.ones(channels))
        self.bn_beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("bn_mean_rolling", torch.zeros(window, channels))
        self.register_buffer("bn_var_rolling", torch.ones(window, channels))
        self.register_buffer("next_row", torch.zeros(1, dtype=torch.int64))

    @property
    def bn_mean(self) -> Tensor:
        """Mean that inference subtracts, [C]."""
        return self.bn_mean_rolling.mean(dim=0)

    @property
    def bn_var(self) -> Tensor:
        """Variance that inference divides by, [C]."""
        return self.bn_var_rolling.mean(dim=0)

    @property
    def uses_stored_statistics(self) -> bool:
        """Whether the next images are normalised with the stored statistics, not with their own."""
        return self.stored_statistics_only or not self.training

    def forward(self, images: Tensor) -> Tensor:
        return self.normalize(images, self.statistics(images))

    def statistics(self, images: Tensor) -> Statistics:
        """Return what to normalise these images with; where that is their own, it is remembered."""
        if self.uses_stored_statistics:
            return self.stored_statistics()
        mean, variance = self.batch_statistics(images)
        self.remember(mean, variance)
        return Statistics(mean, variance, of_batch=True)

    def stored_statistics(self, channels: slice = ALL_CHANNELS) -> Statistics:
        """Return what inference normalises with, of some channels."""
        return Statistics(self.bn_mean[channels], self.bn_var[channels], of_batch=False)

    def normalize(self, images: Tensor, statistics: Statistics, channels: slice = ALL_CHANNELS) -> Tensor:
        """Normalise images, which hold `channels` of the layer."""
        gamma, beta = values_of(self.bn_gamma, channels), values_of(self.bn_beta, channels)
        mean, variance, of_batch = statistics
        apply = _NormalizeByBatch.apply if of_batch else _normalize
        normalized: Tensor = apply(images, gamma, beta, mean, variance, self.epsilon)
        return normalized

    @torch.no_grad()
    def batch_statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of each channel, [C] each; variance 0 for channels that are constant."""
        return constant_as_zero(*_mean_and_variance(images, self.bn_mean_rolling.dtype))

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Overwrite the next row of the window."""
        # The row number stays on the device: reading it here would make every training step wait for the device.
        self.bn_mean_rolling.index_copy_(0, self.next_row, mean[None])
        self.bn_var_rolling.index_copy_(0, self.next_row, variance[None])
        self.next_row.add_(1).remainder_(len(self.bn_mean_rolling))


def constant_as_zero(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the statistics of channels with variance 0 for those that are constant but for rounding.

    A deviation below one unit in the last place of the mean counts as constant: it is the rounding error of a
    convolution over constant input, or of a mean that float32 cannot represent, and carries no information.
    """
    varies = variance.sqrt() > (mean * torch.finfo(mean.dtype).eps).abs_()
    return mean, variance * varies


def _mean_and_variance(images: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, [C] each, of that type."""
    if dtype == torch.float32 and compiled_rows.takes(images):
        return compiled_rows.mean_and_variance(images)
    if images.device.type == "cpu" and not torch.compiler.is_compiling():  # which cannot take the kernel used there
        return rows.mean_and_variance(images, dtype)
    variance, mean = torch.var_mean(images.to(dtype), dim=_ALL_BUT_CHANNELS, correction=0)
    return mean, variance


def _normalize(images: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    # Variance 0 marks a constant channel; what differs from its mean would be blown up by 1 / sqrt(epsilon).
    gamma = gamma * (variance > 0)
    if images.device.type == "cpu" and not gamma.requires_grad:
        scale = gamma * (variance + epsilon).rsqrt()
        return rows.affine(images, scale, beta - mean * scale)
    return functional.batch_norm(images, mean, variance, gamma, beta, training=False, eps=epsilon)


class _NormalizeByBatch(torch.autograd.Function):
    """Normalise images by their own statistics, given as `mean` and biased `variance`.

    The gradient takes into account that both depend on the images. Composing the same from differentiable operations
    reads and writes the images about five times as often.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
    ) -> Tensor:
        inverse_std = (variance + epsilon).rsqrt_().mul_(variance > 0)  # 0: no gradient for constants
        ctx.save_for_backward(images, gamma, mean, inverse_std)
        ctx.epsilon = epsilon
        return _normalize(images, gamma, beta, mean, variance, epsilon)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, gamma, mean, inverse_std = ctx.saved_tensors
        if images.device.type == "cpu" and images.dtype == gradient.dtype:
            return *_gradients_on_cpu(gradient, images, gamma, mean, inverse_std), None, None, None
        needed = list(ctx.needs_input_grad[:3])
        gradients = torch.ops.aten.native_batch_norm_backward(
            gradient, images, gamma, None, None, mean, inverse_std, True, ctx.epsilon, needed
        )
        return *gradients, None, None, None


def _gradients_on_cpu(
    gradient: Tensor, images: Tensor, gamma: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for images, gamma and beta."""
    voxels = images.numel() // images.shape[1]
    of_beta, products = rows.sums_with_deviations(gradient, images, mean)
    of_gamma = products * inverse_std
    scale = gamma * inverse_std
    # scale * (gradient - mean of gradient - deviation / std * mean of (gradient * deviation / std))
    of_deviations = -scale * inverse_std * of_gamma / voxels
    constant = -scale * of_beta / voxels - of_deviations * mean
    return rows.weighted_sum(images, of_deviations, gradient, scale, constant), of_gamma, of_beta
