"""Sizes of segments, receptive fields and tiles: integers only, axes x, y, z.

A *segment* is the box of voxels fed to the normal pathway. Unpadded convolutions shrink it, so the network predicts
a smaller box in its middle; what is lost around it is the *margin*.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Size3 = tuple[int, int, int]
Sides3 = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Voxels (before, after) along each of the axes x, y, z."""


def receptive_field(kernels: Sequence[Size3]) -> Size3:
    """Return the voxels along each axis that one output voxel of stacked convolutions depends on.

    Padding does not change it.
    """
    return _per_axis(1 + sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3))


def output_size(input_size: Size3, kernels: Sequence[Size3], paddings: Sequence[str]) -> Size3:
    """Return the size left after convolutions of which only those with padding "valid" shrink their input.

    A number below 1 says that the input is too small along that axis.
    """
    unpadded = [kernel for kernel, padding in zip(kernels, paddings, strict=True) if padding == "valid"]
    return _per_axis(input_size[axis] - sum(kernel[axis] - 1 for kernel in unpadded) for axis in range(3))


def subsampled_output_size(normal_output: Size3, factor: Size3) -> Size3:
    """Return the fewest low-resolution voxels that cover `normal_output` when each is repeated `factor` times."""
    return _per_axis(-(-normal_output[axis] // factor[axis]) for axis in range(3))


def subsampled_input_size(normal_output: Size3, receptive: Size3, factor: Size3) -> Size3:
    """Return the size of the low-resolution segment whose repeated output covers `normal_output`.

    The low-resolution pathway must give ceil(output / factor) voxels along each axis, and has the receptive field of
    the normal pathway.
    """
    low_resolution = subsampled_output_size(normal_output, factor)
    return _per_axis(low_resolution[axis] + receptive[axis] - 1 for axis in range(3))


def margins(input_size: Size3, predicted_size: Size3) -> Sides3:
    """Return per axis the voxels of a segment that are not predicted, (before, after); the odd one goes after."""
    return _halves(input_size[axis] - predicted_size[axis] for axis in range(3))


def same_size_padding(kernel: Size3) -> Sides3:
    """Return per axis the voxels (before, after) that keep the size under a convolution; the odd one goes after."""
    return _halves(width - 1 for width in kernel)


def residual_crop_start(size: Size3, part: Size3) -> Size3:
    """Return where the central part of an earlier layer's output starts that is added to a later, smaller one.

    The middle of an even number of voxels is the one before its centre, for the whole and for the part.
    """
    return _per_axis((size[axis] - 1) // 2 - (part[axis] - 1) // 2 for axis in range(3))


def central_crop_start(size: Size3, part: Size3) -> Size3:
    """Return where the central part of a feature map starts that belongs to the predicted box."""
    return _per_axis((size[axis] - part[axis]) // 2 for axis in range(3))


def _per_axis(values: Iterable[int]) -> Size3:
    x, y, z = values
    return x, y, z


def _halves(totals: Iterable[int]) -> Sides3:
    x, y, z = ((total // 2, total - total // 2) for total in totals)
    return x, y, z
