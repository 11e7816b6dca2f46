"""What the network sees of a batch of tiles, cut from one or several cases on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.data.pool import VolumePool
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.segments import SegmentGeometry, gather_at
from deepmedic.inference.auto_tiling import common_multiples
from deepmedic.inference.tiling import Tiling
from deepmedic.model.network import DeepMedicNet

Shares = list[tuple[int, Tiling]]
"""What a batch consists of: cases, by their number in the list of those predicted together, and tiles of each."""


class CaseVolumes:
    """The volumes of one or several cases on the device, from which the inputs of a batch of tiles are cut."""

    def __init__(
        self, net: DeepMedicNet, cases: Sequence[PreparedCase], device: torch.device, *, continue_grid: bool
    ) -> None:
        self.architecture = net.architecture
        before = _low_resolution_reach(net.architecture) if continue_grid else (0, 0, 0)
        channels_only = (replace(case, labels=None, roi=None, weight_maps=None) for case in cases)
        self.pool = VolumePool.of_cases([_extended(case, before, device) for case in channels_only], device)
        self.before = torch.tensor(before)
        self.device = device

    def inputs(self, shares: Shares) -> tuple[torch.Tensor, ...]:
        """float32 [tile, channel, x, y, z], one per pathway."""
        geometry = SegmentGeometry.from_architecture(self.architecture, shares[0][1].segment)
        starts = torch.cat([tiles.starts for _, tiles in shares]) + self.before
        rows = torch.cat([torch.full([len(tiles)], row) for row, tiles in shares])
        return gather_at(self.pool, geometry, rows.to(self.device), starts.to(self.device)).inputs


def _low_resolution_reach(architecture: Architecture) -> Size3:
    """Voxels by which low-resolution segments reach before a tile, rounded up to a multiple of all factors."""
    receptive_field = architecture.normal.receptive_field
    reach = []
    for axis, multiple in enumerate(common_multiples(architecture)):
        furthest = max(pathway.factor[axis] * receptive_field[axis] // 2 for pathway in architecture.parallel)
        reach.append(-(-furthest // multiple) * multiple if multiple > 1 else 0)
    x, y, z = reach
    return x, y, z


def _extended(prepared: PreparedCase, before: Size3, device: torch.device) -> PreparedCase:
    """The case on the device with `before` voxels of border values added at the low end of each axis.

    A segment that begins outside the volume starts its low-resolution grid anew at the border (see
    `deepmedic.data.segments`). With these voxels none does, so the result does not depend on the tiles.
    """
    channels = prepared.channels.to(device)
    if any(before):
        size = [length + added for length, added in zip(prepared.size, before, strict=True)]
        border = prepared.border_values.to(device)[:, None, None, None]
        extended = border.expand(-1, *size).contiguous()
        x, y, z = before
        extended[:, x:, y:, z:] = channels
        channels = extended
    return replace(prepared, channels=channels)
