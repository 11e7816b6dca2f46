"""Do the channels of a case look like those a model was trained on, and are they in the same order?

Compares intensity fingerprints (`intensity_fingerprint`): quantiles of the intensities within the ROI, after
normalisation. They tell sequences apart that differ in contrast; sequences whose histograms are alike they cannot.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_MUCH_BETTER = 1.5
"""How many times further away the given order must be than another one; the best ratio by chance, in scans of glioma
patients compared with those of one to three others, was 1.33."""
_CLEARLY_BETTER = 0.05
"""And by how much, in standard deviations."""
_UNLIKE = 0.75
"""Mean difference of quantiles, in standard deviations, from which intensities look foreign: twice that of patients
with different lesions, and less than that of a scan normalised without its brain mask."""
_MOST_CHANNELS = 7
"""With more of them only pairs are exchanged."""

Fingerprint = Mapping[str, Any]


def order_that_fits_better(found: Fingerprint, trained: Sequence[Fingerprint]) -> tuple[int | None, ...] | None:
    """For each channel of the model, which channel of the case resembles it, if another order is clearly better.

    Args:
        found: of the case.
        trained: of training cases.

    Returns:
        One channel of the case (from 0) per channel of the model, None for a missing one; None if the order is well as
        it is, or if nothing can be said.
    """
    distances = _distances(found, trained)
    if distances is None:
        return None
    present = [index for index, channel in enumerate(found["channels"]) if channel is not None]
    best = min(_orders(present, len(distances)), key=lambda places: _cost(distances, present, places))
    given, other = (_cost(distances, present, places) for places in (present, best))
    if given <= _MUCH_BETTER * other or given - other <= _CLEARLY_BETTER:
        return None
    order: list[int | None] = [None] * len(distances)
    for channel, place in zip(present, best, strict=True):
        order[place] = channel
    return tuple(order)


def channels_unlike_training(found: Fingerprint, trained: Sequence[Fingerprint]) -> list[int]:
    """The channels of a case, from 0, whose intensities resemble those of no training case."""
    distances = _distances(found, trained)
    if distances is None:
        return []
    present = [index for index, channel in enumerate(found["channels"]) if channel is not None]
    return [channel for channel in present if distances[channel, channel] > _UNLIKE]


def _distances(found: Fingerprint, trained: Sequence[Fingerprint]) -> np.ndarray | None:
    """Distance of each channel of the case to each channel of the model: to the nearest training case that has it.

    float64 [channel of the case, channel of the model]: the mean difference of quantiles in standard deviations of the
    training case; nan for missing channels. None where training cases say nothing about some channel.
    """
    channels, fractions = found["channels"], found["quantiles"]
    usable = [case["channels"] for case in trained if case["quantiles"] == fractions]
    usable = [case for case in usable if len(case) == len(channels)]
    if not all(any(case[index] for case in usable) for index in range(len(channels))):
        return None
    distances = np.full((len(channels), len(channels)), np.nan)
    for (row, mine), column in itertools.product(enumerate(channels), range(len(channels))):
        if mine is not None:
            distances[row, column] = min(_distance(mine, case[column]) for case in usable if case[column])
    return distances


def _distance(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    difference = np.abs(np.subtract(mine["values"], theirs["values"])).mean()
    return float(difference / max(theirs["std"], 1e-6))


def _orders(present: Sequence[int], channels: int) -> list[tuple[int, ...]]:
    """All places, of `channels`, that the channels that are present can have."""
    if channels <= _MOST_CHANNELS:
        return list(itertools.permutations(range(channels), len(present)))
    pairs = itertools.combinations(range(len(present)), 2)
    return [tuple(present), *(_exchanged(present, one, other) for one, other in pairs)]


def _exchanged(places: Sequence[int], one: int, other: int) -> tuple[int, ...]:
    changed = list(places)
    changed[one], changed[other] = changed[other], changed[one]
    return tuple(changed)


def _cost(distances: np.ndarray, present: Sequence[int], places: Sequence[int]) -> float:
    return float(np.mean(distances[list(present), list(places)])) if present else 0.0
