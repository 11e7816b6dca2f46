"""The models of an inference: one, or several whose probabilities are averaged."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.config.model import ModelConfig
from deepmedic.config.sections import PreprocessingConfig
from deepmedic.config.source import ConfigSource, Refusals
from deepmedic.data.dataset import CaseNeeds
from deepmedic.errors import CommandLineError, ModelError, ProblemList
from deepmedic.inference.case_prediction import Member, mirrorings
from deepmedic.model.saved import DataDescription, SavedModel
from deepmedic.sessions.inference.model_use import (
    TilingName,
    choose_tiling,
    known_spacings,
    overlap,
    spacings_in_words,
    widened,
)
from deepmedic.sessions.models.start import find_start_point, read_weights
from deepmedic.sessions.models.weights import read_model

_TAKEN_FROM_OTHERS: dict[str, Callable[[SavedModel], Any]] = {
    "the names of its channels": attrgetter("config.channel_names"),
    "how its training images were normalised": attrgetter("data.zscore"),
    "along which axes they ran": attrgetter("data.axis_order"),
}


@dataclass(frozen=True)
class NamedModel:
    """A model and the file it was read from."""

    path: Path
    model: SavedModel
    sha256: str


def find_models(arguments: Arguments, config: TestConfig, model_config: ModelConfig | None) -> list[NamedModel]:
    """Read the models that the command line or the config names.

    Raises:
        CommandLineError: none is named, or options contradict each other.
        ModelError: one is missing, damaged or foreign; or they cannot be averaged.
    """
    named, by = _several(arguments, config, model_config)
    paths = expanded(named, by)
    if len(paths) > 1:
        if arguments.load:
            raise CommandLineError(f"-load {arguments.load} stands beside several models; name each of them once.")
        models = [NamedModel(*read_model(path)) for path in paths]
        refuse_unlike(models)
        return models
    if paths and paths[0] != arguments.model:  # a pattern, or an ensemble of one
        return [NamedModel(*read_model(paths[0]))]
    point = find_start_point(arguments, config.model_path, model_config)
    if point is None or point.weights is None:
        raise CommandLineError(
            "-test needs a trained model: -model X.save, -model FOLDER, -load X, or cnnModelFilePath in the config."
        )
    path, model, sha256 = read_weights(point)
    return [NamedModel(path, model if point.config is None else model.with_config(point.config), sha256)]


def expanded(named: Sequence[Path], by: str) -> list[Path]:
    """The paths that are named, with patterns (`*`, `?`, `[...]`) replaced by what they match, in alphabetical order.

    Raises:
        ModelError: a pattern matches nothing, or a path comes twice.
    """
    paths: list[Path] = []
    for path in named:
        matches = [path]
        if not path.exists() and glob.has_magic(str(path)):
            matches = sorted(map(Path, glob.glob(str(path))))
            if not matches:
                raise ModelError(f"{by}: nothing matches {path}; name .save files or folders below cnnModels/.")
        paths += matches
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise ModelError(f"{by}: {twice[0]} is named twice, and would count twice; name each model once.")
    return paths


def refuse_unlike(models: Sequence[NamedModel]) -> None:
    """Refuse models whose probabilities cannot be averaged, or that are one model twice.

    Raises:
        ModelError: names two files and what differs.
    """
    seen: dict[str, Path] = {}
    for one in models:
        if one.sha256 in seen:
            raise ModelError(
                f"{one.path} and {seen[one.sha256]} are the same model, which would count twice; name each model once."
            )
        seen[one.sha256] = one.path
    for first, second in combinations(models, 2):
        for what, here, there in _compared(first.model, second.model):
            if here is not None and there is not None and here != there:
                raise ModelError(
                    f"{first.path} and {second.path} cannot be averaged: {what} differ: {_shown(here)} in the first, "
                    f"{_shown(there)} in the second. Segment with each of them in a session of its own."
                )


def compare_spacings(models: Sequence[NamedModel], preprocessing: PreprocessingConfig, *, refuse: bool) -> list[str]:
    """Refuse models that were trained with voxel spacings of which no case can have both, or tell of them.

    A spacing in millimetres that the user chose for all (`resampleTo`) is only told of, as for a single model.

    Args:
        models: those of an ensemble.
        preprocessing: as the user gave it, `resampleTo = "model"` included.
        refuse: False: only tell.

    Returns:
        What the user should know.

    Raises:
        ModelError: names two files and their spacings.
    """
    tolerance = preprocessing.spacing_tolerance
    for first, second in combinations(models, 2):
        one, other = known_spacings(first.model), known_spacings(second.model)
        if one is None or other is None or overlap(widened(one, tolerance), widened(other, tolerance)):
            continue
        found = (
            f"{first.path} and {second.path} were trained with different voxel spacings: {spacings_in_words(one)} the "
            f"first, {spacings_in_words(other)} the second. A network knows shapes in voxels, so no case suits both."
        )
        if refuse and preprocessing.resample_to in (None, "model"):
            raise ModelError(
                f"{found} Segment with each of them in a session of its own; or give resampleTo in millimetres, to use "
                f"both with one spacing; or raise spacingTolerance (now {tolerance:g})."
            )
        return [found]
    return []


def speaking_for_all(models: Sequence[NamedModel]) -> SavedModel:
    """The first model, with what it does not know of channels, classes and training images but another one does.

    What several know is the same in all (`refuse_unlike`), so that nothing depends on their order but whose network
    this is.
    """
    first = models[0].model
    if len(models) == 1:
        return first

    def known(value: Callable[[SavedModel], Any]) -> Any:
        return next((found for one in models if (found := value(one.model)) is not None), None)

    data = DataDescription(**{item.name: known(attrgetter(f"data.{item.name}")) for item in fields(DataDescription)})
    with_spacing = next((one.model.data for one in models if one.model.data.spacing is not None), data)
    data = replace(data, spacing=with_spacing.spacing, spacing_range=with_spacing.spacing_range)
    names = {name: known(attrgetter(f"config.{name}")) for name in ("channel_names", "class_names")}
    return replace(first, config=replace(first.config, **names), data=data)


def taken_from_others(models: Sequence[NamedModel]) -> list[str]:
    """Say which models of an ensemble do not know what others know, and are used as if it held for them too."""
    whole, notes = speaking_for_all(models), []
    for one in models:
        missing = [
            what for what, value in _TAKEN_FROM_OTHERS.items() if value(whole) is not None and value(one.model) is None
        ]
        if missing:
            notes.append(
                f"{one.path} does not know {_listed(missing)}; what the other models know is taken to hold for it."
            )
    return notes


def tiling_of(asked: TilingName | None, source: ConfigSource, models: Sequence[SavedModel]) -> TilingName:
    """The tiles of all models of a session: the original's if one of them was made for these. As `choose_tiling`."""
    return "segments" if "segments" in [choose_tiling(asked, source, one) for one in models] else "auto"


