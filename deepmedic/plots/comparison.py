"""The picture of a comparison: gain of a transfer against the size and the distance of the data, coloured by reuse.

After the figures of Matsoukas et al., "What Makes Transfer Learning Work for Medical Images: Feature Reuse & Other
Factors" (CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmedic.plots.canvas import bar_length, drawing, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MAP = "viridis"
_UNKNOWN = "0.6"
"""Grey: feature reuse is not known."""


def draw_comparison(settings: Sequence[Mapping[str, Any]], distances: Mapping[str, float], path: Path) -> Path | None:
    """Draw relative gain against the number of training cases, and against the distance of the data where it is known.

    Args:
        settings: as in `comparison.json`.
        distances: source -> distance of the new images from its own.
        path: where the picture is written.

    Returns:
        The picture; None if no relative gain is defined.

    Raises:
        ResourceError: matplotlib is not installed, or the picture cannot be written.
    """
    shown = [setting for setting in settings if setting["relativeGain"] is not None]
    if not shown:
        return None
    with drawing():
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        far = [setting for setting in shown if setting["source"] in distances]
        figure = new_figure(4.6 + 3.6 * bool(far), 3.4, layout="constrained")
        panels = figure.subplots(1, 1 + bool(far), squeeze=False)[0]
        reuse = [abs(setting["featureReuse"]["mean"]) for setting in shown if setting["featureReuse"] is not None]
        limit = max([*reuse, 0.05])
        colours = ScalarMappable(Normalize(-limit, limit), _MAP)
        _panel(panels[0], shown, [setting["trainingCases"] for setting in shown], colours)
        panels[0].set_xlabel("subjects to train on")
        panels[0].set_ylabel("relative gain, Dice of WT / Dice of RI")
        sizes = sorted({setting["trainingCases"] for setting in shown})
        if len(sizes) > 1:
            panels[0].set_xscale("log")
        panels[0].set_xticks(sizes, list(map(str, sizes)))
        panels[0].minorticks_off()
        if far:
            _panel(panels[1], far, [distances[setting["source"]] for setting in far], colours)
            panels[1].set_xlabel("distance of the new images from the source's")
        if reuse:
            figure.colorbar(colours, ax=list(panels), label="feature reuse, (WT - ST) / WT")
        return save_figure(figure, path)


def _panel(axes: Axes, settings: Sequence[Mapping[str, Any]], places: Sequence[float], colours: ScalarMappable) -> None:
    """Points with their intervals; a mark for each pair of architecture and source."""
    pairs = list(dict.fromkeys((setting["model"], setting["source"]) for setting in settings))
    named: set[tuple[str, str]] = set()
    for setting, place in zip(settings, places, strict=True):
        pair, gain, reuse = (setting["model"], setting["source"]), setting["relativeGain"], setting["featureReuse"]
        colour = _UNKNOWN if reuse is None else colours.to_rgba(reuse["mean"])
        ends = [[bar_length(gain["mean"] - gain["low"])], [bar_length(gain["high"] - gain["mean"])]]
        axes.errorbar(
            [place],
            [gain["mean"]],
            yerr=ends,
            color=colour,
            ecolor="0.7",
            marker=_MARKERS[pairs.index(pair) % len(_MARKERS)],
            markersize=6,
            capsize=3,
            linestyle="none",
            label=None if pair in named else f"{pair[0]} from {pair[1]}",
        )
        named.add(pair)
    axes.axhline(1, color="0.6", linewidth=0.7)
    axes.legend()
