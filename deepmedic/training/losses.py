"""The training cost: cross entropy, soft IoU and soft Dice on probabilities, and penalties on the weights.

Shapes: logits [batch, class, x, y, z] and labels [batch, x, y, z] with class indices. Everything is computed in
float32, whatever the precision of the network, on the device of the logits and without waiting for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from deepmedic.config.training import ClassReweighting, LossConfig
from deepmedic.errors import ConfigError

_CROSS_ENTROPY_EPSILON = 1e-6
_OVERLAP_EPSILON = 1e-5
_FREQUENCY_EPSILON = 1e-6


def training_cost(logits: Tensor, labels: Tensor, loss: LossConfig, class_weights: Tensor | None = None) -> Tensor:
    """Return the weighted sum of the chosen losses as a 0-dimensional float32 tensor; weight penalties come on top.

    `logits` [batch, class, x, y, z]; `labels` [batch, x, y, z], integers below the number of classes;
    `class_weights` [class] multiply each voxel's cross entropy (None: all 1).
    """
    weights = loss.weights
    with torch.autocast(device_type=logits.device.type, enabled=False):
        probabilities = torch.softmax(logits.float(), dim=1)
        labels = labels.long()
        cost = probabilities.new_zeros(())
        if weights.cross_entropy is not None:
            cost = cost + weights.cross_entropy * cross_entropy(probabilities, labels, class_weights)
        if weights.iou is None and weights.dice is None:
            return cost
        overlaps = _overlaps(probabilities, labels)
        if weights.iou is not None:
            cost = cost + weights.iou * _iou_loss(*overlaps)
        if weights.dice is not None:
            cost = cost + weights.dice * _dice_loss(*overlaps)
    return cost


def cross_entropy(probabilities: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return -sum(w_c log(p + 1e-6)) / number of voxels, p being the probability of each voxel's true class c.

    `probabilities` [batch, class, x, y, z], `labels` [batch, x, y, z] int64, `class_weights` [class].
    The sum is not divided by the sum of the weights, and the gradient fades where p is far below 1e-6: both are
    what models trained with the original DeepMedic were optimised for.
    """
    true_class = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)  # [batch, x, y, z]
    log_likelihood = torch.log(true_class + _CROSS_ENTROPY_EPSILON)
    if class_weights is not None:
        log_likelihood = log_likelihood * class_weights[labels]
    return -log_likelihood.sum() / labels.numel()


def iou_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - soft intersection over union (Nowozin, CVPR 2014), the mean over all classes, background included.

    `probabilities` [batch, class, x, y, z], `labels` [batch, x, y, z]. Voxels of the whole batch are pooled.
    """
    return _iou_loss(*_overlaps(probabilities, labels))


def dice_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - soft Dice coefficient (Milletari et al., 3DV 2016, without squares), the mean over all classes.

    `probabilities` [batch, class, x, y, z], `labels` [batch, x, y, z]. Voxels of the whole batch are pooled.
    """
    return _dice_loss(*_overlaps(probabilities, labels))


