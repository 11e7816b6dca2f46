"""Curves in pixels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmedic.report import charts
from deepmedic.report.charts import BOTTOM, LEFT, RIGHT, TOP, draw_chart, ticks
from deepmedic.report.content import Chart, Line

NAN = math.nan


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]), (0, 6, ["0", "2", "4", "6"]), (0.93, 0.99, None)],
    ids=["unit", "epochs", "narrow"],
)
def test_ticks_are_round(low: float, high: float, expected: list[str] | None) -> None:
    found = [text for _, text in ticks(low, high)]

    assert found == (expected or ["0.94", "0.96", "0.98"])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_inside_and_are_few(low: float, span: float) -> None:
    found = ticks(low, low + span)

    assert len(found) <= 7
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value, _ in found)


def test_a_curve_goes_from_corner_to_corner() -> None:
    chart = draw_chart(Chart("Dice", (Line("first", (0.0, 2.0), (0.0, 1.0)),), unit_range=True))

    assert chart is not None
    assert chart.lines[0].runs == (f"{float(LEFT)},{float(BOTTOM)} {float(RIGHT)},{float(TOP)}",)


def test_undefined_values_interrupt_a_curve_and_lone_ones_are_dots() -> None:
    chart = draw_chart(Chart("cost", (Line("first", (0.0, 1.0, 2.0, 3.0), (1.0, 2.0, NAN, 3.0)),)))

    assert chart is not None
    assert [len(run.split()) for run in chart.lines[0].runs] == [2]
    assert len(chart.lines[0].dots) == 1
    assert chart.values["lines"][0]["y"] == [1.0, 2.0, None, 3.0]


def test_a_chart_without_values_is_not_drawn() -> None:
    assert draw_chart(Chart("cost", (Line("first", (0.0, 1.0), (NAN, NAN)),))) is None
    assert draw_chart(Chart("cost", ())) is None


def test_a_constant_curve_has_room_around_it() -> None:
    chart = draw_chart(Chart("rate", (Line("first", (0.0, 1.0), (0.002, 0.002)),)))

    assert chart is not None
    y = float(chart.lines[0].runs[0].split()[0].split(",")[1])
    assert TOP < y < BOTTOM


def test_long_trainings_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "_MOST_POINTS", 10)
    values = tuple(float(number) for number in range(100))

    chart = draw_chart(Chart("cost", (Line("first", values, values),)))

    assert chart is not None
    assert chart.values["lines"][0]["x"] == [float(number) for number in range(0, 100, 10)]
