"""Random changes to the segments of a batch: intensities, reflection, rotation by multiples of 90 degrees.

The draws for all segments of a subepoch are made beforehand, in numpy, and applied to a batch at once: intensities by
one multiplication, all reflections and rotations of a segment together by one index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from deepmedic.config.augmentation import Gaussian, SegmentAugmentation
from deepmedic.data.segments import Lines, SegmentBatch, SegmentGeometry, SegmentPlaces
from deepmedic.errors import ConfigError

# Planes in the order in which they are rotated.
_PLANES = {"xy": (0, 1), "yz": (1, 2), "xz": (0, 2)}


@dataclass(frozen=True)
class SegmentDraws:
    """What is done to each segment; None: nothing of this kind."""

    shift: torch.Tensor | None
    """float32 [segment, channel], added to intensities."""
    scale: torch.Tensor | None
    """float32 [segment, channel], multiplied after the shift."""
    axes: torch.Tensor | None
    """int64 [segment, 3]: axis of the input that each axis of the output runs along."""
    reversed: torch.Tensor | None
    """bool [segment, 3]: whether it runs backwards."""

    def __getitem__(self, segments: slice) -> SegmentDraws:
        """The draws of some segments."""
        return SegmentDraws(*(None if t is None else t[segments] for t in self._tensors()))

    def to(self, device: torch.device | str) -> SegmentDraws:
        """The draws on a device; done once for a subepoch."""
        return SegmentDraws(*(None if t is None else t.to(device, non_blocking=True) for t in self._tensors()))

    def _tensors(self) -> tuple[torch.Tensor | None, ...]:
        return self.shift, self.scale, self.axes, self.reversed


def check_rotation(geometry: SegmentGeometry, config: SegmentAugmentation) -> None:
    """Raise ConfigError when segments are to be rotated by 90 degrees in a plane in which they are not square."""
    sizes = [*geometry.input_sizes, geometry.output_size]
    for plane, axes in _PLANES.items():
        probabilities = (config.rotate90 or {}).get(plane, (0.0,) * 4)
        if probabilities[1] == 0 and probabilities[3] == 0:
            continue
        for size in sizes:
            if size[axes[0]] != size[axes[1]]:
                raise ConfigError(
                    f"augm_sample_prms_tr['rotate90'] rotates by 90 or 270 degrees in the plane {plane}, but a segment "
                    f"of {geometry.segment} voxels gives a box of {size} voxels (inputs of the pathways: "
                    f"{list(geometry.input_sizes)}, predicted: {geometry.output_size}), whose sizes along {plane[0]} "
                    f"and {plane[1]} differ. Choose segmentsDimTrain and subsampleFactor equal along both axes, or set "
                    "these two probabilities to 0."
                )


def draw_segment_augmentation(
    generator: np.random.Generator, n_segments: int, channels: int, config: SegmentAugmentation
) -> SegmentDraws:
    """Draw what is done to each segment of a subepoch.

    Args:
        generator: for this purpose only, for instance `plan.id.stream("augmentation")`.
    """
    shape = (n_segments, channels)
    shift, scale = _normal(generator, config.shift, shape), _normal(generator, config.scale, shape)
    flips = _draw_flips(generator, n_segments, config)
    turns = _draw_quarter_turns(generator, n_segments, config)
    if not flips.any() and not turns.any():
        return SegmentDraws(shift, scale, None, None)
    axes, backwards = compose(flips, turns)
    return SegmentDraws(shift, scale, torch.from_numpy(axes), torch.from_numpy(backwards))


def compose(flips: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return reflections along x, y, z and then rotations in the planes xy, yz, xz as one signed permutation of axes.

    Args:
        flips: bool [segment, 3].
        turns: int [segment, 3], quarter turns from the first to the second axis of each plane.

    Returns:
        `axes` int64 [segment, 3] and `reversed` bool [segment, 3] of `SegmentDraws`.
    """
    axes = np.tile(np.arange(3), (len(flips), 1))
    backwards = flips.copy()
    for plane, (first, second) in enumerate(_PLANES.values()):
        turn = turns[:, plane]
        # Half a turn reverses both axes. A quarter turn reverses the second axis, then exchanges both.
        backwards[turn == 2] ^= np.isin(np.arange(3), (first, second))
        quarter = turn % 2 == 1
        exchanged = np.arange(3)
        exchanged[[first, second]] = second, first
        backwards[turn == 1, second] ^= True
        axes[quarter], backwards[quarter] = axes[quarter][:, exchanged], backwards[quarter][:, exchanged]
        backwards[turn == 3, second] ^= True
    return axes, backwards


def turned(places: SegmentPlaces, draws: SegmentDraws) -> SegmentPlaces:
    """Return the places of segments that are reflected and rotated as drawn, in all pathways and labels alike.

    Args:
        places: axes that are exchanged have equal sizes.
        draws: as many as segments, on the device of the places.
    """
    axes, backwards = draws.axes, draws.reversed
    if axes is None or backwards is None:
        return places
    return places.with_lines(lambda lines: _turned_lines(lines, axes, backwards))


def with_intensities(batch: SegmentBatch, draws: SegmentDraws) -> SegmentBatch:
    """Return the batch with the shift and scale drawn for its segments.

    Args:
        draws: as many as segments, on the device of the batch.
    """
    return SegmentBatch(tuple(_change_intensities(values, draws) for values in batch.inputs), batch.labels)


def _change_intensities(values: torch.Tensor, draws: SegmentDraws) -> torch.Tensor:
    if draws.shift is not None:
        values = values + draws.shift[:, :, None, None, None]
    if draws.scale is not None:
        values = values * draws.scale[:, :, None, None, None]
    return values


def _turned_lines(lines: Lines, axes: torch.Tensor, backwards: torch.Tensor) -> Lines:
    """The line along each axis of the result: that of the axis it runs along, from the end if it runs backwards."""
    longest = max(line.shape[1] for line in lines)
    together = torch.cat([functional.pad(line, (0, longest - line.shape[1])) for line in lines], dim=1)
    found = []
    for axis, line in enumerate(lines):
        steps = torch.arange(line.shape[1], device=line.device)
        position = torch.where(backwards[:, axis, None], line.shape[1] - 1 - steps, steps)
        found.append(together.gather(1, position + longest * axes[:, axis, None]))
    return found[0], found[1], found[2]


def _normal(generator: np.random.Generator, gaussian: Gaussian | None, shape: tuple[int, int]) -> torch.Tensor | None:
    if gaussian is None:
        return None
    return torch.from_numpy(generator.normal(gaussian.mean, gaussian.std, size=shape).astype(np.float32))


def _draw_flips(generator: np.random.Generator, n_segments: int, config: SegmentAugmentation) -> np.ndarray:
    probabilities = np.array(config.reflect or (0.0, 0.0, 0.0))
    flips: np.ndarray = generator.random((n_segments, 3)) < probabilities
    return flips


def _draw_quarter_turns(generator: np.random.Generator, n_segments: int, config: SegmentAugmentation) -> np.ndarray:
    turns = np.zeros((n_segments, 3), dtype=np.int64)
    for plane, name in enumerate(_PLANES):
        weights = np.array((config.rotate90 or {}).get(name, (0.0,) * 4))
        if weights.sum() > 0:
            turns[:, plane] = generator.choice(4, size=n_segments, p=weights / weights.sum())
    return turns
