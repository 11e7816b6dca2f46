"""How a volume is predicted: settings, numerical precision, and what to try when memory runs out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.data.memory import memory_limit
from deepmedic.devices import Precision
from deepmedic.errors import ResourceError
from deepmedic.inference.auto_tiling import auto_tiles
from deepmedic.inference.blending import Blending, blended
from deepmedic.inference.forward_cost import forward_cost
from deepmedic.inference.slab_tiling import slab_tiles
from deepmedic.inference.tiling import Tiling, tiling_by_segments

log = logging.getLogger(__name__)

_GIB = 2**30
_CPU = torch.device("cpu")
_HALVINGS = 5  # of the memory for a tile, before another remedy is tried


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How whole volumes are predicted."""

    segment: Size3
    """Input size of a tile of `tiling = "segments"`; volumes are at least that large after padding."""
    batch_size: int = 10
    """Most tiles computed together."""
    tiling: Literal["segments", "auto"] = "segments"
    precision: Precision = "float32"
    device: torch.device = _CPU
    tile_memory: int | None = None
    """Bytes a batch of tiles may take with `tiling = "auto"`; None: by the size of the device's memory."""
    blending: Blending | None = None
    """How tiles overlap and are averaged; None: each voxel comes from one tile."""
    across_cases: bool = False
    """Whether a batch may have tiles of several cases. How many tiles a batch has can change the last digits of a
    probability; so what a case gets then depends on the cases beside it."""


@dataclass(frozen=True)
class Attempt:
    """One way to predict a volume."""

    tilings: tuple[Tiling, ...]
    """Tiles of equal size each; later tilings overwrite earlier ones."""
    batch_size: int
    device: torch.device
    """Where the network computes."""
    stitch_on: torch.device
    """Where the probabilities of the whole volume are gathered."""
    in_boxes: bool = False
    """Whether of each tile only boxes that follow the ROI are predicted (`deepmedic.inference.roi_boxes`)."""

    @property
    def tile_count(self) -> int:
        """Tiles of all sizes."""
        return sum(map(len, self.tilings))

    def __str__(self) -> str:
        size = "x".join(map(str, max((tiling.segment for tiling in self.tilings), key=math.prod)))
        return f"tiles of {size} in batches of {self.batch_size} on {self.device}, stitched on {self.stitch_on}"


def attempts(
    architecture: Architecture, volume: Size3, roi: torch.Tensor | None, settings: InferenceSettings
) -> Iterator[Attempt]:
    """Yield ways to predict a volume, each taking less memory of the device than the one before.

    First smaller batches (with `tiling = "auto"` smaller tiles too), then stitching on the CPU, at last all on the CPU.
    The result is the same, apart from rounding.

    Args:
        architecture: of the network.
        volume: size of the padded volume.
        roi: bool [x, y, z] or None, on any device.
        settings: what to begin with.
    """
    least = None
    for least in _on_device(architecture, volume, roi, settings):
        yield least
    if settings.device.type == "cpu":
        return
    if least is not None:
        yield replace(least, stitch_on=_CPU)
    roi = None if roi is None else roi.cpu()
    yield from _on_device(architecture, volume, roi, replace(settings, device=_CPU, batch_size=1, tile_memory=None))


def batch_limit(architecture: Architecture, segment: Size3, settings: InferenceSettings) -> int:
    """Most tiles of one size in a batch: as many as asked for; with `tiling = "auto"` as the memory for tiles holds."""
    if settings.tiling == "segments":
        return settings.batch_size
    fitting = forward_cost(architecture, segment).segments_within(tile_memory(settings))
    return max(1, min(settings.batch_size, fitting))


def tile_memory(settings: InferenceSettings) -> int:
    """Bytes that a batch of tiles may take with `tiling = "auto"`, and as many for what else a case needs at once."""
    return settings.tile_memory or default_tile_memory(settings.device)


def default_tile_memory(device: torch.device) -> int:
    """Bytes for a batch of tiles: a share of the memory installed, so that a machine always chooses the same tiles."""
    if device.type == "cuda":
        return min(torch.cuda.get_device_properties(device).total_memory // 8, 16 * _GIB)
    return min(memory_limit() // 8, 3 * _GIB)


def _on_device(
    architecture: Architecture, volume: Size3, roi: torch.Tensor | None, settings: InferenceSettings
) -> Iterator[Attempt]:
    device = settings.device
    if settings.tiling == "segments":
        tiling = tiling_by_segments(architecture, volume, settings.segment, roi)
        tiling = _overlapping(architecture, tiling, volume, roi, settings)
        batch_size = settings.batch_size
        while batch_size:
            yield Attempt((tiling,), batch_size, device, device)
            batch_size //= 2
        return
    memory = tile_memory(settings)
    for _ in range(1 + _HALVINGS):
        try:
            tilings = _fast_tilings(architecture, volume, memory, roi, settings)
        except ResourceError as error:
            log.debug("%s", error)
            return
        costs = [forward_cost(architecture, tiling.segment) for tiling in tilings]
        per_tile = max(int(cost.memory) for cost in costs)
        # On a CPU batches of large tiles gain nothing. On a GPU each new size of boxes costs a search for kernels.
        in_boxes = device.type == "cpu" and settings.blending is None
        fitting = 1 if in_boxes else min(cost.segments_within(memory) for cost in costs)
        batch_size = max(1, min(settings.batch_size, fitting, max(map(len, tilings))))
        yield Attempt(tilings, batch_size, device, device, in_boxes)
        memory = min(memory, per_tile * batch_size) // 2


def _fast_tilings(
    architecture: Architecture, volume: Size3, memory: int, roi: torch.Tensor | None, settings: InferenceSettings
) -> tuple[Tiling, ...]:
    """Tiles of one size, with blending tiles that overlap; or, on a CPU, slabs of the ROI.

    On a GPU each new size of tiles costs a search for kernels.
    """
    if settings.device.type == "cpu" and settings.blending is None and roi is not None:
        slabs = slab_tiles(architecture, volume, memory, roi)
        if slabs:
            return slabs
    return (_overlapping(architecture, auto_tiles(architecture, volume, memory, roi), volume, roi, settings),)


def _overlapping(
    architecture: Architecture, tiling: Tiling, volume: Size3, roi: torch.Tensor | None, settings: InferenceSettings
) -> Tiling:
    """The tiling itself, or with blending tiles of the same size that overlap."""
    if settings.blending is None or not len(tiling):
        return tiling
    return blended(architecture, tiling, volume, settings.blending, roi, shared_grid=settings.tiling == "auto")
