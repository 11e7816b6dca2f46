"""Models made from other models, or brought in from elsewhere, without a session: `-adapt`, `-convert`, `-strip`."""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from deepmedic import checkpoints
from deepmedic.arguments import Arguments
from deepmedic.config.load import load_model_config
from deepmedic.config.model import ModelConfig
from deepmedic.errors import CommandLineError, ConfigError, ModelError, OutputHeldError
from deepmedic.logs import init_logging
from deepmedic.model.saved import SavedModel
from deepmedic.model_files import foreign
from deepmedic.sessions.models.pretraining import announce
from deepmedic.sessions.models.start import training_state
from deepmedic.sessions.models.weights import is_npz, is_tensorflow, read_arrays, read_model
from deepmedic.transfer.adaptation import adapt_model
from deepmedic.transfer.tensorflow_bundle import prefix_of
from deepmedic.transfer.tensorflow_model import import_model, to_saved_model

log = logging.getLogger(__name__)


def run(arguments: Arguments) -> int:
    """Run `-adapt`, `-convert` or `-strip` and return the exit code.

    Raises:
        DeepMedicError: the source cannot be used as asked, or the result cannot be written.
    """
    init_logging()
    if arguments.strip:
        return _strip(arguments)
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
    log.info(
        "Next: train it on scans of the new task:\n  deepmedic -train TRAIN.cfg -model %s", shlex.quote(str(written))
    )
    return 0


def _convert(arguments: Arguments) -> int:
    assert arguments.convert is not None
    source, config_path = arguments.convert
    config = load_model_config(config_path)
    for note in config.source.notes:
        log.warning("%s", note)
    if config.folder_for_output is None and arguments.output is None:
        raise ConfigError(
            f"{config_path}: folderForOutput is missing; add it, or name the file with -output FILE.save."
        )
    written = _target(arguments, (config.folder_for_output or Path()) / "cnnModels", config.name, "converted")
    model = _converted(source, config)
    checkpoints.save(written, model.to_content())
    epochs = (model.provenance or {}).get("epochs_trained", "unknown")
    log.info("Converted model (epochs trained: %s): %s", epochs, written)
    log.info(
        "Next: segment scans with it, or go on training:\n  deepmedic -test TEST.cfg -model %s",
        shlex.quote(str(written)),
    )
    return 0


def _strip(arguments: Arguments) -> int:
    assert arguments.strip is not None
    path, model, sha256 = read_model(arguments.strip)
    written = _target(arguments, path.resolve().parent, model.name, "stripped")
    checkpoints.save(written, model.stripped(sha256).to_content())
    sizes = (f"{file.stat().st_size / 1e6:.2f} MB" for file in (written, path))
    log.info("Stripped model: %s (%s, before %s)", written, *sizes)
    names = model.config.channel_names
    images = " ".join(f"{name}=FILE" for name in names) if names else "FILE..."
    log.info("Next: segment scans with it:\n  deepmedic -segment %s -images %s -output labels.nii.gz", written, images)
    return 0


def _converted(source: Path, config: ModelConfig) -> SavedModel:
    """The model in a TensorFlow checkpoint, with its optimiser if that can be used, or in a file of arrays."""
    if is_npz(source):
        return read_arrays(source, config)
    if not is_tensorflow(source) and source.exists():
        raise _not_to_be_converted(source)
    prefix = prefix_of(source)
    imported = import_model(prefix, config)
    model = to_saved_model(imported, config)
    if imported.optimiser is not None and imported.trained:
        return replace(model, training=training_state(imported, prefix))
    if imported.optimiser_problem is not None:
        log.warning("Converted without the state of its optimiser: %s", imported.optimiser_problem)
    return model


def _not_to_be_converted(source: Path) -> ModelError:
    kind = checkpoints.identify(source)
    if kind == "save" or any(source.glob("*.save")):
        return ModelError(f"{source}: is a saved model of this program already; use it with -model {source}.")
    if source.is_dir():
        return ModelError(f"{source}: holds no TensorFlow checkpoint (X.model.ckpt.index); name another folder.")
    return foreign(source, kind)


def _names_or_number(words: tuple[str, ...]) -> tuple[str, ...] | int | None:
    """Names, or the number when a single number is given; None for nothing."""
    if len(words) == 1 and words[0].isdecimal():
        return int(words[0])
    return words or None


def _target(arguments: Arguments, folder: Path, name: str, tag: str) -> Path:
    """Where the model is written: `-output`, else a dated name that replaces nothing.

    Raises:
        CommandLineError: `-output` is no `.save`.
        OutputHeldError: it exists.
    """
    if arguments.output is None:
        return folder / checkpoints.dated_name(name, None, tag, datetime.now())
    if arguments.output.suffix != ".save":
        raise CommandLineError(f"-output {arguments.output}: a model's name must end in .save.")
    if arguments.output.exists():
        raise OutputHeldError(f"-output {arguments.output}: this file exists; choose another name, or remove it.")
    return arguments.output
