"""Whether a train or test config fits a model: classes, channels, layers, segment sizes and batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.checks import SessionChecks
from deepmedic.config.inference import TestConfig
from deepmedic.config.model import ModelConfig
from deepmedic.config.phase_checks import check_phases
from deepmedic.config.phase_tables import refusals_by_phase
from deepmedic.config.recipes import with_recipe
from deepmedic.config.scoring import WHOLE_FOREGROUND, ScoringConfig
from deepmedic.config.sections import DataConfig, OutputConfig, ZScoreConfig
from deepmedic.config.source import Refusals, listed
from deepmedic.config.training import SamplingConfig, TrainConfig
from deepmedic.errors import ModelError, ProblemList

_PLANES = {"xy": (0, 1), "yz": (1, 2), "xz": (0, 2)}


def fit_train_config(config: TrainConfig, model: ModelConfig) -> TrainConfig:
    """Return the train config with batch sizes that it leaves to the model, checked against the model.

    Raises `ConfigError` for keys that contradict the model (classes, layers, segments), `ModelError` for a number of
    channels that is not the model's, or `SeveralProblems` with all of them.
    """
    problems = ProblemList()
    config = fit_train(config, model, Refusals(config.source.path, config.source.lines, problems))
    problems.raise_if_any()
    return config


def fit_test_config(config: TestConfig, model: ModelConfig) -> TestConfig:
    """Return the test config with the batch size that it leaves to the model, checked against the model.

    Raises as `fit_train_config`.
    """
    problems = ProblemList()
    config = fit_test(config, model, Refusals(config.source.path, config.source.lines, problems))
    problems.raise_if_any()
    return config


def fit_train(config: TrainConfig, model: ModelConfig, refusals: Refusals) -> TrainConfig:
    """Do the work of `fit_train_config`, gathering what is refused."""
    config = _with_phases(_batch_sizes(config, model), model.architecture, refusals)
    if config.batch_size is None:
        refuse_missing_batch_size(refusals)
    else:
        SessionChecks(refusals, config.source.given).batches(config)
    architecture = model.architecture
    check_train_classes(config, architecture.classes, refusals)
    _check_channels(config.data, "channelsTraining", architecture, refusals)
    _check_normalised_channels(config.preprocessing.zscore, architecture, refusals)
    if config.validate_on_samples or config.validate_on_volumes:
        _check_channels(config.validation_data, "channelsValidation", architecture, refusals)
    if config.source_task is not None:
        _check_channels(config.source_task.data, "sourceTask", architecture, refusals)
    for phase, own in refusals_by_phase(config, refusals):
        _check_freezing(phase, architecture, own)
        _refuse_all_frozen(phase, architecture, own)
    _check_rotations(config, model, refusals)
    _check_feature_maps(config.validation_output, "Val", architecture, refusals)
    return config


def fit_test(config: TestConfig, model: ModelConfig, refusals: Refusals) -> TestConfig:
    """Do the work of `fit_test_config`, gathering what is refused."""
    if "batchsize" not in config.source.given and model.batch_size_inference is not None:
        config = replace(config, batch_size=model.batch_size_inference)
    architecture = model.architecture
    check_test_classes(config, architecture.classes, refusals)
    _check_channels(config.data, "channels", architecture, refusals)
    _check_normalised_channels(config.preprocessing.zscore, architecture, refusals)
    _check_feature_maps(config.output, "", architecture, refusals)
    _check_region_names(config.scoring, model.class_names, refusals)
    return config


def refuse_missing_batch_size(refusals: Refusals) -> None:
    """Refuse a train config that gives no batch size, with a model that gives none either."""
    refusals.refuse(
        "batchsize_train",
        "is missing; it has no default and must be given (or batchSizeTrain in a model config of the Theano version)",
    )


def check_train_classes(config: TrainConfig, classes: int, refusals: Refusals) -> None:
    """Refuse lists with one entry per class or category that have another length."""
    proportions = "proportionOfSamplesToExtractPerCategory"
    if refusals.usable("typeOfSamplingForTraining"):
        _check_categories(config.sampling, config.data, classes, proportions + "Training", "Train", refusals)
    if refusals.usable("typeOfSamplingForVal"):
        sampling, data = config.validation_sampling, config.validation_data
        _check_categories(sampling, data, classes, proportions + "Val", "Val", refusals)
    _check_probability_maps(config.validation_output, "saveProbMapsForEachClassVal", classes, refusals)
    weights = config.loss.reweighting.weights
    if config.loss.reweighting.kind == "per_c" and weights and len(weights) != classes:
        refusals.refuse(
            ("reweight_classes_in_cost", "prms"), f"found {len(weights)} weights; allowed: one per class, {classes}"
        )


def check_test_classes(config: TestConfig, classes: int, refusals: Refusals) -> None:
    """Refuse lists with one entry per class that have another length."""
    _check_probability_maps(config.output, "saveProbMapsForEachClass", classes, refusals)
    for name, merged in config.scoring.regions.items():
        if max(merged) >= classes:
            refusals.refuse(("regions", name), f"found class {max(merged)}; allowed: 1 to {classes - 1}")
        elif len(set(merged)) < len(merged):
            refusals.refuse(("regions", name), f"found {listed(merged)}; name each class once")
    chosen = config.prediction
    per_class = {"keepLargestComponent": chosen.keep_largest, "minimumComponentSize": chosen.minimum_sizes}
    for key, entries in per_class.items():
        if entries and len(entries) != classes:
            refusals.refuse(
                key,
                f"found {len(entries)} entries; allowed: one per class, {classes}, the first for all but background",
            )


def _with_phases(config: TrainConfig, architecture: Architecture, refusals: Refusals) -> TrainConfig:
    """Return the config with the phases of its recipe, which are checked here, as the others were without a model."""
    if config.recipe.kind is None or not refusals.usable("recipe", "recipeEpochs", "recipeLearningRates"):
        return config
    config = with_recipe(replace(config, phases=()), architecture)
    check_phases(config, refusals, config.source.given)
    return config


def _batch_sizes(config: TrainConfig, model: ModelConfig) -> TrainConfig:
    given = config.source.given
    sizes = {
        "batch_size": ("batchsize_train", model.batch_size_train),
        "validation_batch_size": ("batchsize_val_samples", model.batch_size_validation),
        "volume_batch_size": ("batchsize_val_whole", model.batch_size_inference),
    }
    taken = {name: size for name, (key, size) in sizes.items() if key not in given and size is not None}
    if "batch_size" in taken and config.batch_size is not None:
        del taken["batch_size"]  # a config that was not read from a file
    return replace(config, **taken)  # type: ignore[arg-type]


def _check_categories(
    sampling: SamplingConfig, data: DataConfig, classes: int, key: str, suffix: str, refusals: Refusals
) -> None:
    expected = sampling.categories(classes)
    what = {0: "foreground and background", 3: f"each of the {classes} classes"}.get(sampling.kind, "the whole ROI")
    found = sampling.proportions
    if sampling.kind in (0, 3) and found is not None and len(found) != expected:
        refusals.refuse(key, f"found {len(found)} shares; allowed: {expected}, for {what}")
    if data.weight_maps is not None and len(data.weight_maps) != expected:
        refusals.refuse(
            f"weightedMapsForSamplingEachCategory{suffix}",
            f"found {len(data.weight_maps)} listing files; allowed: {expected}, for {what}",
        )


def _check_probability_maps(output: OutputConfig, key: str, classes: int, refusals: Refusals) -> None:
    found = output.save_probability_maps
    if found is not None and len(found) != classes:
        refusals.refuse(key, f"found {len(found)} entries; allowed: one per class, {classes}")


def _check_region_names(scoring: ScoringConfig, class_names: Sequence[str] | None, refusals: Refusals) -> None:
    for name in scoring.regions:
        if name in (WHOLE_FOREGROUND, *(class_names or ())):
            refusals.refuse(("regions", name), "is the name of a class, or of all of them; choose another name")


def _check_channels(data: DataConfig, key: str, architecture: Architecture, refusals: Refusals) -> None:
    if data.channels is not None and data.table is None and len(data.channels) != architecture.input_channels:
        refusals.add(
            ModelError(
                f"{refusals.where(key)}: {key}: found {len(data.channels)} channels, but the model has "
                f"{architecture.input_channels}; give one listing file per channel of the model, in its order"
            )
        )


def _check_normalised_channels(zscore: ZScoreConfig, architecture: Architecture, refusals: Refusals) -> None:
    channels = architecture.input_channels
    if zscore.per_channel is not None and len(zscore.per_channel) != channels:
        refusals.refuse(
            ("norm_zscore_prms", "apply_per_channel"),
            f"found {len(zscore.per_channel)} entries; allowed: one per channel of the model, {channels}",
        )


def _check_freezing(config: TrainConfig, architecture: Architecture, refusals: Refusals) -> None:
    freezing = config.freezing
    _check_layers("layersToFreezeNormal", freezing.normal, architecture.normal, refusals)
    _check_layers("layersToFreezeFC", freezing.fc, architecture.fc, refusals)
    key, subsampled = "layersToFreezeSubsampled", freezing.subsampled
    if not subsampled or not architecture.subsampled:
        return
    if isinstance(subsampled[0], int):
        _check_layers(key, subsampled, architecture.subsampled[0], refusals)
    elif len(subsampled) != len(architecture.subsampled):
        pathways = len(architecture.subsampled)
        refusals.refuse(key, f"found {len(subsampled)} lists; allowed: one per low-resolution pathway, {pathways}")
    else:
        for layers, pathway in zip(subsampled, architecture.subsampled, strict=True):
            _check_layers(key, layers, pathway, refusals)


def _refuse_all_frozen(config: TrainConfig, architecture: Architecture, refusals: Refusals) -> None:
    """Refuse a config that leaves nothing to train."""
    freezing = config.freezing
    given = freezing.normal if freezing.subsampled is None else freezing.subsampled
    lists = [freezing.normal, *_per_pathway(given, len(architecture.subsampled)), freezing.fc]
    # A wrong number of lists was refused before.
    pairs = zip(lists, architecture.pathways, strict=False)
    frozen = [set(layers) >= set(range(1, pathway.depth + 1)) for layers, pathway in pairs]
    if all(frozen):
        refusals.refuse(
            "layersToFreezeFC", "together with the other lists freezes every layer: nothing is left to train"
        )


def _per_pathway(given: tuple[Any, ...], pathways: int) -> list[tuple[int, ...]]:
    nested = bool(given) and not isinstance(given[0], int)
    return [tuple(layers) for layers in given] if nested else [tuple(given)] * pathways


def _check_layers(key: str, layers: Sequence[int], pathway: Pathway, refusals: Refusals) -> None:
    outside = [layer for layer in layers if layer > pathway.depth]
    if outside:
        refusals.refuse(
            key, f"found layer {listed(outside)}; allowed: layers 1 to {pathway.depth} of the pathway {pathway.name}"
        )


def _check_rotations(config: TrainConfig, model: ModelConfig, refusals: Refusals) -> None:
    augmentation = config.augmentation.segment
    if augmentation is None or augmentation.rotate90 is None:
        return
    size = model.segment_size_train
    for plane in augmentation.rotate90:
        first, second = _PLANES[plane]
        inputs = model.architecture.input_sizes(size)
        quarter_turns = augmentation.rotate90[plane][1] > 0 or augmentation.rotate90[plane][3] > 0
        if quarter_turns and any(box[first] != box[second] for box in inputs):
            refusals.refuse(
                ("augm_sample_prms_tr", "rotate90", plane),
                f"needs segments of all pathways as long along both axes; segmentsDimTrain is {list(size)}",
            )


def _check_feature_maps(output: OutputConfig, suffix: str, architecture: Architecture, refusals: Refusals) -> None:
    name = "minMaxIndicesOfFmsToSaveFromEachLayerOf{}Pathway" + suffix
    checked = [(name.format("Normal"), output.feature_maps_normal, architecture.normal)]
    checked += [
        (name.format("Subsampled"), output.feature_maps_subsampled, pathway) for pathway in architecture.subsampled[:1]
    ]
    checked += [(name.format("FullyConnected"), output.feature_maps_fc, architecture.fc)]
    for key, ranges, pathway in checked if output.save_feature_maps else ():
        if ranges and len(ranges) != pathway.depth:
            refusals.refuse(key, f"found {len(ranges)} entries; allowed: one per layer, {pathway.depth}, or []")
