from collections.abc import Callable
from pathlib import Path

import pytest

from deepmedic.plots.canvas import curve_style
from deepmedic.plots.histories import SessionHistory
from deepmedic.plots.history_files import read_history
from deepmedic.plots.layouts import CurveSettings, Rows, one_session, overview, several_sessions
from deepmedic.training.history import History, Role


@pytest.fixture
def sessions(output: Path) -> list[SessionHistory]:
    return [read_history(output / "first"), read_history(output / "second")]


def titles(rows: Rows) -> list[list[str]]:
    return [[panel.title for panel in row] for row in rows]


def test_the_overview_is_validation_above_training_with_a_curve_per_session(sessions: list[SessionHistory]) -> None:
    rows = overview(sessions, CurveSettings())
    assert titles(rows) == [["Validation on samples"], ["Training on samples"]]
    roles: tuple[Role, Role] = ("validation", "training")
    for row, role in zip(rows, roles, strict=True):
        assert [line.curve for line in row[0].lines] == [one.on_samples(role, "accuracy") for one in sessions]
        assert [(line.colour, line.dashed) for line in row[0].lines] == [(curve_style(i)[0], False) for i in range(2)]


def test_one_session_has_all_metrics_with_a_colour_per_class(sessions: list[SessionHistory]) -> None:
    rows = one_session(sessions[0], [0, 2], CurveSettings())
    assert titles(rows) == [
        ["Cost of training", "Mean accuracy on samples", "Dice on samples", "Dice on whole volumes"],
        ["Learning rate", "Sensitivity on samples", "Precision on samples", "Specificity on samples"],
    ]
    dice, volumes, precision = rows[0][2], rows[0][3], rows[1][2]
    expected = [sessions[0].on_samples(role, "dice", c) for c in (0, 2) for role in ("training", "validation")]
    assert [line.curve for line in dice.lines] == expected
    assert [line.dashed for line in dice.lines] == [True, False, True, False]
    assert [line.colour for line in dice.lines] == [curve_style(i)[0] for i in (0, 0, 1, 1)]
    assert [line.curve for line in volumes.lines] == [sessions[0].on_volumes(0), sessions[0].on_volumes(2)]
    assert precision.lines[3].curve == sessions[0].on_samples("validation", "precision", 2)


def test_what_was_not_measured_has_no_panel(tmp_path: Path, make_history: Callable[..., History]) -> None:
    (tmp_path / "plain.metrics.csv").write_text(make_history(validation=False, volumes=False).csv())
    session = read_history(tmp_path / "plain.metrics.csv")
    settings = CurveSettings(dashed_training=False)
    assert titles(overview([session], settings)) == [["Training on samples"]]
    rows = one_session(session, [1], settings)
    assert "Dice on whole volumes" not in [title for row in titles(rows) for title in row]
    assert not any(line.dashed for row in rows for panel in row for line in panel.lines)


def test_several_sessions_have_a_row_per_class_with_a_colour_per_session(sessions: list[SessionHistory]) -> None:
    rows = several_sessions(sessions, [0, 1], CurveSettings())
    assert titles(rows)[0] == ["Cost of training", "Mean accuracy on samples", "Learning rate"]
    assert [row[0].label for row in rows[1:]] == ["whole foreground", "class 1"]
    assert [line.curve for line in rows[0][2].lines] == [one.learning_rate() for one in sessions]
    assert [line.curve for line in rows[2][1].lines] == [one.on_volumes(1) for one in sessions]
    sensitivity = rows[2][2]
    expected = [one.on_samples(role, "sensitivity", 1) for one in sessions for role in ("training", "validation")]
    assert [line.curve for line in sensitivity.lines] == expected
    assert [line.colour for line in sensitivity.lines] == [curve_style(i)[0] for i in (0, 0, 1, 1)]


def test_smoothing_is_for_samples_and_never_for_whole_volumes(sessions: list[SessionHistory]) -> None:
    rows = one_session(sessions[0], [1], CurveSettings(moving_average=3))
    dice, volumes, rate = rows[0][2], rows[0][3], rows[1][0]
    assert dice.lines[0].curve == sessions[0].on_samples("training", "dice", 1).smoothed(3)
    assert dice.lines[0].raw == sessions[0].on_samples("training", "dice", 1)
    assert (volumes.lines[0].curve, volumes.lines[0].raw) == (sessions[0].on_volumes(1), None)
    assert (rate.lines[0].curve, rate.lines[0].raw) == (sessions[0].learning_rate(), None)