def members_of(models: Sequence[NamedModel], device: torch.device, *, own_padding: bool = False) -> list[Member]:
    """The networks on a device, with how their cases are to be prepared; arguments as for `needs_of`."""
    return [
        Member(
            one.model.network().to(device),
            one.model.config.segment_size_inference,
            needs_of(one.model, own_padding=own_padding),
        )
        for one in models
    ]


def needs_of(model: SavedModel, *, own_padding: bool = False) -> CaseNeeds:
    """What a model needs from every case.

    Args:
        model: the model.
        own_padding: pad its cases if those of its training were padded, whatever the settings of the data set.
    """
    needs = CaseNeeds.of(model.architecture, model.config.segment_size_inference, model.config.channel_names)
    return replace(needs, pad_images=model.data.pad_images) if own_padding else needs


def refuse_what_needs_other_models(config: TestConfig, models: int) -> None:
    """Refuse settings for which there are too few models, or too many.

    Raises:
        ConfigError: names key and remedy.
    """
    problems = ProblemList()
    refusals, chosen = Refusals(config.source.path, config.source.lines, problems), config.prediction
    if "variance" in chosen.uncertainty and models * len(mirrorings(chosen)) < 2:
        refusals.refuse(
            "saveUncertaintyMaps",
            'found "variance" with a single prediction of each case; it needs several: add testTimeMirroring, or an '
            'ensemble (ensembleOfModels, or several models after -model), or save only "entropy"',
        )
    if models > 1 and config.output.save_feature_maps:
        refusals.refuse(
            "saveIndividualFms", f"found true with {models} models; allowed: false; save those of one model at a time"
        )
    problems.raise_if_any()


def _several(
    arguments: Arguments, config: TestConfig, model_config: ModelConfig | None
) -> tuple[tuple[Path, ...], str]:
    """The models that are named in places where there can be several, and the option or key that names them."""
    if model_config is not None:
        if len(arguments.models) > 1:
            raise CommandLineError(
                f"-model {arguments.models[0]} is an architecture, and other models follow it; name saved models only."
            )
        return (), "-model"
    if arguments.model is not None:
        return arguments.models or (arguments.model,), "-model"
    if arguments.load is not None or config.ensemble is None:
        return (), "-load"
    return config.ensemble, "ensembleOfModels"


def _compared(first: SavedModel, second: SavedModel) -> Iterator[tuple[str, Any, Any]]:
    """What two models must have in common: what it is, and what each of them has; None: not known."""
    one, other = first.architecture, second.architecture
    yield "the numbers of classes", one.classes, other.classes
    yield "the names of classes", first.config.class_names, second.config.class_names
    yield "the numbers of channels", one.input_channels, other.input_channels
    yield "the names of channels", first.config.channel_names, second.config.channel_names
    yield "the normalisations (norm_zscore_prms) in training", first.data.zscore, second.data.zscore
    yield "the orientations in training", first.data.orientation, second.data.orientation
    yield "the axis orders of the training images", first.data.axis_order, second.data.axis_order


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
