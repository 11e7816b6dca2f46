import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from deepmedic.plots import canvas
from deepmedic.plots.histories import Curve
from deepmedic.plots.history_files import read_history
from deepmedic.plots.panels import MOST_EPOCH_BORDERS, Extent, Panel, PhaseBorder, draw_panel, extent_of, line, panel

BLUE = ("#0072B2", "")


def drawn(shown: Panel, extent: Extent) -> Axes:
    with canvas.drawing():
        axes = canvas.new_figure(3, 2).add_subplot()
        draw_panel(axes, shown, extent)
    return axes


def borders(axes: Axes) -> list[float]:
    """Where upright lines stand."""
    upright = [points for points in map(points_of, axes.get_lines()) if [y for _, y in points] == [0, 1]]
    return [start[0] for start, end in upright if start[0] == end[0]]


def points_of(drawn_line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(drawn_line.get_xydata())]


def lines_along(axes: Axes, x: tuple[float, ...]) -> list[Line2D]:
    return [one for one in axes.get_lines() if tuple(place for place, _ in points_of(one)) == x]


def test_values_colours_and_dashes_are_drawn_as_they_are() -> None:
    curve = Curve((0.5, 1.5), (0.25, 0.75))
    axes = drawn(panel("Dice", [line(curve, BLUE, dashed=True), None], label="grey matter"), Extent(2))
    (shown,) = lines_along(axes, curve.x)
    assert points_of(shown) == [(0.5, 0.25), (1.5, 0.75)]
    assert to_hex(shown.get_color()).upper() == BLUE[0]
    assert shown.is_dashed()
    assert (axes.get_title(), axes.get_ylabel(), axes.get_xlim()) == ("Dice", "grey matter", (0, 2))


def test_a_smoothed_curve_has_its_raw_values_behind_it() -> None:
    curve = Curve((0.5, 1.5, 2.5), (0.2, 0.4, 0.9))
    axes = drawn(panel("Dice", [line(curve, BLUE, moving_average=3)]), Extent(3))
    raw, smooth = lines_along(axes, curve.x)
    assert [y for _, y in points_of(raw)] == [0.2, 0.4, 0.9]
    assert [y for _, y in points_of(smooth)] == pytest.approx([0.3, 0.5, 0.65])
    assert raw.get_zorder() < smooth.get_zorder()


def test_a_curve_without_a_defined_value_is_no_line() -> None:
    assert line(Curve((0.5,), (math.nan,)), BLUE) is None
    assert line(Curve((), ()), BLUE) is None


def test_borders_of_epochs_are_drawn_while_there_are_few() -> None:
    shown = panel("Dice", [line(Curve((0.5, 1.5), (0.2, 0.4)), BLUE)])
    assert borders(drawn(shown, Extent(4))) == [1, 2, 3, 4]
    assert borders(drawn(shown, Extent(MOST_EPOCH_BORDERS + 1))) == []


def test_borders_of_phases_are_drawn_and_named_however_many_epochs_there_are() -> None:
    shown = panel("Dice", [line(Curve((0.5, 1.5), (0.2, 0.4)), BLUE)])
    axes = drawn(shown, Extent(100, (PhaseBorder(60, "all layers"),)))
    assert borders(axes) == [60]
    assert [text.get_text() for text in axes.texts] == ["all layers"]


@pytest.mark.parametrize("values", [(0.0, 0.001), (0.998, 1.0), (0.0, 1.0), (0.5, 0.5)])
def test_axes_of_ratios_stay_near_0_to_1_and_do_not_magnify_noise(values: tuple[float, float]) -> None:
    low, high = drawn(panel("Dice", [line(Curve((0.5, 1.5), values), BLUE)]), Extent(2)).get_ylim()
    assert -0.011 <= low <= min(values)
    assert max(values) <= high <= 1.011
    assert high - low > 0.02


@pytest.mark.parametrize(("rates", "scale"), [((1e-3, 1e-5), "log"), ((1e-3, 5e-4), "linear"), ((1e-3, 0.0), "linear")])
def test_learning_rates_that_fall_far_are_drawn_logarithmically(rates: tuple[float, float], scale: str) -> None:
    axes = drawn(panel("Learning rate", [line(Curve((0, 1), rates), BLUE)], "rate"), Extent(1))
    assert axes.get_yscale() == scale


def test_phases_are_named_for_one_session_and_coloured_for_several(output: Path) -> None:
    path = output / "logs" / "first.metrics.csv"
    header, *rows = path.read_text().splitlines()
    phased = [f"{row},{'head' if row.startswith('0,') else 'all layers'}" for row in rows]
    path.write_text("\n".join([f"{header},phase", *phased]))
    first, second = read_history(output / "first"), read_history(output / "second")
    assert extent_of([first]).phase_borders == (PhaseBorder(1, "all layers"),)
    assert extent_of([second, first]).phase_borders == (PhaseBorder(1, "", canvas.COLOURS[1]),)


def test_the_extent_shows_the_longest_session(output: Path) -> None:
    first, second = read_history(output / "first"), read_history(output / "second")
    assert extent_of([second, first]) == Extent(3)
