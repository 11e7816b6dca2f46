"""From the scores of layers to advice: transfer or not, which layers, what to freeze, rates, and what to expect.

The rules are fixed, so that equal scores give equal advice, and each says its reason. They follow what the literature
found: the deepest layer whose features help bounds what is worth transferring and freezing at first (Yosinski et al.,
"How transferable are features in deep neural networks?", NeurIPS 2014); a new classification layer is trained before
the layers below it, so that its first, random gradients do not spoil them (Kumar et al., "Fine-Tuning can Distort
Pretrained Features", ICLR 2022). The learning rate stays that of the train config: a tenth of it, as fine-tuning often
takes, was measured to leave equally many steps far short (documentation/analysis.md, "Put to the test").
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from deepmedic.analysis.evidence import Evidence
from deepmedic.analysis.learning_curve import LearningCurve
from deepmedic.analysis.scores import Interval
from deepmedic.analysis.taps import PENULTIMATE
from deepmedic.config.architecture import Architecture

Verdict = Literal["transfer", "do not transfer", "no evidence"]

FINE_TUNING_RATE = 1.0
"""Of the learning rate from scratch, while layers that were transferred learn."""
REMAINING_SHARE = 0.25
"""Of the probes' gain that is expected to remain after training; see `Recommendation.predicted_gain`."""
_HEAD_SHARE = 0.125
"""Of the epochs, for training the new layers alone."""
_FURTHEST = 10
"""Times the number of cases up to which a learning curve is believed."""
_GOOD_AS_IT_IS = 0.7
"""Of the best probe's Dice that the model's own predictions must reach for its classification layer to be kept."""


@dataclass(frozen=True)
class Schedule:
    """The training that the advice is for.

    Advice keeps its length: a forecast is about trainings of equal length, and probes cannot tell a better one.
    """

    epochs: int = 35
    segments_per_epoch: int = 20_000
    learning_rate: float = 0.001
    """From random weights, at the beginning."""


@dataclass(frozen=True)
class AdvisedPhase:
    """One phase of the advised training."""

    name: str
    epochs: int
    learning_rate: float
    """At its beginning."""
    rate: float
    """Of the learning rate from scratch."""
    frozen: tuple[int, ...]
    """Depths as `-layers` counts them."""
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """Advice with its reasons."""

    verdict: Verdict
    reasons: tuple[str, ...]
    layers: tuple[int, ...]
    """Depths to transfer, as `-layers` counts them; empty: none."""
    keep_classes: bool
    """Whether the classification layer is transferred too."""
    phases: tuple[AdvisedPhase, ...]
    predicted_gain: Interval
    """Mean foreground Dice of transfer less that of random initialisation, both after training, on other subjects.

    Probes say what features are worth before training; training from scratch learns features too, and how much of the
    head start it makes up for is not known beforehand. So the interval reaches from all of it (0) to nothing of it, and
    the middle is that a quarter remains. Forecasts are kept, so that this share can be measured."""
    cases: str
    """What the learning curve says of the number of labelled cases."""

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "layers": list(self.layers),
            "keepClasses": self.keep_classes,
            "phases": [
                {
                    "name": phase.name,
                    "epochs": phase.epochs,
                    "learningRate": phase.learning_rate,
                    "shareOfRate": phase.rate,
                    "frozen": list(phase.frozen),
                    "reason": phase.reason,
                }
                for phase in self.phases
            ],
            "predictedGain": self.predicted_gain.to_plain(),
            "cases": self.cases,
        }


def recommend(
    evidence: Evidence,
    curve: LearningCurve,
    architecture: Architecture,
    schedule: Schedule,
    as_it_is: Interval | None,
) -> Recommendation:
    """Give advice; equal arguments give equal advice.

    Args:
        evidence: of all layers.
        curve: of a probe on the best layer.
        architecture: of the model that is transferred from.
        schedule: of the training that is advised.
        as_it_is: Dice of the model's own predictions on sampled voxels, where its classes are those of the task.
    """
    verdict, reasons = _verdict(evidence, curve.smallest_gain)
    cases = describe_cases(curve)
    if verdict != "transfer":
        why = "nothing is transferred"
        phase = AdvisedPhase("from scratch", schedule.epochs, schedule.learning_rate, 1.0, (), why)
        return Recommendation(verdict, reasons, (), False, (phase,), _predicted(evidence), cases)
    useful = {depth_of(architecture, layer) for layer in evidence.useful_layers} | {
        depth_of(architecture, evidence.best_layer)
    }
    layers = tuple(range(1, max(useful) + 1))
    reasons += (
        f"layers at depths 1 to {layers[-1]} are transferred: the deepest layer whose features help is at depth "
        f"{layers[-1]}, and it needs those below it",
    )
    keep = as_it_is is not None and as_it_is.mean >= _GOOD_AS_IT_IS * evidence.dice.mean
    if keep and as_it_is is not None:
        layers = tuple(range(1, architecture.normal.depth + architecture.fc.depth))
        reasons += (
            f"the classification layer is kept, with all below it: as it is, the model reaches a Dice of {as_it_is} on "
            "voxels of this task",
        )
    phases = _phases(layers, keep, schedule)
    return Recommendation(verdict, reasons, layers, keep, phases, _predicted(evidence), cases)


