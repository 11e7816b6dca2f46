"""Lesions found, missed and invented: connected components of labels and prediction, matched by overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deepmedic.components import label_components


@dataclass(frozen=True)
class LesionCounts:
    """Components of the labels and of a prediction; voxels that share a face, an edge or a corner are connected."""

    true: int
    """Components of the labels."""
    predicted: int
    """Components of the prediction."""
    detected: int
    """Components of the labels of which at least one voxel is predicted."""
    false: int
    """Components of the prediction without any voxel of the labels."""

    @property
    def missed(self) -> int:
        return self.true - self.detected

    @property
    def f1(self) -> float:
        """2 detected / (2 detected + missed + false); nan if there is neither a true nor a predicted lesion."""
        total = 2 * self.detected + self.missed + self.false
        return 2 * self.detected / total if total else math.nan


def count_lesions(predicted: np.ndarray, true: np.ndarray) -> LesionCounts:
    """Count lesions in two masks, bool [x, y, z] of the same shape."""
    true_lesions, true_count = label_components(true)
    predicted_lesions, predicted_count = label_components(predicted)
    both = predicted & true
    return LesionCounts(
        true=true_count,
        predicted=predicted_count,
        detected=len(np.unique(true_lesions[both])),
        false=predicted_count - len(np.unique(predicted_lesions[both])),
    )
