"""Bootstrap intervals, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from deepmedic.bootstrap import LEVEL, Bootstrap
from deepmedic.inference import paper_table, tables
from deepmedic.metrics import confusion_matrix, merged_counts, metrics_row, scored_classes
from deepmedic.sessions.common.fold_table import FoldTable, Score


def interval(values: list[float], **settings) -> tuple[float, float]:
    low, high = Bootstrap(**settings).intervals(np.array(values, np.float64)[:, np.newaxis])[0]
    return float(low), float(high)


def test_intervals_are_near_those_of_scipy():
    values = np.random.default_rng(3).beta(8, 2, 40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert interval(values.tolist(), resamples=20000) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_intervals_repeat_and_depend_on_the_seed():
    values = np.random.default_rng(5).random(9).tolist()
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)


def test_two_cases_span_everything():
    """A quarter of the resamples has the first case twice, a quarter the second."""
    assert interval([0.2, 0.6]) == (0.2, 0.6)


def test_one_case_has_no_interval():
    assert all(map(math.isnan, interval([0.5])))
    assert all(map(math.isnan, interval([0.5, math.nan, math.nan])))


def test_undefined_cases_are_left_out_of_the_mean_of_a_resample():
    low, high = interval([0.4, math.nan, 0.6, math.nan])
    assert (low, high) == (0.4, 0.6)
    assert interval([math.nan] * 3) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_an_infinite_case_makes_the_upper_end_infinite_only():
    """One of 20: a third of the resamples does without it."""
    low, high = interval([*np.linspace(1, 2, 19), math.inf])
    assert 1 < low < 1.6
    assert high == math.inf
    assert interval([math.inf, math.inf]) == (math.inf, math.inf)


def test_columns_are_drawn_together():
    values = np.random.default_rng(2).random((12, 1))
    both = Bootstrap().intervals(np.hstack([values, 2 * values]))
    np.testing.assert_allclose(both[1], 2 * both[0])
    assert Bootstrap().intervals(np.zeros((3, 0))).shape == (0, 2)


def test_every_interval_has_the_level_that_titles_and_columns_name():
    with pytest.raises(TypeError, match="level"):
        Bootstrap(level=0.9)
    title, key = f"{LEVEL:.0%}".replace("%", " %"), f"ci{LEVEL * 100:g}"
    lines = FoldTable("s", "final", {1: ["a", "b"]}, [Score(1, name, name, "core", 0.5) for name in "ab"])
    assert f"{title} CI" in lines.to_text()
    matrix = confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    rows = [metrics_row("a", one, merged_counts(matrix, one.classes), 1.0) for one in scored_classes(2)]
    assert key in tables.summary(rows)[0]
    assert paper_table.heading([{"cases": 2}]).endswith(f"[{title} confidence interval]:")


def test_a_table_says_how_intervals_were_made():
    assert Bootstrap().to_plain() == {
        "method": "percentile bootstrap over cases",
        "level": 0.95,
        "resamples": 2000,
        "seed": 0,
    }
