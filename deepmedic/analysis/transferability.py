"""How well the classes of a new task can be told from the features of a layer, subject by subject.

Classifiers (nearest neighbours, linear probes) learn from some subjects and are tested on others; the closed-form
scores (LogME, H-score, CC-FV) look at all voxels at once. What a layer is worth for transfer is the difference to the
same layer of a network with random weights, which sees as much of the image and has learnt nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepmedic.analysis.bank import MOST_FOLDS, Bank
from deepmedic.analysis.ccfv import CcFv, ccfv
from deepmedic.analysis.h_score import h_score
from deepmedic.analysis.knn import vote
from deepmedic.analysis.linear_probe import fit_probe
from deepmedic.analysis.logme import logme
from deepmedic.analysis.scores import Confusions, Interval, interval

_MEASURED_VOXELS = 500


@dataclass(frozen=True, eq=False)
class LayerScores:
    """What one layer of one network is worth on a data set."""

    layer: str
    channels: int
    knn: Confusions
    """Sampled voxels, classified by nearest neighbours."""
    probe: Confusions
    """Sampled voxels, classified by a linear probe that expects equally frequent classes."""
    volume: Confusions
    """The same for a probe that expects the classes as frequent as they are; voxels count as many as they stand for."""
    logme: float
    h_score: float
    ccfv: CcFv

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layer": self.layer,
            "channels": self.channels,
            "knn": _plain(self.knn),
            "probe": _plain(self.probe),
            "probeOnVolumes": _plain(self.volume),
            "logme": self.logme,
            "hScore": self.h_score,
            "ccfv": self.ccfv.score,
            "classDistance": self.ccfv.class_distance,
            "featureVariety": self.ccfv.variety,
        }


@dataclass(frozen=True, eq=False)
class LayerComparison:
    """A layer of a pretrained network beside the same layer of networks with random weights."""

    pretrained: LayerScores
    random: tuple[LayerScores, ...]
    knn_gain: Interval
    """Of the Dice on sampled voxels, mean over the foreground classes; pretrained less random, over subjects."""
    probe_gain: Interval
    volume_gain: Interval

    @property
    def layer(self) -> str:
        return self.pretrained.layer

    def random_mean(self, score: Callable[[LayerScores], float]) -> float:
        """Mean of a score over the random networks."""
        return float(np.mean([score(one) for one in self.random]))

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layer": self.layer,
            "pretrained": self.pretrained.to_plain(),
            "random": [one.to_plain() for one in self.random],
            "gain": {
                "knnDice": self.knn_gain.to_plain(),
                "probeDice": self.probe_gain.to_plain(),
                "probeDiceOnVolumes": self.volume_gain.to_plain(),
            },
        }


def score_layer(bank: Bank, network: str, layer: str) -> LayerScores:
    """Compute all scores of a layer; the same bank gives the same numbers."""
    features = bank.features[network][layer]
    knn, balanced, volume = [], [], []
    for fold in bank.folds():
        learnt, asked = bank.rows_of(fold.learning), bank.rows_of(fold.testing)
        votes = vote(features[learnt], bank.labels[learnt], features[asked], bank.classes)
        probe = fit_probe(features[learnt], bank.labels[learnt], bank.classes)
        knn.append((asked, votes.argmax(dim=1)))
        balanced.append((asked, probe.log_probabilities(features[asked]).argmax(dim=1)))
        frequencies = bank.frequencies(fold.learning)
        volume.append((asked, probe.log_probabilities(features[asked], frequencies).argmax(dim=1)))
    return LayerScores(
        layer=layer,
        channels=features.shape[1],
        knn=_confusions(bank, knn),
        probe=_confusions(bank, balanced),
        volume=_confusions(bank, volume, bank.stands_for),
        logme=logme(features, bank.labels, bank.classes),
        h_score=h_score(features, bank.labels),
        ccfv=ccfv(list(bank.by_subject(features)), list(bank.by_subject(bank.labels)), bank.classes),
    )


def seconds_per_layer(voxels: int, channels: int, classes: int, subjects: int) -> float:
    """Measure a linear probe on made-up features, and scale it to all that `score_layer` fits; a rough number."""
    rows = min(voxels, _MEASURED_VOXELS)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((rows, channels), generator=generator)
    labels = torch.arange(rows) % classes
    features[torch.arange(rows), labels % channels] += 2  # so that there is something to learn
    started = time.perf_counter()
    fit_probe(features, labels, classes)
    return (time.perf_counter() - started) * voxels / rows * min(subjects, MOST_FOLDS)


def compare_layer(pretrained: LayerScores, random: Sequence[LayerScores], seed: int) -> LayerComparison:
    """Compare a layer with the same layer of random networks, subject by subject.

    Args:
        pretrained: scores of the layer.
        random: of the same layer of networks with random weights, at least one.
        seed: of the bootstrap.
    """

    def gain(of: Callable[[LayerScores], Confusions]) -> Interval:
        baseline = np.mean([of(one).foreground_dice() for one in random], axis=0)
        return interval(of(pretrained).foreground_dice() - baseline, seed)

    return LayerComparison(
        pretrained=pretrained,
        random=tuple(random),
        knn_gain=gain(lambda scores: scores.knn),
        probe_gain=gain(lambda scores: scores.probe),
        volume_gain=gain(lambda scores: scores.volume),
    )


def _confusions(bank: Bank, predictions: Sequence[tuple[Tensor, Tensor]], weights: Tensor | None = None) -> Confusions:
    """Put the predictions of all folds, rows and classes of each, together."""
    predicted = torch.empty_like(bank.labels)
    for rows, classes in predictions:
        predicted[rows] = classes
    return Confusions.of(predicted, bank.labels, bank.subject_of, bank.subjects, bank.classes, weights)


def _plain(confusions: Confusions) -> dict[str, Any]:
    subjects = confusions.subjects
    return {
        "dice": dict(zip(subjects, confusions.foreground_dice().tolist(), strict=True)),
        "balancedAccuracy": dict(zip(subjects, confusions.balanced_accuracy().tolist(), strict=True)),
        "classes": confusions.per_class(),
    }
