"""Work and memory of a forward pass, from the architecture alone, for many sizes of segments at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepmedic.config.architecture import Architecture, Pathway

Sizes = Sequence[np.ndarray | int]
"""Lengths along x, y, z: integers, or integer arrays that broadcast against each other."""

_FLOAT_BYTES = 4
_MOST_ELEMENTS = 2**30 - 1
"""Of one tensor: above 2 GiB in bf16, convolutions of cuDNN 9.8 to 9.14 are wrong (pytorch issue 163539). Twice as many
are more than cuDNN can count, so that torch falls back to slow kernels."""


@dataclass(frozen=True, eq=False)
class ForwardCost:
    """One forward pass without gradients for one segment; arrays over the sizes asked for."""

    multiplications: np.ndarray
    memory: np.ndarray
    """Estimated bytes held at once."""
    largest: np.ndarray
    """Elements of the largest tensor."""

    def fits(self, memory: int) -> np.ndarray:
        """bool: which sizes need no more than `memory` bytes, and no tensor that is too large for cuDNN."""
        return (self.memory <= memory) & (self.largest <= _MOST_ELEMENTS)

    def segments_within(self, memory: int) -> int:
        """Return how many segments fit so in one batch; of the largest size."""
        return min(memory // int(self.memory.max()), _MOST_ELEMENTS // int(self.largest.max()))


@dataclass(frozen=True, eq=False)
class _Layer:
    voxels_in: np.ndarray
    voxels_out: np.ndarray
    channels_in: int
    channels_out: int
    kernel_voxels: int

    @property
    def multiplications(self) -> np.ndarray:
        return self.voxels_out * (self.channels_out * self.channels_in * self.kernel_voxels)


def forward_cost(architecture: Architecture, segment: Sizes) -> ForwardCost:
    """Estimate a forward pass for segments of the normal pathway.

    A layer holds its input twice (before and after normalisation and activation), its output, and the outputs of the
    parallel pathways that wait for the FC pathway.

    Args:
        architecture: of the network.
        segment: input size, voxels; arrays of several sizes broadcast.
    """
    predicted = _after(architecture.normal, segment)
    waiting = _voxels(predicted) * sum(pathway.feature_maps[-1] for pathway in architecture.parallel)
    multiplications = held = largest = np.zeros((), np.int64)
    for layer in _all_layers(architecture, segment, predicted):
        entering, leaving = layer.voxels_in * layer.channels_in, layer.voxels_out * layer.channels_out
        multiplications = multiplications + layer.multiplications
        held = np.maximum(held, 2 * entering + leaving + waiting)
        largest = np.maximum(largest, np.maximum(entering, leaving))
    return ForwardCost(multiplications, held * _FLOAT_BYTES, largest)


def parallel_multiplications(architecture: Architecture, segment: Sizes) -> np.ndarray:
    """What the parallel pathways take of a forward pass for segments of the normal pathway; broadcasts."""
    layers = _parallel_layers(architecture, segment, _after(architecture.normal, segment))
    return sum((layer.multiplications for layer in layers), start=np.zeros((), np.int64))


def _all_layers(architecture: Architecture, segment: Sizes, predicted: Sizes) -> Iterator[_Layer]:
    yield from _parallel_layers(architecture, segment, predicted)
    yield from _fc_layers(architecture, predicted)


def _parallel_layers(architecture: Architecture, segment: Sizes, predicted: Sizes) -> Iterator[_Layer]:
    receptive = architecture.normal.receptive_field
    yield from _layers(architecture.normal, segment, architecture.input_channels)
    for pathway in architecture.subsampled:
        low_resolution = [-(-length // factor) for length, factor in zip(predicted, pathway.factor, strict=True)]
        size = [length + field - 1 for length, field in zip(low_resolution, receptive, strict=True)]
        yield from _layers(pathway, size, architecture.input_channels)


def _fc_layers(architecture: Architecture, predicted: Sizes) -> Iterator[_Layer]:
    """The layers of the FC pathway, the first one at the resolutions of its inputs (`deepmedic.model.fusion`)."""
    channels = sum(pathway.feature_maps[-1] for pathway in architecture.parallel)
    first, *others = _layers(architecture.fc, predicted, channels)
    if architecture.fc.low_rank_layers and 1 in architecture.fc.low_rank_layers:
        yield first
    else:
        yield replace(first, channels_in=architecture.normal.feature_maps[-1])
        for pathway in architecture.subsampled:
            # Each low-resolution voxel takes as many products as the kernel has taps, whatever it is repeated.
            cells = _voxels([-(-length // factor) for length, factor in zip(predicted, pathway.factor, strict=True)])
            yield replace(first, voxels_in=cells, voxels_out=cells, channels_in=pathway.feature_maps[-1])
    yield from others


def _layers(pathway: Pathway, size: Sizes, channels: int) -> Iterator[_Layer]:
    for kernel, padding, maps in zip(pathway.kernels, pathway.paddings, pathway.feature_maps, strict=True):
        output = [length - (width - 1 if padding == "valid" else 0) for length, width in zip(size, kernel, strict=True)]
        yield _Layer(_voxels(size), _voxels(output), channels, maps, math.prod(kernel))
        size, channels = output, maps


def _after(pathway: Pathway, size: Sizes) -> Sizes:
    lost = [0, 0, 0]
    for kernel, padding in zip(pathway.kernels, pathway.paddings, strict=True):
        if padding == "valid":
            lost = [total + width - 1 for total, width in zip(lost, kernel, strict=True)]
    return [length - total for length, total in zip(size, lost, strict=True)]


def _voxels(size: Sizes) -> np.ndarray:
    x, y, z = (np.asarray(length, np.int64) for length in size)
    return x * y * z
