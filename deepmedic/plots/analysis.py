"""The picture of an analysis of transfer: what layers are worth, how many cases help, how far the data are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmedic.metrics import mean_of_numbers
from deepmedic.plots.canvas import COLOURS, bar_length, drawing, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = (9.6, 6.2)
_PRETRAINED, _RANDOM = COLOURS[0], COLOURS[1]


def draw_analysis(plain: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw one picture per model, `layers[.<rank>].png`, and with several models their ranking.

    Args:
        plain: the content of `analysis.json`.
        folder: where the pictures are written.

    Returns:
        The pictures.

    Raises:
        ResourceError: matplotlib is not installed, or a picture cannot be written.
    """
    models = plain["models"]
    paths = []
    with drawing():
        for rank, model in enumerate(models, 1):
            figure = new_figure(*_INCHES, layout="constrained")
            axes = figure.subplots(2, 2)
            _layers(axes[0][0], model, "probe", "Dice of a linear probe")
            _layers(axes[0][1], model, "knn", "Dice of nearest neighbours")
            _curve(axes[1][0], model)
            _shift(axes[1][1], model)
            figure.suptitle(f"{model['model']}: {model['recommendation']['verdict']}", fontsize=10)
            paths.append(save_figure(figure, folder / (f"layers.{rank}.png" if len(models) > 1 else "layers.png")))
        if len(models) > 1:
            figure = new_figure(_INCHES[0], 1.2 + 0.35 * len(models), layout="constrained")
            _ranking(figure.subplots(), models)
            paths.append(save_figure(figure, folder / "ranking.png"))
    return paths


def _layers(axes: Axes, model: Mapping[str, Any], kind: str, title: str) -> None:
    """Means over subjects of every layer; dots are the single random networks."""
    names = [layer["layer"] for layer in model["layers"]]
    own = [mean_of_numbers(layer["pretrained"][kind]["dice"].values()) for layer in model["layers"]]
    random = [[mean_of_numbers(one[kind]["dice"].values()) for one in layer["random"]] for layer in model["layers"]]
    places = range(len(names))
    for number, part in enumerate(_pathways(names)):
        labels = ("pretrained", "random weights") if number == 0 else (None, None)
        means = [mean_of_numbers(values) for values in random[part]]
        axes.plot(places[part], own[part], color=_PRETRAINED, marker="o", label=labels[0])
        axes.plot(places[part], means, color=_RANDOM, marker="s", label=labels[1])
    for place, values in enumerate(random):
        axes.plot([place] * len(values), values, ".", color=_RANDOM, alpha=0.5)
    axes.set_xticks(list(places), names, rotation=60, ha="right")
    axes.set_ylim(0, 1)
    axes.set_title(f"{title}, other subjects")
    axes.legend(loc="lower right")


def _pathways(names: Sequence[str]) -> list[slice]:
    """The parts of a list of layers that belong to one pathway; what follows "fc" belongs to it."""
    kinds = ["fc" if "/" not in name else name.partition("/")[0] for name in names]
    starts = [place for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(names)], strict=True)]


def _curve(axes: Axes, model: Mapping[str, Any]) -> None:
    points = model["learningCurve"]["points"]
    cases, means = [point["cases"] for point in points], [point["dice"]["mean"] for point in points]
    limits = [
        [bar_length(point["dice"]["mean"] - point["dice"]["low"]) for point in points],
        [bar_length(point["dice"]["high"] - point["dice"]["mean"]) for point in points],
    ]
    axes.errorbar(cases, means, yerr=limits, color=_PRETRAINED, marker="o", capsize=3)
    axes.set_xticks(cases)
    axes.set_ylim(0, 1)
    axes.set_xlabel("labelled cases to learn from")
    axes.set_title(f"Linear probe on {model['evidence']['bestLayer']}")


def _shift(axes: Axes, model: Mapping[str, Any]) -> None:
    """Bars of the distances of features, of what is known of each layer."""
    features = model["domainShift"]["features"]
    kinds = (("stored", "batch norm's statistics", COLOURS[2]), ("measured", "source cases", COLOURS[4]))
    shown = [kind for kind in kinds if any(one[kind[0]] is not None for one in features)]
    for number, (key, label, colour) in enumerate(shown):
        known = [(place, one[key]) for place, one in enumerate(features) if one[key] is not None]
        places = [place + 0.4 * (number - (len(shown) - 1) / 2) for place, _ in known]
        axes.bar(places, [bar_length(value) for _, value in known], width=0.4, color=colour, label=label)
    axes.set_xticks(range(len(features)), [one["layer"] for one in features], rotation=60, ha="right")
    axes.set_title("Distance of features to those of the source (relative Frechet)")
    if features:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "not known for this model", ha="center", va="center", transform=axes.transAxes)


def _ranking(axes: Axes, models: Sequence[Mapping[str, Any]]) -> None:
    """Gain of the best layer over random networks, with its interval, the best model on top."""
    for place, model in enumerate(reversed(models)):
        gain = model["evidence"]["gain"]
        ends = [[bar_length(gain["mean"] - gain["low"])], [bar_length(gain["high"] - gain["mean"])]]
        axes.errorbar([gain["mean"]], [place], xerr=ends, color=_PRETRAINED, marker="o", capsize=3)
    axes.set_yticks(range(len(models)), [model["model"] for model in reversed(models)])
    axes.axvline(0, color="0.6", linewidth=0.7)
    axes.set_xlabel("gain in Dice of the best layer over random networks")
