"""Distances between normal distributions fitted to features: the Frechet distance, also called 2-Wasserstein.

Dowson and Landau, "The Frechet distance between multivariate normal distributions" (1982); on features of a network by
Heusel et al. (NeurIPS 2017) as FID, and between source and target of a transfer by Matsoukas et al. (CVPR 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution."""

    mean: Tensor
    """float64 [channel]."""
    covariance: Tensor
    """float64 [channel, channel]."""

    @classmethod
    def fitted(cls, features: Tensor, regularisation: float = 0.0) -> Gaussian:
        """Fit to features [voxel, channel] of at least one voxel; the covariance is that of the sample (biased).

        Args:
            features: [voxel, channel].
            regularisation: added to every variance, as a multiple of their mean.
        """
        values = features.double()
        mean = values.mean(dim=0)
        covariance = (values - mean).T @ (values - mean) / len(values)
        covariance.diagonal().add_(regularisation * covariance.diagonal().mean())
        return cls(mean, covariance)


def squared_distance(one: Gaussian, other: Gaussian) -> float:
    """Return |m - n|^2 + tr(C + D - 2 (C D)^(1/2)), in squared units of the features.

    The trace of (C D)^(1/2) is that of (C^(1/2) D C^(1/2))^(1/2), which is symmetric, so that eigenvalues suffice and
    singular covariances do no harm.
    """
    root = _square_root(one.covariance)
    inner = root @ other.covariance @ root
    mixed = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * mixed
    return float((one.mean - other.mean).square().sum() + spread.clamp(min=0))


def squared_distance_of_samples(one: Tensor, other: Tensor) -> float:
    """Return `squared_distance` of the normal distributions fitted to features [voxel, channel], without their fits.

    With centred features A and B, scaled so that C = A^T A and D = B^T B, the trace of (C D)^(1/2) is the sum of the
    singular values of A B^T, which is small when there are fewer voxels than channels.
    """
    means, centred = [], []
    for features in (one.double(), other.double()):
        means.append(features.mean(dim=0))
        centred.append((features - means[-1]) / len(features) ** 0.5)
    mixed = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    spread = centred[0].square().sum() + centred[1].square().sum() - 2 * mixed
    return float((means[0] - means[1]).square().sum() + spread.clamp(min=0))


def relative_distance(source: Gaussian, target: Gaussian) -> float:
    """Return the Frechet distance in units of the source's spread: the root of squared distance / total variance.

    Unlike the distance itself it does not depend on the scale of the features, so that layers can be compared.
    """
    total = float(source.covariance.trace())
    return (squared_distance(source, target) / total) ** 0.5 if total > 0 else float("nan")


def relative_diagonal_distance(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> float:
    """Return `relative_distance` of distributions without correlations, each given as mean and variance [channel].

    Channels count equally: each is scaled by the source's deviation, and the mean over channels is taken. Channels
    that are constant in the source are left out; nan without any other.
    """
    (mean, variance), (other_mean, other_variance) = source, target
    varies = variance > 0
    if not varies.any():
        return float("nan")
    mean, variance, other_mean, other_variance = (
        values[varies].double() for values in (mean, variance, other_mean, other_variance)
    )
    squares = (mean - other_mean).square() + (variance.sqrt() - other_variance.sqrt()).square()
    return float((squares / variance).mean().sqrt())


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
