"""`-pretrained`: what a new model receives from another one before its first step."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from deepmedic.arguments import Arguments
from deepmedic.config.initialisation import Initialisation
from deepmedic.config.load import load_model_config
from deepmedic.config.model import ModelConfig
from deepmedic.errors import CommandLineError, ModelError
from deepmedic.files import write_json_atomically
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.models.weights import is_npz, is_tensorflow, read_any, weights_digest
from deepmedic.transfer.options import TransferOptions
from deepmedic.transfer.report import TransferReport, TransferResult
from deepmedic.transfer.statistics_transfer import initialise
from deepmedic.transfer.transplant import transplant

log = logging.getLogger(__name__)

Growth = Literal["exact"]


@dataclass(frozen=True)
class Pretraining:
    """The source model A of a transfer, and how it is asked for on the command line."""

    source: Path
    config: ModelConfig | None
    """A's architecture, for sources that do not hold it; None for arrays: that of the new model."""
    layers: tuple[int, ...] | None
    grow: Growth | None
    initialisation: Initialisation | None = None
    """What is taken of the layers; None: their weights. If given, the classification layer is always new."""

    @property
    def is_gone(self) -> bool:
        """The source is no longer there."""
        return not is_tensorflow(self.source) and not self.source.exists()

    def digest(self, *, by_path: bool = False) -> str:
        """SHA-256 of what the transfer depends on beside the new model's config.

        Args:
            by_path: let the source's path stand for its weights, as it does for a folder, which goes on to change.
        """
        weights = None if by_path else weights_digest(self.source)
        config = self.config.to_dict() if self.config else None
        plain = [weights or str(self.source.resolve()), self.layers, self.grow, config]
        plain += [self.initialisation.name] if self.initialisation else []
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def requested(arguments: Arguments) -> Pretraining | None:
    """What `-pretrained` and the options beside it ask for; None when it is not given.

    Raises:
        CommandLineError: another kind of growth than "exact", or no initialisation that takes anything.
        ConfigError: mistakes in the config that `-pretrainedConfig` names.
    """
    if arguments.pretrained is None:
        return None
    grow = arguments.grow
    if grow is not None and grow not in get_args(Growth):
        raise CommandLineError(f"-grow {grow}: the only kind of growth is exact.")
    config = load_model_config(arguments.pretrained_config) if arguments.pretrained_config else None
    initialisation = None if arguments.initialisation is None else _initialisation(arguments.initialisation)
    return Pretraining(arguments.pretrained, config, arguments.layers, "exact" if grow else None, initialisation)


def _initialisation(name: str) -> Initialisation:
    try:
        found = Initialisation.of(name)
    except ValueError as problem:
        raise CommandLineError(f"-initialisation {name}: {problem}.") from problem
    if found.rest == "nothing":
        raise CommandLineError(f"-initialisation {name} takes nothing from -pretrained; leave both out.")
    return found


def pretrain(target: SavedModel, pretraining: Pretraining) -> TransferResult:
    """Return the new model `target` with what it receives, and the report of every tensor.

    Raises:
        ModelError: the source cannot be read, or the models do not fit each other.
    """
    path, source, sha256 = _read_source(target, pretraining)
    options = TransferOptions(
        layers=pretraining.layers,
        new_channels=target.config.new_channels,
        transfer_classes=target.config.transfer_classes and pretraining.initialisation is None,
        grow=pretraining.grow,
        class_frequencies=target.config.class_frequencies,
        source_sha256=sha256,
    )
    try:
        if pretraining.initialisation is not None:
            return initialise(source, target, pretraining.initialisation, options, _seed_of(target))
        return transplant(source, target, options)
    except ModelError as error:
        raise ModelError(f"-pretrained {path}: {error}") from error


def _seed_of(target: SavedModel) -> int:
    """The seed that the new model was drawn from."""
    assert target.provenance is not None  # a new model tells how it was made
    return int(target.provenance["seed"])


def _read_source(target: SavedModel, pretraining: Pretraining) -> tuple[Path, SavedModel, str]:
    """Read the source model; arrays without a config of their own are those of the new model's architecture."""
    if pretraining.config is not None or not is_npz(pretraining.source):
        return read_any(pretraining.source, pretraining.config, "-pretrainedConfig MODEL.cfg")
    try:
        return read_any(pretraining.source, target.config, "")
    except ModelError as error:
        advice = "If they are the parameters of another architecture, add its config: -pretrainedConfig MODEL.cfg"
        raise ModelError(f"{error}\n  {advice}") from error


def announce(report: TransferReport, model_path: Path) -> None:
    """Write the report beside a new model and into the log: the original's lines for the log, the table for people.

    Raises:
        ResourceError: the file cannot be written.
    """
    for line in report.log_lines():
        log.debug("%s", line)
    log.info("%s", report.to_text())
    path = model_path.with_suffix(".transfer.json")
    write_json_atomically(path, report.to_plain())
    log.info("The transfer, tensor by tensor: %s", path)
