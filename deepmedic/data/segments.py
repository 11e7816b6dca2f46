"""Segments of resident volumes: the input of every pathway, and the labels of the predicted box.

All segments of a batch are cut together, by one index per voxel that is computed on the device. The index is a sum of
three lines of numbers, one along each axis. They are found for many batches at once: on a GPU the dozens of small
kernels that this takes would keep the host longer than the network computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.data.pool import VolumePool

Lines = tuple[Tensor, Tensor, Tensor]
"""int64 [segment, size] along x, y, z: what a voxel's position along that axis adds to the number of its element."""

# Added to an element number for every axis along which a voxel is outside the volume: below any border element.
_OUTSIDE = -(2**40)


@dataclass(frozen=True)
class SegmentGeometry:
    """Sizes of one segment in all parallel pathways; axes x, y, z."""

    input_sizes: tuple[Size3, ...]
    """Voxels of each pathway's input, the normal pathway first."""
    factors: tuple[Size3, ...]
    """Voxels of the image per voxel of each pathway's input."""
    receptive_field: Size3
    """Of the normal pathway, which the low-resolution pathways share."""
    output_size: Size3
    """Voxels of the predicted box."""

    @classmethod
    def from_architecture(cls, architecture: Architecture, segment: Size3) -> SegmentGeometry:
        """The geometry of a network for a segment of the normal pathway of the given size."""
        return cls(
            input_sizes=architecture.input_sizes(segment),
            factors=tuple(pathway.factor for pathway in architecture.parallel),
            receptive_field=architecture.normal.receptive_field,
            output_size=architecture.output_size(segment),
        )

    @property
    def segment(self) -> Size3:
        """Size of the normal pathway's input."""
        return self.input_sizes[0]

    @property
    def centre(self) -> Size3:
        """Position of the central voxel within the segment; of an even size the voxel before the middle."""
        x, y, z = ((size - 1) // 2 for size in self.segment)
        return x, y, z

    @property
    def label_offset(self) -> Size3:
        """Position of the box with labels within the segment: both have the same central voxel.

        The original trains with this box. For an even receptive field it can lie one voxel off the box that is
        predicted at inference, which keeps the odd voxel of the margin at its end.
        """
        x, y, z = (self.centre[axis] - (self.output_size[axis] - 1) // 2 for axis in range(3))
        return x, y, z


@dataclass(frozen=True)
class SegmentBatch:
    """A batch of segments on the device."""

    inputs: tuple[Tensor, ...]
    """float32 [segment, channel, x, y, z], one per pathway."""
    labels: Tensor | None
    """int64 [segment, x, y, z] of the predicted box."""


@dataclass(frozen=True)
class SegmentPlaces:
    """Where segments lie in the volumes of a pool's table, whatever elements these occupy."""

    rows: Tensor
    """int64 [segment], rows of the pool's table."""
    inputs: tuple[Lines, ...]
    """For each pathway."""
    labels: Lines | None

    def __getitem__(self, segments: slice) -> SegmentPlaces:
        """Those of some segments."""
        some = self.with_lines(lambda lines: (lines[0][segments], lines[1][segments], lines[2][segments]))
        return replace(some, rows=self.rows[segments])

    def with_lines(self, change: Callable[[Lines], Lines]) -> SegmentPlaces:
        """The same with lines that are changed for all pathways and the labels alike."""
        labels = None if self.labels is None else change(self.labels)
        return replace(self, inputs=tuple(map(change, self.inputs)), labels=labels)


def gather(pool: VolumePool, geometry: SegmentGeometry, rows: Tensor, centres: Tensor) -> SegmentBatch:
    """Cut segments with labels around central voxels; arguments as of `places_around`."""
    return cut(pool, places_around(pool, geometry, rows, centres))


def gather_at(
    pool: VolumePool, geometry: SegmentGeometry, rows: Tensor, starts: Tensor, with_labels: bool = False
) -> SegmentBatch:
    """Cut segments that begin at given voxels; arguments as of `places_at`."""
    return cut(pool, places_at(pool, geometry, rows, starts, with_labels))


def places_around(pool: VolumePool, geometry: SegmentGeometry, rows: Tensor, centres: Tensor) -> SegmentPlaces:
    """Find segments with labels around central voxels; as `places_at` but for the point that is given.

    Args:
        centres: int64 [segment, 3], the central voxels of the normal pathway's segments.
    """
    x, y, z = geometry.centre
    return _places(pool, geometry, (rows, centres), (-x, -y, -z), with_labels=True)


def places_at(
    pool: VolumePool, geometry: SegmentGeometry, rows: Tensor, starts: Tensor, with_labels: bool = False
) -> SegmentPlaces:
    """Find segments that begin at given voxels; valid as long as the pool's table has the same cases.

    What lies outside a volume is filled with the border values of its channels, and counts as background. Starts may
    be negative and segments larger than the volume.

    Args:
        rows: int64 [segment], rows of the pool's table, that is positions in the list of cases last required.
        starts: int64 [segment, 3], the first voxels of the normal pathway's segments.
    """
    return _places(pool, geometry, (rows, starts), (0, 0, 0), with_labels)


def cut(pool: VolumePool, places: SegmentPlaces) -> SegmentBatch:
    """Copy segments, and their labels if these have places, out of the pool."""
    starts = pool.table.starts[places.rows][:, None]
    inputs = tuple(_values(pool.channels, lines, starts) for lines in places.inputs)
    labels = None
    if places.labels is not None and pool.labels is not None:
        labels = _values(pool.labels[None], places.labels, starts)[:, 0].long()
    return SegmentBatch(inputs, labels)


def _places(
    pool: VolumePool,
    geometry: SegmentGeometry,
    points: tuple[Tensor, Tensor],
    begin: Size3,
    with_labels: bool,
) -> SegmentPlaces:
    """Places of segments that begin `begin` voxels after the given points, rows and voxels."""
    rows, voxels = (tensor.to(pool.device, non_blocking=True) for tensor in points)
    if with_labels and pool.labels is None:
        raise ValueError("Segments with labels were asked for, but the pool keeps no labels.")
    inputs = []
    for size, factor in zip(geometry.input_sizes, geometry.factors, strict=True):
        first = _sum(begin, _reach(geometry.receptive_field, factor))
        inputs.append(_lines(pool, (rows, voxels), first, size, factor))
    labels = None
    if with_labels:
        first = _sum(begin, geometry.label_offset)
        labels = _lines(pool, (rows, voxels), first, geometry.output_size, (1, 1, 1))
    return SegmentPlaces(rows, tuple(inputs), labels)


def _values(volumes: Tensor, lines: Lines, starts: Tensor) -> Tensor:
    """Values [segment, channel, x, y, z] of volumes [channel, element].

    Args:
        lines: of the segments.
        starts: int64 [segment, 1], the element with the border values of each segment's case.
    """
    if volumes.device.type == "cpu" and _are_rows(lines):
        return _values_of_rows(volumes, lines, starts)
    elements = _elements(lines, starts)
    segments, channels = elements.shape[0], volumes.shape[0]
    of_channels = elements.view(segments, 1, -1).expand(-1, channels, -1)
    values = torch.gather(volumes[None].expand(segments, -1, -1), 2, of_channels)
    return values.view(segments, channels, *elements.shape[1:])


def _are_rows(lines: Lines) -> bool:
    """Whether all segments lie within their volumes and have neighbouring voxels along z, as they are in memory."""
    x, y, z = lines
    return bool((z.diff(dim=1) == 1).all()) and min(int(line.min()) for line in (x, y, z[:, :1])) >= 0


def _values_of_rows(volumes: Tensor, lines: Lines, starts: Tensor) -> Tensor:
    """The same values copied row by row, a fifth of the time of voxel by voxel."""
    x, y, z = lines
    segments, channels, length = len(z), len(volumes), z.shape[1]
    begins = (x + (starts + 1))[:, :, None] + (y + z[:, :1])[:, None, :]  # element of the first voxel of each row
    of_channels = torch.arange(channels)[:, None] * volumes.shape[1] + begins.view(segments, 1, -1)
    rows = volumes.view(-1).as_strided((volumes.numel() - length + 1, length), (1, 1))  # one begins at each element
    return rows.index_select(0, of_channels.view(-1)).view(segments, channels, *begins.shape[1:], length)


def _reach(receptive_field: Size3, factor: Size3) -> Size3:
    """Return the voxels from the start of the normal segment to the first voxel of the low-resolution one.

    Low-resolution voxel i of a segment that starts at s is voxel s + reach + factor * i. With an odd receptive field
    rf that puts the first predicted low-resolution voxel on the first predicted voxel of the image:

        s + reach + factor * (rf - 1) / 2 = s + (rf - 1) / 2

    For an even one the original rounds differently for odd and even factors; models were trained with both. A factor
    of 1 gives 0.
    """
    reach = []
    for field, step in zip(receptive_field, factor, strict=True):
        half = (step - 1) // 2
        reach.append(half - half * field - (0 if step % 2 else field // 2))
    x, y, z = reach
    return x, y, z


def _sum(one: Size3, other: Size3) -> Size3:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _lines(pool: VolumePool, places: tuple[Tensor, Tensor], offset: Size3, size: Size3, factor: Size3) -> Lines:
    """The lines of segments that begin `offset` voxels after the given points."""
    rows, points = places
    sizes, strides = pool.table.sizes[rows], pool.table.strides[rows]
    lines = []
    for axis in range(3):
        positions = _positions(points[:, axis] + offset[axis], size[axis], factor[axis])
        outside = (positions < 0) | (positions >= sizes[:, axis, None])
        lines.append((positions * strides[:, axis, None]).masked_fill_(outside, _OUTSIDE))
    x, y, z = lines
    return x, y, z


def _elements(lines: Lines, starts: Tensor) -> Tensor:
    """int64 [segment, x, y, z]: the element that each voxel of each segment comes from.

    Args:
        lines: of the segments.
        starts: int64 [segment, 1], the element with the border values of each segment's case.
    """
    x, y, z = lines
    x = x + (starts + 1)  # the voxels follow the border values
    # [segment, x, y, 1] + [segment, 1, 1, z]; the first sum is small
    elements = (x[:, :, None] + y[:, None, :])[..., None] + z[:, None, None, :]
    # What is outside along any axis is far below zero: raise it to the element that holds the border values.
    return torch.maximum(elements, starts[..., None, None], out=elements)


def _positions(first: Tensor, size: int, factor: int) -> Tensor:
    """int64 [segment, size]: voxels of the image along one axis, for segments that begin at `first` [segment].

    A segment that begins before the image, at -m, does not keep its grid: its voxels m // factor, m // factor + 1, ...
    are the voxels 0, factor, 2 * factor, ... of the image, whatever m is. Existing models were trained with this
    shift by m modulo factor, so it is part of the function they compute.
    """
    slots = torch.arange(size, device=first.device)
    before = torch.where(first < 0, -first // factor, 0)
    begin = first.clamp(min=0)
    return begin[:, None] + (slots - before[:, None]) * factor
