"""Centred kernel alignment: how alike two layers represent the same voxels, whatever their channels are.

Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019), with a linear kernel; the
unbiased estimator of HSIC of Song et al., "Feature Selection via Dependence Maximization" (JMLR 2012), whose mean over
mini-batches is taken before dividing: Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?" (ICLR 2021).
The mean of the ratios of mini-batches, which other programs take, is biased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

BATCH = 256
"""Voxels of a mini-batch."""
FEWEST_ROWS = 4
_NEGLIGIBLE = 1e-12
"""Of the spread of features, relative to their size, below which they are constant but for rounding."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """CKA between representations."""

    values: np.ndarray
    """float64 [representation, representation]; nan where it is not defined."""
    reasons: Mapping[Any, str]
    """By representation, its number or its name, why it is not defined."""


def cka(features: Sequence[Tensor], batch: int = BATCH) -> Similarity:
    """Compare all representations with each other.

    Args:
        features: of each representation, float [row, channel]; rows are the same voxels, in an order without meaning.
        batch: rows of a mini-batch; a few more or less are taken so that all are of about one size.

    Raises:
        ValueError: representations of unequal numbers of rows.
    """
    rows = {len(one) for one in features}
    if len(rows) > 1:
        raise ValueError(f"the representations have {sorted(rows)} rows; CKA compares the same rows")
    count = rows.pop() if rows else 0
    if count < FEWEST_ROWS:
        nothing = np.full((len(features), len(features)), np.nan)
        reason = f"{count} voxels, of which at least {FEWEST_ROWS} are needed"
        return Similarity(nothing, dict.fromkeys(range(len(features)), reason))
    parts = max(1, min(round(count / batch), count // FEWEST_ROWS))
    # HSIC of a batch does not depend on where features lie; near 0, rounding is least.
    centred = [one.double() - one.double().mean(dim=0) for one in features]
    products = torch.zeros((len(features), len(features)), dtype=torch.float64)
    for places in torch.arange(count).tensor_split(parts):
        kernels = torch.stack([_centred_kernel(one[places]).flatten() for one in centred])
        products += (kernels @ kernels.T).cpu() / (len(places) * (len(places) - 3))
    constant = [number for number, one in enumerate(features) if _is_constant(one, centred[number])]
    norms = products.diagonal().sqrt()
    values = (products / (norms[:, None] * norms[None, :])).numpy()
    values[constant, :] = values[:, constant] = np.nan
    np.fill_diagonal(values, np.where(np.isnan(values.diagonal()), np.nan, 1.0))
    return Similarity(values, dict.fromkeys(constant, "the features are constant"))


def _is_constant(features: Tensor, centred: Tensor) -> bool:
    return float(centred.abs().max()) <= _NEGLIGIBLE * max(float(features.abs().max()), 1e-30)


def _centred_kernel(rows: Tensor) -> Tensor:
    """The linear kernel of rows [n, channel] without its diagonal, centred for the unbiased HSIC: [n, n]."""
    count = len(rows)
    kernel = rows @ rows.T
    kernel.fill_diagonal_(0)
    means = kernel.sum(dim=1) / (count - 2)
    means -= means.sum() / (2 * (count - 1))
    kernel -= means[:, None] + means[None, :]
    return kernel.fill_diagonal_(0)
