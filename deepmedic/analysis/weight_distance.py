"""How far the weights of each layer have come from where training started.

The l2 distance is what Matsoukas et al., "What Makes Transfer Learning Work for Medical Images" (CVPR 2022) meant to
measure: per layer the mean over its tensors of ||w - w0|| / number of elements. It depends on the size of tensors; the
distance relative to the start and the cosine do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from deepmedic.analysis.layer_units import STATISTICS, tensors_by_layer
from deepmedic.config.architecture import Architecture

_BATCH_NORM = ("bn_gamma", "bn_beta")


@dataclass(frozen=True)
class Distance:
    """Between tensors after and before a training; all nan where there are no such tensors."""

    l2: float
    """Mean over the tensors of ||w - w0|| / number of elements."""
    relative: float
    """||w - w0|| / ||w0||, all tensors as one vector; inf for a start at 0 that was left."""
    cosine: float
    """Between w and w0; nan where one of them is 0 and the other is not."""


@dataclass(frozen=True)
class LayerDistance:
    """Of one layer."""

    layer: str
    weights: Distance
    """Of kernels, biases and slopes of activations."""
    batch_norm: Distance
    """Of gamma and beta."""
    statistics: Distance
    """Of the means and variances that batch norm uses at inference (means over the rolling window)."""

    @property
    def unchanged(self) -> bool:
        """Whether every tensor is what it was, as in a frozen layer."""
        found = (self.weights.l2, self.batch_norm.l2, self.statistics.l2)
        return all(value == 0 or math.isnan(value) for value in found)


def weight_distances(
    architecture: Architecture, trained: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> list[LayerDistance]:
    """Compare the tensors of every layer, by canonical name, with those at the start; in the order of the network."""
    now, before = (tensors_by_layer(architecture, tensors) for tensors in (trained, start))
    rows = []
    for layer, tensors in now.items():
        groups: dict[str, list[tuple[Tensor, Tensor]]] = {"weights": [], "batch norm": [], "statistics": []}
        for name, tensor in tensors.items():
            pair = tensor.double(), before[layer][name].double()
            role = name.rpartition("/")[2]
            if role in STATISTICS:
                groups["statistics"].append((pair[0].mean(dim=0), pair[1].mean(dim=0)))
            else:
                groups["batch norm" if role in _BATCH_NORM else "weights"].append(pair)
        rows.append(LayerDistance(layer, *(distance(pairs) for pairs in groups.values())))
    return rows


def total_l2(rows: Sequence[LayerDistance]) -> float:
    """Mean over the layers of the l2 distance of their weights."""
    return sum(row.weights.l2 for row in rows) / len(rows)


def distance(pairs: Sequence[tuple[Tensor, Tensor]]) -> Distance:
    """Compare tensors w with tensors w0 of the same shapes."""
    if not pairs:
        return Distance(math.nan, math.nan, math.nan)
    moved = [float((now - before).norm()) for now, before in pairs]
    l2 = sum(length / now.numel() for length, (now, _) in zip(moved, pairs, strict=True)) / len(pairs)
    step = math.hypot(*moved)
    length = math.hypot(*(float(now.norm()) for now, _ in pairs))
    start = math.hypot(*(float(before.norm()) for _, before in pairs))
    if step == 0:
        return Distance(0.0, 0.0, 1.0)
    if start == 0:
        return Distance(l2, math.inf, math.nan)
    product = sum(float((now * before).sum()) for now, before in pairs)
    return Distance(l2, step / start, product / (length * start) if length else math.nan)
