"""Bootstrap confidence intervals of means over cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
"""Of all intervals: the names of columns and keys (`ci95`) say it."""
_FEWEST_CASES = 2
"""With one case there is nothing to draw from."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: Efron's percentile bootstrap, cases drawn with replacement."""

    resamples: int = 2000
    seed: int = 0

    def to_plain(self) -> dict[str, Any]:
        """What a table should say of its intervals."""
        return {"method": "percentile bootstrap over cases", "level": LEVEL, **vars(self)}

    def intervals(self, values: np.ndarray) -> np.ndarray:
        """Intervals of the mean of each column.

        A resample's mean leaves out what is nan, as the mean itself does, and is infinite if one of its cases is.
        Resamples in which everything is nan do not count. All columns are drawn together, case by case, and equal
        numbers of cases are drawn equally, so that intervals of several tables can be compared.

        Args:
            values: float64 [case, column].

        Returns:
            float64 [column, 2]: lower and upper end; nan with fewer than two cases that are defined.
        """
        defined, infinite = ~np.isnan(values), np.isinf(values)
        finite = np.where(defined & ~infinite, values, 0.0)
        draws = self._draws(len(values))
        counts, sums = draws @ defined.astype(np.float64), draws @ finite
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(draws @ infinite.astype(np.float64) > 0, np.inf, sums / counts)
        enough = defined.sum(axis=0) >= _FEWEST_CASES
        ends = np.full((values.shape[1], 2), np.nan)
        for column in np.flatnonzero(enough):
            ends[column] = self._ends(means[:, column])
        return ends

    def _draws(self, cases: int) -> np.ndarray:
        """How often each resample has each case, float64 [resample, case]."""
        generator = np.random.Generator(np.random.PCG64(self.seed))
        chosen = generator.integers(0, max(cases, 1), (self.resamples, cases))
        offsets = np.arange(self.resamples)[:, np.newaxis] * cases
        counts = np.bincount((chosen + offsets).ravel(), minlength=self.resamples * cases)
        return counts.reshape(self.resamples, cases).astype(np.float64)

    def _ends(self, means: np.ndarray) -> tuple[float, float]:
        """The means between which at least `LEVEL` of all lie; none is made up between finite and infinite ones."""
        means = np.sort(means[~np.isnan(means)])
        tail = (1 - LEVEL) / 2 * (len(means) - 1)
        return float(means[math.floor(tail)]), float(means[len(means) - 1 - math.floor(tail)])
