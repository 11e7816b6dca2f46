"""CC-FV: class consistency and feature variety, a transferability score made for medical segmentation.

Yang et al., "Pick the Best Pre-trained Model: Towards Transferability Estimation for Medical Image Segmentation"
(MICCAI 2023): features suit a new task if those of one class are alike in all subjects, and if features as a whole are
spread over the unit sphere rather than collapsed.

Two choices differ from the authors' program. Features are scaled to length 1 for both terms and not for the second
only, so that the score does not depend on the scale of a network's features. And the classes of the foreground count
for consistency, since the background of a medical image is no single tissue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from deepmedic.analysis.frechet import squared_distance_of_samples

_FEWEST_VOXELS = 2
_MOST_PAIRS = 60
"""Of subjects, for each class."""
_EPSILON = 1e-3
"""Added to squared distances, so that two equal features have finite energy."""


@dataclass(frozen=True)
class CcFv:
    """The score of one layer and its two parts."""

    class_distance: float
    """Mean 2-Wasserstein distance between the features of one class in two subjects; low is good."""
    variety: float
    """Inverse of the mean potential energy of features on the unit sphere; high is good."""

    @property
    def score(self) -> float:
        """log(variety / class distance); nan where one of them is not known."""
        if not self.class_distance > 0 or not self.variety > 0:
            return math.nan
        return math.log(self.variety / self.class_distance)


def ccfv(features: Sequence[Tensor], labels: Sequence[Tensor], classes: int) -> CcFv:
    """Return class consistency and feature variety.

    Args:
        features: of each subject, [voxel, channel].
        labels: of each subject, int64 [voxel].
        classes: the background included.
    """
    on_sphere = [functional.normalize(values.double(), dim=1) for values in features]
    energies = [energy(values) for values in on_sphere if len(values) > 1]
    variety = len(energies) / sum(energies) if energies else math.nan
    return CcFv(class_distance(on_sphere, labels, classes), variety)


def class_distance(features: Sequence[Tensor], labels: Sequence[Tensor], classes: int) -> float:
    """Return the 2-Wasserstein distance between normal distributions fitted to the features of a class in two subjects.

    It is the mean over classes of the foreground and pairs of subjects that have at least two voxels of the class, of
    many pairs over some that are evenly spread; nan without any such pair.
    """
    distances = []
    for label in range(1, classes):
        parts = [values[own == label] for values, own in zip(features, labels, strict=True)]
        pairs = list(combinations([part for part in parts if len(part) >= _FEWEST_VOXELS], 2))
        chosen = pairs[:: max(1, -(-len(pairs) // _MOST_PAIRS))]
        distances += [math.sqrt(squared_distance_of_samples(one, other)) for one, other in chosen]
    return sum(distances) / len(distances) if distances else math.nan


def energy(features: Tensor) -> float:
    """Return the mean over pairs of 1 / distance, for features [voxel, channel] of at least two voxels.

    Liu et al., "Learning towards Minimum Hyperspherical Energy" (NeurIPS 2018), with power 1.
    """
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").square()
    first, second = torch.triu_indices(len(features), len(features), offset=1, device=features.device)
    return float((distances[first, second] + _EPSILON).rsqrt().mean())
