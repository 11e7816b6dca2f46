"""The picture of a comparison."""

from __future__ import annotations

import math

import matplotlib.figure
import pytest

from deepmedic.plots.comparison import draw_comparison


def setting(cases, gain, reuse=0.2, source="A", high=0.1):
    interval = None if gain is None else {"mean": gain, "low": gain - 0.1, "high": gain + high}
    return {
        "model": "net",
        "source": source,
        "trainingCases": cases,
        "relativeGain": interval,
        "featureReuse": None if reuse is None else {"mean": reuse, "low": reuse, "high": reuse},
    }


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    kept = []
    save = matplotlib.figure.Figure.savefig

    def savefig(self, *words, **more):
        kept.append(self)
        save(self, *words, **more)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return kept


def test_gain_against_the_number_of_cases_and_the_distance(tmp_path, figures) -> None:
    settings = [setting(2, 1.8), setting(8, 1.1, reuse=None), setting(8, 0.9, -0.1, source="B", high=math.inf)]
    path = draw_comparison(settings, {"A": 0.3, "B": 1.2}, tmp_path / "comparison.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    sizes, distances = figures[0].axes[:2]
    assert sizes.get_xscale() == "log"
    assert [label.get_text() for label in sizes.get_xticklabels()] == ["2", "8"]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in distances.lines if line.get_marker() in "os"]
    assert points == [(0.3, 1.8), (0.3, 1.1), (1.2, 0.9)]
    assert [text.get_text() for text in sizes.get_legend().get_texts()] == ["net from A", "net from B"]
    again = draw_comparison(settings, {"A": 0.3, "B": 1.2}, tmp_path / "again.png")
    assert again.read_bytes() == path.read_bytes()


def test_without_distances_there_is_one_panel_and_undefined_gains_are_left_out(tmp_path, figures) -> None:
    draw_comparison([setting(2, 1.8, None), setting(4, None)], {}, tmp_path / "comparison.png")
    assert len(figures[0].axes) == 1  # no scale of colours either
    assert draw_comparison([setting(4, None)], {}, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()
