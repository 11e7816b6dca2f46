"""Models of the original DeepMedic v0.8, imported from their TensorFlow checkpoints.

A checkpoint holds variables, but no architecture: their names follow from it, and their shapes are compared with it.
What names and shapes do not show (residual connections, padding, factors of low-resolution pathways, dropout rates,
activations without parameters) comes from the model config alone, so it must be the one that the checkpoint was trained
with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepmedic.config.architecture import Architecture
from deepmedic.config.model import ModelConfig
from deepmedic.errors import ModelError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.tensorflow_bundle import Array, digests_of, read_variables
from deepmedic.transfer.tensorflow_index import Index, read_index
from deepmedic.transfer.tensorflow_names import NET, SCRATCH, Variable, network_variables, scratch_variables
from deepmedic.transfer.tensorflow_optimiser import (
    EPOCHS,
    TRAINER,
    find_optimiser,
    optimiser_state,
    problem_of_values,
)

_RESET = "Keep the weights and start optimisation anew with -resetOptimizer."
_COLUMNS = ("parameter", "in TensorFlow", "in the checkpoint", "in the architecture")


@dataclass(frozen=True)
class ImportedModel:
    """What a checkpoint of the original holds, in the terms of this program; all tensors are on the CPU."""

    parameters: dict[str, Tensor]
    """Parameters and rolling statistics by canonical name, as in `SavedModel`."""
    rolling_rows: dict[str, int]
    """0 for every layer with batch norm: the original starts its window anew when it loads a checkpoint."""
    optimiser: dict[str, Any] | None
    """As `Optimiser.state_dict`, for a training that goes on; "steps" is 0 where the original does not count them."""
    optimiser_problem: str | None
    """Why there is no optimiser state, and the remedy; None if there is one."""
    epochs_trained: int
    """Finished epochs, which is the number of the next one, counted from 0."""
    trained: bool
    """False for the checkpoint "initial", which the original saves before the first step."""
    trainer: dict[str, float | int]
    """Scalars of the original's trainer under its own names: `num_epochs_trained`, `init_lr`, `init_mom`, and `i_adam`
    with Adam. A session of the original that goes on keeps this initial rate and momentum, whatever its config says."""
    provenance: dict[str, Any]
    """Name of the checkpoint, SHA-256 of each of its files, finished epochs."""


def import_model(prefix: Path, config: ModelConfig, trained_parameters: Sequence[str] | None = None) -> ImportedModel:
    """Read the checkpoint `prefix` (see `prefix_of`) of a model that the original made from `config`.

    Args:
        prefix: path of the checkpoint without `.index`.
        config: the model config that the checkpoint was trained with.
        trained_parameters: canonical names of the parameters that the training does not freeze, in the order of
            `parameters.optimizer_order`; None: all. The optimiser's state must be of just these.

    Raises:
        ModelError: a file is missing, damaged or foreign; the variables are not those of the architecture or have other
            shapes (all are listed); or they hold values that are not finite.
        ResourceError: there is not enough memory.
    """
    index = read_index(prefix)
    variables = network_variables(config.architecture)
    _require_fit(prefix, config, index, variables)
    shapes = {variable.name: variable.shape for variable in variables.values()}
    if trained_parameters is None:
        trained_parameters = _all_trainable(config.architecture)
    found = find_optimiser(index, trained_parameters, shapes)
    scalar_names = [name for name, entry in index.entries.items() if name.startswith(TRAINER) and not entry.shape]
    # Scratch variables are read to verify all of the file's bytes.
    scratch = [name for name, shape in scratch_variables(variables).items() if _shape_in(index, name) == shape]
    arrays = read_variables(prefix, index, [*variables, *scratch, *found.names, *scalar_names])
    _require_finite(prefix, variables, arrays)
    scalars = {name.removeprefix(TRAINER): arrays[name].item() for name in scalar_names}
    epochs = _epochs(prefix, scalars)
    problem = found.problem or problem_of_values(found, scalars, arrays)
    tensors = {variable.name: torch.from_numpy(arrays[name]) for name, variable in variables.items()}
    return ImportedModel(
        parameters=tensors,
        rolling_rows={name.rpartition("/")[0]: 0 for name in tensors if name.endswith("/bn_mean_rolling")},
        optimiser=None if problem else optimiser_state(found, scalars, arrays),
        optimiser_problem=f"{prefix}: {problem} {_RESET}" if problem else None,
        epochs_trained=epochs,
        trained=epochs > 0 or EPOCHS not in scalars,
        trainer=scalars,
        provenance={
            "kind": "tensorflow",
            "checkpoint": prefix.name,
            "sha256": digests_of(prefix),
            "epochs_trained": epochs,
        },
    )


def to_saved_model(imported: ImportedModel, config: ModelConfig) -> SavedModel:
    """A saved model from what `import_model` returned for the same `config`.

    The parameters before the first step of a trained model are in no file of the original. The imported ones stand for
    them, so that the model counts as trained and its changes are counted from the import. `training` is None: a session
    that goes on takes `optimiser` and `epochs_trained` from `imported`.
    """
    start = {name: tensor.clone() for name, tensor in imported.parameters.items()} if imported.trained else None
    return SavedModel(
        config=config,
        parameters=dict(imported.parameters),
        dialect="tensorflow",
        rolling_rows=dict(imported.rolling_rows),
        start_parameters=start,
        provenance=dict(imported.provenance),
    )


def _all_trainable(architecture: Architecture) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in parameters.optimizer_order(DeepMedicNet(architecture))]


def _shape_in(index: Index, name: str) -> tuple[int, ...] | None:
    return index.entries[name].shape if name in index.entries else None


def _require_fit(prefix: Path, config: ModelConfig, index: Index, variables: Mapping[str, Variable]) -> None:
    """Refuse a checkpoint whose network is not exactly that of the architecture."""
    entries = index.entries
    if not any(name.startswith(NET) for name in entries):
        raise ModelError(
            f"{prefix}: is a TensorFlow checkpoint, but not one of DeepMedic v0.8: none of the names of its "
            f"{len(entries)} variables begins with {NET}. Name another checkpoint."
        )
    expected = {name: f"float32 {list(variable.shape)}" for name, variable in variables.items()}
    found = {name: entry.described for name, entry in entries.items()}
    ignored = (TRAINER, *(NET + base for base in SCRATCH.values()))
    differing = [name for name in expected if name in found and found[name] != expected[name]]
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected and not name.startswith(ignored)]
    if not differing and not missing and not unexpected:
        return
    rows = [(variables[name].name, name, found.get(name, "-"), expected[name]) for name in [*differing, *missing]]
    rows += [("-", ascii(name)[1:-1], found[name], "-") for name in unexpected]
    config_path = f" ({config.source.path})" if config.source.path else ""
    raise ModelError(
        f"{prefix}: this TensorFlow checkpoint does not fit the architecture of model '{config.name}'{config_path}: "
        f"variables that differ: {len(differing)}, missing: {len(missing)}, without a place in it: {len(unexpected)}\n"
        f"{_table(rows)}\n"
        "Name the model config that the checkpoint was trained with, as in: -model MODEL.cfg -load X.model.ckpt"
    )


def _table(rows: Sequence[tuple[str, str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in (_COLUMNS, *rows)) for column in range(len(_COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (_COLUMNS, *rows))
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _require_finite(prefix: Path, variables: Mapping[str, Variable], arrays: Mapping[str, Array]) -> None:
    """Refuse what a diverged training left: it would segment everything as not a number."""
    not_finite = {name: int(np.sum(~np.isfinite(arrays[name]))) for name in variables}
    found = [
        f"  {variables[name].name} ({name}): {count} of {arrays[name].size}"
        for name, count in not_finite.items()
        if count
    ]
    if found:
        listing = "\n".join(found)
        raise ModelError(
            f"{prefix}: holds values that are infinite or not a number, as after a training that diverged:\n{listing}\n"
            "Use an earlier checkpoint."
        )


def _epochs(prefix: Path, scalars: Mapping[str, float | int]) -> int:
    epochs = scalars.get(EPOCHS, 0)
    if not float(epochs).is_integer() or epochs < 0:
        raise ModelError(
            f"{prefix}: {TRAINER}{EPOCHS} is {epochs}; allowed are whole numbers from 0. Use another checkpoint."
        )
    return int(epochs)
