"""A case for the viewer: its images turned to right, anterior, superior, cropped to what they show, in 8 bits.

Axes are only swapped and reversed, never resampled, so an oblique image is shown along its own axes, with the angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti import in_ras, read_header, read_voxels, to_memory
from deepmedic.data.nifti_header import VolumeHeader
from deepmedic.errors import DeepMedicError
from deepmedic.report.content import CaseImages

MOST_VOXELS = 6_000_000
"""Of one packed volume; beyond it every second, third, ... voxel is shown."""
_MOST_SAMPLED = 200_000
_WINDOW_PERCENTILES = (0.5, 99.8)
_BACKGROUND_SHARE = 0.05
_MARGIN = 2
LARGEST_LABEL = 255
"""That is told apart from others; larger ones are shown as this one."""

Steps = tuple[int, int, int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Quantised:
    """A volume in 8 bits: code 0 is its constant background, codes 1 to 255 run from `low` to `high`."""

    codes: np.ndarray
    """uint8 [x, y, z]."""
    low: float
    high: float
    background: float | None
    """Value of code 0; None: the image has no constant background."""


@dataclass(frozen=True)
class QuantisedMap:
    """A map of uncertainty in 8 bits: code c stands for c / 255 of the largest value, so that 0 stays 0."""

    codes: np.ndarray
    """uint8 [x, y, z]."""
    largest: float
    """In the unit of the map; of all voxels that are shown."""


@dataclass
class ViewedCase:
    """One case as the viewer gets it; arrays are [x, y, z] with axes to right, anterior and superior."""

    name: str
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Millimetres between neighbouring shown voxels."""
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    """float64 [4, 4]: indices of shown voxels to millimetres."""
    stored: dict[str, Any] = field(default_factory=dict)
    """The grid of the files: its shape, axes and spacing, the first shown voxel, every how manyth is shown."""
    channels: list[tuple[int, Quantised]] = field(default_factory=list)
    """With their index among the model's channels."""
    labels: np.ndarray | None = None
    prediction: np.ndarray | None = None
    probabilities: dict[int, np.ndarray] = field(default_factory=dict)
    """By class; 255 stands for 1."""
    uncertainty: dict[str, QuantisedMap] = field(default_factory=dict)
    """By kind of map."""
    notes: list[str] = field(default_factory=list)


def view_case(images: CaseImages) -> ViewedCase:
    """Read the images of a case as the viewer shows them; what cannot be read is noted, not raised."""
    case = ViewedCase(images.name)
    reader = _Reader(case)
    channels = [(index, reader.read(ref, f"channel {index + 1}")) for index, ref in enumerate(images.channels)]
    found = [(index, voxels) for index, voxels in channels if voxels is not None]
    labels = reader.read(images.labels, "labels")
    prediction = reader.read(images.segmentation, "segmentation")
    probabilities = {number: reader.read(ref, f"class {number}") for number, ref in images.probabilities.items()}
    uncertainty = {kind: reader.read(ref, f"{kind} map") for kind, ref in images.uncertainty.items()}
    if reader.header is None:
        case.notes.append("none of the images of this case can be shown")
        return case
    backgrounds = [_background(voxels) for _, voxels in found]
    box = _shown_box(reader.header.shape, found, backgrounds, [labels, prediction])
    steps = _steps(box, reader.header.spacing)
    x, y, z = (slice(side.start, side.stop, step) for side, step in zip(box, steps, strict=True))
    shown: Box = (x, y, z)
    _describe_grid(case, reader.header, shown)
    case.channels = [
        (index, quantise(voxels[shown], background))
        for (index, voxels), background in zip(found, backgrounds, strict=True)
    ]
    case.labels = _as_labels(labels, shown)
    case.prediction = _as_labels(prediction, shown)
    case.probabilities = {
        number: np.rint(np.clip(voxels[shown], 0, 1) * 255).astype(np.uint8)
        for number, voxels in probabilities.items()
        if voxels is not None
    }
    case.uncertainty = {kind: quantise_map(voxels[shown]) for kind, voxels in uncertainty.items() if voxels is not None}
    return case


