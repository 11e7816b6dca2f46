"""What the checks of the self-test have in common: their result, the golden numbers, and how errors are measured."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROBABILITY = 2e-5
"""Largest error of a probability in float32."""


class NotTestedError(Exception):
    """This check cannot be made on this device; the message says why. It counts neither as passed nor as failed."""


@dataclass(frozen=True)
class Comparison:
    """The result of one check."""

    against: str
    """What was compared with."""
    error: float
    allowed: float
    """Largest error with which the check is passed."""

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed  # never for nan


@dataclass(frozen=True)
class Check:
    """One line of the self-test."""

    name: str
    run: Callable[[torch.device], Comparison]
    only_cuda: bool = False
    all_threads: bool = False
    """Use all threads of the CPU; without, one: threads that share tiny operations wait for each other, on a busy
    machine for most of a minute."""


@dataclass(frozen=True)
class Golden:
    """One set of golden numbers: settings, and arrays on the CPU by name."""

    settings: dict[str, Any]
    arrays: dict[str, torch.Tensor]

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """The arrays whose names begin with `prefix/`, without it."""
        start = prefix + "/"
        return {name.removeprefix(start): array for name, array in self.arrays.items() if name.startswith(start)}

    def numbered(self, prefix: str, device: torch.device) -> list[torch.Tensor]:
        """The arrays `prefix/0`, `prefix/1`, ... on a device."""
        found = self.below(prefix)
        return [found[str(number)].to(device) for number in range(len(found))]


@functools.cache
def golden(name: str) -> Golden:
    """Read a set of golden numbers that is shipped with the package; see `data/README.md`."""
    folder = Path(__file__).parent / "data"
    settings = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        return Golden(settings, {key: torch.from_numpy(stored[key]) for key in stored.files})


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference; nan when a value is nan."""
    if found.shape != expected.shape:
        raise ValueError(f"found the shape {list(found.shape)}, expected {list(expected.shape)}")
    if not found.numel():
        return 0.0
    return float((found.detach().double().cpu() - expected.detach().double().cpu()).abs().max())


def relative_difference(found: torch.Tensor, expected: torch.Tensor, floor: float = 0.0) -> float:
    """Largest absolute difference as a share of the largest expected value plus `floor`."""
    return difference(found, expected) / (float(expected.abs().max()) + floor)
