"""What the scores of all layers say together: whether a task can be learnt, and what pretrained features add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepmedic.analysis.scores import Confusions, Interval, interval
from deepmedic.analysis.transferability import LayerComparison, LayerScores

_ABOVE_CHANCE = 0.1
"""Of the way from chance to perfection that the balanced accuracy must have come."""


@dataclass(frozen=True)
class Evidence:
    """The best layers of a pretrained network beside the best of random ones; gains are of Dice, over subjects."""

    best_layer: str
    """Of the pretrained network, by the probe's Dice on sampled voxels."""
    best_random: tuple[str, ...]
    """Of each random network."""
    accuracy: Interval
    """Balanced accuracy of the probe on the best layer."""
    random_accuracy: Interval
    """The same of the best layers of random networks, mean over these."""
    chance: float
    """The balanced accuracy of guessing."""
    dice: Interval
    """Dice of the probe on the best layer, sampled voxels."""
    gain: Interval
    """Of that Dice over the best layers of random networks."""
    volume_gain: Interval
    """The same of the Dice that the probe reaches on whole volumes, as estimated from the sample."""
    useful_layers: tuple[str, ...]
    """Layers whose own gain is above 0 for certain and large enough to matter."""

    @property
    def learnable(self) -> bool:
        """Whether any layer, pretrained or random, tells the classes apart clearly better than guessing."""
        best = max(self.accuracy.low, self.random_accuracy.low)
        return best > self.chance + _ABOVE_CHANCE * (1 - self.chance)

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "bestLayer": self.best_layer,
            "bestRandomLayers": list(self.best_random),
            "balancedAccuracy": self.accuracy.to_plain(),
            "balancedAccuracyRandom": self.random_accuracy.to_plain(),
            "chance": self.chance,
            "learnable": self.learnable,
            "probeDice": self.dice.to_plain(),
            "gain": self.gain.to_plain(),
            "gainOnVolumes": self.volume_gain.to_plain(),
            "usefulLayers": list(self.useful_layers),
        }


def weigh(comparisons: Sequence[LayerComparison], smallest_gain: float, seed: int) -> Evidence:
    """Draw the evidence together.

    The best layer of the pretrained network is compared with the best of each random network, because training from
    random weights may use whichever layer serves it best; both choices are equally optimistic.

    Args:
        comparisons: of all layers.
        smallest_gain: Dice below which a difference does not matter.
        seed: of the bootstrap.
    """
    best = _best([one.pretrained for one in comparisons])
    networks = range(len(comparisons[0].random))
    rivals = [_best([one.random[number] for one in comparisons]) for number in networks]
    accuracy = best.probe.balanced_accuracy()
    return Evidence(
        best_layer=best.layer,
        best_random=tuple(rival.layer for rival in rivals),
        accuracy=interval(accuracy, seed),
        random_accuracy=interval(np.mean([rival.probe.balanced_accuracy() for rival in rivals], axis=0), seed),
        chance=_chance(best.probe),
        dice=interval(best.probe.foreground_dice(), seed),
        gain=interval(_less(best.probe, [rival.probe for rival in rivals]), seed),
        volume_gain=interval(_less(best.volume, [rival.volume for rival in rivals]), seed),
        useful_layers=tuple(
            one.layer for one in comparisons if one.probe_gain.low > 0 and one.probe_gain.mean >= smallest_gain
        ),
    )


def _best(scores: Sequence[LayerScores]) -> LayerScores:
    """The layer of the highest mean Dice; of equal ones the first."""
    means = [float(np.nanmean(one.probe.foreground_dice())) for one in scores]
    return scores[int(np.argmax(means))]


def _less(one: Confusions, others: Sequence[Confusions]) -> np.ndarray:
    return one.foreground_dice() - np.mean([other.foreground_dice() for other in others], axis=0)


def _chance(confusions: Confusions) -> float:
    """1 / number of classes that subjects have, mean over subjects."""
    present = (confusions.counts.sum(axis=2) > 0).sum(axis=1)
    return float(np.mean(1 / np.maximum(present, 1)))
