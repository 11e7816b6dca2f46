"""What a comparison of initialisations shows: gains, the share of feature reuse, intervals and a verdict.

Measures of Matsoukas et al., "What Makes Transfer Learning Work for Medical Images: Feature Reuse & Other Factors"
(CVPR 2022): relative gain WT / RI, and (WT - ST) / WT, the share of the performance that statistics of the weights do
not explain. The paper takes means over five runs; here everything has an interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deepmedic.analysis.scores import Interval, expanded_tail
from deepmedic.data.randomness import stream
from deepmedic.words import counted

Verdict = Literal["helps", "no evidence", "hurts"]

FLOOR = 0.05
"""Dice below which it is no divisor: a ratio to next to nothing says nothing."""
_REPEATS = 2000
_FEWEST = 2
"""Seeds, and subjects, that an interval over both needs."""


@dataclass(frozen=True)
class RunScores:
    """One run, scored on cases that it was not trained on."""

    model: str
    source: str | None
    """None: nothing was transferred."""
    initialisation: str
    cases: int
    """Subjects that it was trained on."""
    seed: int
    dice: Mapping[str, float]
    """Subject -> mean Dice of the classes but the background; nan where no class is in labels or segmentation."""


@dataclass(frozen=True)
class ArmResult:
    """One initialisation."""

    initialisation: str
    dice: Interval
    over_random: Interval | None
    """Its Dice less that of random initialisation, seed by seed and subject by subject; None without RI."""


@dataclass(frozen=True)
class SettingResult:
    """All initialisations with one architecture, source and number of training cases."""

    model: str
    source: str
    cases: int
    seeds: tuple[int, ...]
    subjects: tuple[str, ...]
    arms: tuple[ArmResult, ...]
    gain: Interval | None
    """WT - RI."""
    relative_gain: Interval | None
    """WT / RI; None: not compared, or undefined because RI is below `FLOOR`."""
    reuse: Interval | None
    """(WT - ST) / WT; None: not compared, or undefined because WT is below `FLOOR`."""
    verdict: Verdict
    reason: str

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "source": self.source,
            "trainingCases": self.cases,
            "seeds": list(self.seeds),
            "subjects": list(self.subjects),
            "arms": [
                {
                    "initialisation": arm.initialisation,
                    "dice": arm.dice.to_plain(),
                    "overRandom": _plain(arm.over_random),
                }
                for arm in self.arms
            ],
            "gain": _plain(self.gain),
            "relativeGain": _plain(self.relative_gain),
            "featureReuse": _plain(self.reuse),
            "verdict": self.verdict,
            "reason": self.reason,
        }


def compare(runs: Sequence[RunScores], smallest_gain: float) -> list[SettingResult]:
    """Compare the initialisations of every architecture, source and number of cases, in the order of the runs.

    Only seeds that all initialisations of a setting were trained with count, and subjects that all runs have.

    Args:
        runs: finished ones.
        smallest_gain: Dice below which a difference does not matter.
    """
    settings = dict.fromkeys((run.model, run.source, run.cases) for run in runs if run.source is not None)
    results = []
    for model, source, cases in settings:
        own = [run for run in runs if (run.model, run.cases) == (model, cases) and run.source in (source, None)]
        arms = {name: _of_arm(own, name) for name in dict.fromkeys(run.initialisation for run in own)}
        results.append(_setting((model, str(source), cases), arms, smallest_gain))
    return results


def largest_gain(settings: Sequence[SettingResult]) -> SettingResult:
    """Return the setting that transfer gains most in; one whose gain is not known or not defined only if all are so."""

    def gain(one: SettingResult) -> float:
        return -math.inf if one.gain is None or math.isnan(one.gain.mean) else one.gain.mean

    return max(settings, key=gain)


def _of_arm(runs: Sequence[RunScores], name: str) -> dict[int, Mapping[str, float]]:
    return {run.seed: run.dice for run in runs if run.initialisation == name}


def _setting(
    key: tuple[str, str, int], arms: Mapping[str, Mapping[int, Mapping[str, float]]], smallest_gain: float
) -> SettingResult:
    seeds = tuple(sorted(set.intersection(*(set(of_seeds) for of_seeds in arms.values()))))
    names = [set(dice) for of_seeds in arms.values() for seed, dice in of_seeds.items() if seed in seeds]
    subjects = tuple(sorted(set.intersection(*names))) if names else ()
    values = {
        name: np.array([[of_seeds[seed][subject] for subject in subjects] for seed in seeds], np.float64).reshape(
            len(seeds), len(subjects)
        )
        for name, of_seeds in arms.items()
    }
    draws = Draws.of(list(values.values()))
    wt, st, ri = (values.get(name) for name in ("WT", "ST", "RI"))
    gain = None if wt is None or ri is None else draws.difference(wt, ri)
    verdict, reason = judge(gain, smallest_gain, len(seeds), len(subjects))
    return SettingResult(
        *key,
        seeds=seeds,
        subjects=subjects,
        arms=tuple(
            ArmResult(name, draws.mean(own), None if ri is None or name == "RI" else draws.difference(own, ri))
            for name, own in values.items()
        ),
        gain=gain,
        relative_gain=None if wt is None or ri is None else draws.ratio(wt, ri),
        reuse=None if wt is None or st is None else draws.ratio(wt - st, wt),
        verdict=verdict,
        reason=reason,
    )


def judge(gain: Interval | None, smallest_gain: float, seeds: int, subjects: int) -> tuple[Verdict, str]:
    """Say in words what a gain shows, and why.

    Args:
        gain: WT - RI with its interval.
        smallest_gain: Dice below which a difference does not matter.
        seeds: how many there are.
        subjects: how many were scored.
    """
    if gain is None:
        return "no evidence", "WT and RI were not both trained"
    if seeds < _FEWEST or subjects < _FEWEST:
        found = f"{counted(seeds, 'seed')} and {counted(subjects, 'scored subject')}"
        return "no evidence", f"{found}; at least two of each are needed"
    if gain.low > 0 and gain.mean >= smallest_gain:
        return "helps", f"weights of the source give {gain} more Dice than random ones"
    if gain.high < 0 and -gain.mean >= smallest_gain:
        return "hurts", f"weights of the source change the Dice of random ones by {gain}"
    if max(abs(gain.low), abs(gain.high)) < smallest_gain:
        return "no evidence", f"the difference, {gain}, is smaller than {smallest_gain:g} for certain"
    if gain.low > 0 or gain.high < 0:
        return "no evidence", f"the difference, {gain}, is certain, but smaller than {smallest_gain:g}"
    return "no evidence", f"the difference, {gain}, can be neither shown nor ruled out; more seeds or cases would tell"


@dataclass(frozen=True, eq=False)
class Draws:
    """Bootstrap over seeds and subjects, which are crossed: every seed has a score of every subject.

    Seeds and subjects are each drawn with replacement and independently (the pigeonhole bootstrap: Owen, "The
    pigeonhole bootstrap", Annals of Applied Statistics 2007), the same for all initialisations, which makes it paired.
    Intervals are 95 % percentile intervals, expanded as Student's t demands for the smaller of both numbers (Hesterberg
    2015). With one seed or one subject they are infinite.
    """

    known: np.ndarray
    """bool [seed, subject]: defined for all initialisations."""
    seeds: np.ndarray
    """float64 [draw, seed]: how often each was drawn."""
    subjects: np.ndarray
    """float64 [draw, subject]."""

    @classmethod
    def of(cls, values: Sequence[np.ndarray]) -> Draws:
        """Draw for arms of these values, float64 [seed, subject]; equal sizes are drawn equally."""
        count = values[0].shape
        known = np.all([~np.isnan(one) for one in values], axis=0)
        return cls(known, _counts(count[0], "seeds"), _counts(count[1], "subjects"))

    def mean(self, values: np.ndarray) -> Interval:
        """Mean over seeds and subjects."""
        return self._interval(*self._means(values))

    def difference(self, one: np.ndarray, other: np.ndarray) -> Interval:
        """Mean of one less that of the other."""
        return self._interval(*self._means(one - other))

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray) -> Interval | None:
        """Mean of one divided by that of the other; None where the other is below `FLOOR`."""
        above, drawn_above = self._means(numerator)
        below, drawn_below = self._means(denominator)
        if math.isnan(below) or below < FLOOR:
            return None
        return self._interval(above / below, drawn_above / np.maximum(drawn_below, FLOOR))

    def _means(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean, and that of every draw: float64 [draw]; draws without anything defined are nan."""
        defined = self.known.astype(np.float64)
        filled = np.where(self.known, values, 0.0)
        sums = np.einsum("ds,su,du->d", self.seeds, filled, self.subjects)
        counts = np.einsum("ds,su,du->d", self.seeds, defined, self.subjects)
        drawn = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        return float(values[self.known].mean()) if self.known.any() else math.nan, drawn

    def _interval(self, mean: float, drawn: np.ndarray) -> Interval:
        fewest = min(int(self.known.any(axis=1).sum()), int(self.known.any(axis=0).sum()))
        if fewest < _FEWEST:
            return Interval(mean, -math.inf, math.inf) if fewest else Interval(mean, math.nan, math.nan)
        tail = expanded_tail(fewest)
        low, high = np.quantile(drawn[~np.isnan(drawn)], [tail, 1 - tail])
        return Interval(mean, float(low), float(high))


def _counts(number: int, what: str) -> np.ndarray:
    """How often each of `number` things is drawn, float64 [draw, thing]; equal numbers give equal draws."""
    draws = stream(0, "comparison", what, number).integers(max(number, 1), size=(_REPEATS, number))
    offsets = np.arange(_REPEATS)[:, np.newaxis] * number
    counts = np.bincount((draws + offsets).ravel(), minlength=_REPEATS * number)
    return counts.reshape(_REPEATS, number).astype(np.float64)


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.to_plain()
