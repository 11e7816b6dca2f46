"""Which segments a subepoch consists of, given its cases.

The segments are shared out evenly among the cases and, within a case, among the sampling categories that it has. Each
centre is drawn in proportion to the map of its category: first a row of voxels along z by the sum of its masses, then
the voxel within the row. Only the sums of rows are stored, and the second step is done for all segments at once on the
device.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from deepmedic.config.options import Size3
from deepmedic.data.pool import VolumePool
from deepmedic.data.randomness import SubepochId
from deepmedic.data.sampling_maps import (
    RowMasses,
    SamplingRule,
    category_mask,
    normalised,
    row_masses,
    weight_mass,
)


@dataclass(frozen=True)
class SubepochRequest:
    """What a subepoch should consist of."""

    segments: int
    cases: int
    """Cases to draw from, at most."""
    rule: SamplingRule
    segment: Size3
    """Size of the normal pathway's input; centres keep clear of the border of the volume by half of it."""


@dataclass(frozen=True)
class SubepochPlan:
    """The segments of one subepoch in the order of use; tensors on the CPU."""

    id: SubepochId
    cases: tuple[int, ...]
    """Cases used, as numbers in the data set; in the order of the rows of the pool's table."""
    rows: torch.Tensor
    """int64 [segment]: position in `cases`."""
    centres: torch.Tensor
    """int64 [segment, 3]: central voxels, x, y, z."""
    categories: torch.Tensor
    """int64 [segment]: sampling category."""
    skipped: tuple[int, ...] = ()
    """Cases passed over because no centre can be drawn from them."""

    def __len__(self) -> int:
        return self.rows.shape[0]


def chosen_order(subepoch: SubepochId, n_cases: int) -> list[int]:
    """Return all cases in the random order in which a subepoch takes them: it uses the first few that are usable."""
    return [int(case) for case in subepoch.stream("cases").permutation(n_cases)]


def share_out(generator: np.random.Generator, n_segments: int, n_cases: int) -> np.ndarray:
    """Return how many segments each case gets, int64 [case]: the same for all, what is left over at random."""
    shares = np.full(n_cases, n_segments // n_cases, dtype=np.int64)
    extra = generator.integers(0, n_cases, size=n_segments % n_cases)
    return shares + np.bincount(extra, minlength=n_cases)


def category_counts(
    generator: np.random.Generator, n_segments: int, proportions: Sequence[float], exists: np.ndarray
) -> np.ndarray:
    """Return how many of a case's segments come from each category, int64 [category].

    Categories that the case lacks get none, the others their share rounded down, and what is left over is drawn in
    the same proportions.
    """
    shares = normalised(np.where(exists, np.asarray(proportions, dtype=np.float32), 0)).astype(np.float64)
    counts = np.floor(n_segments * shares).astype(np.int64)
    left = generator.choice(len(shares), size=n_segments - counts.sum(), p=shares / shares.sum())
    return counts + np.bincount(left, minlength=len(shares))


def plan_segments(
    pool: VolumePool, keys: Sequence[Hashable], cases: Sequence[int], request: SubepochRequest, subepoch: SubepochId
) -> SubepochPlan:
    """Draw the segments of a subepoch from resident cases, all of them usable.

    Args:
        keys: of the cases in the pool, in the order of the rows of its table.
        cases: their numbers in the data set, from which their random streams derive.
    """
    shares = share_out(subepoch.stream("shares"), request.segments, len(cases))
    drawn = []
    for row, (key, case, share) in enumerate(zip(keys, cases, shares, strict=True)):
        masses = masses_of(pool, key, request)
        drawn.append(_draw_rows(subepoch.stream("centres", case), masses, row, int(share), request.rule))
    together = _RowDraws(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
    order = subepoch.stream("order").permutation(len(together.row))
    together = _RowDraws(*(part[order] for part in together))
    z = _draw_within_rows(pool, together, request.rule)
    centres = np.column_stack([together.x, together.y, together.first_z + z])
    return SubepochPlan(
        subepoch,
        tuple(cases),
        torch.from_numpy(together.row),
        torch.from_numpy(centres),
        torch.from_numpy(together.category),
    )


class _RowDraws(NamedTuple):
    """A row of voxels along z for each segment, and the rank of its centre in it; int64 [segment] unless stated."""

    row: np.ndarray
    """Of the pool's table."""
    category: np.ndarray
    x: np.ndarray
    y: np.ndarray
    first_z: np.ndarray
    length: np.ndarray
    """Voxels of the row on which a segment can be centred, from `first_z`."""
    rank: np.ndarray
    """The centre is the voxel at which the masses summed along the row exceed this."""
    scale: np.ndarray
    """float64, for `weight_mass`."""


def masses_of(pool: VolumePool, key: Hashable, request: SubepochRequest) -> RowMasses:
    """Return the sums along z of a resident case's maps."""
    name = ("row masses", request.rule.kind, request.rule.classes, request.segment)
    masses: RowMasses = pool.derived(key, name, lambda case: row_masses(request.rule, case, request.segment))
    return masses


def _draw_rows(
    generator: np.random.Generator, masses: RowMasses, table_row: int, n_segments: int, rule: SamplingRule
) -> _RowDraws:
    counts = category_counts(generator, n_segments, rule.proportions, masses.exists)
    category = np.repeat(np.arange(len(counts)), counts)
    row, rank = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number, count in enumerate(counts):
        if count:
            chosen, rest = masses.row_of(number, generator.integers(0, masses.total(number), size=count))
            row.append(chosen)
            rank.append(rest)
    x, y = np.divmod(np.concatenate(row), max(masses.size[1], 1))
    return _RowDraws(
        row=np.full(n_segments, table_row),
        category=category,
        x=x + masses.begin[0],
        y=y + masses.begin[1],
        first_z=np.full(n_segments, masses.begin[2]),
        length=np.full(n_segments, masses.size[2]),
        rank=np.concatenate(rank),
        scale=np.array(masses.scales)[category],
    )


def _draw_within_rows(pool: VolumePool, draws: _RowDraws, rule: SamplingRule) -> np.ndarray:
    """Return the position of each centre within its row, int64 [segment]."""
    row, category, x, y, first_z, length, rank, scale = (torch.from_numpy(part).to(pool.device) for part in draws)
    table = pool.table
    first = table.starts[row] + 1 + (torch.stack([x, y, first_z], dim=1) * table.strides[row]).sum(dim=1)
    steps = torch.arange(int(draws.length.max()), device=pool.device)
    elements = first[:, None] + torch.minimum(steps, length[:, None] - 1)  # [segment, z]
    if pool.weight_maps is not None:
        mass = weight_mass(pool.weight_maps[category[:, None], elements], scale[:, None])
    else:
        labels = None if pool.labels is None else pool.labels[elements]
        roi = None if pool.roi is None else pool.roi[elements]
        mask = category_mask(rule, category[:, None], labels, roi)
        mass = torch.ones_like(elements) if mask is None else mask.long()
    until = mass.masked_fill(steps >= length[:, None], 0).cumsum(dim=1)
    return (until <= rank[:, None]).sum(dim=1).cpu().numpy()
