"""Curves of a training as the page draws them: polylines and ticks in pixels, and values for the pointer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepmedic.report.content import Chart, Line

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 470, 10, 222
COLOURS = 7
"""Colours of the style sheet; curves beyond them repeat."""
_MOST_POINTS = 1500
_TICKS = 5


@dataclass(frozen=True)
class Tick:
    """A number beside an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class DrawnLine:
    """One curve in pixels."""

    name: str
    colour: int
    dashed: bool
    runs: tuple[str, ...]
    """Points of each stretch without undefined values, as SVG writes them."""
    dots: tuple[tuple[float, float], ...]
    """Values that stand alone."""


@dataclass(frozen=True)
class DrawnChart:
    """One chart in pixels, y down, as SVG counts."""

    title: str
    lines: tuple[DrawnLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    values: dict[str, Any] = field(default_factory=dict)
    """For the script of the page."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def draw_chart(chart: Chart) -> DrawnChart | None:
    """Place the curves of a chart; None when none of their values is defined."""
    lines = [_thinned(line) for line in chart.lines]
    defined = [(x, y) for line in lines for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    if not defined:
        return None
    x0, x1 = 0.0, max(max(x for x, _ in defined), 1e-9)
    y0, y1 = _range([y for _, y in defined], chart.unit_range)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (RIGHT - LEFT)
        down = BOTTOM - (y - y0) / (y1 - y0) * (BOTTOM - TOP)
        return round(across, 2), round(down, 2)

    x_ticks = tuple(Tick(place(value, y0)[0], text) for value, text in ticks(x0, x1))
    y_ticks = tuple(Tick(place(x0, value)[1], text) for value, text in ticks(y0, y1))
    drawn = tuple(_drawn(line, place) for line in lines)
    return DrawnChart(chart.title, drawn, x_ticks, y_ticks, _values(lines, x0, x1))


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers from `low` to `high`, about five of them, as numbers and as text."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, f"{number * step:.6g}") for number in range(first, last + 1)]


def _range(values: Sequence[float], unit_range: bool) -> tuple[float, float]:
    """What the y axis spans: from 0 to 1 where the values fill that, else somewhat more than the values."""
    low, high = min(values), max(values)
    if unit_range and low < 0.5:
        return 0.0, 1.0
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin
    if unit_range:
        high = min(high, 1.0) if high - low > 1e-9 else high
    return (max(low, 0.0) if min(values) >= 0 else low), high


def _thinned(line: Line) -> Line:
    """At most so many points as can be told apart."""
    every = -(-len(line.x) // _MOST_POINTS)
    return Line(line.name, line.x[::every], line.y[::every], line.dashed, line.colour) if every > 1 else line


def _drawn(line: Line, place: Any) -> DrawnLine:
    runs = list(_runs(line))
    points = tuple(" ".join(f"{x},{y}" for x, y in (place(*point) for point in run)) for run in runs if len(run) > 1)
    dots = tuple(place(*run[0]) for run in runs if len(run) == 1)
    return DrawnLine(line.name, line.colour % COLOURS, line.dashed, points, dots)


def _runs(line: Line) -> Iterator[list[tuple[float, float]]]:
    """Stretches of defined values."""
    run: list[tuple[float, float]] = []
    for point in zip(line.x, line.y, strict=True):
        if math.isfinite(point[1]):
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _values(lines: Sequence[Line], x0: float, x1: float) -> dict[str, Any]:
    gaps = [after - before for line in lines for before, after in zip(line.x, line.x[1:], strict=False)]
    return {
        "x0": x0,
        "x1": x1,
        "left": LEFT,
        "right": RIGHT,
        "width": WIDTH,
        "reach": max(gaps, default=1.0) * 0.51,
        "lines": [
            {
                "name": line.name,
                "x": [round(x, 4) for x in line.x],
                "y": [float(f"{y:.5g}") if math.isfinite(y) else None for y in line.y],
            }
            for line in lines
        ],
    }
