"""Canonical names of a network's tensors, their order, and which of them are trained.

A name is `<pathway>/<layer>/<role>`: pathway `normal`, `subsampled1`, ..., `fc`; layers from 1; roles `weight`
(`weight_x`, `weight_y`, `weight_z` for low rank), `bias`, `bn_gamma`, `bn_beta`, `bn_mean_rolling`, `bn_var_rolling`,
`prelu_alpha`; the bias before the softmax is `softmax/bias`. Layers are named `<pathway>/<layer>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from deepmedic import geometry
from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.options import Size3
from deepmedic.config.training import FreezeConfig
from deepmedic.errors import ConfigError, ModelError
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.normalization import RollingBatchNorm

_NOT_SAVED = "next_row"
"""Role of the buffer that `rolling_rows` reports instead."""


def named_tensors(net: DeepMedicNet) -> dict[str, Tensor]:
    """Return parameters and rolling statistics by canonical name, as the network's own tensors (not copies)."""
    named = dict(_named(net, trainable_only=False))
    return {name: tensor for name, tensor in named.items() if not name.endswith("/" + _NOT_SAVED)}


def derived_tensors(net: DeepMedicNet) -> dict[str, Tensor]:
    """Return by canonical name what inference normalises with: `bn_mean` and `bn_var`, [C] each."""
    derived = {}
    for layer, normalization in _batch_norms(net):
        derived[f"{layer}/bn_mean"] = normalization.bn_mean
        derived[f"{layer}/bn_var"] = normalization.bn_var
    return derived


