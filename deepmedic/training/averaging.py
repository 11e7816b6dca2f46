"""Exponential moving average of the weights, for validation and for what is saved.

Polyak and Juditsky (1992); the decay grows to its value over the first steps, so that the random start is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet


class WeightAverage:
    """Averages of the parameters that are trained; everything else of the network is used as it is."""

    def __init__(self, network: DeepMedicNet, decay: float) -> None:
        named: dict[str, Tensor] = dict(parameters.optimizer_order(network))
        self._decay = decay
        self._parameters = named
        self._averages = {name: tensor.detach().clone() for name, tensor in named.items()}
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters after one more step into the average.

        average <- d * average + (1 - d) * parameter with d = min(decay, n / (n + 9)) in step n = 1, 2, ...
        """
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 9))
        averages, current = list(self._averages.values()), list(self._parameters.values())
        torch._foreach_lerp_(averages, current, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the averaged parameters inside the block, and its own again afterwards."""
        own = [tensor.detach().clone() for tensor in self._parameters.values()]
        self._set(list(self._averages.values()))
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(list(self._parameters.values()), values)

    def state_dict(self) -> dict[str, Any]:
        """Return number of steps and averages; the tensors are the live ones."""
        return {"steps": self._steps, "averages": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from `state_dict`; a parameter that it lacks was frozen, and its average starts here."""
        self._steps = int(state["steps"])
        for name, average in self._averages.items():
            if name in state["averages"]:
                average.copy_(state["averages"][name])
