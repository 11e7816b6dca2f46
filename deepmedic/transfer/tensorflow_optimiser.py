"""The state of the original DeepMedic's optimisers, found in a TensorFlow checkpoint.

Each slot of an optimiser is one variable per trained parameter, numbered in the order of `parameters.optimizer_order`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from deepmedic.training.optimisers import SGD, Adam, RMSProp
from deepmedic.transfer.tensorflow_bundle import Array
from deepmedic.transfer.tensorflow_index import Index
from deepmedic.transfer.tensorflow_names import Shape, suffixed

TRAINER = "trainer/"
"""Scope of the variables of the optimiser and of the training's counters."""
EPOCHS = "num_epochs_trained"
_ADAM_STEPS = "i_adam"
_ACCUMULATORS = {
    SGD.kind: {"velocity": "velocities_for_mom"},
    Adam.kind: {"mean": "means_of_grads", "mean_square": "vars_of_grads"},
    RMSProp.kind: {"mean_square": "accu_grad_squared", "velocity": "velocities_for_mom"},
}
"""What the original calls the slots of each optimiser."""
_NUMBERED = re.compile(r"(?P<base>.+?)(_\d+)?", re.DOTALL)
_FROZEN = "other layers were frozen then (layersToFreezeNormal, ...)."


@dataclass(frozen=True)
class OptimiserVariables:
    """Which variables of a checkpoint make up the state of an optimiser."""

    kind: str = ""
    """As `Optimiser.kind`."""
    slots: dict[str, dict[str, str]] = field(default_factory=dict)
    """TensorFlow names, by slot and canonical name of the parameter."""
    problem: str | None = None
    """Why there is no state that could be used; nothing else is set then."""

    @property
    def names(self) -> list[str]:
        return [name for slot in self.slots.values() for name in slot.values()]


def find_optimiser(index: Index, parameter_names: Sequence[str], shapes: Mapping[str, Shape]) -> OptimiserVariables:
    """Find the optimiser's state in a checkpoint.

    Args:
        index: of the checkpoint.
        parameter_names: canonical names of the parameters that are trained, in the order of `optimizer_order`.
        shapes: of all parameters by canonical name.
    """
    present = _accumulators(index)
    if not present:
        return OptimiserVariables(problem="holds no state of an optimiser.")
    kind = next((kind for kind, bases in _ACCUMULATORS.items() if set(bases.values()) == set(present)), None)
    if kind is None:
        found = ", ".join(ascii(base) for base in sorted(present))
        return OptimiserVariables(problem=f"its optimiser keeps {found}, which none of DeepMedic's optimisers does.")
    slots = {}
    for slot, base in _ACCUMULATORS[kind].items():
        slots[slot] = {name: TRAINER + suffixed(base, number) for number, name in enumerate(parameter_names)}
        if set(slots[slot].values()) != present[base]:
            numbers = f"{len(present[base])} parameters, but {len(parameter_names)} are to be trained"
            return OptimiserVariables(problem=f"its {kind} state is of {numbers}; {_FROZEN}")
        for name, tf_name in slots[slot].items():
            entry = index.entries[tf_name]
            if entry.shape != shapes[name] or entry.dtype.name != "float32":
                wanted = f"{name} is float32 {list(shapes[name])}"
                problem = f"its {kind} state {tf_name} is {entry.described}, but {wanted}; {_FROZEN}"
                return OptimiserVariables(problem=problem)
    return OptimiserVariables(kind, slots)


def problem_of_values(
    variables: OptimiserVariables, scalars: Mapping[str, float | int], arrays: Mapping[str, Array]
) -> str | None:
    """Why the values of an optimiser's state cannot be used; None where they can."""
    if EPOCHS not in scalars:
        return f"holds no {TRAINER}{EPOCHS}, so it is unknown where its training stood."
    if variables.kind == Adam.kind:
        steps = scalars.get(_ADAM_STEPS, -1)
        if not float(steps).is_integer() or steps < 0:
            found = scalars.get(_ADAM_STEPS, "missing")
            return f"the number of its Adam steps, {TRAINER}{_ADAM_STEPS}, is {found}."
    if not all(np.isfinite(arrays[name]).all() for name in variables.names):
        return f"its {variables.kind} state holds values that are infinite or not a number."
    return None


def optimiser_state(
    variables: OptimiserVariables, scalars: Mapping[str, float | int], arrays: Mapping[str, Array]
) -> dict[str, Any]:
    """The state in the layout of `Optimiser.state_dict`.

    Only Adam's update depends on the number of steps, and the original counts only those.
    """
    slots = {
        slot: {name: torch.from_numpy(arrays[tf_name]) for name, tf_name in tf_names.items()}
        for slot, tf_names in variables.slots.items()
    }
    return {"kind": variables.kind, "steps": int(scalars.get(_ADAM_STEPS, 0)), "slots": slots}


def _accumulators(index: Index) -> dict[str, set[str]]:
    """Names of all arrays in the trainer's scope, by the name without number."""
    present: dict[str, set[str]] = {}
    for name, entry in index.entries.items():
        match = _NUMBERED.fullmatch(name.removeprefix(TRAINER))
        if name.startswith(TRAINER) and entry.shape and match is not None:
            present.setdefault(match["base"], set()).add(name)
    return present
