"""How parameters are learnt: cost, optimiser, schedule of the learning rate, frozen layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepmedic.config.options import option


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes over the epochs."""

    kind: Literal["stable", "predef", "poly", "auto", "expon", "plateau"] = option(
        "typeOfLearningRateSchedule",
        "poly",
        doc='How the learning rate falls: "stable" not at all; "predef" it is divided after the epochs of '
        'predefinedSchedule; "poly" as (1 - progress)^0.9 to 0 at the last epoch; "auto" it is divided when the '
        'accuracy on validation samples no longer rises; "expon" exponentially to a target, while momentum rises '
        'linearly to its own; "plateau" (new in this program) as "auto", but by the score that chooses the best '
        "checkpoint, the mean Dice of the foreground classes.",
    )
    divide_by: float = option(
        "whenDecreasingDivideLrBy",
        2.0,
        above=0,
        doc='By what the learning rate is divided each time (schedules "predef", "auto" and "plateau").',
    )
    epochs_to_wait: float | None = option(
        "numEpochsToWaitBeforeLoweringLr",
        None,
        minimum=0,
        default_text='5 for "auto" and "plateau", a third of the epochs for "poly" and "expon"',
        doc='Epochs at the initial rate before "poly" and "expon" lower it; for "auto" and "plateau" the epochs '
        "without improvement before each division.",
    )
    minimum_increase: float = option(
        "min_incr_of_val_acc_considered",
        0.0,
        minimum=0,
        maximum=1,
        doc='Schedule "auto": rise of the mean validation accuracy (0 to 1) that counts as an improvement; "plateau": '
        "rise of the mean Dice.",
    )
    lowest_rate: float = option(
        "lowestLearningRate",
        0.0,
        minimum=0,
        origin="new",
        doc='Schedule "plateau": the learning rate is not lowered below this.',
    )
    predefined_epochs: tuple[int, ...] | None = option(
        "predefinedSchedule",
        None,
        minimum=0,
        doc='Schedule "predef": epochs, counted from 0, after which the learning rate is divided.',
    )
    exponential_target: tuple[float, float] | None = option(
        "paramsForExpSchedForLrAndMom",
        None,
        default_text="[learningRate / 2^8, 0.9]",
        doc='Schedule "expon": [learning rate, momentum] that are reached at the last epoch.',
    )
    theano: bool = False
    """Whether the file is of the Theano version; the target is then [factor of the initial rate, momentum]."""
    stable_interval: int | None = None
    """Theano's meaning of "stable": epochs between divisions by `divide_by`; None: the rate never changes."""

    def waiting(self, epochs: int) -> float:
        """Return the epochs to wait, for a training of that many epochs."""
        if self.epochs_to_wait is not None:
            return self.epochs_to_wait
        return 5.0 if self.kind in ("auto", "plateau") else epochs / 3

    def exponential_end(self, initial_rate: float) -> tuple[float, float]:
        """Return learning rate and momentum at the last epoch of the exponential schedule, whatever the version."""
        if self.exponential_target is None:
            return initial_rate / 2**8, 0.9
        rate, momentum = self.exponential_target
        return (rate * initial_rate if self.theano else rate), momentum


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimiser and regularisation."""

    kind: int = option(
        "sgd0orAdam1orRms2", 2, choices=(0, 1, 2), doc="The optimiser: 0 gradient descent, 1 Adam, 2 RMSProp."
    )
    learning_rate: float = option("learningRate", 0.001, above=0, doc="Learning rate at the start of the training.")
    nesterov: int = option(
        "classicMom0OrNesterov1",
        1,
        choices=(0, 1),
        doc="Kind of momentum of gradient descent and RMSProp: 0 classic, 1 Nesterov.",
    )
    momentum: float = option(
        "momentumValue", 0.6, minimum=0, maximum=1, doc="Momentum of gradient descent and RMSProp; 0 is none."
    )
    normalized_momentum: int = option(
        "momNonNorm0orNormalized1",
        1,
        choices=(0, 1),
        doc="1 scales the gradient's share by 1 - momentum, so that momentum does not enlarge the steps; 0 does not.",
    )
    adam_beta1: float = option("b1Adam", 0.9, minimum=0, below=1, doc="Adam: decay of the mean of gradients.")
    adam_beta2: float = option("b2Adam", 0.999, minimum=0, below=1, doc="Adam: decay of the mean of squared gradients.")
    adam_epsilon: float = option("epsilonAdam", 1e-8, above=0, doc="Adam: added to the root, against division by 0.")
    rms_rho: float = option("rhoRms", 0.9, minimum=0, below=1, doc="RMSProp: decay of the mean of squared gradients.")
    rms_epsilon: float = option(
        "epsilonRms", 1e-4, above=0, doc="RMSProp: added under the root, against division by 0."
    )
    l1: float = option(
        "L1_reg", 1e-6, minimum=0, doc="Weight in the cost of the sum of absolute values of all convolution kernels."
    )
    l2: float = option(
        "L2_reg", 1e-4, minimum=0, doc="Weight in the cost of the sum of squares of all convolution kernels."
    )


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms of the training cost; None: the term is not computed."""

    cross_entropy: float | None = 1.0
    iou: float | None = None
    dice: float | None = None


