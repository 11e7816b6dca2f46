"""From which model a session starts: what `-newModel`, `-model`, `-load` and `cnnModelFilePath` name, told apart by content."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic import checkpoints
from deepmedic.arguments import Arguments
from deepmedic.config.model import ModelConfig
from deepmedic.errors import CommandLineError, ModelError
from deepmedic.files import sha256_of
from deepmedic.model.saved import SavedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartPoint:
    """What the command line and the config name as the start, before any weights are read."""

    config: ModelConfig | None
    """The architecture, when a model `.cfg` is named."""
    weights: Path | None
    """A `.save` file or a session's folder; None: parameters are drawn anew."""
    named_by: str
    """The option or key that named the weights (or the config), for messages."""


@dataclass(frozen=True)
class Start:
    """A model in memory and the origin that a session records for it."""

    model: SavedModel
    origin: dict[str, Any]
    path: Path | None
    """The file the weights came from."""


def is_model_config(path: Path) -> bool:
    """True when `-model` names an architecture `.cfg` (as in v0.8) and not a saved model."""
    return path.is_file() and checkpoints.identify(path) == "config"


def find_start_point(arguments: Arguments, model_path: Path | None, config: ModelConfig | None) -> StartPoint | None:
    """Decide what the session starts from; None when nothing is named.

    Args:
        arguments: the command line.
        model_path: `cnnModelFilePath` of the session's config.
        config: the model config that `-newModel` or `-model` names, already read.

    Raises:
        CommandLineError: `-load` beside a saved model, or a reset without any weights to keep.
    """
    weights, named_by = _weights(arguments, model_path, config)
    if weights is None and config is None:
        return None
    if weights is None and arguments.reset_optimizer:
        reset = next(name for name in arguments.given if name.lower().startswith("-resetopt"))
        raise CommandLineError(
            f"{reset} keeps the weights of a model, but none is named; add -model X.save (or -load X), "
            f"or leave {reset} out to train a new model."
        )
    return StartPoint(config, weights, named_by)


def _weights(arguments: Arguments, model_path: Path | None, config: ModelConfig | None) -> tuple[Path | None, str]:
    if arguments.new_model:
        return None, "-newModel"
    if arguments.model and config is None:
        if arguments.load:
            raise CommandLineError(
                f"-model {arguments.model} is a saved model and -load {arguments.load} names another; give one of them."
            )
        return arguments.model, "-model"
    if arguments.load:
        return arguments.load, "-load"
    if model_path is not None:
        return model_path, "cnnModelFilePath"
    return None, "-model"


def origin_of_new(config: ModelConfig, seed: int, reset: bool) -> dict[str, Any]:
    """The origin of a session that starts from a new model: what determines its parameters."""
    plain = {
        "name": config.name,
        "architecture": config.architecture.to_dict(),
        "segments": [config.segment_size_train, config.segment_size_validation, config.segment_size_inference],
    }
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return {"kind": "new", "sha256": digest, "seed": seed, "reset": reset, "named": f"a new model '{config.name}'"}


def origin_of_saved(path: Path, sha256: str, reset: bool) -> dict[str, Any]:
    """The origin of a session that starts from a saved model."""
    return {"kind": "saved", "sha256": sha256, "seed": None, "reset": reset, "named": str(path.resolve())}


def read_start(point: StartPoint, seed: int, reset: bool) -> Start:
    """Read or create the model that a start point names.

    Raises:
        ModelError: the file is damaged, foreign, or its architecture differs from the `.cfg` named beside it.
    """
    if point.weights is None:
        assert point.config is not None
        model = SavedModel.new(point.config, seed)
        return Start(model, origin_of_new(point.config, seed, reset), None)
    path, model, sha256 = read_model(point.weights)
    if point.config is not None:
        refuse_other_architecture(point.config, model, path)
    return Start(model, origin_of_saved(point.weights, sha256, reset), path)


def read_model(path: Path) -> tuple[Path, SavedModel, str]:
    """Read a `.save` file, or the newest valid model of a session's folder; return file, model and SHA-256.

    Raises:
        ModelError: nothing is there, or it is damaged or foreign.
    """
    if not path.exists():
        raise ModelError(f"{path}: there is no such file or folder; name a .save file or a folder below cnnModels/.")
    if path.is_dir():
        path, content, notes = checkpoints.newest_valid(path)
        for note in notes:
            log.warning("%s", note)
    else:
        content = checkpoints.load(path)
    return path, SavedModel.from_content(content, str(path)), sha256_of(path)


def refuse_other_architecture(config: ModelConfig, model: SavedModel, path: Path) -> None:
    """Raise ModelError when a saved model has another architecture than the `.cfg` named beside it."""
    wanted, found = config.architecture.to_dict(), model.architecture.to_dict()
    differences = _differences(wanted, found, "")
    if differences:
        listing = "\n".join(f"    {line}" for line in differences)
        raise ModelError(
            f"{path}: this model has another architecture than the .cfg beside it:\n{listing}\n"
            "  Name the .cfg that the model was made from, or leave it out: a .save knows its architecture."
        )


def _differences(wanted: Any, found: Any, where: str) -> list[str]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            line
            for key in wanted
            for line in _differences(wanted[key], found.get(key), f"{where}.{key}" if where else key)
        ]
    if wanted != found:
        return [f"{where}: the .cfg says {wanted}, the model has {found}"]
    return []
