"""The tensors of each layer of a network, by exact name, and networks with those of some layers replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from deepmedic.config.architecture import Architecture, layer_names
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet

SOFTMAX = "softmax"
STATISTICS = ("bn_mean_rolling", "bn_var_rolling")
"""Roles of the tensors that batch norm gathers, and training does not learn."""


def layer_of(architecture: Architecture, name: str) -> str:
    """The layer that a tensor belongs to, by its canonical name; the softmax bias belongs to the last layer.

    >>> layer_of(architecture, "normal/1/weight")  # and never to normal/10
    'normal/1'
    """
    layer = name.rpartition("/")[0]
    return f"{architecture.fc.name}/{architecture.fc.depth}" if layer == SOFTMAX else layer


def layers_of(architecture: Architecture) -> tuple[str, ...]:
    """Names of all layers in the order normal, subsampled, FC."""
    return tuple(f"{pathway.name}/{layer}" for pathway, layer in layer_names(architecture))


def tensors_by_layer(architecture: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Sort parameters and rolling statistics, by canonical name, into the layers of a network, in its order."""
    sorted_in: dict[str, dict[str, Tensor]] = {layer: {} for layer in layers_of(architecture)}
    for name, tensor in tensors.items():
        sorted_in[layer_of(architecture, name)][name] = tensor
    return sorted_in


@contextmanager
@torch.no_grad()
def replaced(network: DeepMedicNet, layers: Sequence[str], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Put `values` in the place of the tensors of some layers inside the block; then all is as before, bit by bit.

    Args:
        network: on any device.
        layers: names as of `layers_of`.
        values: by canonical name; tensors of the layers that it lacks stay as they are.
    """
    wanted = set(layers)
    own = {
        name: tensor
        for name, tensor in parameters.named_tensors(network).items()
        if name in values and layer_of(network.architecture, name) in wanted
    }
    kept = {name: tensor.detach().clone() for name, tensor in own.items()}
    try:
        for name, tensor in own.items():
            tensor.copy_(values[name])
        yield
    finally:
        for name, tensor in own.items():
            tensor.copy_(kept[name])
