"""Volumes on a grid of another voxel spacing, and results back on the grid they came from: the key `resampleTo`.

The new grid has the axes of the old one and the same centre; only its spacing differs. So resampling goes along one
axis after the other, each time as one matrix of linear weights. Images are smoothed where the new voxels are larger
than the old ones (a triangle as wide as two new voxels), so that what is too fine for the new grid is averaged rather
than turned into patterns that are not there. Labels are resampled class by class and the strongest class wins: no
label is ever interpolated between two others.
"""

from __future__ import annotations

import numpy as np
import torch

from deepmedic.data.nifti import VolumeHeader


def to_model_grid(volumes: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """Resample images to the grid of a resampled header, with smoothing where voxels become larger.

    Args:
        volumes: [..., x, y, z] on the grid of `header.resampled_from`.
        header: of the new grid.

    Returns:
        float32 [..., x, y, z].
    """
    native, found = _native(header), torch.from_numpy(np.ascontiguousarray(volumes, np.float32))
    for axis in range(3):
        ratio = header.spacing[axis] / native.spacing[axis]
        found = _along(found, axis, _weights(native.shape[axis], header.shape[axis], ratio, smooth=True))
    return found.numpy()


def labels_to_model_grid(labels: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """Resample a label map [x, y, z] class by class; each voxel gets the strongest class, the lower one at a tie."""
    best = np.full(header.shape, -1.0, np.float32)
    found = np.zeros(header.shape, labels.dtype)
    for label in np.unique(labels):
        share = to_model_grid(labels == label, header)
        stronger = share > best + 1e-6  # a tie must not be decided by rounding
        found[stronger], best[stronger] = label, share[stronger]
    return found


def mask_to_model_grid(mask: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """Resample a mask, bool [x, y, z]: a voxel is inside if at least half of it is."""
    found: np.ndarray = to_model_grid(mask, header) >= 0.5 - 1e-6
    return found


def to_native_grid(volumes: torch.Tensor, header: VolumeHeader) -> torch.Tensor:
    """Bring results from the grid of a resampled header back to the grid it was resampled from, linearly.

    Args:
        volumes: float32 [..., x, y, z] on the grid of `header`.
        header: of that grid.

    Returns:
        float32 [..., x, y, z] on the grid of `header.resampled_from`; voxels beyond the outermost centres of the
        resampled grid have its outermost values.
    """
    native = _native(header)
    for axis in range(3):
        ratio = native.spacing[axis] / header.spacing[axis]
        volumes = _along(volumes, axis, _weights(header.shape[axis], native.shape[axis], ratio, smooth=False))
    return volumes


def needed_for_native(mask: torch.Tensor, header: VolumeHeader) -> torch.Tensor:
    """All voxels of a resampled grid from which a voxel of a mask on the native grid is interpolated.

    Args:
        mask: bool [x, y, z] on the grid of `header.resampled_from`.
        header: of the resampled grid.

    Returns:
        bool [x, y, z] on the grid of `header`.
    """
    native = _native(header)
    found = mask.float()
    for axis in range(3):
        ratio = native.spacing[axis] / header.spacing[axis]
        back = _weights(header.shape[axis], native.shape[axis], ratio, smooth=False)
        found = (_along(found, axis, (back > 0).float().T.contiguous()) > 0).float()
    return found > 0


def _native(header: VolumeHeader) -> VolumeHeader:
    if header.resampled_from is None:
        raise ValueError("the header is not one of a resampled grid")
    return header.resampled_from


def _along(volumes: torch.Tensor, axis: int, weights: torch.Tensor) -> torch.Tensor:
    """Multiply one of the last three axes by a matrix [new, old]."""
    moved = volumes.movedim(axis - 3, -1)
    return (moved @ weights.T.to(volumes)).movedim(-1, axis - 3).contiguous()


def _weights(old: int, new: int, ratio: float, *, smooth: bool) -> torch.Tensor:
    """Weights of the old voxels for each new one along an axis, float32 [new, old]; rows add up to 1.

    The centres of both grids coincide, so new voxel j lies at (j - (new - 1) / 2) * ratio + (old - 1) / 2.

    Args:
        old: voxels of the old grid.
        new: voxels of the new grid.
        ratio: spacing of the new grid by that of the old one.
        smooth: widen the triangle of linear interpolation to the new voxels where these are larger.
    """
    at = (torch.arange(new, dtype=torch.float64) - (new - 1) / 2) * ratio + (old - 1) / 2
    at = at.clamp(0, old - 1)
    distance = (torch.arange(old, dtype=torch.float64)[None, :] - at[:, None]).abs()
    weights = (1 - distance / (max(ratio, 1.0) if smooth else 1.0)).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()
