"""One panel of curves over the epochs of training, and the curves that panels are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deepmedic.plots.canvas import curve_style
from deepmedic.plots.histories import Curve, SessionHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_EPOCH_BORDERS = 40
"""With more epochs their borders would be a grey area."""

_FEW_POINTS = 40
"""Curves of fewer points show each of them, so that single ones can be seen."""
_SMALLEST_RANGE = 0.05
"""Of an axis of ratios: keeps noise from filling the panel."""
_LOGARITHMIC_FROM = 20.0
"""A learning rate that falls by more than this factor is drawn on a logarithmic axis."""

Kind = Literal["ratio", "cost", "rate"]
Style = tuple[str, str]
"""Colour and marker."""
DASHES = (0, (3.0, 1.5))


@dataclass(frozen=True)
class Line:
    """A curve with how it looks."""

    curve: Curve
    colour: str
    marker: str = ""
    dashed: bool = False
    raw: Curve | None = None
    """The values before smoothing, shown faintly behind."""


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows."""

    title: str
    lines: tuple[Line, ...]
    kind: Kind = "ratio"
    label: str = ""
    """Of the vertical axis."""


@dataclass(frozen=True)
class PhaseBorder:
    """Where a further phase of a training begins."""

    epoch: int
    name: str = ""
    colour: str = "0.35"


@dataclass(frozen=True)
class Extent:
    """What all panels of a figure have in common along the horizontal axis."""

    epochs: int
    phase_borders: tuple[PhaseBorder, ...] = ()


def extent_of(histories: Sequence[SessionHistory]) -> Extent:
    """Return the extent that shows all sessions; phases of several are marked in the sessions' colours, not named."""
    epochs = max(history.epochs for history in histories)
    if len(histories) == 1:
        return Extent(epochs, tuple(PhaseBorder(epoch, name) for epoch, name in histories[0].phase_borders()))
    borders = [
        PhaseBorder(epoch, colour=curve_style(index)[0])
        for index, history in enumerate(histories)
        for epoch, _ in history.phase_borders()
    ]
    return Extent(epochs, tuple(borders))


def line(curve: Curve, style: Style, *, dashed: bool = False, moving_average: int = 1) -> Line | None:
    """Return a curve as a line, smoothed over `moving_average` values; None where nothing of it is defined."""
    if curve.is_empty:
        return None
    colour, marker = style
    if moving_average == 1:
        return Line(curve, colour, marker, dashed)
    return Line(curve.smoothed(moving_average), colour, marker, dashed, raw=curve)


def panel(title: str, lines: Sequence[Line | None], kind: Kind = "ratio", label: str = "") -> Panel:
    """Return a panel with the lines that there are."""
    return Panel(title, tuple(one for one in lines if one is not None), kind, label)


def draw_panel(axes: Axes, shown: Panel, extent: Extent) -> None:
    """Draw the curves of a panel, with the borders of epochs and phases behind them."""
    _draw_borders(axes, extent, is_rising=shown.kind != "cost")
    for one in shown.lines:
        if shown.kind == "rate":
            axes.step(one.curve.x, one.curve.y, where="post", color=one.colour)
            continue
        if one.raw is not None:
            axes.plot(one.raw.x, one.raw.y, color=one.colour, alpha=0.25, linewidth=0.7, zorder=2)
        _draw_line(axes, one)
    axes.set_title(shown.title)
    axes.set_ylabel(shown.label, fontsize=9)
    axes.set_xlim(0, extent.epochs)
    axes.margins(y=0.06)
    _scale(axes, shown)


def _draw_line(axes: Axes, one: Line) -> None:
    points = len(one.curve.y)
    marker = one.marker or ("." if points <= _FEW_POINTS else "")
    axes.plot(
        one.curve.x,
        one.curve.y,
        color=one.colour,
        linestyle=DASHES if one.dashed else "-",
        linewidth=1.0 if one.dashed else None,
        marker=marker,
        markevery=max(1, points // _FEW_POINTS),
        zorder=2.5 if one.dashed else 3,
        clip_on=False,  # half of a mark at the first and the last epoch lies outside the axes
    )


def _draw_borders(axes: Axes, extent: Extent, *, is_rising: bool) -> None:
    """Draw what lies behind the curves; names of phases stand below curves that rise, above others."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=2))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    if extent.epochs <= MOST_EPOCH_BORDERS:
        for epoch in range(1, extent.epochs + 1):
            axes.axvline(epoch, color="0.88", linewidth=0.6, zorder=0)
    for border in extent.phase_borders:
        axes.axvline(border.epoch, color=border.colour, linewidth=1.0, linestyle=":", zorder=1)
        axes.annotate(
            border.name,
            (border.epoch, 0 if is_rising else 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, 3 if is_rising else -3),
            textcoords="offset points",
            va="bottom" if is_rising else "top",
            rotation=90,
            fontsize=6.5,
            color=border.colour,
        )


def _scale(axes: Axes, shown: Panel) -> None:
    """Choose the range of the vertical axis: ratios end at 0 and 1, and small rates are shown by their exponents."""
    values = [value for one in shown.lines for value in one.curve.y if not math.isnan(value)]
    if shown.kind == "ratio":
        low, high = axes.get_ylim()
        spare = max(0.0, _SMALLEST_RANGE - (high - low)) / 2
        axes.set_ylim(max(low - spare, -0.01), min(high + spare, 1.01))
    elif shown.kind == "rate" and min(values) > 0 and max(values) / min(values) >= _LOGARITHMIC_FROM:
        axes.set_yscale("log")
    elif shown.kind == "rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
