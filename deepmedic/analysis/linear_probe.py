"""Linear probes: multinomial logistic regression from the features of a voxel to its class.

Alain and Bengio, "Understanding intermediate layers using linear classifier probes" (2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

RIDGE = 1e-2
"""Weight of the squared norm of the probe's weights beside the mean cost of a voxel; features have deviation 1."""
_ITERATIONS = 60
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A fitted probe; it expects classes to be equally frequent."""

    mean: Tensor
    """float64 [channel]."""
    scale: Tensor
    """float64 [channel]: 1 / standard deviation, 0 for a channel that is constant."""
    weights: Tensor
    """float64 [channel, class]."""
    bias: Tensor
    """float64 [class]; minus infinity for a class that no voxel of the fit has."""

    def log_probabilities(self, features: Tensor, frequencies: Tensor | None = None) -> Tensor:
        """Return float64 [voxel, class].

        Args:
            features: [voxel, channel].
            frequencies: of each class where the probe is used, [class]; None: all equal.
        """
        scores = (features.double() - self.mean) * self.scale @ self.weights + self.bias
        if frequencies is not None:
            scores = scores + frequencies.double().log()
        return functional.log_softmax(scores, dim=1)


def fit_probe(features: Tensor, labels: Tensor, classes: int, ridge: float = RIDGE) -> LinearProbe:
    """Fit a probe by L-BFGS in float64, from zero weights; equal arguments give equal numbers.

    Every class has the same weight in the cost, however many voxels it has. The cost is convex, with a single minimum.

    Args:
        features: [voxel, channel].
        labels: int64 [voxel].
        classes: the background included.
        ridge: see `RIDGE`.
    """
    values = features.double()
    mean = values.mean(dim=0)
    deviation = values.std(dim=0, correction=0)
    varies = deviation > torch.finfo(torch.float32).eps * mean.abs()
    scale = torch.where(varies, 1 / torch.where(varies, deviation, 1.0), 0.0)
    inputs = (values - mean) * scale
    counts = torch.bincount(labels, minlength=classes).double()
    present = counts > 0
    cost_of = (1 / (counts * present.sum()).clamp(min=1))[labels]
    absent = torch.where(present, 0.0, -torch.inf).double()
    weights = torch.zeros((features.shape[1], classes), dtype=torch.float64, device=values.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=values.device, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, bias], max_iter=_ITERATIONS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe"
    )

    def cost() -> Tensor:
        optimiser.zero_grad()
        scores = torch.log_softmax(inputs @ weights + bias + absent, dim=1)
        value = -(cost_of * scores.gather(1, labels[:, None])[:, 0]).sum() + ridge / 2 * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(cost)
    return LinearProbe(mean, scale, weights.detach(), (bias + absent).detach())
