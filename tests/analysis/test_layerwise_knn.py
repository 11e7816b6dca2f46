"""kNN at every layer: as in `-analyse`, perfect where features tell the classes, averaged over networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepmedic.analysis.bank import Bank
from deepmedic.analysis.layerwise_knn import layerwise_knn
from deepmedic.analysis.taps import PENULTIMATE
from deepmedic.analysis.transferability import score_layer


@pytest.fixture
def bank(two_clouds) -> Bank:
    """Two subjects; "told" tells the classes, the two "blind" networks know nothing."""
    apart, labels = two_clouds(16.0, 80)
    apart[:, 0] -= 8  # what counts is the direction from 0
    features = {
        "told": {"fc/1": apart, PENULTIMATE: 2 * apart},
        **{f"blind {n}": dict.fromkeys(("fc/1", PENULTIMATE), two_clouds(0.0, 80, seed=n)[0]) for n in (5, 6)},
    }
    return Bank(("a", "b"), torch.arange(80) // 40, labels, torch.ones(80, dtype=torch.float64), features, 2)


def test_rows_are_those_of_score_layer(bank) -> None:
    rows = layerwise_knn(bank, {"told": ["told"], "blind": ["blind 5", "blind 6"]}, ["fc/1", PENULTIMATE], 0)
    assert [(row.layer, row.network) for row in rows] == [
        ("fc/1", "told"),
        ("fc/1", "blind"),
        (PENULTIMATE, "told"),
        (PENULTIMATE, "blind"),
    ]
    assert rows[2].dice.mean == score_layer(bank, "told", PENULTIMATE).knn.foreground_dice().mean() == 1.0
    blind = [score_layer(bank, name, "fc/1").knn.foreground_dice() for name in ("blind 5", "blind 6")]
    assert rows[1].dice.mean == pytest.approx(np.mean(blind))
    assert rows[1].dice.mean < 0.8
