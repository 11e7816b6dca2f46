"""How many labelled cases a task seems to need: linear probes that learn from more and more subjects.

That errors fall with a power of the number of examples is an observation over many tasks and models: Hestness et al.,
"Deep Learning Scaling is Predictable, Empirically" (2017); for medical images Cho et al., "How much data is needed to
train a medical image deep learning system" (2015). A probe learns faster than a network whose layers all learn, so what
it needs is the least that is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepmedic.analysis.bank import Bank, Fold
from deepmedic.analysis.linear_probe import fit_probe
from deepmedic.analysis.scores import Confusions, Interval, interval
from deepmedic.data.randomness import stream

_ORDERS = 3
"""Orders in which subjects are added; scores are means over them."""
_MOST_CASES = 10_000


@dataclass(frozen=True)
class CurvePoint:
    """What a probe reaches on other subjects after learning from some."""

    cases: int
    dice: Interval
    """Mean over the foreground classes, of sampled voxels."""

    def to_plain(self) -> dict[str, Any]:
        return {"cases": self.cases, "dice": self.dice.to_plain()}


@dataclass(frozen=True)
class LearningCurve:
    """Points by number of cases, rising, and what they let expect."""

    points: tuple[CurvePoint, ...]
    smallest_gain: float
    """What a doubling of the cases must bring in Dice to be worth it."""

    @property
    def exponent(self) -> float | None:
        """b of error = a * cases^-b, from the last two points; 0 where the error does not fall.

        None with one point, or where a Dice is not defined.
        """
        if len(self.points) < 2:
            return None
        before, last = self.points[-2:]
        errors = 1 - before.dice.mean, 1 - last.dice.mean
        if math.isnan(sum(errors)):
            return None
        if min(errors) <= 0:
            return 0.0
        return max(0.0, math.log(errors[0] / errors[1]) / math.log(last.cases / before.cases))

    @property
    def gain_of_doubling(self) -> float | None:
        """Rise of Dice to be expected from twice as many cases."""
        if self.exponent is None:
            return None
        return (1 - self.points[-1].dice.mean) * (1 - 2**-self.exponent)

    @property
    def enough(self) -> bool | None:
        """Whether a doubling would bring less than `smallest_gain`; None where that cannot be told."""
        gain = self.gain_of_doubling
        return None if gain is None else gain < self.smallest_gain

    @property
    def cases_needed(self) -> int | None:
        """Cases from which on a doubling would bring less than `smallest_gain`; None where that cannot be told."""
        gain, exponent = self.gain_of_doubling, self.exponent
        if gain is None or exponent is None:
            return None
        last = self.points[-1].cases
        if gain < self.smallest_gain:
            return last
        # By logarithms, since of a curve that hardly rises the power is beyond what a float can hold.
        logarithm = math.log(last) + math.log(gain / self.smallest_gain) / exponent
        return _MOST_CASES if logarithm >= math.log(_MOST_CASES) else math.ceil(math.exp(logarithm))

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "points": [point.to_plain() for point in self.points],
            "smallestGain": self.smallest_gain,
            "exponent": self.exponent,
            "gainOfDoubling": self.gain_of_doubling,
            "enough": self.enough,
            "casesNeeded": self.cases_needed,
        }


def learning_curve(
    bank: Bank, place: tuple[str, str], shares: Sequence[float], smallest_gain: float, seed: int
) -> LearningCurve:
    """Let probes learn from shares of the subjects, and test them on the subjects of each fold.

    Args:
        bank: features of all subjects.
        place: network and layer.
        shares: of the subjects that a probe may learn from, each above 0 and at most 1.
        smallest_gain: see `LearningCurve`.
        seed: of the orders in which subjects are added.
    """
    learnable = min(len(fold.learning) for fold in bank.folds())
    counts = sorted({max(1, round(share * learnable)) for share in shares})
    points = [CurvePoint(count, interval(_dice(bank, place, count, seed), seed)) for count in counts]
    return LearningCurve(tuple(points), smallest_gain)


def _dice(bank: Bank, place: tuple[str, str], count: int, seed: int) -> np.ndarray:
    """float64 [subject]: mean over the orders."""
    scores = [_confusions(bank, place, count, (seed, order)).foreground_dice() for order in range(_ORDERS)]
    return np.mean(scores, axis=0)


def _confusions(bank: Bank, place: tuple[str, str], count: int, order: tuple[int, int]) -> Confusions:
    features = bank.features[place[0]][place[1]]
    predicted = torch.empty_like(bank.labels)
    for number, fold in enumerate(bank.folds()):
        learnt = bank.rows_of(_first(fold, count, order, number))
        asked = bank.rows_of(fold.testing)
        probe = fit_probe(features[learnt], bank.labels[learnt], bank.classes)
        predicted[asked] = probe.log_probabilities(features[asked]).argmax(dim=1)
    return Confusions.of(predicted, bank.labels, bank.subject_of, bank.subjects, bank.classes)


def _first(fold: Fold, count: int, order: tuple[int, int], number: int) -> list[int]:
    """The first subjects of one order; more of them contain fewer of them."""
    generator = stream(order[0], "learning curve", order[1], number)
    return [fold.learning[place] for place in generator.permutation(len(fold.learning))[:count]]
