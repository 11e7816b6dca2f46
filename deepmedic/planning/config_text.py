"""The text of a ready set of configs and listing files, with a comment for every key that says why it has its value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepmedic.config.options import Size3
from deepmedic.planning.config_plan import ALL_CASES, ConfigPlan, listing_name, slugs
from deepmedic.planning.suggestions import Suggestion
from deepmedic.words import counted

_WIDTH = 118


def model_text(plan: ConfigPlan, segment: Suggestion | None) -> str:
    """The model config; without a suggestion, the size of segments is provisional."""
    network = plan.network
    names = (
        []
        if plan.class_names is None
        else [_Key("classNames", list(plan.class_names), "Their names, shown in logs, tables and reports.")]
    )
    smallest = [width + 16 for width in _receptive_field(network.kernels)]
    return _text(
        f"The network for {plan.source}.",
        [
            _Key("modelName", plan.name, "The files of checkpoints begin with this name."),
            _Key("folderForOutput", "output", "Where models go; relative to this file."),
            "Input and output",
            _Key("numberOfOutputClasses", plan.classes, "Classes, the background included: the largest label and 1."),
            *names,
            _Key("numberOfInputChannels", len(plan.channel_names), "Images per case."),
            _Key("channelNames", list(plan.channel_names), "Their names, in the order of the listing files."),
            f"Layers: {network.reason}",
            _Key(
                "numberFMsPerLayerNormal", list(network.feature_maps), "Feature maps of each layer at full resolution."
            ),
            _Key(
                "kernelDimPerLayerNormal",
                _lists(network.kernels),
                f"Kernels along x, y, z: {network.reason_of_kernels}.",
            ),
            _Key("layersWithResidualConnNormal", list(network.residual_layers), "Layers with residual connections."),
            _Key("useSubsampledPathway", True, "Pathways at low resolution see further around."),
            _Key("subsampleFactor", _lists(network.factors), "One such pathway per factor; its layers are as above."),
            _Key("numberFMsPerLayerFC", list(network.fc_feature_maps), "Hidden layers that join the pathways."),
            _Key("dropoutRatesFc", list(network.fc_dropout), "Share of channels dropped there in training."),
            "Segments",
            _Key("segmentsDimTrain", segment.value if segment else smallest, _why(segment)),
        ],
    )


def train_text(plan: ConfigPlan) -> str:
    """The train config."""
    return _text(
        f"Trains the network on {plan.source}.",
        [
            _Key("sessionName", plan.session, "Logs and checkpoints carry it; the same command again continues it."),
            _Key("folderForOutput", "output", "Where logs and models go; relative to this file."),
            f"Training cases: {len(plan.parts['training'])}",
            *_data_keys(plan, "training", "channelsTraining", "gtLabelsTraining", "roiMasksTraining"),
            *_learning(plan),
            *_validation(plan),
            *_reading(plan),
        ],
    )


def cross_validation_text(plan: ConfigPlan) -> str:
    """The train config of a cross-validation: the same training, with all cases that have labels in one list."""
    subjects = len(set(plan.subjects.values()))
    return _text(
        f"Cross-validates the network on {plan.source}: use it with -crossValidate {plan.folds}.",
        [
            _Key("sessionName", plan.cross_validation_session, "The sessions of the folds add _fold1, _fold2, ..."),
            _Key("folderForOutput", "output", "Where logs and models go; relative to this file."),
            f"All cases with labels: {len(plan.labelled)}, of {counted(subjects, 'subject')}",
            _Key("dataframe_train", ALL_CASES, "One row per case. Each subject is held out once, with all its scans."),
            *_learning(plan),
            "Validation: on the cases held out of each fold; it chooses no model, so that their scores stay honest",
            _Key("performValidationOnSamplesThroughoutTraining", True, "In every sub-epoch, on segments: for curves."),
            *_on_samples(plan),
            *_kept_of_results(plan),
            *_reading(plan),
        ],
    )


def test_text(plan: ConfigPlan) -> str:
    """The test config."""
    return _text(
        f"Segments scans with the trained network: {plan.test_is}.",
        [
            _Key("sessionName", plan.test_session, "Results and logs carry it."),
            _Key("folderForOutput", "output", "Where results go; relative to this file."),
            f"Cases: {len(plan.parts['test'])}",
            *_data_keys(plan, "test", "channels", "gtLabels", "roiMasks"),
            _Key("namesForPredictionsPerCase", listing_name("test", "names"), "Names of the results."),
            _Key("saveProbMapsForEachClass", [False] * plan.classes, "Save the labels only, not their probabilities."),
            *_reading(plan),
        ],
    )


def toml_value(value: Any) -> str:
    """A plain value as TOML writes it, tables within one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, float):
        text = f"{value:.10f}".rstrip("0")
        return f"{text}0" if text.endswith(".") else text
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class _Key:
    """One line of a config."""

    name: str
    value: Any
    why: str


