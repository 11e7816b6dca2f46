"""Nearest neighbours at every layer of several networks: where the classes can be told apart, and since when.

Layer-wise kNN of Matsoukas et al. (CVPR 2022), on voxels: see `knn`. The row of `PENULTIMATE` is that of a network as a
whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepmedic.analysis.bank import Bank
from deepmedic.analysis.knn import vote
from deepmedic.analysis.scores import Confusions, Interval, interval


@dataclass(frozen=True)
class KnnRow:
    """One layer of one network: means over subjects with their intervals."""

    layer: str
    network: str
    dice: Interval
    """Mean over the foreground classes, of sampled voxels."""
    balanced_accuracy: Interval


def knn_confusions(bank: Bank, network: str, layer: str) -> Confusions:
    """Classify the voxels of each subject by their neighbours among those of subjects in other folds."""
    features = bank.features[network][layer]
    predicted = torch.empty_like(bank.labels)
    for fold in bank.folds():
        learnt, asked = bank.rows_of(fold.learning), bank.rows_of(fold.testing)
        predicted[asked] = vote(features[learnt], bank.labels[learnt], features[asked], bank.classes).argmax(dim=1)
    return Confusions.of(predicted, bank.labels, bank.subject_of, bank.subjects, bank.classes)


def layerwise_knn(bank: Bank, groups: Mapping[str, Sequence[str]], layers: Sequence[str], seed: int) -> list[KnnRow]:
    """Score every layer of every group of networks.

    Args:
        bank: features of all networks.
        groups: by title the names of networks whose scores are averaged, such as several with random weights.
        layers: in the order of the rows.
        seed: of the bootstrap.
    """
    rows = []
    for layer in layers:
        for title, names in groups.items():
            found = [knn_confusions(bank, name, layer) for name in names]
            dice = np.mean([one.foreground_dice() for one in found], axis=0)
            accuracy = np.mean([one.balanced_accuracy() for one in found], axis=0)
            rows.append(KnnRow(layer, title, interval(dice, seed), interval(accuracy, seed)))
    return rows
