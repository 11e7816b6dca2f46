"""The text of a ready set of configs and listing files, with a comment for every key that says why it has its value."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepmedic.config.options import Size3
from deepmedic.data.cases import ImageRef
from deepmedic.data.listing import MISSING
from deepmedic.planning.found import FoundCase
from deepmedic.planning.networks import NetworkPlan
from deepmedic.planning.suggestions import Suggestion

_WIDTH = 118
_LISTS = "lists"
_PARTS = {"training": "train", "validation": "validation", "test": "test"}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class ConfigPlan:
    """Everything that is to be written."""

    name: str
    """Of the model, safe for file names."""
    source: str
    """What the configs were made from, for their first lines."""
    channel_names: tuple[str, ...]
    class_names: tuple[str, ...] | None
    classes: int
    network: NetworkPlan
    parts: Mapping[str, Sequence[FoundCase]]
    """"training", "validation" and "test"; a part may be empty, but not the first one."""
    test_is: str
    """Which cases those of the test config are, for its comment."""
    split: str
    """How the validation cases were chosen, for a comment."""
    orientation: str | None = None
    """Why `orientation = "RAS"` is set; None: it is not."""
    affine_tolerance: str | None = None
    """Why images of a case may lie 0.1 mm apart; None: they may not."""
    suggestions: Mapping[str, Suggestion] = field(default_factory=dict)
    """By key."""

    @property
    def session(self) -> str:
        return f"train_{self.name}"

    @property
    def test_session(self) -> str:
        return f"test_{self.name}"

    def has(self, part: str, what: str) -> bool:
        """Whether the cases of a part have labels or roi."""
        return any(getattr(case, what) is not None for case in self.parts[part])


def safe_name(text: str) -> str:
    """A name for files and sessions made of any text."""
    return _NOT_IN_NAMES.sub("_", text).strip("_")[:60] or "data"


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
    network, found = plan.network, plan.suggestions
    steps = network.segments_per_subepoch // int(found["batchsize_train"].value)
    return _text(
        f"Trains the network on {plan.source}.",
        [
            _Key("sessionName", plan.session, "Logs and checkpoints carry it; the same command again continues it."),
            _Key("folderForOutput", "output", "Where logs and models go; relative to this file."),
            f"Training cases: {len(plan.parts['training'])}",
            *_data_keys(plan, "training", "channelsTraining", "gtLabelsTraining", "roiMasksTraining"),
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
            *_validation(plan),
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
            _Key("namesForPredictionsPerCase", _listing("test", "names"), "Names of the results."),
            _Key("saveProbMapsForEachClass", [False] * plan.classes, "Save the labels only, not their probabilities."),
            *_reading(plan),
        ],
    )


def listings(plan: ConfigPlan, folder: Path) -> dict[str, str]:
    """The listing files by their names relative to the folder of the configs, where they will be.

    Paths of images are relative where the data lie below the parent of that folder, else absolute.
    """
    texts = {}
    home = Path(os.path.abspath(folder))
    for part, cases in plan.parts.items():
        if not cases:
            continue
        columns: dict[str, list[ImageRef | None]] = {
            slug: [case.channels[number] for case in cases] for number, slug in enumerate(slugs(plan.channel_names))
        }
        if plan.has(part, "labels"):
            columns["labels"] = [case.labels for case in cases]
        if plan.has(part, "roi"):
            columns["masks"] = [case.roi for case in cases]
        for what, refs in columns.items():
            texts[_listing(part, what)] = "".join(f"{_entry(ref, home)}\n" for ref in refs)
        texts[_listing(part, "names")] = "".join(f"{name}\n" for name in result_names(cases))
    return texts


def result_names(cases: Sequence[FoundCase]) -> list[str]:
    """Different names for results, made of the cases' names."""
    names: list[str] = []
    taken: set[str] = set()
    for case in cases:
        plain = re.sub(r"[^A-Za-z0-9.+_\-]+", "_", case.name).strip("._")[:100] or "case"
        name = next(n for n in (plain, *(f"{plain}_{number}" for number in range(2, len(cases) + 2))) if n not in taken)
        taken.add(name)
        names.append(name)
    return names


def slugs(channels: Iterable[str]) -> list[str]:
    """Different names for the listing files of channels."""
    plain = [safe_name(channel) for channel in channels]
    reserved = {"labels", "masks", "names"}
    folded = [name.lower() for name in plain]
    return [
        f"channel{number}_{name}" if folded.count(name.lower()) > 1 or name.lower() in reserved else name
        for number, name in enumerate(plain, 1)
    ]


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
        _Key("namesForPredictionsPerCaseVal", _listing("validation", "names"), "Names of the results."),
        _Key("saveSegmentationVal", True, "Save the labels predicted for them."),
        _Key("saveProbMapsForEachClassVal", [False] * plan.classes, "But no probabilities."),
        _Key("numberValidationSegmentsLoadedOnGpuPerSubep", plan.network.segments_per_subepoch, "As in training."),
        _Key("batchsize_val_samples", 50, "Segments at once there; no gradients are kept, so more fit into memory."),
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
    lists = [_listing(part, slug) for slug in slugs(plan.channel_names)]
    keys = [_Key(channels, lists, "One listing file per channel, one line per case.")]
    if plan.has(part, "labels"):
        keys.append(_Key(labels, _listing(part, "labels"), "Manual segmentations."))
    if plan.has(part, "roi"):
        keys.append(_Key(roi, _listing(part, "masks"), "Only voxels inside are sampled, normalised and classified."))
    return keys


def _suggested(found: Mapping[str, Suggestion], key: str) -> list[_Key]:
    return [_Key(key, found[key].value, _why(found[key]))] if key in found else []


def _why(suggestion: Suggestion | None) -> str:
    return "Provisional." if suggestion is None else f"Why: {suggestion.reason}."


def _listing(part: str, what: str) -> str:
    return f"{_LISTS}/{_PARTS[part]}_{what}.cfg"


def _entry(ref: ImageRef | None, home: Path) -> str:
    if ref is None:
        return MISSING
    path = Path(os.path.abspath(ref.path))
    near = path.is_relative_to(home.parent) and not home.is_symlink()  # a link would lead astray
    text = os.path.relpath(path, home / _LISTS) if near else str(path)
    return text if ref.volume is None else f"{text}[{ref.volume}]"


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
