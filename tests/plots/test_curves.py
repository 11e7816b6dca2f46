from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from deepmedic.errors import CommandLineError, DataError
from deepmedic.plots import canvas
from deepmedic.plots.curves import PlotRequest, plot_sessions
from deepmedic.training.history import History


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    save = canvas.save_figure

    def keep(figure: Figure, path: Path) -> Path:
        saved.append(figure)
        return save(figure, path)

    monkeypatch.setattr(canvas, "save_figure", keep)
    return saved


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_the_overview_names_its_sessions(output: Path, figures: list[Figure]) -> None:
    request = PlotRequest((output / "first", output / "second"), output / "sessions.png")
    assert plot_sessions(request) == output / "sessions.png"
    assert (output / "sessions.png").read_bytes().startswith(b"\x89PNG")
    assert titles(figures[0]) == ["Validation on samples", "Training on samples"]
    assert legend(figures[0]) == ["first", "second"]
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["", "epochs of training"]


def test_details_of_one_session_name_its_classes_and_roles(output: Path, figures: list[Figure]) -> None:
    plot_sessions(PlotRequest((output / "first",), output / "detail.png", detailed=True))
    assert len(titles(figures[0])) == 8
    assert legend(figures[0]) == ["whole foreground", "class 1", "class 2", "training", "validation"]
    assert figures[0].get_suptitle() == "Session first"


def test_details_of_several_sessions_have_a_row_per_chosen_class(output: Path, figures: list[Figure]) -> None:
    request = PlotRequest((output / "first", output / "second"), output / "d.png", detailed=True, classes=(2, 0))
    plot_sessions(request)
    assert len(titles(figures[0])) == 3 + 2 * 5
    assert [axes.get_ylabel() for axes in figures[0].axes if axes.get_ylabel()] == ["class 2", "whole foreground"]
    assert legend(figures[0]) == ["first", "second", "training", "validation"]


def test_smoothing_is_said_in_the_picture(output: Path, figures: list[Figure]) -> None:
    plot_sessions(PlotRequest((output / "first",), output / "smooth.png", moving_average=4))
    assert "means over 4 subepochs" in figures[0].legends[0].get_title().get_text()


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_equal_histories_give_equal_bytes(output: Path, ending: str) -> None:
    first, second = (
        plot_sessions(PlotRequest((output / "first", output / "second"), output / f"{number}.{ending}"))
        for number in range(2)
    )
    assert first.read_bytes() == second.read_bytes()


def test_two_classes_are_drawn_once_since_the_foreground_is_the_class(
    tmp_path: Path, make_history: Callable[..., History], figures: list[Figure]
) -> None:
    (tmp_path / "lesion.metrics.csv").write_text(make_history(classes=2).csv())
    plot_sessions(PlotRequest((tmp_path / "lesion.metrics.csv",), tmp_path / "l.png", detailed=True))
    assert legend(figures[0]) == ["class 1", "training", "validation"]


def test_very_many_classes_are_drawn_as_one_foreground(
    tmp_path: Path, make_history: Callable[..., History], figures: list[Figure]
) -> None:
    (tmp_path / "parcels.metrics.csv").write_text(make_history(epochs=1, subepochs=1, classes=40).csv())
    plot_sessions(PlotRequest((tmp_path / "parcels.metrics.csv",), tmp_path / "p.png", detailed=True))
    assert legend(figures[0]) == ["whole foreground", "training", "validation"]


def test_a_class_that_a_session_lacks_is_refused_before_anything_is_written(output: Path) -> None:
    request = PlotRequest((output / "first",), output / "c.png", detailed=True, classes=(3,))
    with pytest.raises(
        CommandLineError, match="-plotClasses 3: session first has the classes 1 to 2; 0 stands for the whole"
    ):
        plot_sessions(request)
    assert not request.output.exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sessions": ()}, "-plot needs at least one session"),
        ({"sessions": tuple(Path(str(n)) for n in range(22))}, "of 22 sessions at most 21 can be told apart"),
        ({"output": Path("curves.jpg")}, r"curves\.jpg: pictures are written as \.png or \.pdf"),
        ({"moving_average": 0}, "-movingAverage 0: allowed are whole numbers from 1 on"),
        ({"classes": (1,)}, "-plotClasses 1 only has a meaning with -detailed"),
        ({"classes": (1, 1), "detailed": True}, "-plotClasses 1 1: give at least one class, and none twice"),
        ({"classes": tuple(range(22)), "detailed": True}, "of 22 classes at most 21 can be told apart"),
    ],
)
def test_requests_that_cannot_be_drawn_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandLineError, match=message):
        PlotRequest(**{"sessions": (Path("s"),), "output": Path("o.png"), **values})


def test_a_history_in_which_nothing_is_defined_is_refused(tmp_path: Path, make_history: Callable[..., History]) -> None:
    rows = make_history(epochs=1, subepochs=1).csv().splitlines()
    only_learning_rate = [row for row in rows if row.startswith(("epoch", "0,,training,all"))]
    (tmp_path / "s.metrics.csv").write_text("\n".join(only_learning_rate))
    with pytest.raises(DataError, match=r"s\.metrics\.csv: there is nothing to plot: none of the metrics"):
        plot_sessions(PlotRequest((tmp_path / "s.metrics.csv",), tmp_path / "o.png"))
