"""From which model a session starts: what `-newModel`, `-model`, `-load` and `cnnModelFilePath` name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from deepmedic.arguments import Arguments
from deepmedic.config.model import ModelConfig
from deepmedic.config.optimisation import FreezeConfig
from deepmedic.config.plain import digest_of_plain
from deepmedic.errors import CommandLineError, ModelError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.models.pretraining import Pretraining, pretrain, requested
from deepmedic.sessions.models.weights import is_tensorflow, read_any
from deepmedic.training.history import History
from deepmedic.training.state import Position, TrainingState
from deepmedic.transfer.report import TransferReport
from deepmedic.transfer.tensorflow_bundle import digest_of, prefix_of
from deepmedic.transfer.tensorflow_model import ImportedModel, import_model, to_saved_model

_INITIAL = {"learningRate": "init_lr", "momentumValue": "init_mom"}
"""Keys of a train config, and what the original's trainer calls their values in its checkpoints."""


@dataclass(frozen=True)
class StartPoint:
    """What the command line and the config name as the start, before any weights are read."""

    config: ModelConfig | None
    """The architecture, when a model `.cfg` is named."""
    weights: Path | None
    """A `.save` file, a session's folder or a TensorFlow checkpoint; None: parameters are drawn anew."""
    named_by: str
    """The option or key that named the weights (or the config), for messages."""
    freezing: FreezeConfig = field(default_factory=FreezeConfig)
    """Which layers the session freezes: the original keeps no optimiser state for them."""
    pretraining: Pretraining | None = None
    """What a new model receives from another one."""


@dataclass(frozen=True)
class Start:
    """A model in memory and the origin that a session records for it."""

    model: SavedModel
    origin: dict[str, Any]
    path: Path | None
    """The file the weights came from."""
    report: TransferReport | None = None
    """What a pretrained new model received."""


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
    return StartPoint(config, weights, named_by, pretraining=requested(arguments))


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


def origin_of_new(point: StartPoint, seed: int, reset: bool) -> dict[str, Any]:
    """The origin of a session that starts from a new model: what determines its parameters.

    A pretrained one also has the digest "request", which knows the source by its path, for when the source is gone.
    """
    config, pretraining = point.config, point.pretraining
    assert config is not None
    plain: dict[str, Any] = {
        "name": config.name,
        "architecture": config.architecture.to_dict(),
        "segments": [config.segment_size_train, config.segment_size_validation, config.segment_size_inference],
    }
    origin: dict[str, Any] = {"kind": "new", "seed": seed, "reset": reset, "named": f"a new model '{config.name}'"}
    if pretraining is not None:
        names = [config.channel_names, config.class_names]  # by which channels and classes are matched
        choices = [config.new_channels, config.transfer_classes, config.class_frequencies]
        origin["named"] += f" pretrained from {pretraining.source}"
        by_path = {**plain, "pretrained": [pretraining.digest(by_path=True), *names, *choices]}
        origin["request"] = digest_of_plain(by_path)
        plain["pretrained"] = [pretraining.digest(), *names, *choices]
    return {**origin, "sha256": digest_of_plain(plain)}


def origin_of_saved(path: Path, sha256: str, reset: bool) -> dict[str, Any]:
    """The origin of a session that starts from a saved model."""
    return {"kind": "saved", "sha256": sha256, "seed": None, "reset": reset, "named": str(path.resolve())}


def read_start(point: StartPoint, seed: int, reset: bool) -> Start:
    """Read or create the model that a training session starts from.

    Raises:
        ModelError: the file is damaged, foreign, or its architecture differs from the `.cfg` named beside it; or a
            TensorFlow checkpoint lacks the optimiser state that going on needs.
    """
    if point.weights is None:
        assert point.config is not None
        model, report = SavedModel.new(point.config, seed), None
        if point.pretraining is not None:
            result = pretrain(model, point.pretraining)
            model, report = result.model, result.report
        return Start(model, origin_of_new(point, seed, reset), None, report)
    if is_tensorflow(point.weights):
        prefix = prefix_of(point.weights)
        model = _import_for_training(prefix, _config_beside(point, prefix), point.freezing, reset)
        return Start(model, origin_of_saved(point.weights, digest_of(prefix), reset), prefix)
    path, model, sha256 = read_weights(point)
    return Start(model, origin_of_saved(point.weights, sha256, reset), path)


