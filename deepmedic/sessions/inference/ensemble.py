"""The models of an inference: one, or several whose probabilities are averaged."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.config.model import ModelConfig
from deepmedic.config.sections import PreprocessingConfig
from deepmedic.config.source import Refusals
from deepmedic.data.dataset import CaseNeeds
from deepmedic.errors import CommandLineError, ModelError, ProblemList
from deepmedic.inference.case_prediction import Member, mirrorings
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.inference.model_use import known_spacings, overlap, spacings_in_words, widened
from deepmedic.sessions.models.start import find_start_point, read_weights
from deepmedic.sessions.models.weights import read_model


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


def members_of(models: Sequence[NamedModel], device: torch.device) -> list[Member]:
    """The networks on a device, with how their cases are to be prepared."""
    return [
        Member(one.model.network().to(device), one.model.config.segment_size_inference, needs_of(one.model))
        for one in models
    ]


def needs_of(model: SavedModel) -> CaseNeeds:
    """What a model needs from every case."""
    return CaseNeeds.of(model.architecture, model.config.segment_size_inference, model.config.channel_names)


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


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
