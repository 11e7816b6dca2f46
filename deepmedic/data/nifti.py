"""Strict reading and exact writing of NIfTI volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepmedic.config.options import Size3


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """What the header of one 3D image says, after it was judged sound."""

    path: Path
    shape: Size3
    """Voxels along x, y, z (the array axes)."""
    affine: np.ndarray
    """float64 [4, 4]: voxel indices to millimetres."""
    spacing: tuple[float, float, float]
    """Millimetres per voxel along the array axes."""
    axis_codes: str
    """Direction each array axis points to, for instance "RAS" or "LPI"."""
    raw: bytes
    """The header block as stored, from which results inherit geometry, codes and units."""
