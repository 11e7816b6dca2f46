"""Weights that a user names, read whatever kind of file they are in: told apart by content."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepmedic import checkpoints
from deepmedic.config.model import ModelConfig
from deepmedic.errors import ModelError
from deepmedic.files import sha256_of
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.model_files import DAMAGE_ERRORS, foreign
from deepmedic.transfer.tensorflow_bundle import digest_of, prefix_of
from deepmedic.transfer.tensorflow_model import import_model, to_saved_model

log = logging.getLogger(__name__)

_UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE_ERRORS, MemoryError)
"""What numpy raises on damaged files; memory runs out for arrays of impossible size."""
_ROLLING = {"bn_mean": "bn_mean_rolling", "bn_var": "bn_var_rolling"}


def read_any(path: Path, config: ModelConfig | None, advice: str) -> tuple[Path, SavedModel, str]:
    """Read a `.save` file, a session's folder, a TensorFlow checkpoint or an `.npz` file of parameters.

    Args:
        path: what the user named.
        config: the architecture, for files that do not hold it.
        advice: how to name the architecture on the command line, for the message when it is missing.

    Returns:
        The file, the model and the SHA-256 of what it was read from.

    Raises:
        ModelError: nothing is there, it is damaged or foreign, or its architecture is not known.
    """
    if is_tensorflow(path):
        prefix = prefix_of(path)
        known = _required(config, prefix, "a TensorFlow checkpoint", advice)
        return prefix, to_saved_model(import_model(prefix, known), known), digest_of(prefix)
    if is_npz(path):
        known = _required(config, path, "an .npz file", advice)
        return path, read_arrays(path, known), sha256_of(path)
    return read_model(path)


def read_model(path: Path) -> tuple[Path, SavedModel, str]:
    """Read a `.save` file, or the newest valid model of a session's folder; return file, model and SHA-256.

    Raises:
        ModelError: nothing is there, or it is damaged or foreign.
    """
    if is_tensorflow(path):
        raise foreign(path, "tensorflow")
    if not path.exists():
        raise ModelError(f"{path}: there is no such file or folder; name a .save file or a folder below cnnModels/.")
    if path.is_dir():
        path, content, notes = checkpoints.newest_valid(path)
        for note in notes:
            log.warning("%s", note)
    else:
        content = checkpoints.load(path)
    return path, SavedModel.from_content(content, str(path)), sha256_of(path)


def is_tensorflow(path: Path) -> bool:
    """True for a checkpoint of the original's TensorFlow version: its prefix, one of its files, or a folder of them."""
    if path.is_dir():
        return not any(path.glob("*.save")) and any(path.glob("*.index"))
    return checkpoints.identify(path) == "tensorflow"


def is_npz(path: Path) -> bool:
    """True for a file of arrays."""
    return path.is_file() and checkpoints.identify(path) == "npz"


def weights_digest(path: Path) -> str | None:
    """SHA-256 of the weights that a path names, as an origin records it; None when the path is gone or a folder."""
    if is_tensorflow(path):
        return digest_of(prefix_of(path))
    return sha256_of(path) if path.is_file() else None


def read_arrays(path: Path, config: ModelConfig) -> SavedModel:
    """A model from arrays by canonical name, as `-exportParameters` writes them, or brought in from elsewhere.

    Where the rolling arrays of batch norm are missing, `bn_mean` and `bn_var` [C] stand for every row of them.

    Raises:
        ModelError: the file is damaged, holds other things than numbers, or does not fit the architecture.
    """
    arrays = _arrays_in(path)
    network = DeepMedicNet(config.architecture)
    expected = parameters.named_tensors(network)
    tensors: dict[str, torch.Tensor] = {}
    for name, array in _with_rolling_arrays(arrays, expected).items():
        tensors[name] = torch.from_numpy(_checked(path, name, array))
    try:
        parameters.load_tensors(network, tensors)
    except ModelError as error:
        raise ModelError(f"{path}: read for the architecture of model '{config.name}': {error}") from error
    return SavedModel(
        config=config,
        parameters=tensors,
        dialect=config.source.dialect,
        start_parameters={name: tensor.clone() for name, tensor in tensors.items()},
        provenance={"kind": "arrays", "file": path.name, "sha256": sha256_of(path)},
    )


def _arrays_in(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except _UNREADABLE as error:
        raise ModelError(
            f"{path}: cannot be read as an .npz file of numbers ({error}). Write it again, with numpy.savez and one "
            "array of floating-point numbers for each parameter."
        ) from error


def _checked(path: Path, name: str, array: Any) -> Any:
    """The array as float32."""
    if not np.issubdtype(array.dtype, np.floating):
        raise ModelError(f"{path}: {name} must hold floating-point numbers; found {array.dtype}.")
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    bad = int(np.sum(~np.isfinite(numbers)))
    if bad:
        raise ModelError(
            f"{path}: {bad} of the {numbers.size} numbers of {name} are infinite, not a number, or too large for "
            "float32; use the parameters of a model whose training did not diverge."
        )
    if name.endswith("/bn_var_rolling") and (numbers < 0).any():
        raise ModelError(f"{path}: {name} holds negative numbers, down to {numbers.min():g}; variances are at least 0.")
    return numbers


def _with_rolling_arrays(arrays: dict[str, Any], expected: dict[str, torch.Tensor]) -> dict[str, Any]:
    found = dict(arrays)
    for name in arrays:
        layer, _, role = name.rpartition("/")
        if role not in _ROLLING:
            continue
        rolling = f"{layer}/{_ROLLING[role]}"
        statistics = found.pop(name)
        if rolling not in arrays and rolling in expected:
            found[rolling] = np.broadcast_to(statistics, (len(expected[rolling]), *statistics.shape)).copy()
    return found


def _required(config: ModelConfig | None, path: Path, what: str, advice: str) -> ModelConfig:
    if config is None:
        raise ModelError(f"{path}: {what} holds no architecture; name the model config it was made from: {advice}")
    return config
