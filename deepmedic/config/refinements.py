"""Refinements of training that the original does not have, each off unless asked for."""

from __future__ import annotations

from dataclasses import dataclass

from deepmedic.config.options import option


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """What is done to gradients, rates and weights beyond the optimiser's own rule."""

    gradient_clipping: float | None = option(
        "gradientClipping",
        None,
        above=0,
        origin="new",
        default_text="off",
        doc="Largest norm of the gradient of all trained parameters together. Where it is exceeded, the whole gradient "
        "is scaled down to it, so that its direction stays.",
    )
    warm_up_epochs: float = option(
        "warmUpEpochs",
        0.0,
        minimum=0,
        origin="new",
        doc="Epochs (fractions are possible) at the start over which the learning rate rises linearly from 0, step by "
        "step, to what the schedule says. The schedule itself is not delayed.",
    )
    weight_decay: float = option(
        "weightDecay",
        0.0,
        minimum=0,
        below=1,
        origin="new",
        doc="Decoupled weight decay: each step also shrinks the convolution kernels that are trained by this factor "
        "times the learning rate. Biases, slopes and the parameters of batch normalisation are left alone. It is no "
        "part of the cost and independent of L2_reg.",
    )
    reference_batch_size: int | None = option(
        "scaleLearningRateWithBatch",
        None,
        minimum=1,
        origin="new",
        default_text="off",
        doc="The batch size that learningRate was chosen for: all learning rates are multiplied by batchsize_train "
        "divided by it.",
    )
    weight_averaging: float | None = option(
        "weightAveraging",
        None,
        above=0,
        below=1,
        origin="new",
        default_text="off",
        doc="Decay per step of an exponential moving average of the trained weights, such as 0.999. Validation uses "
        "the averaged weights, and they are what a saved model gives to inference and transfer; the weights that "
        "training goes on from are kept beside them.",
    )
    l2_to_start: float = option(
        "l2ToStart",
        0.0,
        minimum=0,
        origin="new",
        doc="Weight in the cost of the sum of squared differences of the trained convolution kernels to those that the "
        "training started from, against forgetting in fine-tuning.",
    )
    rate_decay_per_layer: float | None = option(
        "learningRateDecayPerLayer",
        None,
        above=0,
        maximum=1,
        origin="new",
        default_text="off",
        doc="Factor of the learning rate for each layer below the classification layer: that one has the full rate, "
        "the layer before it this factor of it, the next its square, on through the FC pathway into all others.",
    )


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingConfig:
    """When a training ends before its last epoch."""

    patience: int | None = option(
        "earlyStoppingPatience",
        None,
        minimum=1,
        origin="new",
        default_text="off",
        doc="Epochs without an improvement of the validation score after which the training ends. The score is the "
        "mean Dice of the foreground classes that chooses the best checkpoint; an epoch without one never ends it.",
    )
    minimum_change: float = option(
        "earlyStoppingMinimumChange",
        0.0,
        minimum=0,
        maximum=1,
        origin="new",
        doc="Rise of the validation score (0 to 1) above its best that counts as an improvement for "
        "earlyStoppingPatience.",
    )
    restore_best: bool = option(
        "earlyStoppingRestoreBest",
        False,
        origin="new",
        doc="With earlyStoppingPatience: whether the final model holds the weights of the best epoch instead of those "
        "of the last one, even if the training was not ended early. In a training in phases, each phase ends with the "
        "weights of its own best epoch.",
    )
