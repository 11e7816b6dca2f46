"""Settings that a data set suggests, each with its reason; pure functions of a fingerprint, a network and its memory.

Nothing here changes a run: `-check` shows the suggestions beside what is set, `-newConfigs` writes them into files
that people read before they use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.data.fingerprint import Fingerprint

StepBytes = Callable[[Size3, int], int]
"""Bytes that a training step takes, for a segment of the normal pathway and a number of segments."""

_PREFERRED_BOX = 21
"""Voxels predicted along each axis of a segment: 37 - (17 - 1) of the original DeepMedic."""
_PREFERRED_BATCH = 10
_SMALLEST_BATCH = 2
_TEMPER = 1 / 3
_SMALLEST_PROPORTION = 0.02
_NEAR_ZERO, _NEAR_ONE = 0.1, 0.1
_MUCH_AIR = 0.3
_HEAVY_TAILS = 1.5
_NORMAL_IQR = 1.349
"""Distance of the quartiles of a normal distribution, in standard deviations."""
_SIDES = re.compile(r"(?i)(?:^|[^a-z])(?:left|right|lh|rh|l|r)(?:$|[^a-z])")


@dataclass(frozen=True)
class Suggestion:
    """A value for a key of a config file, and why."""

    key: str
    value: Any
    reason: str

    def to_plain(self) -> dict[str, Any]:
        return {"key": self.key, "value": self.value, "reason": self.reason}


@dataclass(frozen=True)
class Room:
    """What one training step may take."""

    step_bytes: StepBytes
    allowed: int
    """Bytes."""


def suggest(fingerprint: Fingerprint, architecture: Architecture, room: Room, names: Sequence[str]) -> list[Suggestion]:
    """Return what a training on these cases with this network should be set to.

    Args:
        fingerprint: of the training cases; there must be at least one.
        architecture: of the network.
        room: memory for a step.
        names: of the classes, the background first.
    """
    segment = segment_size(architecture, fingerprint.median_shape, room)
    found = [_segment(segment, architecture, fingerprint), _batch(segment.size, room), normalisation(fingerprint)]
    sampling = proportions(fingerprint, names)
    mirror = mirroring(fingerprint, names)
    return found + [suggestion for suggestion in (sampling, mirror) if suggestion is not None]


@dataclass(frozen=True)
class SegmentChoice:
    """A size of training segments, and what limited it."""

    size: Size3
    limited_by: tuple[str, ...]


def segment_size(architecture: Architecture, shape: Size3, room: Room) -> SegmentChoice:
    """Return the size of training segments: the receptive field and a box of predicted voxels.

    The box has 21 voxels along each axis as in the original DeepMedic, not more than the median image has, and fewer
    where a batch would not fit into memory. Predicting several voxels at once shares work between them, and larger
    boxes hold the classes in proportions closer to those of whole images (Kamnitsas et al., Medical Image Analysis 36,
    2017, section 2.2).
    """
    field, limits = architecture.receptive_field, []
    lost = [before + after for before, after in architecture.margins(field)]
    box = [min(_PREFERRED_BOX, _odd(extent)) for extent in shape]
    if min(box) < _PREFERRED_BOX:
        limits.append("the images")

    def size() -> Size3:
        sides = zip(field, lost, box, strict=True)
        x, y, z = (max(smallest, margin + extent) for smallest, margin, extent in sides)
        return x, y, z

    while max(box) > 1 and room.step_bytes(size(), _SMALLEST_BATCH * 2) > room.allowed:
        largest = max(box)
        box = [extent - 2 if extent == largest and extent > 2 else extent for extent in box]
        if "memory" not in limits:
            limits.append("memory")
    return SegmentChoice(size(), tuple(limits))


def batch_size(segment: Size3, room: Room) -> int:
    """Return how many segments a training step takes: ten as in the original, or as many as fit into memory."""
    fitting = [size for size in range(_PREFERRED_BATCH, 0, -1) if room.step_bytes(segment, size) <= room.allowed]
    return fitting[0] if fitting else 1


def normalisation(fingerprint: Fingerprint) -> Suggestion:
    """Return how intensities should be normalised."""
    value: dict[str, Any] = {"apply_to_all_channels": True}
    reasons = []
    usable = [number for number in range(len(fingerprint.channels)) if not _constant_everywhere(fingerprint, number)]
    if 0 < len(usable) < len(fingerprint.channels):
        value = {"apply_per_channel": [number in usable for number in range(len(fingerprint.channels))]}
        constant = [str(number + 1) for number in range(len(fingerprint.channels)) if number not in usable]
        reasons.append(f"channel {', '.join(constant)} is constant in a case and cannot be normalised")
    means = [(c.mean, c.std) for n in usable for c in fingerprint.channels_of_cases(n)]
    within = "the ROI" if fingerprint.has_roi else "the image"
    if means and all(abs(mean) <= _NEAR_ZERO and abs(std - 1) <= _NEAR_ONE for mean, std in means):
        reasons.append(f"within {within} intensities already have mean 0 and deviation 1; normalising changes little")
    elif means:
        low, high = min(mean for mean, _ in means), max(mean for mean, _ in means)
        reasons.append(f"within {within} means range from {low:.4g} to {high:.4g}; a network needs about 0 and 1")
    if any(_heavy_tails(fingerprint, number) for number in usable):
        value |= {"cutoff_percents": [5.0, 95.0], "cutoff_times_std": [3.0, 3.0]}
        reasons.append("single very bright or dark voxels widen the deviation; the cut-offs leave them out of it")
    air = max((_share_of_air(fingerprint, number) for number in usable), default=0.0)
    if not fingerprint.has_roi and air > _MUCH_AIR:
        value |= {"cutoff_below_mean": True}
        reasons.append(
            f"{air:.0%} of the voxels have the lowest value (air) and would decide the mean; better give ROI masks"
        )
    return Suggestion("norm_zscore_prms", value, "; ".join(reasons) or "a network needs intensities of about 0 and 1")


def proportions(fingerprint: Fingerprint, names: Sequence[str]) -> Suggestion | None:
    """Return the share of segments to be centred on each class; None without labels.

    Shares are the cube roots of the classes' shares of voxels, at least 2 %: between sampling as the voxels are, which
    shows a rare class hardly ever, and equal sampling, which repeats its few voxels again and again and makes the
    network find it everywhere. A class without voxels gets none.
    """
    shares = fingerprint.label_shares
    if shares is None or sum(share > 0 for share in shares) < 2:
        return None
    tempered = [share**_TEMPER for share in shares]
    scaled = [value / sum(tempered) for value in tempered]
    value = [round(max(share, _SMALLEST_PROPORTION), 2) if share > 0 else 0.0 for share in scaled]
    seen = ", ".join(f"{name} {_percent(share)}" for name, share in zip(names, shares, strict=True))
    where = "the ROI" if fingerprint.has_roi else "the images"
    reason = f"of the voxels in {where}: {seen}; their cube roots show rare classes more often, without drowning others"
    return Suggestion("proportionOfSamplesToExtractPerCategoryTraining", value, reason)


def mirroring(fingerprint: Fingerprint, names: Sequence[str]) -> Suggestion | None:
    """Return along which axis segments may be mirrored: left and right, unless classes are named by sides."""
    codes = {case.axis_codes for case in fingerprint.cases}
    if len(codes) != 1 or any(_SIDES.search(name.replace("_", " ")) for name in names):
        return None
    [code] = codes
    sides = [0.5 if letter in "LR" else 0.0 for letter in code]
    axis = "xyz"[sides.index(0.5)]
    reason = f"axis {axis} runs between left and right (axis order {code}), and anatomy is nearly symmetric"
    return Suggestion("augm_sample_prms_tr.reflect", sides, reason)


def _segment(choice: SegmentChoice, architecture: Architecture, fingerprint: Fingerprint) -> Suggestion:
    field, box = architecture.receptive_field, architecture.output_size(choice.size)
    limits = f", limited by {' and '.join(choice.limited_by)}" if choice.limited_by else ""
    reason = (
        f"receptive field {_sizes(field)} and a predicted box of {_sizes(box)} voxels{limits}; "
        f"the median image has {_sizes(fingerprint.median_shape)}"
    )
    return Suggestion("segmentsDimTrain", list(choice.size), reason)


def _batch(segment: Size3, room: Room) -> Suggestion:
    size = batch_size(segment, room)
    needed = room.step_bytes(segment, size) / 2**30
    reason = f"a step takes about {needed:.2g} GiB of the {room.allowed / 2**30:.3g} GiB that it may take"
    return Suggestion("batchsize_train", size, reason)


def _constant_everywhere(fingerprint: Fingerprint, channel: int) -> bool:
    return any(found.constant for found in fingerprint.channels_of_cases(channel))


def _share_of_air(fingerprint: Fingerprint, channel: int) -> float:
    """In the median case, the share of voxels that have the lowest value."""
    shares = sorted(found.share_of_lowest for found in fingerprint.channels_of_cases(channel))
    return shares[len(shares) // 2] if shares else 0.0


def _heavy_tails(fingerprint: Fingerprint, channel: int) -> bool:
    """Whether the deviation of a channel is much larger than the distance of its quartiles explains."""
    values = fingerprint.channels[channel].within
    spread = (values.percentile(75) - values.percentile(25)) / _NORMAL_IQR
    return values.count > 0 and values.std > _HEAVY_TAILS * spread > 0


def _odd(extent: int) -> int:
    return max(extent - (extent + 1) % 2, 1)


def _sizes(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.2g}"
