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
_ITERATIONS = 100
_TOLERANCE = 1e-12
"""Of the cost, by which one more step would lower it."""
_SUFFICIENT = 1e-4
"""Of the fall that a step promises, the part that it must keep (Armijo's rule)."""
_SHORTEST = 1e-6
_SMALL = 1e-9
_MOST_PRODUCTS = 200
"""Products with the Hessian for one step."""
_INEXACT = 0.1
"""Most that is left of the gradient in a step, as a share of it; less as the minimum comes near."""


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
    """Fit a probe by Newton's method in float64, from zero weights; equal arguments give equal numbers.

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
    inputs = functional.pad((values - mean) * scale, (0, 1), value=1.0)  # the last column is for the bias
    present, targets = labels.unique(return_inverse=True)
    fitted = _minimise(_Cost(inputs, targets, len(present), ridge))
    weights = values.new_zeros((features.shape[1], classes))
    bias = values.new_full((classes,), -torch.inf)
    weights[:, present], bias[present] = fitted[:-1], fitted[-1]
    return LinearProbe(mean, scale, weights, bias)


class _Cost:
    """Cost of weights [channel + 1, class] of which the last row is the bias, with gradient and Hessian."""

    def __init__(self, inputs: Tensor, targets: Tensor, classes: int, ridge: float) -> None:
        """Inputs [voxel, channel + 1] end in a column of ones; every one of the classes is among the targets."""
        self.inputs, self.classes = inputs, classes
        self.one_hot = functional.one_hot(targets, classes).to(inputs.dtype)
        self.share = (1 / (self.one_hot.sum(dim=0) * classes))[targets]
        self.ridge = inputs.new_full((inputs.shape[1], 1), ridge)
        self.ridge[-1] = 0.0
        bound = self.inputs.T @ (self.share[:, None] * self.inputs) / 2
        bound.diagonal().add_(self.ridge[:, 0] + _SMALL)
        self._bound = torch.linalg.cholesky(bound)

    def __call__(self, weights: Tensor) -> float:
        logs = functional.log_softmax(self.inputs @ weights, dim=1)
        fit = -(self.share * (self.one_hot * logs).sum(dim=1)).sum()
        return float(fit + (self.ridge * weights.square()).sum() / 2)

    def step(self, weights: Tensor) -> tuple[Tensor, float]:
        """Return a step [channel + 1, class] that lowers the cost, and how much it falls along it at first.

        It is Newton's, as nearly as conjugate gradients find it: the Hessian, with the square of the number of weights
        as entries, is only multiplied with, never computed. An upper bound of it, one small matrix for all classes
        (Boehning, "Multinomial logistic regression algorithm", 1992), is what they are preconditioned by. The nearer
        the minimum, the more exact is the step (Dembo, Eisenstat and Steihaug, "Inexact Newton methods", 1982).
        """
        probabilities = torch.softmax(self.inputs @ weights, dim=1)
        gradient = self.inputs.T @ (self.share[:, None] * (probabilities - self.one_hot)) + self.ridge * weights
        solution, rest = torch.zeros_like(gradient), gradient
        scaled = torch.cholesky_solve(rest, self._bound)
        direction, left = scaled, float((rest * scaled).sum())
        enough = left * min(_INEXACT, left**0.5) ** 2
        for _ in range(_MOST_PRODUCTS):
            if left <= enough or left <= _TOLERANCE**2:
                break
            product = self._times_hessian(direction, probabilities)
            length = left / float((direction * product).sum())
            solution, rest = solution + length * direction, rest - length * product
            scaled = torch.cholesky_solve(rest, self._bound)
            before, left = left, float((rest * scaled).sum())
            direction = scaled + left / before * direction
        return -solution, float((gradient * solution).sum())

    def _times_hessian(self, weights: Tensor, probabilities: Tensor) -> Tensor:
        """The Hessian where the probabilities [voxel, class] are these, times weights [channel + 1, class]."""
        scores = probabilities * (self.inputs @ weights)
        scores = self.share[:, None] * (scores - probabilities * scores.sum(dim=1, keepdim=True))
        # Adding a number to all biases changes no probability; a trace of ridge chooses among them.
        return self.inputs.T @ scores + (self.ridge + _SMALL) * weights


def _minimise(cost: _Cost) -> Tensor:
    weights = cost.inputs.new_zeros((cost.inputs.shape[1], cost.classes))
    value = cost(weights)
    for _ in range(_ITERATIONS):
        step, fall = cost.step(weights)
        if fall <= _TOLERANCE:
            break
        length = 1.0
        while (found := cost(weights + length * step)) > value - _SUFFICIENT * length * fall and length > _SHORTEST:
            length /= 2
        weights, value = weights + length * step, found
    return weights
