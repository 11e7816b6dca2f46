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
    normalization, _, dropout, _ = layers
    if isinstance(normalization, Bias):
        values = layers.activation(normalization(images))
        return dropout(values) if dropout.draws else values
    return normalized_and_activated(layers, images, normalization.statistics(images), with_dropout=dropout.draws)


def normalized_and_activated(
    layers: BlockLayers,
    images: Tensor,
    statistics: Statistics,
    channels: slice = ALL_CHANNELS,
    *,
    with_dropout: bool = False,
) -> Tensor:
    """Return images, which hold `channels` of layers with batch norm, up to the activation, or up to dropout."""
    normalization, activation, dropout, _ = layers
    if isinstance(normalization, Bias):
        raise TypeError("a bias has no statistics to normalise with")
    slope = _slope(activation, len(statistics.mean), channels)
    if slope is None or not compiled_rows.takes(images) or normalization.bn_gamma.dtype != torch.float32:
        values = activate(activation, normalization.normalize(images, statistics, channels), channels)
        return dropout(values) if with_dropout else values
    gamma, beta = (values_of(values, channels) for values in (normalization.bn_gamma, normalization.bn_beta))
    mask = dropout.mask(images) if with_dropout else None
    own = compiled_rows.Normalization(gamma, beta, *statistics[:2], normalization.epsilon, statistics.of_batch)
    return compiled_rows.normalize_and_rectify(images, own, slope, mask)


def activate(activation: nn.Module, images: Tensor, channels: slice = ALL_CHANNELS) -> Tensor:
    """Apply an activation to images, which hold `channels` of its layer."""
    activated: Tensor = activation(images, channels) if isinstance(activation, PReLU) else activation(images)
    return activated


def _slope(activation: nn.Module, count: int, channels: slice) -> Tensor | None:
    """Return what an activation multiplies negative numbers by, [C]; None where it is no such thing."""
    match activation:
        case PReLU():
            return values_of(activation.prelu_alpha, channels)
        case nn.ReLU():
            return torch.zeros(count, dtype=torch.float32)
        case nn.Identity():
            return torch.ones(count, dtype=torch.float32)
    return None
