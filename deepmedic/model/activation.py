"""What a block does before its convolution: normalise, activate, drop out; on a CPU in one pass where that is possible.

Shapes: B batch, C channels; images are [B, C, x, y, z].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepmedic.model import compiled_rows
from deepmedic.model.layers import Bias, Convolution, Dropout, LowRankConvolution, PReLU
from deepmedic.model.normalization import ALL_CHANNELS, RollingBatchNorm, Statistics, values_of


class BlockLayers(NamedTuple):
    """The layers of a block, in the order they are applied."""

    normalization: Bias | RollingBatchNorm
    activation: nn.Module
    dropout: Dropout
    convolution: Convolution | LowRankConvolution


def activated(layers: BlockLayers, images: Tensor) -> Tensor:
    """Return what the convolution is applied to; where dropout draws nothing, its scale is left to the convolution."""
    normalization, activation, dropout, _ = layers
    watched = any(_is_watched(layer) for layer in (normalization, activation, dropout))
    if not watched and isinstance(normalization, RollingBatchNorm) and _in_one_pass(normalization, activation, images):
        mask = dropout.mask(images) if dropout.draws else None
        return _normalized_and_rectified(layers, images, normalization.statistics(images), mask=mask)
    values: Tensor = activation(normalization(images))
    return dropout(values) if dropout.draws else values


def normalized_and_activated(
    layers: BlockLayers, images: Tensor, statistics: Statistics, channels: slice = ALL_CHANNELS
) -> Tensor:
    """Return images, which hold `channels` of layers with batch norm, up to the activation."""
    normalization, activation, *_ = layers
    if isinstance(normalization, Bias):
        raise TypeError("a bias has no statistics to normalise with")
    if _in_one_pass(normalization, activation, images):
        return _normalized_and_rectified(layers, images, statistics, channels)
    return activate(activation, normalization.normalize(images, statistics, channels), channels)


def _is_watched(layer: nn.Module) -> bool:
    """Whether somebody asked to be called with what a layer is given or gives, or with gradients."""
    asked = layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks
    return any(len(hooks) > 0 for hooks in asked)


def _in_one_pass(normalization: RollingBatchNorm, activation: nn.Module, images: Tensor) -> bool:
    rectifies = isinstance(activation, PReLU | nn.ReLU | nn.Identity)
    return rectifies and normalization.bn_gamma.dtype == torch.float32 and compiled_rows.takes(images)


def _normalized_and_rectified(
    layers: BlockLayers,
    images: Tensor,
    statistics: Statistics,
    channels: slice = ALL_CHANNELS,
    mask: Tensor | None = None,
) -> Tensor:
    normalization, activation, *_ = layers
    assert isinstance(normalization, RollingBatchNorm)
    gamma, beta = (values_of(values, channels) for values in (normalization.bn_gamma, normalization.bn_beta))
    own = compiled_rows.Normalization(gamma, beta, *statistics[:2], normalization.epsilon, statistics.of_batch)
    return compiled_rows.normalize_and_rectify(images, own, _slope(activation, len(gamma), channels), mask)


def activate(activation: nn.Module, images: Tensor, channels: slice = ALL_CHANNELS) -> Tensor:
    """Apply an activation to images, which hold `channels` of its layer."""
    activated: Tensor = activation(images, channels) if isinstance(activation, PReLU) else activation(images)
    return activated


def _slope(activation: nn.Module, count: int, channels: slice) -> Tensor:
    """Return what a rectifier multiplies negative numbers by, float32 [C]."""
    match activation:
        case PReLU():
            return values_of(activation.prelu_alpha, channels)
        case nn.ReLU():
            return torch.zeros(count, dtype=torch.float32)
        case _:
            return torch.ones(count, dtype=torch.float32)
