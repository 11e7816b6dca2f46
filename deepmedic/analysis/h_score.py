"""H-score: how much of the variation of features is variation between classes.

Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning" (ICIP 2019), with the
covariance shrunk as Ibrahim, Ponomareva and Mazumder, "Newer is Not Always Better: Rethinking Transferability Metrics"
(ECML PKDD 2022) propose, because that of many channels and few voxels cannot be inverted. The amount of shrinkage is
that of Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004).
"""

from __future__ import annotations

import torch
from torch import Tensor


def h_score(features: Tensor, labels: Tensor) -> float:
    """Return tr(cov(f)^-1 cov(E[f | class])) with shrunk covariance; 0 to number of classes - 1, high is good.

    Args:
        features: [voxel, channel].
        labels: int64 [voxel].
    """
    centred = features.double() - features.double().mean(dim=0)
    shrinkage = ledoit_wolf(centred)
    covariance = centred.T @ centred / len(centred)
    size = covariance.diagonal().mean()
    if size <= 0:
        return 0.0  # constant features say nothing of the class
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    shrunk = (1 - shrinkage) * covariance + shrinkage * size * identity
    parts = [centred[labels == label] for label in labels.unique()]
    means = torch.stack([part.mean(dim=0) * (len(part) / len(centred)) ** 0.5 for part in parts])
    between = means.T @ means
    return float((torch.linalg.pinv(shrunk, hermitian=True) @ between).trace() * (1 - shrinkage))


def ledoit_wolf(centred: Tensor) -> float:
    """Return the weight of the multiple of the identity that a covariance is shrunk towards, from 0 to 1.

    Args:
        centred: float64 [voxel, channel], each channel with mean 0.
    """
    voxels, channels = centred.shape
    covariance = centred.T @ centred / voxels
    size = covariance.diagonal().mean()
    distance = covariance.square().sum() - channels * size.square()
    # Mean over voxels of |x x^T - S|^2 = |x|^4 - |S|^2, divided by the number of voxels.
    scatter = (centred.square().sum(dim=1).square().mean() - covariance.square().sum()) / voxels
    if distance <= torch.finfo(torch.float32).eps * size.square():
        return 0.0  # it is a multiple of the identity already
    return float((scatter / distance).clamp(0, 1))
