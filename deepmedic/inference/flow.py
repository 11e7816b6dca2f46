"""How many cases of an inference are in hand at once: read, scored and written beside the one that is computed."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from deepmedic.data.memory import memory_limit

_SHARE_OF_MEMORY = 4
"""Cases read ahead may take this part of the memory, and results that are not yet written as much again."""
_MOST_THREADS = 8
_MOST_IMAGES = 16


@dataclass(frozen=True)
class Flow:
    """Numbers of threads beside the one that computes, and the memory for what they have in hand.

    None of it changes a result, nor the order of results and messages.
    """

    readers: int = 1
    """Cases that are read at once."""
    scorers: int = 1
    """Cases that are scored at once."""
    writers: int = 1
    """Cases that are written at once."""
    images: int = 4
    """Images that are compressed at once."""
    memory: int = 0
    """Bytes for cases read ahead, and as many again for results; the least of cases are in hand even with 0."""

    @classmethod
    def of(
        cls,
        device: torch.device,
        cores: int | None = None,
        memory: int | None = None,
        *,
        beside_training: bool = False,
    ) -> Flow:
        """As fits a device: a GPU is fed by half the processor cores; on a CPU nearly all of them compute.

        Args:
            device: what computes.
            cores: processor cores that this process may use; None: asked of the system.
            memory: bytes that this process may use; None: asked of the system.
            beside_training: a training has volumes in memory too, so that a quarter as much is taken.
        """
        cores = usable_cores() if cores is None else cores
        memory = memory_limit() if memory is None else memory
        feeding = cores if device.type != "cpu" else cores // 4
        return cls(
            readers=_between(1, feeding // 2, _MOST_THREADS),
            scorers=_between(1, feeding // 4, _MOST_THREADS),
            writers=_between(1, feeding // 4, _MOST_THREADS),
            images=_between(min(4, cores), feeding // 2, _MOST_IMAGES),
            memory=memory // _SHARE_OF_MEMORY // (4 if beside_training else 1),
        )

    @property
    def threads_per_reader(self) -> int:
        """Threads for each reader's own computations."""
        return max(1, usable_cores() // self.readers)

    def cases_ahead(self, bytes_each: int) -> int:
        """Cases that are read ahead when one takes that many bytes while it is read."""
        return 1 if self.readers == 1 else self._within(self.memory, self.readers + 2, bytes_each, 1)

    def cases_scored(self, bytes_each: int) -> int:
        """Cases that may be scored or wait for it when each takes that many bytes, those of its scoring included."""
        return self._within(self.memory // 2, self.scorers, bytes_each, 1)

    def cases_written(self, bytes_each: int) -> int:
        """Cases with results of that many bytes each that may be written or wait for it."""
        return self._within(self.memory // 2, self.writers + 1, bytes_each, 2)

    @staticmethod
    def _within(memory: int, wanted: int, bytes_each: int, least: int) -> int:
        return max(least, min(wanted, memory // max(1, bytes_each)))


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _between(least: int, wanted: int, most: int) -> int:
    return max(least, min(wanted, most))