@torch.no_grad()
def load_tensors(net: DeepMedicNet, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the network; names and shapes must be exactly those of `named_tensors`.

    Raises:
        ModelError: names are missing, unexpected or of another shape; then nothing is changed.
    """
    own = named_tensors(net)
    problems = [f"missing: {name} {_shape(own[name])}" for name in own if name not in tensors]
    problems += [f"unexpected: {name} {_shape(tensors[name])}" for name in tensors if name not in own]
    problems += [
        f"mismatched: {name} is {_shape(tensors[name])}, this network needs {_shape(own[name])}"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]
    if problems:
        raise ModelError(
            "the saved parameters do not fit this network:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nUse the architecture they were saved with, or transfer the layers that fit with -pretrained."
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def rolling_rows(net: DeepMedicNet) -> dict[str, int]:
    """Return for each layer with batch norm the row of its rolling statistics that the next batch overwrites."""
    layers = dict(_batch_norms(net))
    if not layers:
        return {}
    rows = torch.cat([normalization.next_row for normalization in layers.values()]).tolist()
    return dict(zip(layers, rows, strict=True))


@torch.no_grad()
def set_rolling_rows(net: DeepMedicNet, rows: Mapping[str, int]) -> None:
    """Set what `rolling_rows` returned.

    Raises:
        ModelError: layers differ from this network's, or a row is outside the window; then nothing is changed.
    """
    layers = dict(_batch_norms(net))
    if layers.keys() != rows.keys():
        raise ModelError(
            f"rolling rows do not fit this network: missing for {sorted(layers.keys() - rows.keys())}, "
            f"unexpected for {sorted(rows.keys() - layers.keys())}"
        )
    window = net.architecture.batch_norm_window
    for layer, row in rows.items():
        if not 0 <= row < window:
            raise ModelError(f"rolling row of layer {layer} is {row}; allowed are 0 to {window - 1}")
    for layer, row in rows.items():
        layers[layer].next_row.fill_(row)


def next_rows(net: DeepMedicNet) -> torch.Tensor | None:
    """Return what `rolling_rows` says as a tensor on the network's device, without waiting for it; None: no layers."""
    rows = [normalization.next_row for _, normalization in _batch_norms(net)]
    return torch.cat(rows) if rows else None


@torch.no_grad()
def put_next_rows(net: DeepMedicNet, rows: torch.Tensor | None) -> None:
    """Set what `next_rows` returned, so that the next batch overwrites what those since then stored."""
    for (_, normalization), row in zip(_batch_norms(net), () if rows is None else rows, strict=True):
        normalization.next_row.fill_(row)


def optimizer_order(net: DeepMedicNet) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters to train, with their names: by pathway and layer, the softmax bias last; no frozen ones."""
    named = _named(net, trainable_only=True)
    return [(name, tensor) for name, tensor in named if isinstance(tensor, nn.Parameter) and tensor.requires_grad]


def regularized(net: DeepMedicNet) -> list[nn.Parameter]:
    """Return the parameters that L1 and L2 costs cover: all convolution weights, frozen ones too."""
    return [weight for _, _, block in net.named_blocks() for weight in block.convolution.parameters()]


def trained_kernels(net: DeepMedicNet) -> dict[str, nn.Parameter]:
    """Return the convolution weights that are trained, by name: no biases, slopes or batch-norm parameters."""
    kernels = {id(weight) for weight in regularized(net)}
    return {name: parameter for name, parameter in optimizer_order(net) if id(parameter) in kernels}


def count_parameters(net: DeepMedicNet) -> int:
    """Return how many numbers training can adjust, frozen ones included."""
    return sum(parameter.numel() for parameter in net.parameters())


def freeze(net: DeepMedicNet, freezing: FreezeConfig) -> list[str]:
    """Freeze the layers named by a config, make all others trainable, and return the names of the frozen layers.

    Parameters of frozen layers do not require gradients. Their batch norm normalises with the stored statistics and
    does not move them, unless `freezing.batch_norm` is "moving". With the classification layer goes the softmax bias.

    Raises:
        ConfigError: a layer that its pathway does not have, or as many lists as there are not low-resolution pathways.
    """
    chosen = _frozen_layers(net.architecture, freezing)
    frozen = []
    for pathway, layer, block in net.named_blocks():
        is_frozen = layer in chosen[pathway.name]
        block.requires_grad_(not is_frozen)
        if isinstance(block.normalization, RollingBatchNorm):
            block.normalization.stored_statistics_only = is_frozen and freezing.batch_norm == "frozen"
        if is_frozen:
            frozen.append(f"{pathway.name}/{layer}")
    net.softmax.requires_grad_(net.architecture.fc.depth not in chosen["fc"])
    return frozen


@dataclass(frozen=True)
class LayerRow:
    """One line of the table that describes a network."""

    pathway: str
    layer: int
    kernel: Size3
    feature_maps: int
    receptive_field: Size3
    """Up to and including this layer, in voxels of the pathway's own input; that of "fc" goes on from "normal"."""
    parameters: int
    """The classification layer's include the softmax bias."""
    frozen: bool


def layer_table(described: Architecture | DeepMedicNet) -> list[LayerRow]:
    """Describe all layers of an architecture, or of a network with its frozen layers."""
    if isinstance(described, Architecture):
        with torch.device("meta"):
            described = DeepMedicNet(described)
    return [_layer_row(described, pathway, layer, block) for pathway, layer, block in described.named_blocks()]


def _layer_row(net: DeepMedicNet, pathway: Pathway, layer: int, block: nn.Module) -> LayerRow:
    architecture = net.architecture
    parameters = list(block.parameters())
    is_fc = pathway is architecture.fc
    if is_fc and layer == pathway.depth:
        parameters += net.softmax.parameters()
    before = architecture.normal.kernels if is_fc else ()
    return LayerRow(
        pathway=pathway.name,
        layer=layer,
        kernel=pathway.kernels[layer - 1],
        feature_maps=pathway.feature_maps[layer - 1],
        receptive_field=geometry.receptive_field((*before, *pathway.kernels[:layer])),
        parameters=sum(parameter.numel() for parameter in parameters),
        frozen=not any(parameter.requires_grad for parameter in parameters),
    )


def _named(net: DeepMedicNet, *, trainable_only: bool) -> Iterator[tuple[str, Tensor]]:
    # Layers name their tensors by role, so the last part of a module's name for a tensor is its role.
    for pathway, layer, block in net.named_blocks():
        buffers: Any = () if trainable_only else block.named_buffers()
        for name, tensor in chain(block.named_parameters(), buffers):
            yield f"{pathway.name}/{layer}/{name.rpartition('.')[2]}", tensor
    yield "softmax/bias", net.softmax.bias


def _batch_norms(net: DeepMedicNet) -> Iterator[tuple[str, RollingBatchNorm]]:
    for pathway, layer, block in net.named_blocks():
        if isinstance(block.normalization, RollingBatchNorm):
            yield f"{pathway.name}/{layer}", block.normalization


def _frozen_layers(architecture: Architecture, freezing: FreezeConfig) -> dict[str, tuple[int, ...]]:
    """Return the layers to freeze by name of pathway."""
    chosen = {
        "normal": _checked("layersToFreezeNormal", freezing.normal, architecture.normal),
        "fc": _checked("layersToFreezeFC", freezing.fc, architecture.fc),
    }
    if freezing.subsampled is None:  # as the normal pathway; layers that a shallower pathway lacks do not matter
        return chosen | {pathway.name: freezing.normal for pathway in architecture.subsampled}
    lists = _list_per_pathway(freezing.subsampled, len(architecture.subsampled))
    for pathway, layers in zip(architecture.subsampled, lists, strict=True):
        chosen[pathway.name] = _checked("layersToFreezeSubsampled", layers, pathway)
    return chosen


def _list_per_pathway(given: tuple[Any, ...], pathways: int) -> list[tuple[int, ...]]:
    is_one_list = not any(isinstance(item, tuple | list) for item in given)
    if is_one_list and (pathways or not given):
        return [given] * pathways
    if len(given) != pathways or is_one_list:
        raise ConfigError(
            f"layersToFreezeSubsampled = {_plain(given)}: this model has {pathways} low-resolution pathways; "
            "give one list of layers for all of them, or one list of layers for each"
        )
    return list(given)


def _checked(key: str, layers: tuple[int, ...], pathway: Pathway) -> tuple[int, ...]:
    outside = [layer for layer in layers if not 1 <= layer <= pathway.depth]
    if outside:
        raise ConfigError(
            f"{key} = {_plain(layers)}: pathway {pathway.name} has no layer {', '.join(map(str, outside))}; "
            f"allowed are 1 to {pathway.depth}"
        )
    return layers


def _plain(values: Sequence[Any]) -> list[Any]:
    return [_plain(value) if isinstance(value, tuple | list) else value for value in values]


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