def read_weights(point: StartPoint) -> tuple[Path, SavedModel, str]:
    """Read the model that a start point names; return file, model and SHA-256.

    Raises:
        ModelError: as `read_start`.
    """
    assert point.weights is not None
    path, model, sha256 = read_any(point.weights, point.config, f"-model MODEL.cfg -load {point.weights}")
    if point.config is not None:
        refuse_other_architecture(point.config, model, path)
    return path, model, sha256


def _config_beside(point: StartPoint, prefix: Path) -> ModelConfig:
    if point.config is None:
        raise ModelError(
            f"{prefix}: a TensorFlow checkpoint holds no architecture; name the model config it was made from as well: "
            f"-model MODEL.cfg -load {prefix}"
        )
    return point.config


def _import_for_training(prefix: Path, config: ModelConfig, freezing: FreezeConfig, reset: bool) -> SavedModel:
    """Import a checkpoint with the state of its training, so that a session goes on where the original stopped."""
    network = DeepMedicNet(config.architecture)
    parameters.freeze(network, freezing)
    trained = [name for name, _ in parameters.optimizer_order(network)]
    imported = import_model(prefix, config, trained)
    model = to_saved_model(imported, config)
    if reset or not imported.trained:
        return model
    if imported.optimiser is None:
        raise ModelError(str(imported.optimiser_problem))
    return replace(model, training=training_state(imported, prefix))


def training_state(imported: ImportedModel, prefix: Path) -> dict[str, Any]:
    """The training part of a saved model for an imported checkpoint: its epochs and optimiser, an empty history.

    Of its settings only the initial learning rate and momentum are known.
    """
    state = TrainingState(
        session=prefix.name,
        seed=0,
        origin=origin_of_saved(prefix, digest_of(prefix), reset=False),
        settings={key: _decimal(imported.trainer[name]) for key, name in _INITIAL.items() if name in imported.trainer},
    )
    state.position = Position(epoch=imported.epochs_trained)
    extra = {"optimiser": imported.optimiser, "history": History().to_plain(), "tally": None}
    return {**state.to_plain(), **extra}


def _decimal(single: float) -> float:
    """The number that a config had, of which a checkpoint holds the nearest float32."""
    return float(f"{single:.7g}")


def refuse_other_architecture(config: ModelConfig, model: SavedModel, path: Path) -> None:
    """Raise ModelError when a saved model has another architecture than the `.cfg` named beside it."""
    wanted, found = config.architecture.to_dict(), model.architecture.to_dict()
    differences = _differences(wanted, found, "")
    if differences:
        listing = "\n".join(f"    {line}" for line in differences + _other_parameters(config, model))
        raise ModelError(
            f"{path}: this model has another architecture than the .cfg beside it:\n{listing}\n"
            "  Name the .cfg that the model was made from, leave it out (a .save knows its architecture), or transfer "
            "what fits into a new model: -newModel MODEL.cfg -pretrained X."
        )


def _other_parameters(config: ModelConfig, model: SavedModel) -> list[str]:
    """Parameters that are missing, unexpected or of another shape than the config's network has."""
    with torch.device("meta"):
        own = parameters.named_tensors(DeepMedicNet(config.architecture))
    given = model.parameters
    lines = [f"missing: {name} {list(own[name].shape)}" for name in own if name not in given]
    lines += [f"unexpected: {name} {list(given[name].shape)}" for name in given if name not in own]
    return lines + [
        f"mismatched: {name} is {list(given[name].shape)} in the model and would be {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    ]


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