def _learning(plan: ConfigPlan) -> list[_Key | str]:
    """What the network learns from and how, which is the same in every training of the data set."""
    network, found = plan.network, plan.suggestions
    steps = network.segments_per_subepoch // int(found["batchsize_train"].value)
    return [
        "Sampling",
        _Key("typeOfSamplingForTraining", 3, "3: a share of the segments is centred on each class."),
        *_suggested(found, "proportionOfSamplesToExtractPerCategoryTraining"),
        "Length",
        _Key("numberOfEpochs", network.epochs, "After each epoch a checkpoint is written."),
        _Key("numberOfSubepochs", network.subepochs, "Sub-epochs per epoch; each draws new segments."),
        _Key("numberTrainingSegmentsLoadedOnGpuPerSubep", network.segments_per_subepoch, f"{steps} steps each."),
        *_suggested(found, "batchsize_train"),
        "Cost and optimiser",
        _Key("losses_and_weights", {"xentr": 1.0, "dsc": 1.0}, "Cross entropy and Dice together."),
        _Key("sgd0orAdam1orRms2", 1, "Adam."),
        _Key("learningRate", 0.001, "Its first value."),
        _Key("typeOfLearningRateSchedule", "poly", "It goes down to 0 at the end of the training."),
        _Key("L1_reg", 0.0, "No penalty on the sum of absolute weights."),
        _Key("L2_reg", 0.00001, "A small one on the sum of their squares."),
        "Augmentation",
        *_suggested(found, "augm_sample_prms_tr.reflect"),
        _Key("augm_sample_prms_tr.hist_dist.shift", {"mu": 0.0, "std": 0.05}, "Intensities are shifted a little."),
        _Key("augm_sample_prms_tr.hist_dist.scale", {"mu": 1.0, "std": 0.01}, "And scaled a little."),
    ]


def _on_samples(plan: ConfigPlan) -> list[_Key]:
    return [
        _Key("numberValidationSegmentsLoadedOnGpuPerSubep", plan.network.segments_per_subepoch, "As in training."),
        _Key("batchsize_val_samples", 50, "Segments at once there; no gradients are kept, so more fit into memory."),
    ]


def _kept_of_results(plan: ConfigPlan) -> list[_Key]:
    return [
        _Key("saveSegmentationVal", True, "Save the labels predicted for them."),
        _Key("saveProbMapsForEachClassVal", [False] * plan.classes, "But no probabilities."),
    ]


def _validation(plan: ConfigPlan) -> list[_Key | str]:
    if not plan.parts["validation"]:
        return [f"No validation: {plan.split}"]
    return [
        f"Validation cases: {len(plan.parts['validation'])}, {plan.split}",
        _Key("performValidationOnSamplesThroughoutTraining", True, "In every sub-epoch, on segments."),
        _Key(
            "performFullInferenceOnValidationImagesEveryFewEpochs", True, "On whole scans; it chooses the best model."
        ),
        _Key("numberOfEpochsBetweenFullInferenceOnValImages", 5, "Every fifth epoch, since it takes time."),
        *_data_keys(plan, "validation", "channelsValidation", "gtLabelsValidation", "roiMasksValidation"),
        _Key("namesForPredictionsPerCaseVal", listing_name("validation", "names"), "Names of the results."),
        *_kept_of_results(plan),
        *_on_samples(plan),
        _Key("strictSplits", True, "Refuse an image that is used for training as well."),
    ]


def _reading(plan: ConfigPlan) -> list[_Key | str]:
    """Keys that must be the same in training and inference."""
    keys: list[_Key | str] = ["Reading of images (the same in training and inference)"]
    keys += _suggested(plan.suggestions, "norm_zscore_prms")
    if plan.orientation is not None:
        keys.append(_Key("orientation", "RAS", plan.orientation))
    if plan.affine_tolerance is not None:
        keys.append(_Key("affineTolerance", 0.1, plan.affine_tolerance))
    return keys


def _data_keys(plan: ConfigPlan, part: str, channels: str, labels: str, roi: str) -> list[_Key]:
    lists = [listing_name(part, slug) for slug in slugs(plan.channel_names)]
    keys = [_Key(channels, lists, "One listing file per channel, one line per case.")]
    if plan.has(part, "labels"):
        keys.append(_Key(labels, listing_name(part, "labels"), "Manual segmentations."))
    if plan.has(part, "roi"):
        why = "Only voxels inside are sampled, normalised and classified."
        keys.append(_Key(roi, listing_name(part, "masks"), why))
    return keys


def _suggested(found: Mapping[str, Suggestion], key: str) -> list[_Key]:
    return [_Key(key, found[key].value, _why(found[key]))] if key in found else []


def _why(suggestion: Suggestion | None) -> str:
    return "Provisional." if suggestion is None else f"Why: {suggestion.reason}."


def _text(title: str, items: Sequence[_Key | str]) -> str:
    lines = [
        *_comment(title),
        "# Every key is described by `deepmedic -explain KEY` and in documentation/configuration.md.",
    ]
    for item in items:
        if isinstance(item, str):
            lines += ["", *_comment(f"---- {item} ----")]
        else:
            lines += [*_comment(item.why), f"{item.name} = {toml_value(item.value)}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    """Text as comment lines; whatever it holds cannot end them."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    lines, line = [], "#"
    for word in clean.split():
        if len(line) + 1 + len(word) > _WIDTH and line != "#":
            lines.append(line)
            line = "#"
        line += f" {word}"
    return [*lines, line]


def _receptive_field(kernels: Sequence[Size3]) -> list[int]:
    return [1 + sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3)]


def _lists(sizes: Iterable[Size3]) -> list[list[int]]:
    return [list(size) for size in sizes]
