"""Pictures of a search for a learning rate: cost and Dice of every rate, and the cost while the rate rises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmedic.plots.canvas import COLOURS, drawing, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = (4.2, 3.2)


def draw_learning_rates(plain: Mapping[str, Any], path: Path) -> Path:
    """Draw the content of `lr_finder.json`; rates that diverged are left out.

    Raises:
        ResourceError: matplotlib is not installed, or the picture cannot be written.
    """
    grid, ramp = plain["grid"], plain["ramp"]
    panels = 2 * bool(grid) + bool(ramp)
    with drawing():
        figure = new_figure(_PANEL[0] * panels, _PANEL[1], layout="constrained")
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        if grid:
            rates = [row["learningRate"] for row in grid]
            _curve(axes[0], rates, [row["cost"] for row in grid], "validation cost", plain["lowestCost"])
            _curve(axes[1], rates, [row["dice"] for row in grid], "mean foreground Dice", plain["highestDice"])
        if ramp:
            last = axes[-1]
            last.plot(ramp["learningRates"], _numbers(ramp["costs"]), color="0.75", label="cost of each step")
            _curve(last, ramp["learningRates"], ramp["smoothed"], "training cost", ramp["suggestion"])
            last.set_title("rate rising with every step")
        return save_figure(figure, path)


def _curve(
    axes: Axes, rates: Sequence[float], values: Sequence[float | None], title: str, chosen: float | None
) -> None:
    axes.plot(rates, _numbers(values), color=COLOURS[0], marker="o" if len(rates) <= 50 else "")
    if chosen is not None:
        axes.axvline(chosen, color=COLOURS[1], linestyle="--", label=f"{chosen:.3g}")
        axes.legend()
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel(title)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
