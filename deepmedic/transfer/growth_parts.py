"""How the layers of a small pathway can stand in a larger one so that the larger one computes the same.

Stage 0 of a pathway is its input, stage n the output of layer n (with its residual, if it has one). Each layer of the
larger pathway takes one of these parts:

- mapped: a layer of the small pathway; its further feature maps are new, and nothing of the small network listens to
  them at first.
- identity: an inserted layer that passes its input on: normalisation and activation undone, kernels with 1 at their
  centre. Possible with activations that can be the identity: linear, and PReLU with slope 1.
- free and shortcut: two inserted layers with a residual connection over both. The second adds nothing at first, so its
  output is the residual alone; the first can be anything. Possible with every activation.

Where a residual connection would add a new channel to one of the small network's, the latter goes to a place without
such a channel; if there is none, the new channel is silent: its kernel starts from zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deepmedic.config.architecture import Pathway
from deepmedic.config.options import Size3
from deepmedic.transfer.matching import Origins

Part = Literal["mapped", "identity", "free", "shortcut"]
Channels = frozenset[tuple[int, int]]
"""Feature maps as (layer, channel), layers counted from 1 and channels from 0."""


@dataclass(frozen=True)
class Step:
    """The part of one layer of the larger pathway."""

    part: Part
    source_stage: int
    """Stage of the small pathway that its output is; of a free layer, the stage that its input is."""
    inputs: Origins
    outputs: Origins
    silent: Channels = frozenset()
    """Feature maps of earlier layers that must be zero at first for this layer's residual connection."""


@dataclass(frozen=True)
class PathwayPlan:
    """The parts of all layers of the larger pathway."""

    pathway: Pathway
    source: Pathway
    steps: tuple[Step, ...]

    @property
    def silent(self) -> Channels:
        """Feature maps that must be zero at first."""
        return frozenset(channel for step in self.steps for channel in step.silent)

    @property
    def inserted(self) -> list[int]:
        """Layers that are not of the small pathway, from 1."""
        return [layer for layer, step in enumerate(self.steps, 1) if step.part != "mapped"]

    @property
    def mapped(self) -> list[int]:
        """Layers of the small pathway, from 1."""
        return [layer for layer, step in enumerate(self.steps, 1) if step.part == "mapped"]


def shrinkage(pathway: Pathway, layers: Sequence[int]) -> Size3:
    """Return by how many voxels along each axis unpadded kernels of these layers shrink their input."""
    kernels = [pathway.kernels[layer - 1] for layer in layers if pathway.paddings[layer - 1] == "valid"]
    x, y, z = (sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3))
    return x, y, z


def padded_axes(pathway: Pathway, layers: Sequence[int]) -> frozenset[int]:
    """Return the axes along which one of these layers pads."""
    padded = [pathway.kernels[layer - 1] for layer in layers if pathway.paddings[layer - 1] != "valid"]
    return frozenset(axis for kernel in padded for axis in range(3) if kernel[axis] > 1)
