"""Voxels of a case whose features are looked at: class-balanced, seeded, with the segments they are predicted in.

Each voxel is predicted within a segment of training size, so that a layer sees what it sees in training. Segments are
centred on voxels of each class in turn, and several voxels are taken from each, which costs a fraction of a segment
per voxel. What is drawn depends on the seed, the case's name and its labels only: neither on the other cases nor on
the order in which they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.randomness import stream
from deepmedic.errors import DataError


@dataclass(frozen=True)
class VoxelSettings:
    """How many voxels of each case are looked at."""

    voxels_per_class: int = 48
    """Most voxels of one class from one case, so that no case outweighs the others."""
    segments: int = 24
    """Most segments from one case, unless it has more classes: each class has a segment at least."""
    seed: int = 0

    def segments_for(self, classes: int) -> int:
        """Most segments from a case with so many classes."""
        return max(self.segments, classes)


@dataclass(frozen=True, eq=False)
class SampledVoxels:
    """Voxels of one case, in the order of their positions; tensors on the CPU, axes x, y, z."""

    starts: torch.Tensor
    """int64 [segment, 3]: first voxel of each segment in the padded volume."""
    segments: torch.Tensor
    """int64 [voxel]: the segment that predicts each voxel."""
    offsets: torch.Tensor
    """int64 [voxel, 3]: where each voxel lies in the box that its segment predicts."""
    positions: torch.Tensor
    """int64 [voxel, 3]: where each voxel lies in the volume, before padding."""
    labels: torch.Tensor
    """int64 [voxel]."""
    stands_for: torch.Tensor
    """float64 [voxel]: voxels of the same class in the case, within the ROI, per sampled one."""

    def __len__(self) -> int:
        return len(self.labels)


def sample_voxels(
    case: PreparedCase, architecture: Architecture, segment: Size3, settings: VoxelSettings
) -> SampledVoxels:
    """Draw voxels of each class of a case, and the segments that predict them.

    A class with fewer voxels than asked for gives all that the segments hold of it. Without padding of the images,
    voxels that the network does not reach are left out, as are those outside the ROI (unless it is empty).

    Args:
        case: padded and prepared for segments of this size, with labels.
        architecture: of the network.
        segment: size of the normal pathway's segments, voxels.
        settings: how many voxels, and the seed.

    Raises:
        DataError: the case has no labels, or no voxel can be predicted.
    """
    if case.labels is None:
        raise DataError(f"case {case.name}: it has no labels, which this analysis needs; list a label file for it.")
    volume = _Volume(case, architecture, segment)
    generator = stream(settings.seed, "analysed voxels", case.name)
    starts = volume.starts_around(_centres(volume, settings, generator))
    found = volume.predicted_by(starts)
    kept = _balanced(volume.labels[found.flat], settings.voxels_per_class, generator)
    labels = volume.labels[found.flat[kept]].astype(np.int64)
    stands_for = volume.counts[labels] / np.bincount(labels, minlength=len(volume.counts))[labels]
    positions = np.stack(np.unravel_index(found.flat[kept], case.size), axis=1)
    before = np.array([low for low, _ in case.padding])
    return SampledVoxels(
        starts=torch.from_numpy(starts),
        segments=torch.from_numpy(found.segments[kept]),
        offsets=torch.from_numpy(found.offsets[kept]),
        positions=torch.from_numpy(positions - before),
        labels=torch.from_numpy(labels),
        stands_for=torch.from_numpy(stands_for),
    )


@dataclass(frozen=True)
class _Predicted:
    """Voxels of the boxes that segments predict, each once."""

    flat: np.ndarray
    """int64 [voxel]: number of each in the flattened padded volume, rising."""
    segments: np.ndarray
    offsets: np.ndarray


class _Volume:
    """Which voxels of a padded volume can be drawn."""

    def __init__(self, case: PreparedCase, architecture: Architecture, segment: Size3) -> None:
        assert case.labels is not None
        self.size, self.segment = case.size, segment
        margins = architecture.margins(segment)
        self.margin = np.array([before for before, _ in margins])
        self.output = architecture.output_size(segment)
        inside = np.zeros(case.size, bool)
        x, y, z = (
            slice(max(low, before), length - max(high, after))
            for (low, high), (before, after), length in zip(case.padding, margins, case.size, strict=True)
        )
        inside[x, y, z] = True
        if case.roi is not None:
            mask = case.roi.cpu().numpy()
            inside &= mask if mask[x, y, z].any() else True
        if not inside.any():
            raise DataError(
                f"case {case.name}: the network predicts none of its {_text(case.size)} voxels with segments of "
                f"{_text(segment)}; set padInputImagesBool = true, or use smaller segments."
            )
        self.inside = inside.reshape(-1)
        self.labels = case.labels.cpu().numpy().reshape(-1)
        self.counts = np.bincount(self.labels[self.inside], minlength=architecture.classes)

    def starts_around(self, centres: np.ndarray) -> np.ndarray:
        """int64 [segment, 3]: segments whose predicted box has a voxel [segment] in its middle, kept inside."""
        middle = np.stack(np.unravel_index(centres, self.size), axis=1)
        starts = middle - self.margin - (np.array(self.output) - 1) // 2
        return starts.clip(0, np.array(self.size) - np.array(self.segment))

    def predicted_by(self, starts: np.ndarray) -> _Predicted:
        """The voxels that segments predict; one that several predict belongs to the first of them."""
        offsets = np.stack(np.unravel_index(np.arange(np.prod(self.output)), self.output), axis=1)
        positions = (starts + self.margin)[:, None] + offsets
        flat = np.ravel_multi_index(tuple(np.moveaxis(positions, -1, 0)), self.size).reshape(-1)
        flat, first = np.unique(flat, return_index=True)
        usable = self.inside[flat]
        segments, within = np.divmod(first[usable], len(offsets))
        return _Predicted(flat[usable], segments, offsets[within])


def _centres(volume: _Volume, settings: VoxelSettings, generator: np.random.Generator) -> np.ndarray:
    """Voxels on which segments are centred, the classes in turn until there are enough: int64 [segment]."""
    present = np.flatnonzero(volume.counts)
    most = settings.segments_for(len(present))
    drawn = []
    for number, label in enumerate(present):
        share = len(range(number, most, len(present)))
        candidates = np.flatnonzero(volume.inside & (volume.labels == label))
        drawn.append(generator.choice(candidates, min(share, len(candidates)), replace=False))
    return np.concatenate(drawn)


def _balanced(labels: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """Places of at most `most` voxels of each class, rising."""
    chosen = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        chosen.append(generator.choice(places, min(most, len(places)), replace=False))
    return np.sort(np.concatenate(chosen))


def _text(size: Size3) -> str:
    return "x".join(map(str, size))
