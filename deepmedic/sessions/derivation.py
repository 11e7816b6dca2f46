"""Models made from other models without a session: `-adapt` and `-convert`."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from deepmedic import checkpoints
from deepmedic.arguments import Arguments
from deepmedic.config.load import load_model_config
from deepmedic.errors import CommandLineError, ConfigError
from deepmedic.logs import init_logging
from deepmedic.sessions.pretraining import announce
from deepmedic.sessions.start import training_state
from deepmedic.sessions.weights import read_model
from deepmedic.transfer.adaptation import adapt_model
from deepmedic.transfer.tensorflow_bundle import prefix_of
from deepmedic.transfer.tensorflow_model import import_model, to_saved_model

log = logging.getLogger(__name__)


def run(arguments: Arguments) -> int:
    """Run `-adapt` or `-convert` and return the exit code.

    Raises:
        DeepMedicError: the source cannot be used as asked, or the result cannot be written.
    """
    init_logging()
    return _adapt(arguments) if arguments.adapt else _convert(arguments)


def _adapt(arguments: Arguments) -> int:
    assert arguments.adapt is not None
    path, model, sha256 = read_model(arguments.adapt)
    classes, channels = _names_or_number(arguments.classes), _names_or_number(arguments.channels)
    result = adapt_model(
        model,
        n_classes=classes if isinstance(classes, int) else None,
        class_names=classes if isinstance(classes, tuple) else None,
        n_channels=channels if isinstance(channels, int) else None,
        channel_names=channels if isinstance(channels, tuple) else None,
        class_frequencies=arguments.class_frequencies,
        source_sha256=sha256,
    )
    written = _target(arguments, path.resolve().parent, model.name, "adapted")
    checkpoints.save(written, result.model.to_content())
    announce(result.report, written)
    log.info("Adapted model: %s", written)
    log.info("Next: train it on scans of the new task:\n  deepmedic -train TRAIN.cfg -model %s", written)
    return 0


def _convert(arguments: Arguments) -> int:
    assert arguments.convert is not None
    checkpoint, config_path = arguments.convert
    config = load_model_config(config_path)
    for note in config.source.notes:
        log.warning("%s", note)
    if config.folder_for_output is None and arguments.output is None:
        raise ConfigError(
            f"{config_path}: folderForOutput is missing; add it, or name the file with -output FILE.save."
        )
    prefix = prefix_of(checkpoint)
    imported = import_model(prefix, config)
    model = to_saved_model(imported, config)
    if imported.optimiser is not None and imported.trained:
        model = replace(model, training=training_state(imported, prefix))
    elif imported.optimiser_problem is not None:
        log.warning("Converted without the state of its optimiser: %s", imported.optimiser_problem)
    folder = (config.folder_for_output or Path()) / "cnnModels"
    written = _target(arguments, folder, config.name, "converted")
    checkpoints.save(written, model.to_content())
    log.info("Converted model, trained for %d epochs: %s", imported.epochs_trained, written)
    log.info("Next: segment scans with it, or go on training:\n  deepmedic -test TEST.cfg -model %s", written)
    return 0


def _names_or_number(words: tuple[str, ...]) -> tuple[str, ...] | int | None:
    """Names, or the number when a single number is given; None for nothing."""
    if len(words) == 1 and words[0].isdecimal():
        return int(words[0])
    return words or None


def _target(arguments: Arguments, folder: Path, name: str, tag: str) -> Path:
    """Where the model is written: `-output`, else a dated name that replaces nothing.

    Raises:
        CommandLineError: `-output` is no `.save`, or exists and `-overwrite` cannot be given here.
    """
    if arguments.output is None:
        return folder / checkpoints.dated_name(name, None, tag, datetime.now())
    if arguments.output.suffix != ".save":
        raise CommandLineError(f"-output {arguments.output}: a model's name must end in .save.")
    if arguments.output.exists():
        raise CommandLineError(f"-output {arguments.output}: this file exists; choose another name.")
    return arguments.output
