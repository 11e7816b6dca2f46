"""`-inspect`: what a saved model or a model config is: architecture, training state, provenance, parameters."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np

from deepmedic.arguments import Arguments
from deepmedic.config.load import load_model_config
from deepmedic.errors import CommandLineError, ModelError
from deepmedic.files import write_atomically, write_text_atomically
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.model_files import is_model_config
from deepmedic.report import architecture_svg, architecture_text
from deepmedic.report.content import Model
from deepmedic.sessions.models.weights import read_model
from deepmedic.sessions.reports.model_drawing import describe_model


def inspect(arguments: Arguments) -> str:
    """Return the text (or with `-json` the JSON) of `-inspect X`.

    Writes parameters if `-exportParameters` is given, and the drawing of the architecture if `-output` is.

    Raises:
        CommandLineError: `-output` with another ending than .svg.
        ModelError: the file is missing, damaged or foreign.
        ConfigError: a model `.cfg` with mistakes.
    """
    path = arguments.inspect
    assert path is not None
    if is_model_config(path):
        model, source = SavedModel.new(load_model_config(path), arguments.seed), path
        sha256 = None
    else:
        source, model, sha256 = read_model(path)
    network = model.network()
    if arguments.export_parameters is not None:
        export_parameters(network, arguments.export_parameters)
    findings = describe(model, network, source, sha256)
    drawn = describe_model(model.config)
    if arguments.output is not None:
        save_drawing(drawn, arguments.output)
    if arguments.json:
        return json.dumps(findings, indent=2)
    written = [f"drawing: {arguments.output}"] if arguments.output is not None else []
    return "\n".join([_text(findings), "architecture:", indent(architecture_text.draw(drawn), "  "), *written])


def save_drawing(model: Model, path: Path) -> None:
    """Write the drawing of an architecture as an SVG file.

    Raises:
        CommandLineError: the path does not end in .svg.
        ResourceError: it cannot be written.
    """
    if path.suffix.lower() != ".svg":
        raise CommandLineError(f"-output {path}: -inspect draws the architecture there; the name must end in .svg.")
    write_text_atomically(path, architecture_svg.draw(model, standalone=True) + "\n")


def export_parameters(network: DeepMedicNet, path: Path) -> None:
    """Write all parameters, rolling arrays and the statistics derived from them as arrays by canonical name.

    Raises:
        ModelError: the path does not end in .npz.
        ResourceError: it cannot be written.
    """
    if path.suffix != ".npz":
        raise ModelError(f"-exportParameters {path}: the name must end in .npz.")
    tensors = {**parameters.named_tensors(network), **parameters.derived_tensors(network)}
    arrays: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    write_atomically(path, lambda file: np.savez(file, **arrays))


def describe(model: SavedModel, network: DeepMedicNet, source: Path, sha256: str | None) -> dict[str, Any]:
    """Return everything that `-inspect` shows as plain values."""
    config = model.config
    training = None
    if model.training is not None:
        shown = ("session", "seed", "position", "best", "finished", "origin")
        training = {name: model.training[name] for name in shown}
    return {
        "file": str(source),
        "sha256": sha256,
        "name": model.name,
        "classes": model.architecture.classes,
        "classNames": config.class_names,
        "inputChannels": model.architecture.input_channels,
        "channelNames": config.channel_names,
        "activation": model.architecture.activation,
        "batchNormWindow": model.architecture.batch_norm_window,
        "receptiveField": model.architecture.receptive_field,
        "segments": {
            "train": config.segment_size_train,
            "validation": config.segment_size_validation,
            "inference": config.segment_size_inference,
        },
        "parameters": parameters.count_parameters(network),
        "subsampleFactors": {pathway.name: pathway.factor for pathway in model.architecture.subsampled},
        "layers": [_without_frozen(asdict(row)) for row in parameters.layer_table(network)],
        "trained": model.trained,
        "training": training,
        "data": {key: value for key, value in vars(model.data).items() if key != "intensities"},
        "provenance": model.provenance,
    }


def _without_frozen(row: dict[str, Any]) -> dict[str, Any]:
    """Which layers are frozen is a setting of a session, not a property of the model."""
    return {key: value for key, value in row.items() if key != "frozen"}


def _text(findings: dict[str, Any]) -> str:
    lines = [f"{key}: {_shown(value)}" for key, value in findings.items() if key not in ("layers", "training")]
    lines += ["training:"]
    lines += [f"  {key}: {_shown(value)}" for key, value in (findings["training"] or {"state": "none"}).items()]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(item, int) for item in value):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
