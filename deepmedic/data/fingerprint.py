"""What a data set looks like: geometry, intensities, labels and repeated voxels, gathered case by case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepmedic.config.options import Size3
from deepmedic.data.cases import ImageRef
from deepmedic.data.statistics import ValueStatistics, digest, label_counts
from deepmedic.data.volumes import LoadedCase

CUBIC_MILLIMETRES_PER_ML = 1000.0
_MOST_DUPLICATES = 20


@dataclass(frozen=True)
class ChannelOfCase:
    """One channel of one case, within the ROI (in the whole image without one)."""

    mean: float
    std: float
    share_of_lowest: float
    """Of voxels that have the lowest value of all; much of it is air, whatever its value."""
    constant: bool


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What stays known of a case after its voxels are gone."""

    name: str
    shape: Size3
    """Voxels along the axes in memory."""
    spacing: tuple[float, float, float]
    """Millimetres along the same axes."""
    axis_codes: str
    channels: tuple[ChannelOfCase | None, ...]
    """None: the channel is missing."""
    labels: np.ndarray | None
    """int64 [class]: voxels of each class; None without labels."""
    labels_in_roi: np.ndarray | None
    """int64 [class]: those within the ROI."""
    roi_voxels: int | None
    digests: tuple[tuple[str, str, ImageRef], ...]
    """Of each image that is not constant: title, digest of its voxels, file."""

    @property
    def millilitres_per_voxel(self) -> float:
        return float(np.prod(self.spacing)) / CUBIC_MILLIMETRES_PER_ML

    @property
    def foreground_outside_roi(self) -> int:
        """Voxels of foreground classes outside the ROI; 0 without labels or ROI."""
        if self.labels is None or self.labels_in_roi is None or not self.roi_voxels:
            return 0
        return int((self.labels - self.labels_in_roi)[1:].sum())

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON; volumes in millilitres."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "axes": self.axis_codes,
            "channels": [vars(channel) if channel else None for channel in self.channels],
            "labelVoxels": None if self.labels is None else self.labels.tolist(),
            "labelMillilitres": None if self.labels is None else (self.labels * self.millilitres_per_voxel).tolist(),
            "roiVoxels": self.roi_voxels,
        }


@dataclass
class ChannelFacts:
    """One channel of all cases together."""

    within: ValueStatistics
    """Intensities within the ROI (in the whole image without one)."""
    foreground: ValueStatistics
    """Intensities where a label of a foreground class is."""