def _overlaps(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return per class, each [class]: soft true positives, sum of probabilities, number of voxels in the labels."""
    batch, classes = probabilities.shape[:2]
    flat = probabilities.reshape(batch, classes, -1)
    is_class = _is_class(labels.reshape(batch, 1, -1), classes, dim=1)  # [batch, class, voxel]
    return torch.where(is_class, flat, 0.0).sum((0, 2)), flat.sum((0, 2)), is_class.sum((0, 2))


def _iou_loss(intersections: Tensor, predicted: Tensor, real: Tensor) -> Tensor:
    unions = predicted - intersections + real
    return 1.0 - ((intersections + _OVERLAP_EPSILON) / (unions + _OVERLAP_EPSILON)).mean()


def _dice_loss(intersections: Tensor, predicted: Tensor, real: Tensor) -> Tensor:
    return 1.0 - ((2.0 * intersections + _OVERLAP_EPSILON) / (predicted + real + _OVERLAP_EPSILON)).mean()


def _is_class(labels: Tensor, classes: int, dim: int) -> Tensor:
    """Compare labels, of size 1 along `dim`, with every class along that axis."""
    shape = [1] * labels.dim()
    shape[dim] = classes
    return labels == torch.arange(classes, device=labels.device).view(shape)


def class_weights(
    reweighting: ClassReweighting, labels: Tensor, epoch: int, epochs: int, classes: int
) -> Tensor | None:
    """Return the weights of the classes in cross entropy, [class] float32 on the labels' device; None: all 1.

    `labels` [batch, x, y, z] of this batch; `epoch` is counted from 0. Weights start at those of `reweighting`
    ("freq": N / (classes * n_c) in this batch; "per_c": the given ones) and become 1 linearly between the two epochs
    of its schedule.

    Raises:
        ConfigError: the given weights do not match the number of classes, or the schedule does not rise.
    """
    if reweighting.kind is None:
        return None
    first, last = reweighting.schedule if reweighting.schedule is not None else (0, epochs)
    if not first < last:
        raise ConfigError(
            f"reweight_classes_in_cost: its 'schedule' is [{first}, {last}]; the first epoch must be below the second"
        )
    if reweighting.kind == "per_c":
        initial = _given_weights(reweighting, classes, labels.device)
    else:
        counts = _is_class(labels.reshape(1, -1), classes, dim=0).sum(1).float()
        initial = (labels.numel() / classes) / (counts + _FREQUENCY_EPSILON)
    done = (min(max(epoch, first), last) - first) / (last - first)
    return initial + done * (1.0 - initial)


def _given_weights(reweighting: ClassReweighting, classes: int, device: torch.device) -> Tensor:
    weights = reweighting.weights or ()
    if len(weights) != classes:
        raise ConfigError(
            f"reweight_classes_in_cost: 'prms' has {len(weights)} weights {list(weights)}, but the model has {classes} "
            f"classes; give one weight per class, background first"
        )
    return _constant(weights, device)


@lru_cache(maxsize=8)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copy constants to a device once: a copy in every step would make the host wait for the device."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def regularization(weights: Sequence[Tensor], l1: float, l2: float) -> Tensor:
    """Return l1 * sum |w| + l2 * sum w^2 (no factor 1/2) over all elements of `weights`, a 0-dimensional tensor.

    `weights` are the convolution kernels of all layers. Those of frozen layers count too, as in the original: they add
    a constant to the cost and receive no gradient.
    """
    if not weights:
        return torch.zeros(())
    if l1 == 0 and l2 == 0:
        return torch.zeros((), device=weights[0].device)
    penalty: Tensor = _WeightPenalty.apply(l1, l2, *weights)
    return penalty


def pull_to_start(weights: Sequence[Tensor], start: Sequence[Tensor], strength: float) -> Tensor:
    """Return strength * sum (w - w0)^2 over all elements of `weights`, a 0-dimensional tensor.

    `start` holds w0 for each of the weights, in their order. Li et al., "Explicit inductive bias for transfer learning
    with convolutional networks" (ICML 2018).
    """
    return regularization([weight - origin for weight, origin in zip(weights, start, strict=True)], 0.0, strength)


def _sum_of_powers(weights: Sequence[Tensor], power: int) -> Tensor:
    """The sum of |w| (power 1) or of w^2 (power 2) over all elements, a 0-dimensional tensor."""
    if weights[0].device.type == "cpu":
        # A norm adds up all elements of a tensor in a few chains, and loses digits as these grow: the third one with a
        # million elements. A sum adds up in pairs, and takes less time.
        return torch.stack([(one.abs() if power == 1 else one.square()).sum() for one in weights]).sum()
    norms = torch.stack(torch._foreach_norm(tuple(weights), power))  # a GPU adds up in pairs here too
    return norms.sum() if power == 1 else norms.square().sum()


class _WeightPenalty(torch.autograd.Function):
    """L1 and L2 penalty with all tensors in a few kernels, forward and backward, rather than several per tensor."""

    @staticmethod
    def forward(ctx: Any, l1: float, l2: float, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        ctx.l1, ctx.l2 = l1, l2
        terms = [factor * _sum_of_powers(weights, power) for power, factor in ((1, l1), (2, l2)) if factor]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = grad_outputs
        needed = ctx.needs_input_grad[2:]
        trained = [weight for weight, needs in zip(ctx.saved_tensors, needed, strict=True) if needs]
        if not trained:
            return (None,) * (2 + len(needed))
        gradients = torch._foreach_sign(trained)
        torch._foreach_mul_(gradients, ctx.l1)
        torch._foreach_add_(gradients, trained, alpha=2.0 * ctx.l2)
        torch._foreach_mul_(gradients, upstream)
        remaining = iter(gradients)
        return None, None, *(next(remaining) if needs else None for needs in needed)
