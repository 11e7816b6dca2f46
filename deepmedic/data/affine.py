"""Random rotation and scaling of whole cases, before segments are cut."""

from __future__ import annotations

import numpy as np
import torch

from deepmedic.config.augmentation import AffineAugmentation
from deepmedic.data.content_resampling import Volumes, resample_together
from deepmedic.data.preprocessing import PreparedCase


def draw_affine(generator: np.random.Generator, config: AffineAugmentation) -> np.ndarray | None:
    """Return a random matrix, float64 [3, 3], or None with the probability that the case stays as it is."""
    if generator.random() > config.probability:
        return None
    limits = np.array(config.max_rotation)
    angles = generator.uniform(-limits, limits)
    scale = generator.uniform(1 - config.max_scaling, 1 + config.max_scaling)
    return affine_matrix((angles[0], angles[1], angles[2]), scale)


def affine_matrix(angles: tuple[float, float, float], scale: float) -> np.ndarray:
    """Return the matrix of three rotations and an isotropic scaling, float64 [3, 3].

    Args:
        angles: degrees, in the planes of array axes (0, 1), (0, 2) and (1, 2).
        scale: above 1 the object becomes smaller.
    """
    cosines, sines = np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))
    rotations = []
    for (first, second), cosine, sine in zip(((0, 1), (0, 2), (1, 2)), cosines, sines, strict=True):
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = cosine
        rotation[first, second], rotation[second, first] = -sine, sine
        rotations.append(rotation)
    # The sense of the rotation in the plane (0, 2) is that of a right-handed turn about the axis between them.
    in_01, in_02, in_12 = rotations[0], rotations[1].T, rotations[2]
    matrix: np.ndarray = scale * np.eye(3) @ (in_12 @ (in_01 @ in_02))
    return matrix


def augment_case(
    case: PreparedCase, matrix: np.ndarray, config: AffineAugmentation, device: torch.device | str
) -> PreparedCase:
    """Return a rotated and scaled copy of a case, its tensors on the device; about the voxel floor(size / 2).

    Channels, labels, ROI and weight maps are resampled with the same matrix. The transposed matrix maps output
    voxels to input voxels.
    """
    mode = "constant" if config.boundary_mode == "min" else config.boundary_mode

    def part(images: torch.Tensor, order: int, constant: float) -> Volumes:
        images = images.to(device)
        fill = torch.full((images.shape[0],), constant, device=images.device)
        if config.boundary_mode == "min":
            fill = images.flatten(1).amin(dim=1)
        return Volumes(images, order, fill)

    parts = {"channels": part(case.channels, config.order_images, config.constant)}
    if case.labels is not None:
        parts["labels"] = part(_for_order(case.labels, config.order_labels), config.order_labels, 0.0)
    if case.roi is not None:
        parts["roi"] = part(_for_order(case.roi, config.order_roi), config.order_roi, 0.0)
    if case.weight_maps is not None:
        parts["weight_maps"] = part(case.weight_maps, config.order_weight_maps, 0.0)
    found = dict(zip(parts, resample_together(list(parts.values()), matrix.T, mode), strict=True))
    return PreparedCase(
        name=case.name,
        header=case.header,
        channels=found["channels"],
        labels=None if case.labels is None else _whole_numbers(found["labels"][0], case.labels),
        roi=None if case.roi is None else _whole_numbers(found["roi"][0], case.roi),
        # Splines of order 2 and 3 overshoot, but a mass cannot be negative.
        weight_maps=found["weight_maps"].clamp_(min=0) if "weight_maps" in found else None,
        padding=case.padding,
        border_values=_mean_of_corners(found["channels"]),
    )


def _for_order(values: torch.Tensor, order: int) -> torch.Tensor:
    """Labels or a mask [x, y, z] as one image for a spline of that order: only order 0 copies values."""
    return values[None] if order == 0 else values[None].float()


def _whole_numbers(resampled: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Resampled labels or mask; what a spline of order 1 or more gives is rounded to values that occur."""
    if resampled.dtype == original.dtype:
        return resampled
    rounded = torch.floor(resampled + 0.5)
    return rounded.clamp_(0, float(original.max())).to(original.dtype)


def _mean_of_corners(channels: torch.Tensor) -> torch.Tensor:
    """float32 [channel]: mean of the 8 corner voxels."""
    x, y, z = channels.shape[1:]
    corners = channels[:, :: max(x - 1, 1), :: max(y - 1, 1), :: max(z - 1, 1)]
    return corners.mean(dim=(1, 2, 3), dtype=torch.float64).float()
