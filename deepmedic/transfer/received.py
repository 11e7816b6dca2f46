"""What one tensor and one layer of a new model received from the source model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from deepmedic.config.architecture import Pathway
from deepmedic.transfer.matching import NEW, Origins

Status = Literal["copied", "sliced", "new"]

ROLLING = ("bn_mean_rolling", "bn_var_rolling")
"""Roles whose axis 0 counts training batches and axis 1 channels; all other one-dimensional ones count channels."""


@dataclass(frozen=True)
class Run:
    """Consecutive channels that correspond to consecutive channels of the source."""

    start: int
    source_start: int
    length: int


@dataclass(frozen=True)
class TensorTransfer:
    """What one tensor of the new model received."""

    name: str
    """Canonical name, as that of the source."""
    shape: tuple[int, ...]
    status: Status
    """"copied": all of it, from all of the source tensor, channel by channel; "sliced": a part of it, or from a part or
    an other order of the source tensor; "new": none."""
    source: str | None = None
    source_shape: tuple[int, ...] | None = None
    slices: tuple[tuple[Run, ...] | None, ...] = ()
    """For each axis the runs of channels received, or None for an axis taken as a whole."""
    received: int = 0
    """Numbers that came from the source."""
    note: str = ""

    @property
    def role(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def trained(self) -> bool:
        """Whether training adjusts it; rolling statistics are not counted as parameters."""
        return self.role not in ROLLING

    def to_plain(self) -> dict[str, Any]:
        """Plain values; slices as [start, source start, length]."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "status": self.status,
            "source": self.source,
            "sourceShape": None if self.source_shape is None else list(self.source_shape),
            "slices": [
                None if runs is None else [[run.start, run.source_start, run.length] for run in runs]
                for runs in self.slices
            ],
            "received": self.received,
            "size": self.size,
            "note": self.note,
        }


@dataclass(frozen=True)
class LayerTransfer:
    """What one layer of the new model received; the softmax bias belongs to the classification layer."""

    pathway: Pathway
    layer: int
    depth: int
    """In the new model: along its parallel pathway, the FC pathway going on after the normal pathway."""
    tensors: tuple[TensorTransfer, ...]
    source_pathway: Pathway | None = None
    source_layer: int | None = None
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.pathway.name}/{self.layer}"

    @property
    def source(self) -> str | None:
        return None if self.source_pathway is None else f"{self.source_pathway.name}/{self.source_layer}"

    @property
    def transferred(self) -> int:
        """Parameters received."""
        return sum(tensor.received for tensor in self.tensors if tensor.trained)

    @property
    def parameters(self) -> int:
        return sum(tensor.size for tensor in self.tensors if tensor.trained)


def runs_of(origins: Origins) -> tuple[Run, ...]:
    """Return the runs of consecutive channels with consecutive origins."""
    runs: list[Run] = []
    for channel, origin in enumerate(origins):
        if origin == NEW:
            continue
        last = runs[-1] if runs else None
        if last and (last.start + last.length, last.source_start + last.length) == (channel, origin):
            runs[-1] = Run(last.start, last.source_start, last.length + 1)
        else:
            runs.append(Run(channel, origin, 1))
    return tuple(runs)
