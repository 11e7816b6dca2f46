"""Weighted k nearest neighbours of voxels by their features.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018): similarity is the
cosine, the k nearest features of a bank vote for their class with weight exp(similarity / temperature). Used per
layer to tell where features are reused by Matsoukas et al., "What Makes Transfer Learning Work for Medical Images"
(CVPR 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deepmedic.errors import DataError

MOST_NEIGHBOURS = 200
TEMPERATURE = 0.1
_SIMILARITIES = 1 << 24
"""Similarities held in memory at once."""


def default_neighbours(bank: int) -> int:
    """A tenth of the bank, at least 1 and at most 200."""
    return max(1, min(MOST_NEIGHBOURS, bank // 10))


def vote(bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, neighbours: int | None = None) -> Tensor:
    """Return the share of votes of each class, float32 [query, class].

    Args:
        bank: features of voxels whose labels count, [voxel, channel].
        bank_labels: int64 [voxel].
        queries: features of voxels of other subjects, [query, channel], on the same device.
        classes: the background included.
        neighbours: k; None: `default_neighbours`.

    Raises:
        DataError: there are fewer voxels in the bank than neighbours asked for.
    """
    k = default_neighbours(len(bank)) if neighbours is None else neighbours
    if not 1 <= k <= len(bank):
        raise DataError(
            f"{k} nearest neighbours were asked for, and the bank has {len(bank)} voxels; allowed are 1 to "
            f"{len(bank)}. List more cases, take more voxels of each, or ask for fewer neighbours."
        )
    known = functional.normalize(bank.float(), dim=1)
    votes = torch.zeros((len(queries), classes), device=queries.device)
    rows = max(1, _SIMILARITIES // len(bank))
    for first in range(0, len(queries), rows):
        part = functional.normalize(queries[first : first + rows].float(), dim=1)
        similarity, nearest = (part @ known.T).topk(k, dim=1)
        weights = torch.softmax(similarity / TEMPERATURE, dim=1)
        votes[first : first + rows].scatter_add_(1, bank_labels[nearest], weights)
    return votes
