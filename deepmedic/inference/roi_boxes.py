"""The parts of a tile that are classified: boxes that follow the ROI closely.

The FC pathway, most of a network's work, needs almost no voxels around those it predicts. So it can follow the ROI more
closely than tiles can, whose margins are computed again and again, and on boxes that are small enough its feature maps
stay in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from deepmedic.inference.tiling import Box, Range, Tiling, bounding_box
from deepmedic.model.parts import Cuboid, between

_STEP = 16  # voxels: boxes are about this thick along the two shorter axes of a tile


def roi_boxes(roi: torch.Tensor) -> list[Cuboid]:
    """Return boxes that together hold the ROI, in the order of their voxels; none overlap.

    Along its longest axis, the ROI is not cut; across the other two it is, into parts of about equal thickness. Each
    part is bounded by the ROI within it.

    Args:
        roi: bool [x, y, z] on the CPU: what is to be predicted of a tile.
    """
    whole = bounding_box(roi)
    if whole is None:
        return []
    uncut = max(range(3), key=lambda axis: whole[axis][1] - whole[axis][0])
    ranges = [[ends] if axis == uncut else list(_cuts(*ends)) for axis, ends in enumerate(whole)]
    boxes = []
    for part in product(*ranges):
        corner = [first for first, _ in part]
        inside = bounding_box(roi[tuple(slice(*ends) for ends in part)], corner)
        if inside is not None:
            boxes.append(between(*zip(*inside, strict=True)))
    return boxes


def boxes_of_tile(tile: Tiling, roi: torch.Tensor | None) -> list[tuple[Cuboid, Box]]:
    """Return the parts of one tile that the ROI needs: each in voxels of the tile's prediction, and in the volume.

    Args:
        tile: a tiling of one tile.
        roi: bool [x, y, z] of the volume, or None: all that the tile writes is needed.
    """
    ((target, source),) = tile.written_boxes(0, 1)
    needed = roi[target].cpu() if roi is not None else torch.ones([part.stop - part.start for part in target]).bool()
    found = []
    for box in roi_boxes(needed):
        corners = list(zip(box.start, box.end, strict=True))
        x, y, z = (
            slice(low + part.start, high + part.start) for (low, high), part in zip(corners, target, strict=True)
        )
        lower, upper = zip(
            *((low + part.start, high + part.start) for (low, high), part in zip(corners, source, strict=True)),
            strict=True,
        )
        found.append((between(lower, upper), (x, y, z)))
    return found


def _cuts(first: int, end: int) -> Iterator[Range]:
    length = end - first
    parts = max(1, round(length / _STEP))
    for part in range(parts):
        yield first + length * part // parts, first + length * (part + 1) // parts
