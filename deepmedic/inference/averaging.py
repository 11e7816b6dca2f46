"""The mean of several predictions of one case, and how far they differ."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from deepmedic.devices import is_out_of_memory

log = logging.getLogger(__name__)

_REACHED = 0.5
"""Probabilities of a voxel add up to 1, or to 0 where a prediction does not reach."""


class MeanPrediction:
    """Running mean of probabilities, each voxel over the predictions that reach it; with their variance if wanted.

    The sums stay on the device of the first prediction; when memory runs out there, or a prediction comes from another
    device, they move to the CPU. They are Welford's (1962, "Note on a method for calculating corrected sums of squares
    and products"), which lose no digits where predictions hardly differ.
    """

    def __init__(self, *, with_variance: bool) -> None:
        self._with_variance = with_variance
        self._mean: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None
        self._count: torch.Tensor | None = None

    def add(self, probabilities: torch.Tensor, mirrored_axes: Sequence[int] = ()) -> None:
        """Add one prediction, float32 [class, x, y, z], mirrored back along some axes (0 to 2); it may be kept."""
        if self._mean is not None and self._mean.device != probabilities.device:
            self.move_to_cpu()
            probabilities = probabilities.cpu()
        try:
            self._add(probabilities, mirrored_axes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or probabilities.device.type == "cpu":
                raise
            log.warning("Memory ran out when predictions were averaged on %s; trying on the CPU.", probabilities.device)
            self.move_to_cpu()
            self._add(probabilities.cpu(), mirrored_axes)

    def move_to_cpu(self) -> None:
        """Go on in the CPU's memory."""
        self._mean, self._count, self._squares = (
            None if sums is None else sums.cpu() for sums in (self._mean, self._count, self._squares)
        )

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.mean().device

    def _add(self, probabilities: torch.Tensor, mirrored_axes: Sequence[int]) -> None:
        """Take all memory that is needed before any of the sums changes, so that it can be tried again elsewhere."""
        probabilities = probabilities.flip([axis + 1 for axis in mirrored_axes])
        reached = _reached(probabilities)
        if self._mean is None:
            squares = torch.zeros_like(probabilities) if self._with_variance else None
            self._mean, self._count, self._squares = probabilities, reached, squares
            return
        assert self._count is not None
        count = reached + self._count
        difference = (probabilities - self._mean).mul_(reached)
        mean = (difference / count.clamp(min=1)).add_(self._mean)
        squares = None
        if self._squares is not None:
            squares = (probabilities - mean).mul_(difference).add_(self._squares)
        self._mean, self._count, self._squares = mean, count, squares

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
