"""What is removed from a segmentation by the size of its connected components."""

from __future__ import annotations

import math

import numpy as np
import torch

from deepmedic.components import Connectivity, label_components
from deepmedic.config.prediction import PredictionConfig


def without_small_components(
    segmentation: torch.Tensor, spacing: tuple[float, float, float], chosen: PredictionConfig
) -> torch.Tensor:
    """Return a segmentation without the components that a config does not want; what is removed becomes background.

    All classes together come first (entry 0 of the lists), then class by class. Of each, what is smaller than the
    minimum is removed, then everything but the largest component; of equally large ones the first in memory stays.

    Args:
        segmentation: class of each voxel [x, y, z], on the CPU.
        spacing: millimetres per voxel along x, y, z.
        chosen: `keepLargestComponent`, `minimumComponentSize` and how they count.
    """
    labels = segmentation.numpy().copy()
    unit = math.prod(spacing) if chosen.size_unit == "mm3" else 1.0
    for number in range(max(len(chosen.keep_largest), len(chosen.minimum_sizes))):
        keep_largest = number < len(chosen.keep_largest) and chosen.keep_largest[number]
        minimum = chosen.minimum_sizes[number] if number < len(chosen.minimum_sizes) else 0.0
        if not (keep_largest or minimum):
            continue
        mask = labels == number if number else labels > 0
        labels[mask & ~_kept(mask, keep_largest, minimum / unit, chosen.connectivity)] = 0
    return torch.from_numpy(labels)


def _kept(mask: np.ndarray, keep_largest: bool, minimum: float, connectivity: int) -> np.ndarray:
    """bool [x, y, z]: the components of a mask that stay; `minimum` in voxels."""
    connected: Connectivity = 6 if connectivity == 6 else 18 if connectivity == 18 else 26
    components, _ = label_components(mask, connected)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    wanted = sizes >= minimum - 1e-6  # a size given in millimetres may come back a little above itself
    wanted[0] = False
    if keep_largest and wanted.any():
        largest = int(np.argmax(np.where(wanted, sizes, 0)))
        wanted = np.arange(len(sizes)) == largest
    found: np.ndarray = wanted[components]
    return found
