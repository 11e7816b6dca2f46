"""From a loaded case to the tensors a network sees: padding, then z-score normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepmedic.config.options import Size3
from deepmedic.data.nifti import VolumeHeader


@dataclass
class PreparedCase:
    """Padded and normalised tensors of one case, on the CPU; spatial axes x, y, z after padding."""

    name: str
    header: VolumeHeader
    channels: torch.Tensor
    """float32 [channel, x, y, z]."""
    labels: torch.Tensor | None
    """uint8 (int32 above 255 classes) [x, y, z]."""
    roi: torch.Tensor | None
    """bool [x, y, z]."""
    weight_maps: torch.Tensor | None
    """float32 [category, x, y, z]."""
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """Voxels added before and after, per axis."""
    border_values: torch.Tensor
    """float32 [channel]: mean of the 8 corner voxels, the fill of low-resolution segments outside the volume."""

    @property
    def size(self) -> Size3:
        x, y, z = self.channels.shape[1:]
        return x, y, z
