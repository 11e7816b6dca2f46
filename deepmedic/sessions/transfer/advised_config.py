"""The train config that an analysis recommends: ready to be used, each choice with its reason as a comment."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepmedic.analysis.recommendation import AdvisedPhase, Recommendation, frozen_lists
from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.architecture import Architecture
from deepmedic.config.schema import alternatives, declared_keys, item_types
from deepmedic.config.source import ConfigFile
from deepmedic.config.training import TrainConfig

_WIDTH = 118
_BATCH_SIZE = 10
_REPLACED = {
    *("sessionName", "cnnModelFilePath", "numberOfEpochs", "learningRate", "phase"),
    *("recipe", "recipeEpochs", "recipeLearningRates", "recipeHead", "recipeDepths"),
    *("layersToFreezeNormal", "layersToFreezeSubsampled", "layersToFreezeFC"),
}
"""Keys of a given train config that the advice decides."""


@dataclass(frozen=True)
class Advised:
    """What the config is written for."""

    advice: Recommendation
    architecture: Architecture
    session: str
    model: Path
    """The model to start from."""


def from_train_config(file: ConfigFile, advised: Advised) -> str:
    """The user's own train config with the advice filled in; relative paths are made absolute.

    Args:
        file: as the user wrote it, in either dialect.
        advised: what is filled in.
    """
    folder = Path(file.path).absolute().parent
    paths = {key.name for key in declared_keys(TrainConfig) if _is_path(key.annotation)}
    values = {
        key: _absolute(value, folder) if key in paths else value
        for key, value in file.values.items()
        if key not in _REPLACED and value is not None
    }
    dropped = _unsuitable(values, advised.advice.phases)
    head = [f"# {file.path} with the advice of an analysis filled in. Paths are absolute."]
    head += [f"# {key} = {_toml(values.pop(key))} is left out: a phase is shorter than that." for key in dropped]
    return _text(head, values, advised)


def from_analysis_config(config: AnalysisConfig, advised: Advised) -> str:
    """A train config for the cases that an analysis config lists; what it does not say has its default."""
    zscore = asdict(config.preprocessing.zscore)
    names = {
        "all_channels": "apply_to_all_channels",
        "per_channel": "apply_per_channel",
        "cutoff_below_mean": "cutoff_below_mean",
    }
    values: dict[str, Any] = {
        "folderForOutput": str(config.folder_for_output),
        "dataframe_train": _path(config.data.table),
        "channelsTraining": None if config.data.channels is None else [str(path) for path in config.data.channels],
        "gtLabelsTraining": _path(config.data.labels),
        "roiMasksTraining": _path(config.data.roi_masks),
        "subjectsTraining": _path(config.data.subjects),
        "norm_zscore_prms": {names.get(key, key): value for key, value in zscore.items() if value not in (None, False)},
        "padInputImagesBool": config.preprocessing.pad_images,
        "orientation": config.preprocessing.orientation,
        "batchsize_train": _BATCH_SIZE,
    }
    head = ["# A train config for the cases of an analysis, with its advice filled in. Paths are absolute."]
    head += [f"# The analysis was {config.source.path}" if config.source.path else ""]
    given = {key: value for key, value in values.items() if value not in (None, {})}
    return _text([line for line in head if line], given, advised)


def _text(head: Sequence[str], values: Mapping[str, Any], advised: Advised) -> str:
    advice = advised.advice
    lines = [*head, "#", f"# Advice: {advice.verdict}."]
    for reason in (*advice.reasons, f"labelled cases: {advice.cases}"):
        lines += textwrap.wrap(f"- {reason}.", _WIDTH, initial_indent="# ", subsequent_indent="#   ")
    lines += ["", f"sessionName = {_toml(advised.session)}"]
    transferred = f"It received depths {_depths(advice.layers)} of the source" if advice.layers else "It is random"
    lines += ["", f"# The model to start from. {transferred}{', with its classes' if advice.keep_classes else ''}."]
    lines += [f"cnnModelFilePath = {_toml(str(advised.model))}", ""]
    lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    if len(advice.phases) == 1:
        [phase] = advice.phases
        lines += ["", *_comment(f"{_share_of_rate(phase)}: {phase.reason}.")]
        lines += [f"numberOfEpochs = {phase.epochs}", f"learningRate = {_toml(phase.learning_rate)}"]
        return "\n".join(lines) + "\n"
    lines += ["", f"learningRate = {_toml(advice.phases[0].learning_rate)}"]
    for phase in advice.phases:
        lines += ["", *_comment(f"{phase.reason[0].upper()}{phase.reason[1:]}; {_share_of_rate(phase)}.")]
        lines += ["[[phase]]", f"name = {_toml(phase.name)}", f"numberOfEpochs = {phase.epochs}"]
        lines += [f"learningRate = {_toml(phase.learning_rate)}"]
        lines += [f"{key} = {_toml(value)}" for key, value in frozen_lists(advised.architecture, phase.frozen).items()]
    return "\n".join(lines) + "\n"


def _share_of_rate(phase: AdvisedPhase) -> str:
    full = phase.learning_rate / phase.rate
    return (
        f"the full learning rate, {full:g}" if phase.rate == 1 else f"{phase.rate:g} times the learning rate {full:g}"
    )


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _unsuitable(values: Mapping[str, Any], phases: Sequence[AdvisedPhase]) -> list[str]:
    """Keys that count epochs and do not fit into the shortest phase."""
    shortest = min(phase.epochs for phase in phases)
    waiting, warm_up = "numEpochsToWaitBeforeLoweringLr", "warmUpEpochs"
    too_long = {waiting: _number(values.get(waiting)) >= shortest, warm_up: _number(values.get(warm_up)) > shortest}
    return [key for key, is_too_long in too_long.items() if is_too_long]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _is_path(annotation: Any) -> bool:
    """Whether a key holds a path or a list of paths."""
    return any(member is Path or (item_types(member) or (None,))[0] is Path for member in alternatives(annotation))


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, list | tuple):
        return [_absolute(item, folder) for item in value]
    return str(folder / value) if isinstance(value, str) else value


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _depths(depths: Sequence[int]) -> str:
    return f"{depths[0]} to {depths[-1]}"


def _toml(value: Any) -> str:
    """A value as TOML spells it."""
    if isinstance(value, Mapping):
        inside = (f"{_key(key)} = {_toml(item)}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml("none" if item is None else item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, float):
        return repr(float(f"{value:.12g}"))
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)
