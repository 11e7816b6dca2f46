"""Intensities of a case: z-score normalisation within the ROI, and how they look to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from deepmedic.config.sections import ZScoreConfig
from deepmedic.errors import DataError

_QUANTILES = (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)
_MOST_VOXELS = 250_000
"""Voxels from which quantiles are estimated, evenly taken from all."""
_MOST_CONVERTED = 1 << 16
"""Values that are in float64 at once."""
_FAR_MEAN, _LARGE_STD, _SMALL_STD = 3.0, 5.0, 0.2


class WithIntensities(Protocol):
    """A loaded or prepared case: `channels` float32 [channel, x, y, z] and `roi` bool [x, y, z] or None."""

    @property
    def channels(self) -> Any: ...

    @property
    def roi(self) -> Any: ...


def mean_and_std(volume: np.ndarray, mask: np.ndarray | None, config: ZScoreConfig) -> tuple[float, float]:
    """Return mean and standard deviation of the intensities that the cut-offs leave, in float64.

    All cut-offs are strict and taken together: percentiles, and multiples of the standard deviation around the mean,
    both of the voxels in the mask; and everything that is not above the mean of the whole volume. The last one drops
    the voxels of the highest intensity too, as the original does.

    Args:
        volume: intensities [x, y, z].
        mask: bool [x, y, z]; None: everywhere.
        config: which cut-offs.

    Raises:
        DataError: no voxels are left, or they all have one value.
    """
    inside = volume.ravel() if mask is None else volume[mask]
    left = inside[kept] if (kept := _within_cutoffs(inside, volume, config)) is not None else inside
    if left.size == 0 or left.min() == left.max():
        raise DataError(_cannot_normalise(inside, left))
    return moments(left)


def moments(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of values [n] in float64, at least one of them.

    The same numbers to the last bit as from numpy's functions on a copy in float64, which of a large volume takes
    gigabytes. numpy sums by halves, halves of halves and so on; so does this, and converts only small parts.
    """
    mean = _pairwise_sum(values, lambda part: part) / values.size
    return mean, _deviation(values, mean)


def _deviation(values: np.ndarray, mean: float) -> float:
    """Standard deviation of values [n] around their mean."""
    return math.sqrt(_pairwise_sum(values, lambda part: np.square(part - mean)) / values.size)


def _pairwise_sum(values: np.ndarray, term: Callable[[np.ndarray], np.ndarray]) -> float:
    """Sum of `term` over values [n], given to it in float64, in the order in which numpy sums an array of float64."""
    if values.size <= _MOST_CONVERTED:
        return float(term(values.astype(np.float64)).sum())
    half = values.size // 2
    half -= half % 8  # numpy adds eight by eight
    return _pairwise_sum(values[:half], term) + _pairwise_sum(values[half:], term)


def _within_cutoffs(inside: np.ndarray, volume: np.ndarray, config: ZScoreConfig) -> np.ndarray | None:
    """Return which of the voxels in the mask all cut-offs leave, bool [voxel]; None: there are no cut-offs."""
    kept = None
    if config.cutoff_percents is not None:
        low, high = np.percentile(inside.astype(np.float64), config.cutoff_percents)
        kept = (inside > low) & (inside < high)
    if config.cutoff_times_std is not None:
        below, above = config.cutoff_times_std
        mean, std = moments(inside)
        near = (inside > np.float64(mean - below * std)) & (inside < np.float64(mean + above * std))
        kept = near if kept is None else kept & near
    if config.cutoff_below_mean:
        high_enough = (inside > volume.mean(dtype=np.float64)) & (inside < volume.max())
        kept = high_enough if kept is None else kept & high_enough
    return kept


def described_cutoffs(config: ZScoreConfig) -> str:
    """Which voxels do not count for mean and standard deviation, in words."""
    found = []
    if config.cutoff_percents is not None:
        low, high = config.cutoff_percents
        found.append(f"percentiles {low:g} to {high:g}")
    if config.cutoff_times_std is not None:
        below, above = config.cutoff_times_std
        found.append(f"{below:g} standard deviations below and {above:g} above the mean")
    if config.cutoff_below_mean:
        found.append("the mean of the whole image")
    return f"cut-offs {' and '.join(found)}" if found else "no cut-offs"


def unnormalised_warning(case: WithIntensities, zscore: ZScoreConfig) -> str | None:
    """Return a warning if channels without normalisation are far from mean 0 and standard deviation 1 in the ROI."""
    far = []
    for number, volume in enumerate(np.asarray(case.channels)):
        if zscore.applies_to(number) or not volume.any():
            continue
        inside = _inside(volume, case.roi)
        mean = float(inside.mean(dtype=np.float64))
        std = _deviation(inside, mean)
        if abs(mean) > _FAR_MEAN or not _SMALL_STD < std < _LARGE_STD:
            far.append(f"channel {number + 1} has mean {mean:.4g} and standard deviation {std:.4g}")
    if not far:
        return None
    return (
        f"INTENSITIES ARE NOT NORMALISED: within the ROI {'; '.join(far)}; a network needs about 0 and 1. Switch "
        "normalisation on with norm_zscore_prms = {apply_to_all_channels = true}, for training and inference alike"
    )


def intensity_fingerprint(case: WithIntensities) -> dict[str, Any]:
    """Return what the intensities within the ROI look like, in plain numbers for a saved model.

    Keys: "quantiles", the fractions; "channels", one dict per channel with "mean", "std" and "values" at the
    fractions, or None for a channel that is missing.
    """
    channels: list[dict[str, Any] | None] = []
    for volume in np.asarray(case.channels):
        inside = _inside(volume, case.roi)
        if not volume.any():
            channels.append(None)
            continue
        values = np.quantile(inside[:: _step(inside.size, volume.shape)].astype(np.float64), _QUANTILES)
        mean = float(inside.mean(dtype=np.float64))
        std = _deviation(inside, mean)
        channels.append({"mean": mean, "std": std, "values": [float(value) for value in values]})
    return {"quantiles": list(_QUANTILES), "channels": channels}


def _step(voxels: int, shape: Sequence[int]) -> int:
    """From one voxel of the sample for quantiles to the next.

    It has no factor in common with the sizes of the volume: else the sample might be a single plane of it.
    """
    step = max(1, -(-voxels // _MOST_VOXELS))
    while any(math.gcd(step, size) > 1 for size in shape):
        step += 1
    return step


def _inside(volume: np.ndarray, roi: Any) -> np.ndarray:
    mask = None if roi is None else np.asarray(roi)
    return volume[mask] if mask is not None and mask.any() else volume.ravel()


def _cannot_normalise(inside: np.ndarray, left: np.ndarray) -> str:
    remedy = (
        "Check the image and its mask, list the channel as '-' (missing), or leave it out of normalisation with "
        "apply_per_channel in norm_zscore_prms."
    )
    if inside.min() == inside.max():
        return f"all {inside.size} voxels within the ROI have the intensity {inside[0]:g}: no z-score exists. {remedy}"
    found = (
        f"of {inside.size} voxels within the ROI none is left" if left.size == 0 else "the voxels left have one value"
    )
    return f"the cut-offs of norm_zscore_prms are too narrow for this image: {found}. Widen them. {remedy}"
