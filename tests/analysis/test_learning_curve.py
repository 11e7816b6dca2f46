"""Learning curves: what is learnt from, and what they let expect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepmedic.analysis.bank import Bank
from deepmedic.analysis.learning_curve import CurvePoint, LearningCurve, learning_curve
from deepmedic.analysis.scores import Interval


def curve_of(*points: tuple[int, float], smallest_gain: float = 0.02) -> LearningCurve:
    return LearningCurve(tuple(CurvePoint(cases, Interval(dice, dice, dice)) for cases, dice in points), smallest_gain)


def bank_of(subjects: int, spread: float, seed: int = 0) -> Bank:
    """Two classes that differ along an axis, moved by another amount in every subject."""
    rng = np.random.default_rng(seed)
    labels = torch.arange(20).repeat(subjects) % 2
    features = torch.tensor(rng.normal(size=(20 * subjects, 12))).float()
    features[:, 0] += 3.0 * labels
    features += torch.tensor(spread * rng.normal(size=(subjects, 12))).float().repeat_interleave(20, dim=0)
    return Bank(
        subjects=tuple(f"subject{number}" for number in range(subjects)),
        subject_of=torch.arange(subjects).repeat_interleave(20),
        labels=labels,
        stands_for=torch.ones(20 * subjects, dtype=torch.float64),
        features={"net": {"layer": features}},
        classes=2,
    )


@given(start=st.floats(0.05, 0.9), exponent=st.floats(0.1, 1.5), cases=st.integers(4, 50))
def test_a_power_law_is_recognised(start, exponent, cases) -> None:
    def dice(number):
        return 1 - start * number**-exponent

    curve = curve_of((cases, dice(cases)), (2 * cases, dice(2 * cases)))
    assert curve.exponent == pytest.approx(exponent, rel=1e-6)
    assert curve.gain_of_doubling == pytest.approx(dice(4 * cases) - dice(2 * cases), rel=1e-6)
    if not curve.enough and curve.cases_needed < 10_000:
        needed = curve.cases_needed
        assert dice(2 * needed) - dice(needed) <= 0.02 + 1e-9
        assert dice(2 * needed - 2) - dice(needed - 1) >= 0.02 - 1e-9


def test_a_flat_curve_is_enough_and_one_point_says_nothing() -> None:
    assert curve_of((2, 0.8), (4, 0.8)).enough
    assert curve_of((2, 0.8), (4, 0.79)).cases_needed == 4
    assert curve_of((2, 0.8), (4, 1.0)).enough
    single = curve_of((3, 0.8))
    assert (single.exponent, single.enough, single.cases_needed) == (None, None, None)


def test_nothing_is_told_where_a_dice_is_not_defined() -> None:
    for points in ((2, math.nan), (4, 0.5)), ((2, 0.5), (4, math.nan)), ((2, math.nan), (4, math.nan)):
        curve = curve_of(*points)
        assert (curve.exponent, curve.gain_of_doubling, curve.enough, curve.cases_needed) == (None,) * 4


def test_data_with_background_alone_have_a_curve_that_says_nothing() -> None:
    bank = bank_of(4, 1.0)
    bank.labels[:] = 0
    curve = learning_curve(bank, ("net", "layer"), (0.5, 1.0), 0.02, seed=0)
    assert all(math.isnan(point.dice.mean) for point in curve.points)
    assert curve.to_plain()["casesNeeded"] is None


def test_a_curve_that_hardly_rises_needs_more_cases_than_a_float_can_hold() -> None:
    curve = curve_of((1, 0.5), (2, 0.501), smallest_gain=0.0001)
    assert curve.gain_of_doubling == pytest.approx(0.000998)
    assert curve.cases_needed == 10_000


def test_points_are_shares_of_the_cases_that_can_be_learnt_from() -> None:
    curve = learning_curve(bank_of(9, 1.0), ("net", "layer"), (0.25, 0.5, 0.75, 1.0), 0.02, seed=0)
    assert [point.cases for point in curve.points] == [2, 4, 5, 7]  # of 7, the fewest that a fold leaves
    few = learning_curve(bank_of(3, 1.0), ("net", "layer"), (0.25, 0.5, 0.75, 1.0), 0.02, seed=0)
    assert [point.cases for point in few.points] == [1, 2]


def test_more_subjects_help_where_subjects_differ() -> None:
    curve = learning_curve(bank_of(10, 1.5), ("net", "layer"), (0.1, 1.0), 0.02, seed=0)
    assert curve.points[0].dice.mean + 0.05 < curve.points[-1].dice.mean
    assert math.isfinite(curve.points[0].dice.low)


def test_depends_on_the_seed_alone() -> None:
    one, same, other = (
        learning_curve(bank_of(6, 1.5), ("net", "layer"), (0.2, 1.0), 0.02, seed=seed).to_plain() for seed in (1, 1, 2)
    )
    assert one == same != other
