"""Creating a model: parameters drawn from a seed, saved before any training."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deepmedic import checkpoints
from deepmedic.arguments import Arguments
from deepmedic.config.model import ModelConfig
from deepmedic.errors import ConfigError, ProblemList
from deepmedic.logs import session_log
from deepmedic.model import parameters
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.common import estimates
from deepmedic.sessions.models.pretraining import announce, pretrain, requested
from deepmedic.transfer.report import TransferReport

log = logging.getLogger(__name__)


@dataclass
class NewModelPlan:
    """A model that can be created."""

    config: ModelConfig
    model: SavedModel
    folder: Path
    """Where it will be saved."""
    report: TransferReport | None = None
    """What it received from another model."""


def prepare(arguments: Arguments, config: ModelConfig) -> NewModelPlan:
    """Create the model in memory and check that it can be saved.

    Raises:
        ConfigError: no `folderForOutput`.
        ModelError: the model that `-pretrained` names cannot be read, or does not fit.
        ResourceError: the folder cannot be written, or the disk is full.
    """
    if config.folder_for_output is None:
        raise ConfigError(f"{config.source.path}: folderForOutput is missing; -newModel saves the model below it.")
    model, report = SavedModel.new(config, arguments.seed), None
    pretraining = requested(arguments)
    problems = ProblemList()
    if pretraining is not None:
        with problems.gather():
            result = pretrain(model, pretraining)
            model, report = result.model, result.report
    with problems.gather():
        estimates.check_disk(config.folder_for_output, 2 * estimates.parameter_bytes(model))
    problems.raise_if_any()
    return NewModelPlan(config, model, config.folder_for_output / "cnnModels", report)


def run(plan: NewModelPlan) -> int:
    """Save the model and return the exit code; the log has the name of the model, as in the original."""
    with session_log(plan.folder.parent / "logs" / f"{plan.config.name}.txt") as log_path:
        for note in plan.config.source.notes:
            log.warning("%s", note)
        path = save(plan.model, plan.folder, plan.report)
        log.info("Log: %s", log_path)
        log.info("Next: train it:\n  deepmedic -train TRAIN.cfg -model %s", shlex.quote(str(path)))
    return 0


def save(model: SavedModel, folder: Path, report: TransferReport | None = None) -> Path:
    """Write an untrained model as `<modelName>.initial[.pretrained].<date>.save`, say so, and return its path.

    Raises:
        ResourceError: it cannot be written.
    """
    tag = "initial" if report is None else "initial.pretrained"
    path = folder / checkpoints.dated_name(model.name, None, tag, datetime.now())
    checkpoints.save(path, model.to_content())
    if report is not None:
        announce(report, path)
    log.info("New model with %d trainable parameters: %s", parameters.count_parameters(model.network()), path)
    return path
