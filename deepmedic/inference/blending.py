"""Overlapping tiles averaged with Gaussian weights: `tileBlending = "gaussian"`.

Each voxel gets the weighted mean of what all tiles that predict it say. Weights fall off from the centre of a tile's
predicted box, as in nnU-Net (Isensee et al., 2021) and MONAI's sliding window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.config.prediction import PredictionConfig
from deepmedic.inference.auto_tiling import common_multiples, padded_context
from deepmedic.inference.tiling import Box, Tiling, boxes_touching, margin_before

_SMALLEST_WEIGHT = 1e-3
"""As MONAI has it: a voxel that only corners of tiles reach must not be divided by nothing."""


@dataclass(frozen=True)
class Blending:
    """How much tiles overlap, and how their weights fall off."""

    overlap: float
    """Share of the predicted box by which neighbouring tiles overlap along each axis, 0 to below 1."""
    sigma: float
    """Standard deviation of the weights as a share of the predicted box."""


def blending_of(chosen: PredictionConfig) -> Blending | None:
    """How tiles overlap by a config; None without blending."""
    return None if chosen.blending == "none" else Blending(chosen.overlap, chosen.sigma)


def importance(size: Size3, sigma: float) -> torch.Tensor:
    """Return the weights of a predicted box: a Gaussian about its centre, 1 there, at least 0.001.

    Args:
        size: of the box, voxels along x, y, z.
        sigma: standard deviation as a share of the length along each axis.

    Returns:
        float32 [x, y, z].
    """
    total = torch.zeros(size, dtype=torch.float64)
    for axis, length in enumerate(size):
        distance = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
        shape = [1, 1, 1]
        shape[axis] = length
        total += (distance / (sigma * length)).square().view(shape)
    return torch.exp(-total / 2).clamp(min=_SMALLEST_WEIGHT).float()


def blended(
    architecture: Architecture,
    plain: Tiling,
    volume: Size3,
    blending: Blending,
    roi: torch.Tensor | None,
    *,
    shared_grid: bool,
) -> Tiling:
    """Return tiles of the same size as those of a plain tiling that overlap and together cover the volume.

    Args:
        architecture: of the network.
        plain: what would be used without blending.
        volume: size of the (padded) volume.
        blending: how much they overlap.
        roi: bool [x, y, z]; only tiles that give a voxel of it are kept. None: all of them.
        shared_grid: as `tiling = "auto"` wants it: tiles begin on common multiples of the subsampling factors, and
            give only voxels whose context they hold in full. Otherwise they begin anywhere and give all they predict.
    """
    context = padded_context(architecture) if shared_grid else ((0, 0),) * 3
    multiples = common_multiples(architecture) if shared_grid else (1, 1, 1)
    rows = []
    for axis, (before, after) in enumerate(architecture.margins(plain.segment)):
        length, size, multiple = plain.segment[axis], volume[axis], multiples[axis]
        unsure_before, unsure_after = context[axis]
        given = length - before - after - unsure_before - unsure_after
        stride = max(1, int(given * (1 - blending.overlap)) // multiple) * multiple
        last = (size - length) // multiple * multiple
        row = [
            (
                start,
                start + before + (unsure_before if start > 0 else 0),
                start + length - after - (unsure_after if start + length < size else 0),
            )
            for start in (*range(0, last, stride), last)
        ]
        # A tile for a few voxels beside the border can be so short that others of its size would give none.
        rows.append([(start, low, high) for start, low, high in row if low < high])
    kept = torch.ones([len(row) for row in rows], dtype=torch.bool)
    if roi is not None:
        kept = boxes_touching(roi, [[(low, high) for _, low, high in row] for row in rows])
    chosen = kept.permute(2, 1, 0).nonzero().flip(1)  # [tile, axis], x fastest
    table = torch.stack([torch.tensor(row)[chosen[:, axis]] for axis, row in enumerate(rows)], dim=1)
    starts, lower, upper = table.unbind(2)  # [tile, axis] each
    return Tiling(plain.segment, starts, lower, upper, margin_before(architecture, plain.segment))


class BlendedVolume:
    """The weighted sum of tiles over a volume, and of their weights."""

    def __init__(self, classes: int, volume: Size3, weights: torch.Tensor, device: torch.device) -> None:
        """Create a volume without any tile.

        Args:
            classes: number of classes.
            volume: size, voxels.
            weights: of a tile's predicted box, `importance`.
            device: where tiles are summed.
        """
        self._sum = torch.zeros((classes, *volume), device=device)
        self._weight = torch.zeros(volume, device=device)
        self._weights = weights.to(device)

    def write(self, tiles: torch.Tensor, boxes: list[tuple[Box, Box]]) -> None:
        """Add a batch: probabilities [tile, class, x, y, z], and where each tile belongs."""
        for (target, source), tile in zip(boxes, tiles.to(self._sum.device), strict=True):
            weight = self._weights[source]
            self._sum[(slice(None), *target)] += weight * tile[(slice(None), *source)]
            self._weight[target] += weight

    def mean(self) -> torch.Tensor:
        """float32 [class, x, y, z]; 0 where no tile reaches."""
        reached = self._weight > 0
        return self._sum.div_(self._weight.masked_fill(~reached, 1))
