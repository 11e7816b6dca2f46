"""LogME: the evidence for a Bayesian linear model from features to labels, maximised over its two precisions.

You, Liu, Wang and Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning" (ICML 2021), with
the fixed-point iteration of You et al., "Ranking and Tuning Pre-trained Models" (JMLR 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ITERATIONS = 200
_TOLERANCE = 1e-6
_SMALLEST = 1e-12
"""Bounds quotients that have no value for features that say nothing of the labels, or everything."""


def logme(features: Tensor, labels: Tensor, classes: int) -> float:
    """Return the logarithm of the evidence per voxel, mean over one-against-all problems of each class; high is good.

    Classes that all or none of the voxels have are left out; nan when no class is left.

    Args:
        features: [voxel, channel].
        labels: int64 [voxel].
        classes: the background included.
    """
    left, singular, _ = torch.linalg.svd(features.double(), full_matrices=False)
    evidences = []
    for label in range(classes):
        target = (labels == label).double()
        if 0 < int(target.sum()) < len(target):
            model = LinearModel(left.T @ target, singular.square(), float(target.square().sum()), *features.shape)
            evidences.append(model.log_evidence(*model.best_precisions()) / len(target))
    return sum(evidences) / len(evidences) if evidences else math.nan


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Targets y that are normal around F w with precision beta, weights w that are normal around 0 with alpha."""

    projected: Tensor
    """U^T y, of the singular value decomposition F = U S V^T of the features [voxel, channel]."""
    squares: Tensor
    """S^2."""
    norm: float
    """y^T y."""
    voxels: int
    channels: int

    def best_precisions(self) -> tuple[float, float]:
        """Return alpha and beta of most evidence: each follows from the posterior of w given the other, in turn."""
        alpha = beta = 1.0
        for _ in range(_ITERATIONS):
            ratio = alpha / beta
            effective = float((self.squares / (self.squares + ratio)).sum())
            weight, residual = self._posterior(ratio)
            alpha = max(effective, _SMALLEST) / max(weight, _SMALLEST)
            beta = max(self.voxels - effective, _SMALLEST) / max(residual, _SMALLEST * self.norm)
            if abs(alpha / beta - ratio) <= _TOLERANCE * ratio:
                break
        return alpha, beta

    def log_evidence(self, alpha: float, beta: float) -> float:
        """Return log p(y | F, alpha, beta), w integrated out."""
        weight, residual = self._posterior(alpha / beta)
        log_determinant = float((alpha + beta * self.squares).log().sum())
        log_determinant += (self.channels - len(self.squares)) * math.log(alpha)
        gains = self.voxels * math.log(beta / (2 * math.pi)) + self.channels * math.log(alpha)
        return (gains - beta * residual - alpha * weight - log_determinant) / 2

    def _posterior(self, ratio: float) -> tuple[float, float]:
        """Squared norm of the mean of w, and the squared distance of F w from y, for alpha / beta."""
        shrunk = self.squares + ratio
        weight = float((self.squares * self.projected.square() / shrunk.square()).sum())
        unexplained = max(self.norm - float(self.projected.square().sum()), 0.0)
        return weight, unexplained + float((self.projected * ratio / shrunk).square().sum())
