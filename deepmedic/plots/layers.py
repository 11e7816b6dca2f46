"""Pictures of what training did to the layers of a model: distances, importance, neighbours, similarity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmedic.plots.canvas import COLOURS, drawing, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_INCHES = (9.6, 3.4)


def draw_layers(plain: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the content of `layers.json`: `layers.png`, and `cka.png` with a heat map per pair of networks.

    Returns:
        The pictures.

    Raises:
        ResourceError: matplotlib is not installed, or a picture cannot be written.
    """
    with drawing():
        figure = new_figure(*_INCHES, layout="constrained")
        axes = figure.subplots(1, 3)
        _distances(axes[0], plain["weightDistance"])
        _importance(axes[1], [one for one in plain["importance"] if one["kind"] == "layer"])
        _knn(axes[2], plain["layers"], plain["knn"])
        pictures = [save_figure(figure, folder / "layers.png")]
        maps = plain["cka"]
        figure = new_figure(3.4 * len(maps), 3.6, layout="constrained")
        places = list(figure.subplots(1, len(maps), squeeze=False)[0])
        for place, (name, found) in zip(places, maps.items(), strict=True):
            shades = _heat_map(place, name, found["values"], plain["layers"])
        figure.colorbar(shades, ax=places, shrink=0.8)
        pictures.append(save_figure(figure, folder / "cka.png"))
    return pictures


def _distances(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    axes.bar(range(len(rows)), _numbers([row["weights"]["relative"] for row in rows]), color=COLOURS[0])
    axes.set_title("distance from the start, relative")
    _name_layers(axes, [row["layer"] for row in rows])


def _importance(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    axes.bar([place - 0.2 for place in places], _numbers([row["criticality"] for row in rows]), 0.4,
             color=COLOURS[0], label="as at the start")  # fmt: skip
    errors = [value or 0.0 for value in (row["randomDropDeviation"] for row in rows)]
    axes.bar([place + 0.2 for place in places], _numbers([row["randomDrop"] for row in rows]), 0.4,
             yerr=errors, color=COLOURS[1], label="drawn anew")  # fmt: skip
    axes.set_title("drop in Dice when replaced")
    axes.legend()
    _name_layers(axes, [row["unit"] for row in rows])


def _knn(axes: Axes, layers: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    for colour, network in zip(COLOURS, dict.fromkeys(row["network"] for row in rows), strict=False):
        means = [row["dice"]["mean"] for row in rows if row["network"] == network]
        axes.plot(range(len(layers)), _numbers(means), color=colour, marker="o", label=network)
    axes.set_ylim(0, 1)
    axes.set_title("Dice of nearest neighbours")
    axes.legend()
    _name_layers(axes, layers)


def _heat_map(axes: Axes, name: str, values: Sequence[Sequence[float | None]], layers: Sequence[str]) -> AxesImage:
    rows, columns = name.split("-")
    shades = axes.imshow([_numbers(row) for row in values], vmin=0, vmax=1, cmap="viridis")
    axes.set_title(f"CKA: {rows} (down), {columns} (across)")
    axes.set_yticks(range(len(layers)), layers)
    _name_layers(axes, layers)
    return shades


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right")


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
