"""Independent random streams, each a pure function of what it is for.

Nothing is drawn from a generator that lives through a session: a draw depends on the seed and on names such as the
epoch and subepoch only, never on what was drawn before. Resuming therefore needs no generator state, and neither the
number of workers nor the order in which cases are read changes a sample.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np


def stream(seed: int, *purpose: int | str) -> np.random.Generator:
    """Return the generator for one purpose, for instance `stream(0, "train", epoch, subepoch, "order")`.

    The counter-based generator Philox (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") is keyed by
    a hash of seed and purpose, which is the same on every machine and in every process.
    """
    digest = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


@dataclass(frozen=True)
class SubepochId:
    """Which subepoch of which session a draw belongs to."""

    seed: int
    role: str
    """"train" or "val": training and validation samples are drawn independently."""
    epoch: int
    subepoch: int

    def stream(self, *purpose: int | str) -> np.random.Generator:
        """Return the generator for one purpose within this subepoch."""
        return stream(self.seed, self.role, self.epoch, self.subepoch, *purpose)
