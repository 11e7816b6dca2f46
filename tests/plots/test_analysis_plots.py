"""The picture of an analysis; that it is written at all is tested with the command."""

from __future__ import annotations

import math

from deepmedic.plots import analysis
from deepmedic.plots.canvas import drawing, new_figure


def test_curves_do_not_lead_from_one_pathway_to_another() -> None:
    names = ["normal/1", "normal/2", "subsampled1/1", "fc/1", "penultimate"]
    assert [names[part] for part in analysis._pathways(names)] == [names[:2], names[2:3], names[3:]]
    scores = {"dice": {"a": 0.5, "b": math.nan}}
    layers = [{"layer": name, "pretrained": {"probe": scores}, "random": [{"probe": scores}] * 2} for name in names]
    with drawing():
        axes = new_figure(4, 3).subplots()
        analysis._layers(axes, {"layers": layers}, "probe", "Dice")
        lines = [list(line.get_xdata()) for line in axes.get_lines() if line.get_linestyle() == "-"]
        assert lines == [[0, 1], [0, 1], [2], [2], [3, 4], [3, 4]]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["pretrained", "random weights"]
        assert set(axes.get_lines()[0].get_ydata()) == {0.5}


def test_intervals_without_end_and_unknown_distances_are_drawn() -> None:
    points = [{"cases": 1, "dice": {"mean": 0.5, "low": -math.inf, "high": math.inf}}]
    model = {"learningCurve": {"points": points}, "evidence": {"bestLayer": "fc/1"}, "domainShift": {"features": []}}
    with drawing():
        curve, shift = new_figure(4, 3).subplots(1, 2)
        analysis._curve(curve, model)
        analysis._shift(shift, model)
        assert curve.get_title() == "Linear probe on fc/1"
        assert [text.get_text() for text in shift.texts] == ["not known for this model"]
