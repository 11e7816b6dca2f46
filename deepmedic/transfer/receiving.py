"""Copying what corresponds from the tensors of a source model into those of a new model.

Parameters are dicts of tensors by canonical name. Whatever has no counterpart keeps the new model's own value.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deepmedic.config.architecture import Pathway
from deepmedic.transfer.matching import (
    NEW,
    LayerMatch,
    Origins,
    low_rank_groups,
    pairs_of,
)
from deepmedic.transfer.received import ROLLING, TensorTransfer, runs_of
from deepmedic.transfer.stem import Stem

SOFTMAX_BIAS = "softmax/bias"


def tensor_names(parameters: Mapping[str, Tensor], pathway: Pathway, layer: int) -> list[str]:
    """Return the names of a layer's tensors; the softmax bias goes with the classification layer."""
    names = [name for name in parameters if name.rpartition("/")[0] == f"{pathway.name}/{layer}"]
    return [*names, SOFTMAX_BIAS] if (pathway.name, layer) == ("fc", pathway.depth) else names


def nothing_received(name: str, own: Tensor, note: str = "") -> TensorTransfer:
    """Describe a tensor that keeps the new model's own values."""
    return TensorTransfer(name, tuple(own.shape), "new", note=note)


@torch.no_grad()
def receive(
    match: LayerMatch, target: dict[str, Tensor], source: Mapping[str, Tensor], stem: Stem | None = None
) -> list[TensorTransfer]:
    """Copy what corresponds in a pair of layers into `target`, in place, and describe it.

    Rolling statistics [window, channels] of windows of the same length are copied row by row. For windows of another
    length every row becomes the mean over the source's rows, so that inference normalises as in the source.

    Args:
        stem: for first layers that see the image, how to make the weights of new image channels.
    """
    pair = match.pair
    received = []
    for name in tensor_names(target, pair.pathway, pair.layer):
        role = name.rpartition("/")[2]
        giver = SOFTMAX_BIAS if name == SOFTMAX_BIAS else f"{pair.source_name}/{role}"
        if giver not in source:
            transfer = nothing_received(name, target[name], _why_without(role, pair.same_kind))
        elif name == SOFTMAX_BIAS:
            transfer = _channels(name, target[name], giver, source[giver], match.outputs)
        elif role.startswith("weight"):
            transfer = _weights(match, name, target[name], giver, source[giver], stem)
        elif role == "bias" and stem is not None:
            transfer = _stem_bias(name, target[name], giver, source[giver], match.inputs, stem)
        elif role in ROLLING:
            transfer = _statistics(name, target[name], giver, source[giver], match.inputs)
        else:
            transfer = _channels(name, target[name], giver, source[giver], match.inputs)
        received.append(transfer)
    return received


def group_of(match_outputs: Origins, role: str, source_count: int) -> Origins:
    """Return the origins of the feature maps that one weight makes, counted within its own group for low rank."""
    if role == "weight":
        return match_outputs
    own, given = low_rank_groups(len(match_outputs))[role], low_rank_groups(source_count)[role]
    return tuple(match_outputs[channel] - given.start if match_outputs[channel] in given else NEW for channel in own)


def _weights(match: LayerMatch, name: str, own: Tensor, giver: str, given: Tensor, stem: Stem | None) -> TensorTransfer:
    """Copy kernels [out, in, x, y, z] of feature maps and input channels that correspond."""
    pair = match.pair
    outputs = group_of(match.outputs, name.rpartition("/")[2], pair.source_pathway.feature_maps[pair.source_layer - 1])
    rows, source_rows = pairs_of(outputs)
    columns, source_columns = pairs_of(match.inputs)
    kernel = own[0, 0].numel()
    if stem is not None:
        own[rows] = stem.weights(given[source_rows])
        received = len(rows) * stem.received * kernel
        return _described(name, own, giver, given, (outputs, match.inputs), received, stem.note)
    own[_grid(rows, columns)] = given[_grid(source_rows, source_columns)]
    return _described(name, own, giver, given, (outputs, match.inputs), len(rows) * len(columns) * kernel)


def _channels(name: str, own: Tensor, giver: str, given: Tensor, origins: Origins) -> TensorTransfer:
    """Copy one number per channel, [channels]."""
    channels, source_channels = pairs_of(origins)
    own[channels] = given[source_channels]
    return _described(name, own, giver, given, (origins,), len(channels))


def _stem_bias(name: str, own: Tensor, giver: str, given: Tensor, origins: Origins, stem: Stem) -> TensorTransfer:
    mixed = stem.bias_mixing.any(dim=0)
    own[mixed] = stem.bias(given)[mixed]
    return _described(name, own, giver, given, (origins,), int(mixed.sum()), stem.bias_note)


def _statistics(name: str, own: Tensor, giver: str, given: Tensor, origins: Origins) -> TensorTransfer:
    """Copy rolling statistics [window, channels]."""
    channels, source_channels = pairs_of(origins)
    note = ""
    if len(own) == len(given):
        own[:, channels] = given[:, source_channels]
    else:
        own[:, channels] = given.mean(dim=0)[source_channels]
        note = f"every row is the mean of {len(given)} rows"
    return _described(name, own, giver, given, (None, origins), len(own) * len(channels), note)


def _described(
    name: str,
    own: Tensor,
    giver: str,
    given: Tensor,
    origins: tuple[Origins | None, ...],
    received: int,
    note: str = "",
) -> TensorTransfer:
    if received == 0:
        return nothing_received(name, own, "nothing corresponds")
    axes = zip(origins, given.shape, strict=False)
    whole = all(of_axis is None or of_axis == tuple(range(count)) for of_axis, count in axes)
    return TensorTransfer(
        name=name,
        shape=tuple(own.shape),
        status="copied" if whole and own.shape == given.shape else "sliced",
        source=giver,
        source_shape=tuple(given.shape),
        slices=tuple(None if of_axis is None else runs_of(of_axis) for of_axis in origins),
        received=received,
        note=note,
    )


def _why_without(role: str, same_kind: bool) -> str:
    if role.startswith("weight") and not same_kind:
        return "low-rank kernels in one of the models only"
    return "the source has none"


def _grid(rows: list[int], columns: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(rows, dtype=torch.int64)[:, None], torch.tensor(columns, dtype=torch.int64)[None]