class Fingerprint:
    """The cases of one set; memory does not grow with voxels, only by a few numbers per case."""

    def __init__(self, role: str, channels: int, classes: int) -> None:
        self.role = role
        self.classes = classes
        self.cases: list[CaseFacts] = []
        self.channels = [ChannelFacts(ValueStatistics(), ValueStatistics()) for _ in range(channels)]

    def add(self, summary: CaseSummary) -> None:
        """Count one more case."""
        self.cases.append(summary.facts)
        for mine, (within, foreground) in zip(self.channels, summary.channels, strict=True):
            mine.within.merge(within)
            mine.foreground.merge(foreground)

    @property
    def has_roi(self) -> bool:
        return any(case.roi_voxels is not None for case in self.cases)

    @property
    def median_shape(self) -> Size3:
        x, y, z = np.median([case.shape for case in self.cases], axis=0).astype(int).tolist()
        return x, y, z

    @property
    def median_spacing(self) -> tuple[float, float, float]:
        x, y, z = np.median([case.spacing for case in self.cases], axis=0).tolist()
        return x, y, z

    @property
    def label_shares(self) -> tuple[float, ...] | None:
        """Share of the voxels within the ROI that each class has; None where no case has labels there."""
        found = [case.labels_in_roi for case in self.cases if case.labels_in_roi is not None]
        total = np.sum(found, axis=0) if found else np.zeros(self.classes)
        return tuple((total / total.sum()).tolist()) if total.sum() else None

    def channels_of_cases(self, channel: int) -> list[ChannelOfCase]:
        """One channel (from 0) in each case that has it."""
        return [found for case in self.cases if (found := case.channels[channel]) is not None]

    def to_plain(self, channel_names: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
        """Plain values for JSON: the set as a whole, and each case."""
        channels = {name: self._channel_to_plain(number) for number, name in enumerate(channel_names)}
        return {
            "cases": len(self.cases),
            "shapes": _groups(" x ".join(map(str, case.shape)) for case in self.cases),
            "spacings": _groups(" x ".join(f"{size:.4g}" for size in case.spacing) + " mm" for case in self.cases),
            "axisOrders": _groups(case.axis_codes for case in self.cases),
            "intensities": {"within": "ROI" if self.has_roi else "whole image", **channels},
            "labels": self._labels_to_plain(class_names),
            "foregroundOutsideRoi": self._outside_to_plain(),
            "perCase": [case.to_plain() for case in self.cases],
        }

    def _channel_to_plain(self, number: int) -> dict[str, Any]:
        facts = self.channels[number]
        constant = [case.name for case in self.cases if (found := case.channels[number]) and found.constant]
        missing = [case.name for case in self.cases if case.channels[number] is None]
        return {
            **facts.within.to_plain(),
            "foreground": facts.foreground.to_plain(),
            "constantIn": constant,
            "missingIn": missing,
        }

    def _outside_to_plain(self) -> dict[str, Any]:
        """Voxels of foreground classes that no segment is centred on and that are never predicted."""
        outside = {case.name: case.foreground_outside_roi for case in self.cases if case.foreground_outside_roi}
        foreground = sum(int(case.labels[1:].sum()) for case in self.cases if case.labels is not None)
        voxels = sum(outside.values())
        return {"voxels": voxels, "share": voxels / max(foreground, 1), "in": list(outside)}

    def _labels_to_plain(self, class_names: Sequence[str]) -> dict[str, Any] | None:
        labelled = [case for case in self.cases if case.labels is not None]
        if not labelled:
            return None
        voxels = np.stack([case.labels for case in labelled if case.labels is not None])  # [case, class]
        volumes = voxels * np.array([[case.millilitres_per_voxel] for case in labelled])
        return {
            name: {
                "voxels": int(voxels[:, number].sum()),
                "share": float(voxels[:, number].sum() / max(voxels.sum(), 1)),
                "casesWithIt": int(np.count_nonzero(voxels[:, number])),
                "medianMillilitres": float(np.median(volumes[:, number])),
            }
            for number, name in enumerate(class_names)
        }


@dataclass(frozen=True, eq=False)
class CaseSummary:
    """All that is kept of one case until it is counted in a `Fingerprint`."""

    facts: CaseFacts
    channels: tuple[tuple[ValueStatistics, ValueStatistics], ...]
    """Per channel: within the ROI, and in the foreground."""


def summarise(loaded: LoadedCase, classes: int) -> CaseSummary:
    """Return what is to be known of a case as it is on disk, before padding and normalisation.

    Args:
        loaded: its voxels.
        classes: labels are below this number.
    """
    case, roi, labels = loaded.case, loaded.roi, loaded.labels
    mask = roi if roi is not None and roi.any() else None
    statistics, channels = [], []
    for ref, volume in zip(case.channels, loaded.channels, strict=True):
        within, foreground, lowest = ValueStatistics(), ValueStatistics(), 0.0
        if ref is not None:
            inside = volume if mask is None else volume[mask]
            within.add(inside)
            lowest = np.count_nonzero(inside == within.minimum) / inside.size
            if labels is not None:
                foreground.add(volume[labels > 0])
        statistics.append((within, foreground))
        channels.append(ChannelOfCase(within.mean, within.std, lowest, within.constant) if ref is not None else None)
    counted = None if labels is None else label_counts(labels, classes)
    inside = counted if labels is None or mask is None else label_counts(labels[mask], classes)
    facts = CaseFacts(
        name=case.name,
        shape=loaded.header.shape,
        spacing=loaded.header.spacing,
        axis_codes=loaded.header.axis_codes,
        channels=tuple(channels),
        labels=counted,
        labels_in_roi=inside,
        roi_voxels=None if roi is None else int(np.count_nonzero(roi)),
        digests=_digests(loaded),
    )
    return CaseSummary(facts, tuple(statistics))


def repeated_voxels(sets: Sequence[Fingerprint]) -> list[str]:
    """Say which images hold the same voxels although they are files of different names, within and between sets.

    Images of one case are compared with those of others only; a file that is listed twice is told elsewhere.
    """
    places: dict[str, list[tuple[str, CaseFacts, str, ImageRef]]] = defaultdict(list)
    for fingerprint in sets:
        for case in fingerprint.cases:
            for title, found, ref in case.digests:
                places[found].append((fingerprint.role, case, title, ref))
    lines = []
    for group in places.values():
        files = {str(ref.path.resolve()) + str(ref.volume): place for place in group for ref in [place[3]]}
        if len(files) > 1:
            lines.append(_repetition(list(files.values())))
    more = len(lines) - _MOST_DUPLICATES
    return lines[:_MOST_DUPLICATES] + (
        [f"... and {more} more groups of images with the same voxels"] if more > 0 else []
    )


def _repetition(group: list[tuple[str, CaseFacts, str, ImageRef]]) -> str:
    named = "; ".join(f"{role} case {case.name}, {title}: {ref}" for role, case, title, ref in group)
    roles = list(dict.fromkeys(role for role, *_ in group))
    if len(roles) > 1:
        sets = " and ".join(roles)
        return f"the same voxels serve {sets}, so that scores say nothing about new cases: {named}"
    return f"the same voxels under several names: {named}"


def _digests(loaded: LoadedCase) -> tuple[tuple[str, str, ImageRef], ...]:
    images: list[tuple[str, ImageRef | None, np.ndarray | None]] = [
        (f"channel {number}", ref, volume)
        for number, (ref, volume) in enumerate(zip(loaded.case.channels, loaded.channels, strict=True), 1)
    ]
    images.append(("labels", loaded.case.labels, loaded.labels))
    found = []
    for title, ref, voxels in images:
        if ref is None or voxels is None:
            continue
        mark = digest(voxels)
        if mark is not None:
            found.append((title, f"{voxels.dtype} {mark}", ref))
    return tuple(found)


def _groups(texts: Any) -> Mapping[str, int]:
    """How often each text occurs, most frequent first."""
    counts: dict[str, int] = defaultdict(int)
    for text in texts:
        counts[text] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
