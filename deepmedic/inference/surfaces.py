"""Distances between the surfaces of two masks in millimetres, exact for voxels of any size, without scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepmedic.components import bounding_box

_FIRST_REACH = 4
_REACH_GROWTH = 4
"""How far the nearest target is looked for at first, in voxels of the largest side, and the factor after each miss."""
_CANDIDATES_AT_ONCE = 2**16
"""Pairs of a point and a target along x whose distances are in memory together."""


@dataclass(frozen=True)
class SurfaceScores:
    """How far two surfaces are apart, in millimetres; nan if both masks are empty, inf if one of them is."""

    hd95: float
    """95th percentile of the Hausdorff distance (Huttenlocher et al. 1993): the larger of both directions."""
    assd: float
    """Average symmetric surface distance: the mean over the voxels of both surfaces (Heimann et al. 2009)."""


def surface_scores(first: np.ndarray, second: np.ndarray, spacing: Sequence[float]) -> SurfaceScores:
    """Compare the surfaces of two masks.

    Distances are those between centres of voxels, as MONAI and medpy have them. The percentile interpolates linearly
    between the sorted distances.

    Args:
        first, second: bool [x, y, z].
        spacing: millimetres between neighbouring voxels along x, y, z; an oblique image has the same as a straight one.
    """
    box = bounding_box(first | second)
    if box is None or not first.any() or not second.any():
        undefined = math.nan if box is None else math.inf
        return SurfaceScores(undefined, undefined)
    surfaces = surface(first[box]), surface(second[box])
    there = distances_to(surfaces[1], np.argwhere(surfaces[0]), spacing)
    back = distances_to(surfaces[0], np.argwhere(surfaces[1]), spacing)
    return SurfaceScores(
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        assd=float((there.sum() + back.sum()) / (len(there) + len(back))),
    )


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask, bool [x, y, z], that share a face with a voxel outside it.

    Whatever is beyond the border of the image counts as outside, so that a mask cut off there is closed.
    """
    inner = mask.copy()
    for axis in range(3):
        lines, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        kept[1:] &= lines[:-1]
        kept[:-1] &= lines[1:]
        kept[0] = kept[-1] = False
    return mask & ~inner


def distances_to(targets: np.ndarray, points: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance in millimetres from each point to the nearest voxel of a mask.

    The squared distance is a sum over the axes, so its minimum can be taken axis by axis (Saito and Toriwaki 1994):
    along z for all voxels in one scan, then along y and x around each point, as far as the nearest target can be.

    Args:
        targets: bool [x, y, z] with at least one voxel.
        points: voxel indices [point, axis] within the same volume.
        spacing: millimetres between neighbouring voxels along x, y, z.

    Returns:
        float64 [point].
    """
    along_z = _squared_along_z(targets, spacing[2])
    squared = np.full(len(points), np.inf)
    open_ = np.arange(len(points))
    reach = _FIRST_REACH * max(spacing)
    while len(open_):
        window = [
            min(math.ceil(reach / size), length) for size, length in zip(spacing[:2], targets.shape[:2], strict=True)
        ]
        squared[open_] = _squared_within(along_z, points[open_], spacing, (window[0], window[1]))
        # What was found is the nearest if nothing outside the window can be nearer.
        open_ = open_[squared[open_] > reach**2] if window != list(targets.shape[:2]) else open_[:0]
        reach *= _REACH_GROWTH
    return np.sqrt(squared)


def _squared_along_z(targets: np.ndarray, spacing: float) -> np.ndarray:
    """Squared millimetres from each voxel to the nearest target in its line along z, inf in lines without any."""
    # In place, since these are the largest arrays of all scores.
    places = np.arange(targets.shape[2])
    before, after = np.where(targets, places, -np.inf), np.where(targets, places, np.inf)
    np.maximum.accumulate(before, axis=2, out=before)
    backwards = after[:, :, ::-1]
    np.minimum.accumulate(backwards, axis=2, out=backwards)
    nearest = np.minimum(np.subtract(places, before, out=before), np.subtract(after, places, out=after), out=before)
    nearest *= spacing
    return np.square(nearest, out=nearest)


def _squared_within(
    along_z: np.ndarray, points: np.ndarray, spacing: Sequence[float], window: tuple[int, int]
) -> np.ndarray:
    """Squared millimetres from points to the nearest target at most `window` voxels away along x and along y."""
    reach_x, reach_y = window
    offsets = np.arange(-reach_x, reach_x + 1)
    cost_x = (offsets * spacing[0]) ** 2
    squared = np.empty(len(points))
    order = np.argsort(points[:, 1], kind="stable")
    rows, starts = np.unique(points[order, 1], return_index=True)
    for row, chosen in zip(rows.tolist(), np.split(order, starts[1:]), strict=True):
        low, high = max(row - reach_y, 0), row + reach_y + 1
        x, z = points[chosen, 0], points[chosen, 2]
        slab = along_z[:, low:high, z.min() : z.max() + 1]
        cost_y = ((np.arange(low, low + slab.shape[1]) - row) * spacing[1]) ** 2
        plane = np.pad((slab + cost_y[:, np.newaxis]).min(axis=1), ((reach_x, reach_x), (0, 0)), constant_values=np.inf)
        at_once = max(1, _CANDIDATES_AT_ONCE // len(offsets))
        for part in range(0, len(chosen), at_once):
            own = slice(part, part + at_once)
            candidates = plane[x[own, np.newaxis] + reach_x + offsets, (z[own] - z.min())[:, np.newaxis]] + cost_x
            squared[chosen[own]] = candidates.min(axis=1)
    return squared
