"""Spline resampling of volumes under an affine map, on any device.

The results are those of scipy's `ndimage.affine_transform`: B-splines of order 0 to 3 whose coefficients are found by
inverting the interpolation conditions along each axis (Unser, 1999, "Splines: a perfect fit for signal and image
processing"), and the same meaning of the boundary modes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import torch

BOUNDARY_MODES = ("nearest", "constant", "mirror", "reflect", "wrap")
SPLINE_ORDERS = (0, 1, 2, 3)
CLAMPING = ("nearest", "constant")
"""Modes in which a position outside the volume counts as the nearest one inside."""
VOXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**22}
"""Output voxels computed together: on a CPU as many as have their coordinates and weights in its cache (half the time
of eight times as many), on a GPU as many as keep it busy."""

Ranges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Begin and end of voxels along x, y, z."""

# Edge voxels added on each side for mode "nearest" before coefficients are computed, as scipy does.
_EDGE = 12
# Values of the B-splines of order 2 and 3 at whole numbers: at the centre, and one voxel away from it.
_SPLINE_AT_KNOTS = {2: (6 / 8, 1 / 8), 3: (4 / 6, 1 / 6)}


def resample_affine(
    images: torch.Tensor, matrix: np.ndarray, order: int, mode: str, fill: torch.Tensor
) -> torch.Tensor:
    """Resample volumes about their central voxel floor(size / 2).

    Output voxel o takes the value at matrix @ (o - centre) + centre of the input.

    Args:
        images: [image, x, y, z]; float32, or any type for order 0, which only copies values.
        matrix: float64 [3, 3].
        order: of the spline, 0 to 3.
        mode: one of `BOUNDARY_MODES`.
        fill: [image], the value outside the volume in mode "constant".

    Returns:
        Same shape and type as `images`.
    """
    if order not in SPLINE_ORDERS or mode not in BOUNDARY_MODES:
        raise ValueError(f"Order {order} with mode {mode}; allowed are {SPLINE_ORDERS} with {BOUNDARY_MODES}.")
    size = images.shape[1:]
    coefficients = _coefficients(images, order, mode)
    result = torch.empty_like(images)
    slab = max(1, VOXELS_AT_ONCE.get(images.device.type, 2**20) // max(size[1] * size[2], 1))
    for begin in range(0, size[0], slab):
        end = min(begin + slab, size[0])
        positions = input_positions(matrix, size, ((begin, end), (0, size[1]), (0, size[2])), images.device)
        values = _interpolate(coefficients, positions, (order, mode), size)
        if mode == "constant":
            outside = any_outside(positions, size)
            values = torch.where(outside, fill.to(values)[:, None, None, None], values)
        result[:, begin:end] = values
    return result


def map_about_centre(matrix: np.ndarray, size: torch.Size) -> tuple[np.ndarray, np.ndarray]:
    """Return the map from output to input voxels as float64 [3, 3] and shift [3]."""
    centre = np.floor(0.5 * np.array(size))
    return matrix, centre - centre @ matrix.T


def input_positions(matrix: np.ndarray, size: torch.Size, where: Ranges, device: torch.device) -> list[torch.Tensor]:
    """Positions in the input along x, y, z for a part of the output; float64 [x, y, z] each."""
    x, y, z = (torch.arange(*side, dtype=torch.float64, device=device) for side in where)
    x, y = x[:, None, None], y[:, None]
    rows = np.column_stack(map_about_centre(matrix, size)).tolist()
    return [x * along_x + y * along_y + z * along_z + constant for along_x, along_y, along_z, constant in rows]


def any_outside(positions: list[torch.Tensor], size: torch.Size) -> torch.Tensor:
    """Whether each position lies outside the volume."""
    outside = [(position < 0) | (position > length - 1) for position, length in zip(positions, size, strict=True)]
    return outside[0] | outside[1] | outside[2]


def _interpolate(
    coefficients: torch.Tensor, positions: list[torch.Tensor], spline: tuple[int, str], size: torch.Size
) -> torch.Tensor:
    """Sum the coefficients around each position, weighted by the B-spline; [image, x, y, z]."""
    order, mode = spline
    padded = coefficients.shape[1:]
    indices, weights = [], []
    for position, length, unpadded in zip(positions, padded, size, strict=True):
        shifted = position + (length - unpadded) // 2
        index, weight = _taps(_within(shifted, length, mode), length, order, mode)
        indices.append(index)
        weights.append(weight)
    flat = coefficients.reshape(coefficients.shape[0], -1)
    # Numbers of the voxels, axis by axis, so that the sum over axes is all that is left for each combination of taps.
    strides = (padded[1] * padded[2], padded[2], 1)
    of_axes = [[index * stride for index in of_axis] for of_axis, stride in zip(indices, strides, strict=True)]
    if order == 0:
        return flat[:, of_axes[0][0] + of_axes[1][0] + of_axes[2][0]]
    total = torch.zeros(1, device=flat.device)
    for tap_x, tap_y in product(range(order + 1), repeat=2):
        row = of_axes[0][tap_x] + of_axes[1][tap_y]
        row_weight = weights[0][tap_x] * weights[1][tap_y]
        for voxel, voxel_weight in zip(of_axes[2], weights[2], strict=True):
            total = total + flat[:, row + voxel].mul_(row_weight * voxel_weight)
    return total


def _within(position: torch.Tensor, length: int, mode: str) -> torch.Tensor:
    """Bring positions into the volume in the modes that change the fraction of a position; float64."""
    if mode in CLAMPING:
        return position.clamp(0, length - 1)
    if mode == "wrap" and length > 1:
        # The last voxel counts as the first one of the next period.
        period = length - 1
        below = position + period * (torch.trunc(-position / period) + 1)
        above = position - period * torch.trunc(position / period)
        return torch.where(position < 0, below, torch.where(position > period, above, position))
    return position


def _taps(position: torch.Tensor, length: int, order: int, mode: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Indices (int64) of the order + 1 coefficients around each position along one axis, and weights (float32)."""
    nearest = torch.floor(position + 0.5) if order % 2 == 0 else torch.floor(position)
    first = nearest.long() - order // 2
    indices = [_reflected(first + tap, length, mode) for tap in range(order + 1)]
    return indices, [weight.float() for weight in _spline_weights(position - nearest, order)]


def _reflected(index: torch.Tensor, length: int, mode: str) -> torch.Tensor:
    """Continue the coefficients beyond their ends."""
    if mode == "nearest" or length == 1:
        return index.clamp(0, length - 1)
    if mode == "reflect":
        # d c b a | a b c d | d c b a
        index = index % (2 * length)
        return torch.minimum(index, 2 * length - 1 - index)
    # d c b | a b c d | c b a
    index = index % (2 * length - 2)
    return torch.minimum(index, 2 * length - 2 - index)


def _spline_weights(t: torch.Tensor, order: int) -> list[torch.Tensor]:
    """Weights of the order + 1 coefficients at the fraction t: of the voxel below (odd orders) or nearest (even)."""
    if order == 0:
        return [torch.ones_like(t)]
    if order == 1:
        return [1 - t, t]
    if order == 2:
        return [(0.5 - t) ** 2 / 2, 0.75 - t**2, (0.5 + t) ** 2 / 2]
    return [(1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, t**3 / 6]


def _coefficients(images: torch.Tensor, order: int, mode: str) -> torch.Tensor:
    """B-spline coefficients of volumes; for mode "nearest" with `_EDGE` voxels added on each side (orders 2, 3)."""
    if order < 2:
        return images
    values = images
    if mode == "nearest":
        values = torch.nn.functional.pad(values, (_EDGE,) * 6, mode="replicate")
    values = values.double()
    for axis in (1, 2, 3):
        inverse = torch.from_numpy(_inverse_of_spline(values.shape[axis], order, mode)).to(values.device)
        values = torch.movedim(torch.tensordot(inverse, values, dims=([1], [axis])), 0, axis)
    return values.float().contiguous()


@lru_cache(maxsize=64)
def _inverse_of_spline(length: int, order: int, mode: str) -> np.ndarray:
    """Matrix from the values of a spline at the voxels of one axis to its coefficients; float64 [length, length]."""
    centre, beside = _SPLINE_AT_KNOTS[order]
    if length == 1:
        return np.ones((1, 1))
    values = np.zeros((length, length))
    voxels = torch.arange(length)
    for offset, weight in ((-1, beside), (0, centre), (1, beside)):
        np.add.at(values, (np.arange(length), _reflected(voxels + offset, length, mode).numpy()), weight)
    return np.linalg.inv(values)
