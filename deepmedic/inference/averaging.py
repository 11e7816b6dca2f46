"""The mean of several predictions of one case, and how far they differ."""

from __future__ import annotations

import torch

_REACHED = 0.5
"""Probabilities of a voxel add up to 1, or to 0 where a prediction does not reach."""


class MeanPrediction:
    """Running mean of probabilities, each voxel over the predictions that reach it; with their variance if wanted.

    The sums are Welford's (1962, "Note on a method for calculating corrected sums of squares and products"), which lose
    no digits where predictions hardly differ.
    """

    def __init__(self, *, with_variance: bool) -> None:
        self._with_variance = with_variance
        self._mean: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None
        self._count: torch.Tensor | None = None

    def add(self, probabilities: torch.Tensor) -> None:
        """Add one prediction, float32 [class, x, y, z]; it may be kept and changed."""
        if self._mean is None:
            self._mean = probabilities
            self._count = _reached(probabilities)
            self._squares = torch.zeros_like(probabilities) if self._with_variance else None
            return
        assert self._count is not None
        reached = _reached(probabilities)
        self._count += reached
        difference = (probabilities - self._mean) * reached
        self._mean += difference / self._count.clamp(min=1)
        if self._squares is not None:
            self._squares += difference * (probabilities - self._mean)

    def mean(self) -> torch.Tensor:
        """float32 [class, x, y, z]; 0 where no prediction reaches."""
        assert self._mean is not None, "nothing was added"
        return self._mean

    def variance(self) -> torch.Tensor:
        """Population variance of the probabilities over the predictions, mean over the classes; float32 [x, y, z]."""
        assert self._squares is not None, "nothing was added, or the variance was not asked for"
        assert self._count is not None
        return (self._squares.mean(dim=0) / self._count.clamp(min=1)).clamp(min=0)


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Shannon entropy of each voxel in nats: 0 where one class is certain, at most log(classes).

    Args:
        probabilities: float32 [class, x, y, z].

    Returns:
        float32 [x, y, z]; 0 where all probabilities are 0.
    """
    return torch.special.entr(probabilities.clamp(0, 1)).sum(dim=0)


def _reached(probabilities: torch.Tensor) -> torch.Tensor:
    """float32 [x, y, z]: 1 where a prediction reaches."""
    return (probabilities.sum(dim=0) > _REACHED).float()
