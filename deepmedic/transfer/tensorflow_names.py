"""The names that the original DeepMedic gives to the variables of a network, derived from its architecture.

In its TensorFlow graph, variables are named in the order of their creation, by kind: the first convolution kernel is
`net/W`, the second `net/W_1`, and so on through the normal pathway, the low-resolution ones and the FC pathway; the
bias before the softmax is the last of the biases. That is the order of this program's canonical names as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet

NET = "net/"
"""Scope of the variables of the network."""
SCRATCH = {"muBnsForRollingAverage": "sharedNewMu_B", "varBnsForRollingAverage": "sharedNewVar_B"}
"""Statistics of the last batch alone, beside the rolling ones; nothing depends on them."""
_BASE_NAMES = {
    "bias": "b",
    "bn_gamma": "gBn",
    "bn_beta": "bBn",
    "bn_mean_rolling": "muBnsForRollingAverage",
    "bn_var_rolling": "varBnsForRollingAverage",
    "prelu_alpha": "aPrelu",
    "weight": "W",
    "weight_x": "w_x",
    "weight_y": "w_y",
    "weight_z": "w_z",
}
"""What the original calls the variable of each role."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Variable:
    """A tensor of a network, as the original names it."""

    name: str
    """The canonical name."""
    tf_name: str
    shape: Shape


def network_variables(architecture: Architecture) -> dict[str, Variable]:
    """What the original stores of a network of this architecture, by TensorFlow name.

    Of the variables with one base name, the first created has no suffix, the others have _1, _2, ...
    """
    with torch.device("meta"):
        tensors = parameters.named_tensors(DeepMedicNet(architecture))
    counters: dict[str, int] = {}
    variables: dict[str, Variable] = {}
    for name, tensor in tensors.items():
        base = _BASE_NAMES[name.rpartition("/")[2]]
        tf_name = NET + suffixed(base, counters.get(base, 0))
        counters[base] = counters.get(base, 0) + 1
        variables[tf_name] = Variable(name, tf_name, tuple(tensor.shape))
    return variables


def scratch_variables(variables: Mapping[str, Variable]) -> dict[str, tuple[int, ...]]:
    """TensorFlow names and shapes of the scratch variables beside those of `network_variables`."""
    return {
        tf_name.replace(base, scratch): variable.shape[1:]
        for base, scratch in SCRATCH.items()
        for tf_name, variable in variables.items()
        if tf_name.startswith(NET + base)
    }


def suffixed(base: str, number: int) -> str:
    """The name of the variable `base` that was created as number `number`, from 0."""
    return f"{base}_{number}" if number else base
