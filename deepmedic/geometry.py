"""Sizes of segments, receptive fields and tiles: integers only, axes x, y, z.

A *segment* is the box of voxels fed to the normal pathway. Unpadded convolutions shrink it, so the network predicts
a smaller box in its middle; what is lost around it is the *margin*.
"""

from __future__ import annotations

from collections.abc import Sequence

Size3 = tuple[int, int, int]


def receptive_field(kernels: Sequence[Size3]) -> Size3:
    """Return the voxels along each axis that one output voxel of stacked convolutions depends on.

    Padding does not change it.
    """
    return _per_axis(1 + sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3))


def output_size(input_size: Size3, kernels: Sequence[Size3], paddings: Sequence[str]) -> Size3:
    """Return the size left after convolutions of which only those with padding "valid" shrink their input."""
    unpadded = [kernel for kernel, padding in zip(kernels, paddings, strict=True) if padding == "valid"]
    return _per_axis(input_size[axis] - sum(kernel[axis] - 1 for kernel in unpadded) for axis in range(3))


def subsampled_input_size(normal_output: Size3, receptive: Size3, factor: Size3) -> Size3:
    """Return the size of the low-resolution segment whose repeated output covers `normal_output`.

    The low-resolution pathway must give ceil(output / factor) voxels along each axis, and has the receptive field of
    the normal pathway.
    """
    return _per_axis(-(-normal_output[axis] // factor[axis]) + receptive[axis] - 1 for axis in range(3))


def margins(input_size: Size3, predicted_size: Size3) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return per axis the voxels of a segment that are not predicted, (before, after); the odd one goes after."""
    lost = [input_size[axis] - predicted_size[axis] for axis in range(3)]
    x, y, z = ((total // 2, total - total // 2) for total in lost)
    return x, y, z


def _per_axis(values: object) -> Size3:
    x, y, z = values  # type: ignore[misc]
    return x, y, z
