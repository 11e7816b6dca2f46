"""From which voxels the central voxels of segments are drawn: sampling categories and their maps.

A map gives every voxel a mass, and a centre is drawn in proportion to it. Masses are whole numbers, so that sums do
not depend on the order of summation, and a draw is the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from deepmedic.config.options import Size3
from deepmedic.config.training import SamplingConfig
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.errors import ConfigError, DataError

FOREGROUND_BACKGROUND, UNIFORM, WHOLE_IMAGE, PER_CLASS = range(4)

# Masses of one map sum up to less than 2 to this power, so that sums fit into 64 bits.
_TOTAL_BITS = 61


@dataclass(frozen=True)
class SamplingRule:
    """The sampling categories and the share of segments that each of them should get."""

    kind: int
    """0 foreground/background, 1 uniform, 2 whole image (the same as uniform), 3 per class."""
    classes: int
    proportions: tuple[float, ...]
    """One per category, summing up to 1 in float32."""

    @classmethod
    def from_config(
        cls, config: SamplingConfig, classes: int, key: str = "proportionOfSamplesToExtractPerCategory"
    ) -> SamplingRule:
        """The rule of a config; equal proportions unless some are given, which only kinds 0 and 3 use.

        Args:
            key: how the proportions are called where the user wrote them.

        Raises:
            ConfigError: not one proportion per category, a negative one, or none above 0.
        """
        names = _category_names(config.kind, classes)
        weights = config.proportions if config.proportions and len(names) > 1 else (1.0,) * len(names)
        if len(weights) != len(names):
            raise ConfigError(
                f"{key} has {len(weights)} values, but sampling of kind {config.kind} has {len(names)} categories: "
                f"{', '.join(names)}. Give one value for each, in this order."
            )
        if min(weights) < 0 or not 0 < math.fsum(weights) < math.inf:
            raise ConfigError(f"{key} is {list(weights)}; allowed are values of 0 or more, at least one above 0.")
        return cls(config.kind, classes, tuple(float(share) for share in normalised(weights)))

    @property
    def categories(self) -> tuple[str, ...]:
        """Names for the log, in the order of proportions and weight maps."""
        return _category_names(self.kind, self.classes)

    def check_case(self, case: PreparedCase) -> None:
        """Raise DataError when a case lacks what its maps are made from."""
        given = 0 if case.weight_maps is None else case.weight_maps.shape[0]
        if given and given != len(self.categories):
            raise DataError(
                f"{case.name} has {given} weight maps, but sampling of kind {self.kind} has {len(self.categories)} "
                f"categories: {', '.join(self.categories)}. List one weight map for each, in this order."
            )
        if not given and case.labels is None and self.kind in (FOREGROUND_BACKGROUND, PER_CLASS):
            raise DataError(
                f"{case.name} has neither labels nor weight maps, one of which sampling of kind {self.kind} needs; "
                "list labels or weight maps, or sample uniformly (kind 1)."
            )


def normalised(weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """float32 weights divided by their sum, rounded as in the original so that whole shares come out the same."""
    values = np.asarray(weights, dtype=np.float32)
    return values / values.sum()


def _category_names(kind: int, classes: int) -> tuple[str, ...]:
    if kind == FOREGROUND_BACKGROUND:
        return ("Foreground", "Background")
    if kind == PER_CLASS:
        return tuple(f"Class-{number}" for number in range(classes))
    return ("Uniform",) if kind == UNIFORM else ("WholeImage",)


def centre_box(size: Size3, segment: Size3) -> tuple[slice, slice, slice]:
    """Return the voxels on which a segment can be centred without leaving a volume; empty if it does not fit.

    The centre of an even size is the voxel before the middle: from centre c a segment of n voxels reaches from
    c - (n-1)//2 to c + n//2.
    """
    x, y, z = (slice((segment[a] - 1) // 2, max(size[a] - segment[a] // 2, (segment[a] - 1) // 2)) for a in range(3))
    return x, y, z


def sampling_maps(rule: SamplingRule, case: PreparedCase) -> torch.Tensor:
    """Return the map of each category over a whole case, [category, x, y, z]: its weight maps, else bool masks."""
    rule.check_case(case)
    if case.weight_maps is not None:
        return case.weight_maps
    masks = [category_mask(rule, category, case.labels, case.roi) for category in range(len(rule.categories))]
    return torch.stack(
        [case.channels.new_ones(case.size, dtype=torch.bool) if mask is None else mask for mask in masks]
    )


def category_mask(
    rule: SamplingRule, category: int | torch.Tensor, labels: torch.Tensor | None, roi: torch.Tensor | None
) -> torch.Tensor | None:
    """Return which voxels belong to a category; None: all of them.

    Args:
        category: a number, or a tensor that broadcasts with the voxels.
        labels: integers, any shape; not needed for uniform sampling.
        roi: bool, the shape of the labels; None: everywhere.
    """
    if rule.kind in (UNIFORM, WHOLE_IMAGE):
        return roi
    if labels is None:
        raise ValueError("Categories made from labels were asked for without labels.")
    # Of kind 0, category 0 is the foreground and category 1 the background.
    mask = labels == category if rule.kind == PER_CLASS else (labels == 0) == (category == 1)
    return mask if roi is None else mask & roi


def mass_scale(weight_map: torch.Tensor, name: str) -> float:
    """Return a power of two that makes weights, cut to whole numbers, sum up to less than 2^61.

    Multiplying by a power of two is exact; what is cut off is below 2^-60 of the largest possible sum.

    Args:
        weight_map: float32, not negative, any shape.
        name: of the case, for the message.

    Raises:
        DataError: a weight is negative or not finite.
    """
    lowest, highest = (float(value) for value in torch.aminmax(weight_map)) if weight_map.numel() else (0.0, 0.0)
    if not (lowest >= 0 and highest < math.inf):
        raise DataError(
            f"A weight map of {name} for sampling has values from {lowest} to {highest}; allowed are finite values of "
            "0 or more."
        )
    _, exponent = math.frexp(highest)
    return math.ldexp(1.0, _TOTAL_BITS - exponent - weight_map.numel().bit_length())


def weight_mass(weights: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """int64 masses of float32 weights; the scale is from `mass_scale`, or a float64 tensor of such that broadcasts."""
    return (weights.double() * scale).long()


@dataclass(frozen=True)
class RowMasses:
    """Masses of one case's maps summed along z, over the voxels on which a segment can be centred."""

    begin: Size3
    """First voxel of the box of possible centres."""
    size: Size3
    masses: tuple[np.ndarray, ...]
    """Per category integers [size_x * size_y], y fastest."""
    scales: tuple[float, ...]
    """Per category, for `weight_mass`; 1 for masks."""

    @cached_property
    def exists(self) -> np.ndarray:
        """bool [category]: whether a centre can be drawn."""
        return np.array([bool(masses.any()) for masses in self.masses])

    @cached_property
    def _until_planes(self) -> tuple[np.ndarray, ...]:
        """Per category int64 [size_x]: masses summed up to the end of each plane."""
        planes = (masses.reshape(self.size[:2]).sum(axis=1, dtype=np.int64) for masses in self.masses)
        return tuple(np.cumsum(sums) for sums in planes)

    def total(self, category: int) -> int:
        """Sum of all masses of a category that exists."""
        return int(self._until_planes[category][-1])

    def row_of(self, category: int, tickets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each ticket the row in which the masses summed up from the first one exceed it, and the rest.

        Planes first, then the rows of one plane, so that sums over all rows need neither be made for each draw nor be
        kept.

        Args:
            category: one that exists.
            tickets: int64 [ticket], from 0 to below `total`.

        Returns:
            int64 [ticket] each: the row, and the ticket less the sum of all rows before it.
        """
        masses, width = self.masses[category], self.size[1]
        if len(tickets) > self.size[0]:  # then all sums are less than one plane for each ticket
            until = np.cumsum(masses, dtype=np.int64)
            row = np.searchsorted(until, tickets, side="right")
            return row, tickets - until[row] + masses[row].astype(np.int64)
        until = self._until_planes[category]
        plane = np.searchsorted(until, tickets, side="right")
        left = tickets - np.where(plane > 0, until[plane - 1], 0)
        rows = masses.reshape(self.size[:2])[plane].astype(np.int64)
        within, each = np.cumsum(rows, axis=1), np.arange(len(tickets))
        row = (within <= left[:, None]).sum(axis=1)
        return plane * width + row, left - within[each, row] + rows[each, row]


def row_masses(rule: SamplingRule, case: PreparedCase, segment: Size3) -> RowMasses:
    """Sum the maps of a case along z.

    Raises:
        DataError: labels or weight maps are missing, of a wrong number, negative or not finite.
    """
    rule.check_case(case)
    box = centre_box(case.size, segment)
    x, y, z = (max(part.stop - part.start, 0) for part in box)
    labels = None if case.labels is None else case.labels[box]
    roi = None if case.roi is None else case.roi[box]
    masses, scales = [], []
    for category in range(len(rule.categories)):
        scale = 1.0
        if case.weight_maps is not None:
            weights = case.weight_maps[category][box]
            scale = mass_scale(weights, case.name)
            rows = weight_mass(weights, scale).sum(dim=2)
        else:
            mask = category_mask(rule, category, labels, roi)
            rows = case.channels.new_full((x, y), z, dtype=torch.int64) if mask is None else mask.sum(dim=2)
        masses.append(_smallest_integers(rows.reshape(-1).cpu().numpy()))
        scales.append(scale)
    return RowMasses((box[0].start, box[1].start, box[2].start), (x, y, z), tuple(masses), tuple(scales))


def _smallest_integers(values: np.ndarray) -> np.ndarray:
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
