"""Rates that are spaced, results that are compared, and the steepest descent of a ramp, by hand and by numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deepmedic.training.rate_search import Ramp, RateResult, highest_dice, lowest_cost, spaced_rates

DIVERGED = RateResult(0.1, math.inf, math.nan)


def test_rates_are_spaced_as_by_numpy() -> None:
    np.testing.assert_allclose(spaced_rates(-5, -1, 20), 10 ** np.linspace(-5, -1, 20), rtol=1e-12)


def test_best_by_cost_and_by_dice_need_not_agree() -> None:
    results = [RateResult(0.001, 0.5, 0.7), RateResult(0.01, 0.4, 0.6), DIVERGED]
    assert lowest_cost(results) == results[1]
    assert highest_dice(results) == results[0]


def test_of_equal_rates_the_lower_cost_and_then_the_lower_rate_counts() -> None:
    results = [RateResult(0.02, 0.4, 0.7), RateResult(0.01, 0.4, 0.7), RateResult(0.001, 0.5, 0.7)]
    assert lowest_cost(results) == results[1]
    assert highest_dice(results) == results[0]


def test_nothing_is_best_where_all_diverged() -> None:
    assert lowest_cost([DIVERGED]) is None
    assert highest_dice([DIVERGED]) is None


def test_costs_are_smoothed_by_an_average_without_bias() -> None:
    ramp = Ramp((0.1, 0.2, 0.3), (2.0, 1.0, 4.0))
    weights = 0.1 * 0.9 ** np.arange(3)
    expected = [2.0, (weights[0] * 1 + weights[1] * 2) / 0.19, (weights @ [4, 1, 2]) / (1 - 0.9**3)]
    np.testing.assert_allclose(ramp.smoothed, expected, rtol=1e-12)


def test_the_suggestion_is_the_steepest_descent_over_the_logarithm() -> None:
    rates = spaced_rates(-4, 0, 60)
    costs = tuple(1.0 / (1 + math.exp(20 * (math.log10(rate) + 2))) + 0.5 for rate in rates)
    ramp = Ramp(rates, costs)
    slopes = np.gradient(np.array(ramp.smoothed), np.log(rates))
    assert ramp.suggestion == rates[int(slopes[5:-1].argmin()) + 5]
    assert 0.01 <= ramp.suggestion <= 0.03  # the average lags a little behind the fall at 0.01


@pytest.mark.parametrize("costs", [(1.0,) * 20, tuple(map(float, range(20))), (1.0, math.inf)])
def test_a_cost_that_never_falls_gives_no_suggestion(costs) -> None:
    assert Ramp(spaced_rates(-4, 0, 20)[: len(costs)], costs).suggestion is None


def test_the_step_that_diverged_is_no_descent() -> None:
    rates = spaced_rates(-4, 0, 21)
    falling = tuple(2.0 - 0.05 * step for step in range(20))
    assert Ramp(rates, (*falling, math.inf)).suggestion == Ramp(rates[:20], falling).suggestion
