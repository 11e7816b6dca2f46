"""What a network must compute to predict one box of a segment: sizes only, axes x, y, z.

Voxels of *outputs* are counted from the first voxel of the normal pathway's output, voxels of boxes from the first
predicted voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3


@dataclass(frozen=True)
class Cuboid:
    """A box of voxels."""

    start: Size3
    size: Size3

    @property
    def end(self) -> Size3:
        """One past the last voxel."""
        x, y, z = (first + length for first, length in zip(self.start, self.size, strict=True))
        return x, y, z


@dataclass(frozen=True)
class NeededOutputs:
    """What the FC pathway is given in order to predict a box."""

    outputs: Cuboid
    """Of the parallel pathways."""
    offset: Size3
    """Where the wanted box begins in what the FC pathway makes of them."""
    first_unpadded: bool
    """The voxels that the first layer would make up by padding are among them."""


def needed_outputs(architecture: Architecture, wanted: Cuboid, outputs: Size3) -> NeededOutputs:
    """Return what the FC pathway needs for a box.

    Where its layers pad, voxels beside the box are needed too, so that the padding reaches nothing of the box. At the
    border of the outputs there are none, and the padding is what is wanted.

    Args:
        architecture: of the network.
        wanted: the box to be predicted.
        outputs: size of the normal pathway's output.
    """
    fc, axes = architecture.fc, range(3)
    padded = [kernel for kernel, padding in zip(fc.kernels, fc.paddings, strict=True) if padding != "valid"]
    before = [sum((kernel[axis] - 1) // 2 for kernel in padded) for axis in axes]
    after = [sum(kernel[axis] // 2 for kernel in padded) for axis in axes]
    lost = [full - left for full, left in zip(outputs, fc.output_size(outputs), strict=True)]
    first = [wanted.start[axis] - before[axis] for axis in axes]
    end = [wanted.end[axis] + lost[axis] + after[axis] for axis in axes]
    part = between([max(0, low) for low in first], [min(high, most) for high, most in zip(end, outputs, strict=True)])
    if min(first) >= 0 and part.end == tuple(end) and _only_first_pads(architecture):
        return NeededOutputs(part, (0, 0, 0), first_unpadded=True)
    x, y, z = (start - low for start, low in zip(wanted.start, part.start, strict=True))
    return NeededOutputs(part, (x, y, z), first_unpadded=False)


def surrounding(boxes: Sequence[Cuboid]) -> Cuboid:
    """Return the smallest box that holds all of these."""
    starts, ends = ([corner(box) for box in boxes] for corner in (lambda box: box.start, lambda box: box.end))
    return between(
        [min(along) for along in zip(*starts, strict=True)], [max(along) for along in zip(*ends, strict=True)]
    )


def between(lower: Sequence[int], upper: Sequence[int]) -> Cuboid:
    """Return the box from `lower` to `upper`, one past its last voxel."""
    (x, y, z), (width, height, depth) = lower, (high - low for low, high in zip(lower, upper, strict=True))
    return Cuboid((x, y, z), (width, height, depth))


def is_separable(architecture: Architecture) -> bool:
    """Whether a voxel of an output is the same whatever part of a segment the network is given.

    Padding in the parallel pathways depends on where their input ends. Where the middle of an even number of voxels is,
    from which residuals are cut, depends on their number.
    """
    never_pads = all(padding == "valid" for pathway in architecture.parallel for padding in pathway.paddings)
    with_residuals = (pathway for pathway in architecture.pathways if pathway.residual_layers)
    return never_pads and all(width % 2 for pathway in with_residuals for kernel in pathway.kernels for width in kernel)


def _only_first_pads(architecture: Architecture) -> bool:
    """Whether padding voxels by hand stands for the padding of all layers: only the first has neighbours to pad."""
    (kernel, *others), (_, *paddings) = architecture.fc.kernels, architecture.fc.paddings
    spreads = [max(other) > 1 and padding != "valid" for other, padding in zip(others, paddings, strict=True)]
    return not any(spreads) and all(width % 2 for width in kernel)
