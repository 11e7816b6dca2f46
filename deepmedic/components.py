"""Connected components of a 3D mask, without scipy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Connectivity = Literal[6, 18, 26]
"""Neighbours of a voxel: those that share a face (6), a face or an edge (18), or a face, an edge or a corner (26)."""


def label_components(mask: np.ndarray, connectivity: Connectivity = 26) -> tuple[np.ndarray, int]:
    """Number the connected components of a mask from 1, in the order in which their first voxels lie in memory.

    The voxels of a line along z that follow each other form a run; runs of neighbouring lines that touch are joined.
    So work and memory grow with the number of runs, of which a smooth mask has few.

    Args:
        mask: [x, y, z]; what is not 0 belongs to it.
        connectivity: which voxels are neighbours.

    Returns:
        int32 [x, y, z] with 0 outside the mask, and the number of components; `np.bincount(labels.ravel())` has their
        sizes in voxels.

    Raises:
        ValueError: another shape or connectivity.
    """
    if mask.ndim != 3:
        raise ValueError(f"found a mask of shape {list(mask.shape)}; allowed is [x, y, z]")
    if connectivity not in get_args(Connectivity):
        raise ValueError(f"connectivity {connectivity}; allowed are 6, 18 and 26")
    labels = np.zeros(mask.shape, np.int32)
    inside = mask != 0
    box = bounding_box(inside)
    if box is None:
        return labels, 0
    inside = inside[box]
    runs = _Runs.of(inside)
    roots = _joined(len(runs.starts), np.concatenate(list(_touching(runs, connectivity)), axis=1))
    _, numbers = np.unique(roots, return_inverse=True)
    labels[box][inside] = np.repeat(numbers.astype(np.int32) + 1, runs.ends - runs.starts)
    return labels, int(numbers.max()) + 1


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box around everything in a mask [x, y, z] that is not 0; None for an empty mask."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        if not len(occupied):
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return box[0], box[1], box[2]


@dataclass(frozen=True)
class _Runs:
    """Runs of voxels along z, in the order of memory, as positions in the flattened mask with a margin of one voxel.

    The margin keeps neighbours of a voxel at one border from being voxels at the opposite one.
    """

    starts: np.ndarray
    ends: np.ndarray
    """The position after the last voxel."""
    row: int
    """Distance of neighbours along y."""
    plane: int
    """Distance of neighbours along x."""

    @classmethod
    def of(cls, inside: np.ndarray) -> _Runs:
        padded = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
        changes = np.flatnonzero(np.diff(padded.ravel().view(np.int8))) + 1
        return cls(changes[0::2], changes[1::2], padded.shape[2], padded.shape[1] * padded.shape[2])


def _touching(runs: _Runs, connectivity: Connectivity) -> Iterator[np.ndarray]:
    """Pairs of runs that touch, int64 [2, pair], for each direction from a line to a neighbour after it in memory."""
    for x, y in ((0, 1), (1, -1), (1, 0), (1, 1)):
        diagonal = x != 0 and y != 0
        if diagonal and connectivity == 6:
            continue
        # Neighbours may differ along z too, if the connectivity allows one more coordinate that differs.
        reach = 0 if connectivity == 6 or (diagonal and connectivity == 18) else 1
        shift = x * runs.plane + y * runs.row
        first = np.searchsorted(runs.ends, runs.starts + shift - reach, side="right")
        last = np.searchsorted(runs.starts, runs.ends + shift + reach, side="left")
        counts = np.maximum(last - first, 0)
        ones = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(ones)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield np.stack([ones, np.repeat(first, counts) + within])


def _joined(count: int, pairs: np.ndarray) -> np.ndarray:
    """The smallest index in the component of each of `count` nodes, joined by `pairs` [2, pair]."""
    roots = np.arange(count)
    while pairs.shape[1]:
        low, high = np.minimum(*pairs), np.maximum(*pairs)
        np.minimum.at(roots, high, low)  # each root that touches a smaller one is hung below the smallest
        while True:
            above = roots[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        pairs = roots[pairs]
        pairs = pairs[:, pairs[0] != pairs[1]]
    return roots
