"""A trained model for other classes or image channels: its architecture with a new classification layer (`-adapt`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from deepmedic.config.architecture import layer_names
from deepmedic.config.model import ModelConfig
from deepmedic.errors import ModelError
from deepmedic.model.saved import DataDescription, SavedModel
from deepmedic.transfer.assembly import Assembly, image_channels, match_layers
from deepmedic.transfer.matching import NEW, LayerPair, Names, Origins, by_position
from deepmedic.transfer.options import log_frequencies
from deepmedic.transfer.receiving import receive
from deepmedic.transfer.report import TransferResult
from deepmedic.transfer.stem import build_stem
from deepmedic.words import counted


def adapt_model(
    model: SavedModel,
    *,
    n_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    n_channels: int | None = None,
    channel_names: Sequence[str] | None = None,
    class_frequencies: Sequence[float] | None = None,
    source_sha256: str | None = None,
) -> TransferResult:
    """Return an untrained model of the same architecture for other classes or image channels; `model` stays as it is.

    The classification layer is kept when the classes are the same: `n_classes` is the model's, or `class_names` are the
    model's names. With `class_names`, classes that the model knows by name keep their weights and their bias. Another
    number, or names where the model has none, make the whole layer new. New classes have weights 0 and a bias of the
    logarithm of their frequency, so that a new layer predicts the class frequencies everywhere; its weights learn from
    the first step on, and the layers below them as soon as they have learnt something.

    Image channels are matched by name if both are known, else by position. Weights of new ones are 0, so that they
    change nothing at first; where some of the model's own are missing, the weights of the others grow in proportion.

    Args:
        n_classes: number of classes with the background; None: the model's, or as many as names.
        class_names: names of all classes from the background.
        n_channels: number of image channels; None: the model's, or as many as names.
        channel_names: names of all image channels.
        class_frequencies: frequency, or count, of each class; None: all equal.
        source_sha256: SHA-256 of the model's file, for the provenance.

    Raises:
        ModelError: fewer than two classes, numbers and names that contradict each other, or no channel in common.
    """
    config, origins = _with_classes(model.config, n_classes, _checked("class", class_names, n_classes))
    config = _with_channels(config, n_channels, _checked("channel", channel_names, n_channels))
    log_shares = log_frequencies(tuple(class_frequencies or (1.0,) * len(origins)), len(origins))
    target = replace(
        model,
        config=config,
        parameters=SavedModel.new(config, seed=0).parameters,
        data=_described(model, config),
        rolling_rows=dict(model.rolling_rows),
        provenance=None,
    )
    assembly = Assembly(model, target)
    _receive_layers(assembly, origins)
    _start_classes(assembly, origins, log_shares)
    return assembly.result("adapted", source_sha256)


def _receive_layers(assembly: Assembly, class_origins: Origins) -> None:
    source, target = assembly.source, assembly.target
    channels = image_channels(source, target)
    if all(origin == NEW for origin in channels):
        raise ModelError(
            f"none of the channels {', '.join(target.config.channel_names or ())} is one of the model's, "
            f"{', '.join(source.config.channel_names or ())}; name at least one of those"
        )
    stem = build_stem(channels, source.architecture.input_channels, "zero")
    givers = {pathway.name: pathway for pathway in source.architecture.pathways}
    for pathway, layer in layer_names(target.architecture):
        pair = LayerPair(pathway, layer, givers[pathway.name], layer)
        match = match_layers(pair, source, target)
        if (pathway.name, layer) == ("fc", pathway.depth):
            match = replace(match, outputs=class_origins)
        own_stem = stem if layer == 1 and pathway.name != "fc" else None
        assembly.add(pathway, layer, receive(match, assembly.parameters, source.parameters, own_stem), pair)


@torch.no_grad()
def _start_classes(assembly: Assembly, origins: Origins, log_shares: list[float]) -> None:
    # Random weights would be noise on the frequencies, and would send gradients of noise into the trained layers.
    new = [number for number, origin in enumerate(origins) if origin == NEW]
    weight = f"fc/{assembly.target.architecture.fc.depth}/weight"
    if new:
        assembly.parameters[weight][new] = 0.0
        assembly.note_tensor(weight, f"class {', '.join(map(str, new))} from zero")
    assembly.start_biases(log_shares, origins)


def _with_classes(config: ModelConfig, count: int | None, names: Names) -> tuple[ModelConfig, Origins]:
    """Return the config for other classes, and for each of them the model's own class that it is."""
    architecture, known = config.architecture, config.class_names
    count = len(names) if names is not None else architecture.classes if count is None else count
    if count < 2:
        raise ModelError(
            f"{counted(count, 'class', 'classes')} cannot be told apart; a model needs at least 2, with the background"
        )
    if names is None:
        same = count == architecture.classes
        names, origins = (known, by_position(count, count)) if same else (None, (NEW,) * count)
    else:
        origins = tuple(known.index(name) if known and name in known else NEW for name in names)
    fc = replace(architecture.fc, feature_maps=(*architecture.fc.feature_maps[:-1], count))
    return replace(config, architecture=replace(architecture, classes=count, fc=fc), class_names=names), origins


def _with_channels(config: ModelConfig, count: int | None, names: Names) -> ModelConfig:
    architecture = config.architecture
    count = len(names) if names is not None else architecture.input_channels if count is None else count
    if count < 1:
        raise ModelError(f"{count} image channels; a model needs at least 1")
    if names is None and count == architecture.input_channels:
        return config
    return replace(config, architecture=replace(architecture, input_channels=count), channel_names=names)


def _checked(kind: str, names: Sequence[str] | None, count: int | None) -> Names:
    if names is None:
        return None
    if isinstance(names, str):
        raise ModelError(f"{kind} names are one text, {names!r}; give a list of names")
    repeated = [name for number, name in enumerate(names) if name in names[:number]]
    if repeated:
        raise ModelError(f"{kind} names are {', '.join(names)}; {repeated[0]} stands there twice")
    if count is not None and count != len(names):
        raise ModelError(f"{len(names)} {kind} names ({', '.join(names)}) do not agree with a number of {count}")
    return tuple(names)


def _described(model: SavedModel, config: ModelConfig) -> DataDescription:
    """Return what is known of the data; what belongs to single channels only while they are the same."""
    before = model.config
    same = (before.channel_names, before.architecture.input_channels) == (
        config.channel_names,
        config.architecture.input_channels,
    )
    return copy.deepcopy(model.data if same else replace(model.data, zscore=None, intensities=None))
