"""One case in memory as it is on disk: voxels read, checked and brought together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from deepmedic.data.cases import Case
from deepmedic.data.nifti import VolumeHeader


@dataclass
class LoadedCase:
    """Checked voxels of one case; spatial axes x, y, z (of channel 1's file, or RAS when `orientation = "RAS"`)."""

    case: Case
    header: VolumeHeader
    """Of the first channel that is present."""
    channels: np.ndarray
    """float32 [channel, x, y, z]; a missing channel is all zero."""
    labels: np.ndarray | None
    """uint8 (uint16 above 255 classes) [x, y, z]."""
    roi: np.ndarray | None
    """bool [x, y, z]."""
    weight_maps: np.ndarray | None
    """float32 [category, x, y, z], not negative."""
    notes: list[str] = field(default_factory=list)
    """What the user should know: rounded labels, replaced voxels, a squeezed axis, an empty ROI."""