def depth_of(architecture: Architecture, layer: str) -> int:
    """The depth of a layer as `-layers` counts it: parallel pathways first, the FC pathway goes on after them."""
    parallel = architecture.normal.depth
    if layer == PENULTIMATE:
        return parallel + architecture.fc.depth - 1
    pathway, _, number = layer.partition("/")
    return int(number) + (parallel if pathway == "fc" else 0)


def frozen_lists(architecture: Architecture, depths: Iterable[int]) -> dict[str, list[int]]:
    """Depths as the keys of a train config want them: layers of the normal, low-resolution and FC pathways."""
    parallel, given = architecture.normal.depth, sorted(depths)
    frozen = {"layersToFreezeNormal": [depth for depth in given if depth <= parallel]}
    if architecture.subsampled:
        deepest = min(pathway.depth for pathway in architecture.subsampled)
        frozen["layersToFreezeSubsampled"] = [depth for depth in given if depth <= min(parallel, deepest)]
    frozen["layersToFreezeFC"] = [depth - parallel for depth in given if depth > parallel]
    return frozen


def describe_cases(curve: LearningCurve) -> str:
    """What a learning curve says, in a sentence."""
    last, gain, needed = curve.points[-1], curve.gain_of_doubling, curve.cases_needed
    if gain is None or needed is None:
        return f"{last.cases} case to learn from is too few to tell how many are needed; list at least 3 labelled cases"
    if curve.enough:
        return (
            f"{last.cases} cases to learn from seem enough for a probe: twice as many would raise its Dice by about "
            f"{gain:.3f}, less than {curve.smallest_gain:g}"
        )
    far = needed > _FURTHEST * last.cases
    number = f"many more, above {_FURTHEST * last.cases}," if far else f"about {needed}"
    return (
        f"not enough cases: with {last.cases} to learn from the curve still rises, by about {gain:.3f} of Dice for "
        f"twice as many; {number} would be needed until that is less than {curve.smallest_gain:g}"
    )


def _verdict(evidence: Evidence, smallest_gain: float) -> tuple[Verdict, tuple[str, ...]]:
    gain = evidence.gain
    if not evidence.learnable:
        return "do not transfer", (
            "no layer tells the classes apart clearly better than guessing, be it pretrained or random: balanced "
            f"accuracy of the best one, {evidence.best_layer}, is {evidence.accuracy}, guessing gives "
            f"{evidence.chance:.3f}. Check that labels belong to the images and that the classes can be seen in them",
        )
    beside = (
        f"a linear probe on {evidence.best_layer} reaches a Dice of {evidence.dice} on sampled voxels of other "
        f"subjects, {gain} more than the best layers of random networks"
    )
    if gain.low > 0 and gain.mean >= smallest_gain:
        return "transfer", (beside,)
    if gain.high < smallest_gain:
        return "do not transfer", (f"{beside}: random features are as good, so the model has nothing to give here",)
    return "no evidence", (
        f"{beside}: with {_text(gain)} a difference of {smallest_gain:g} can be neither shown nor ruled out. List more "
        "labelled cases, or compare both trainings",
    )


def _phases(layers: tuple[int, ...], keep: bool, schedule: Schedule) -> tuple[AdvisedPhase, ...]:
    why = "the schedule's own rate, for equally many steps at a tenth of it were measured to reach less"
    rate = FINE_TUNING_RATE * schedule.learning_rate
    if keep:
        return (AdvisedPhase("fine-tuning", schedule.epochs, rate, FINE_TUNING_RATE, (), why),)
    first = max(1, round(_HEAD_SHARE * schedule.epochs))
    alone = "the new layers learn first, alone, so that their first gradients do not spoil what was transferred"
    return (
        AdvisedPhase("new layers", first, schedule.learning_rate, 1.0, layers, alone),
        AdvisedPhase("all layers", max(1, schedule.epochs - first), rate, FINE_TUNING_RATE, (), why),
    )


def _predicted(evidence: Evidence) -> Interval:
    gain = evidence.volume_gain
    if math.isnan(gain.mean) or not evidence.learnable:
        return Interval(0.0, min(0.0, gain.low), max(0.0, gain.high)) if not math.isnan(gain.mean) else gain
    return Interval(REMAINING_SHARE * gain.mean, min(0.0, gain.low), max(0.0, gain.high))


def _text(gain: Interval) -> str:
    return f"an interval from {gain.low:.3f} to {gain.high:.3f}"