def quantise_map(voxels: np.ndarray) -> QuantisedMap:
    """Bring a map of uncertainty to 8 bits, in equal steps from 0 to its largest value; what is not finite becomes 0.

    A step is 1/255 of the largest value; a voxel is off by half of one at most. Nothing is clipped at a percentile, as
    intensities are: the few most uncertain voxels are those that one looks for.
    """
    values = np.nan_to_num(np.asarray(voxels, np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    largest = float(values.max(initial=0.0))
    if largest == 0:
        return QuantisedMap(np.zeros(values.shape, np.uint8), 0.0)
    return QuantisedMap(np.rint(values.astype(np.float64) * (255 / largest)).astype(np.uint8), largest)


def quantise(voxels: np.ndarray, background: float | None) -> Quantised:
    """Bring a volume to 8 bits, from its 0.5th to its 99.8th percentile without the background."""
    values = np.asarray(voxels, np.float32)
    is_background = np.zeros(values.shape, bool) if background is None else values == np.float32(background)
    inside = values[~is_background & np.isfinite(values)]
    if inside.size == 0:
        return Quantised(np.zeros(values.shape, np.uint8), 0.0, 1.0, background)
    low, high = (
        float(value) for value in np.percentile(inside[:: inside.size // _MOST_SAMPLED + 1], _WINDOW_PERCENTILES)
    )
    high = high if high > low else low + 1.0
    scaled = np.nan_to_num((values - low) * (254.0 / (high - low)), nan=0.0, posinf=254.0, neginf=0.0)
    codes = np.rint(np.clip(scaled, 0, 254)).astype(np.uint8) + np.uint8(1)
    codes[is_background] = 0
    return Quantised(codes, low, high, background)


class _Reader:
    """Reads the images of a case on one grid: that of the first one that can be read."""

    def __init__(self, case: ViewedCase) -> None:
        self.header: VolumeHeader | None = None
        self._case = case

    def read(self, ref: ImageRef | None, what: str) -> np.ndarray | None:
        """Voxels [x, y, z] to right, anterior, superior; None with a note where that is not possible."""
        if ref is None:
            return None
        try:
            header = in_ras(read_header(ref))
            if self.header is not None and header.shape != self.header.shape:
                self._case.notes.append(f"{what}: {ref} has {header.shape} voxels, other images {self.header.shape}")
                return None
            voxels = to_memory(read_voxels(ref, header, self._case.notes), header)
        except (DeepMedicError, OSError) as problem:
            self._case.notes.append(f"{what} cannot be shown: {problem}")
            return None
        self.header = self.header or header
        return voxels


def _background(voxels: np.ndarray) -> float | None:
    """The value around the head or body, when all of it has exactly one, as after skull stripping."""
    corners = voxels[:: max(1, voxels.shape[0] - 1), :: max(1, voxels.shape[1] - 1), :: max(1, voxels.shape[2] - 1)]
    values, counts = np.unique(corners, return_counts=True)
    value = values[np.argmax(counts)]
    share = np.count_nonzero(voxels == value) / voxels.size
    return float(value) if share > _BACKGROUND_SHARE else None


def _shown_box(
    shape: tuple[int, int, int],
    channels: list[tuple[int, np.ndarray]],
    backgrounds: list[float | None],
    labels: list[np.ndarray | None],
) -> Box:
    """What is neither background of all channels nor label 0, with a margin; everything if that is nothing."""
    content: list[tuple[np.ndarray, float]] = [(voxels, 0.0) for voxels in labels if voxels is not None]
    for (_, voxels), background in zip(channels, backgrounds, strict=True):
        if background is None:
            return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
        content.append((voxels, background))
    lows, highs = list(shape), [0, 0, 0]
    for voxels, background in content:
        differs = voxels != background
        for axis in range(3):
            used = np.flatnonzero(differs.any(axis=tuple({0, 1, 2} - {axis})))
            if used.size:
                lows[axis] = min(lows[axis], int(used[0]))
                highs[axis] = max(highs[axis], int(used[-1]) + 1)
    sides = [
        slice(max(0, low - _MARGIN), min(size, high + _MARGIN)) if high > low else slice(0, size)
        for low, high, size in zip(lows, highs, shape, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def _steps(box: Box, spacing: tuple[float, float, float]) -> Steps:
    """Every how manyth voxel is shown along each axis; the finest axis gives way first."""
    steps = [1, 1, 1]
    sizes = [side.stop - side.start for side in box]
    while math.prod(-(-size // step) for size, step in zip(sizes, steps, strict=True)) > MOST_VOXELS:
        finest = min(
            (axis for axis in range(3) if sizes[axis] > steps[axis]), key=lambda axis: spacing[axis] * steps[axis]
        )
        steps[finest] += 1
    return steps[0], steps[1], steps[2]


def _describe_grid(case: ViewedCase, header: VolumeHeader, shown: Box) -> None:
    first, steps = [side.start for side in shown], [side.step for side in shown]
    case.shape = tuple(-(-(side.stop - side.start) // side.step) for side in shown)
    case.spacing = tuple(length * step for length, step in zip(header.spacing, steps, strict=True))
    to_grid = np.diag([*steps, 1.0])
    to_grid[:3, 3] = first
    case.affine = header.affine @ to_grid
    directions = header.affine[:3, :3] / np.asarray(header.spacing)
    angle = math.degrees(math.acos(min(1.0, float(np.abs(np.diag(directions)).min()))))
    case.stored = {
        "shape": list(header.shape),
        "spacing": [round(length, 4) for length in header.spacing],
        "first": first,
        "step": steps,
        "oblique": round(angle, 1),
    }
    if max(steps) > 1:
        case.notes.append(f"shown is every {' x '.join(map(str, steps))}th voxel; the files hold all of them")


def _as_labels(voxels: np.ndarray | None, shown: Box) -> np.ndarray | None:
    if voxels is None:
        return None
    labels = voxels[shown]
    if labels.dtype.kind == "f":
        labels = np.rint(np.nan_to_num(labels))
    return np.clip(labels, 0, LARGEST_LABEL).astype(np.uint8)
