"""A case that is small enough to check by hand."""

from __future__ import annotations

import numpy as np

SIZE = (14, 12, 10)
SPACING = (1.0, 1.5, 2.0)
NASTY = "<script>alert('x')</script>&\"'</style>]]>"
"""What a name may be, and must never become."""
WHOLE, PART = (slice(2, 12), slice(2, 10), slice(2, 8)), (slice(8, 12), slice(6, 10), slice(5, 8))
"""Boxes of a head and of its right, anterior and superior corner, in voxels to right, anterior, superior."""


def head() -> np.ndarray:
    """An image with background 0, a head of 50 to 61 and a bright corner of 100; float32 [x, y, z]."""
    voxels = np.zeros(SIZE, np.float32)
    voxels[WHOLE] = 50 + np.arange(SIZE[0])[WHOLE[0], None, None]
    voxels[PART] = 100
    return voxels


def truth() -> np.ndarray:
    """Labels: 1 in the head, 2 in the bright corner; uint8 [x, y, z]."""
    labels = np.zeros(SIZE, np.uint8)
    labels[WHOLE] = 1
    labels[PART] = 2
    return labels
