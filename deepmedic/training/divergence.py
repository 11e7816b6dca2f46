"""Noticing a training that diverges, before anything of it is saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deepmedic.errors import DivergedError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet


class Step(NamedTuple):
    """A training step that was made, and what is named should it have gone wrong."""

    cost: Tensor
    """0-dimensional, on the device."""
    number: int
    learning_rate: float
    case_names: Callable[[], list[str]]
    """The cases that its batch was drawn from."""

    def __str__(self) -> str:
        cases = ", ".join(self.case_names())
        return f"step {self.number} (learning rate {self.learning_rate:g}, cases {cases})"


class _HostValue:
    """A number on its way from the device: reading it waits for the copy only, not for what was queued after it."""

    def __init__(self, value: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._value = value.detach()
        if value.is_cuda:
            self._value = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(value.device))

    def read(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return self._value.item()


class DivergenceGuard:
    """Looks at the cost of every step, on a GPU one step late so that none is waited for, and at what is saved."""

    def __init__(self, network: DeepMedicNet, device: torch.device) -> None:
        self._network = network
        self._waits = device.type == "cpu"
        self._last: Step | None = None
        self._unchecked: tuple[Step, _HostValue] | None = None

    def watch(self, step: Step) -> None:
        """Take note of a step and check the cost of the one before, on a CPU that of this one.

        Raises:
            DivergedError: the cost is infinite or not a number.
        """
        self.check_cost()
        self._last, self._unchecked = step, (step, _HostValue(step.cost))
        if self._waits:
            self.check_cost()

    def check_cost(self) -> None:
        """Check the cost of the last step, if that was not done yet; raises as `watch`."""
        unchecked, self._unchecked = self._unchecked, None
        if unchecked is not None:
            step, value = unchecked
            cost = value.read()
            if not math.isfinite(cost):
                raise _diverged(f"The training cost became {cost} at {step}.")

    def check_parameters(self) -> None:
        """Check everything that a checkpoint would hold: the last step may have spoilt it after a finite cost.

        Raises:
            DivergedError: the last cost, a parameter or a rolling statistic is infinite or not a number.
        """
        self.check_cost()
        tensors = parameters.named_tensors(self._network)
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
        bad = [name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite]
        if bad:
            where = f"became infinite or not a number at {self._last}" if self._last else "are not finite at the start"
            raise _diverged(f"The parameters {', '.join(bad)} {where}.")


def _diverged(what: str) -> DivergedError:
    return DivergedError(
        f"{what} The last checkpoint holds finite parameters and is untouched. Lower learningRate, or look at the "
        "intensities of these cases."
    )
