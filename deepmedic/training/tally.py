"""Running sums of one subepoch, kept on the device and restorable in the middle of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepmedic.training.history import Counts, SampleRecord


class SubepochTally:
    """Adds up counts and costs of batches; reading the sums waits for the device, adding to them does not."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._counts = torch.zeros(classes, 4, dtype=torch.int64, device=device)
        # In double precision, a sum saved and restored half-way ends as the very same number.
        self._cost = torch.zeros((), dtype=torch.float64, device=device)
        self._costs_added = 0

    def add(self, counts: Tensor, cost: Tensor | None = None) -> None:
        """Add one batch: `counts` [class, 4] of real positives, real negatives, true positives, true negatives, and
        in training its `cost`, 0-dimensional."""
        self._counts += counts
        if cost is not None:
            self._cost += cost.detach()
            self._costs_added += 1

    def record(self) -> SampleRecord:
        """Return the counts so far and the mean cost (None if no cost was added)."""
        counts: Counts = tuple((row[0], row[1], row[2], row[3]) for row in self._counts.tolist())
        return SampleRecord(counts, self._cost.item() / self._costs_added if self._costs_added else None)

    def to_plain(self) -> dict[str, Any]:
        """Return the sums as lists and numbers, for a checkpoint."""
        return {"counts": self._counts.tolist(), "cost": self._cost.item(), "costs_added": self._costs_added}

    @classmethod
    def from_plain(cls, plain: dict[str, Any], device: torch.device) -> SubepochTally:
        """Restore what `to_plain` returned."""
        tally = cls(len(plain["counts"]), device)
        tally._counts.copy_(torch.tensor(plain["counts"], dtype=torch.int64))
        tally._cost.fill_(plain["cost"])
        tally._costs_added = plain["costs_added"]
        return tally