@dataclass(frozen=True, kw_only=True)
class LossWeightKeys:
    """Sub-keys of the weights of the cost's terms."""

    xentr: float | None = option("xentr", None, minimum=0, doc="Weight of the cross entropy; left out: not computed.")
    iou: float | None = option("iou", None, minimum=0, doc="Weight of the soft intersection over union; as above.")
    dsc: float | None = option("dsc", None, minimum=0, doc="Weight of the soft Dice cost; as above.")


def _loss_weights(keys: LossWeightKeys) -> LossWeights:
    weights = LossWeights(cross_entropy=keys.xentr, iou=keys.iou, dice=keys.dsc)
    if not any((weights.cross_entropy, weights.iou, weights.dice)):
        raise ValueError("has no term with a weight above 0; give at least one of xentr, iou, dsc")
    return weights


@dataclass(frozen=True, kw_only=True)
class ClassReweighting:
    """Class weights in cross entropy, annealed linearly to 1 between the two epochs of `schedule`."""

    kind: Literal["freq", "per_c"] | None = option(
        "type",
        None,
        doc='"freq" weights each class by the inverse of its frequency in the batch, "per_c" by the numbers of prms; '
        "left out: all classes count alike.",
    )
    weights: tuple[float, ...] | None = option(
        "prms", None, minimum=0, doc='Weights for "per_c", one per class from the background; 0 leaves a class out.'
    )
    schedule: tuple[float, float] | None = option(
        "schedule",
        None,
        minimum=0,
        default_text="[0, numberOfEpochs]",
        doc="[first, last] epoch between which the weights change linearly to 1.",
    )
    """None: from epoch 0 to the last epoch."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training cost."""

    weights: LossWeights = option(
        "losses_and_weights",
        LossWeights(),
        shape=LossWeightKeys,
        build=_loss_weights,
        default_text="{xentr = 1.0}",
        doc="The terms of the training cost and their weights; terms that are left out are not computed.",
    )
    reweighting: ClassReweighting = option(
        "reweight_classes_in_cost",
        ClassReweighting(),
        default_text="off",
        doc="Weights of the classes in the cross entropy, against very unequal frequencies.",
    )


_FREEZE = "Layers of {pathway} whose parameters stay as they are, counted from 1."


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Layers whose parameters stay as they are; numbered from 1."""

    normal: tuple[int, ...] = option(
        "layersToFreezeNormal", (), minimum=1, doc=_FREEZE.format(pathway="the normal pathway")
    )
    subsampled: tuple[tuple[int, ...], ...] | tuple[int, ...] | None = option(
        "layersToFreezeSubsampled",
        None,
        minimum=1,
        default_text="as layersToFreezeNormal",
        doc=_FREEZE.format(pathway="the low-resolution pathways")
        + " One list holds for all of them; a list of lists has one per pathway; [] freezes none.",
    )
    fc: tuple[int, ...] = option(
        "layersToFreezeFC",
        (),
        minimum=1,
        doc=_FREEZE.format(pathway="the FC pathway") + " The last one is the classification layer.",
    )
    batch_norm: Literal["frozen", "moving"] = option(
        "batchNormOfFrozenLayers",
        "frozen",
        origin="new",
        doc='Batch normalisation of frozen layers: "frozen" uses the stored statistics and leaves them alone; "moving" '
        "uses those of each batch and goes on collecting them, as the original does.",
    )
