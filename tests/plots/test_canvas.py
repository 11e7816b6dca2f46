import math
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from deepmedic.errors import CommandLineError, ResourceError
from deepmedic.plots import canvas


def test_a_missing_matplotlib_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ResourceError, match=r'pip install "deepmedic\[report\]"') as refusal, canvas.drawing():
        pass
    assert refusal.value.exit_code == 6


def test_without_matplotlib_results_are_told_that_they_get_no_pictures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert canvas.can_draw()
    assert not caplog.records
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not canvas.can_draw()
    assert caplog.messages[0].startswith("No pictures: Pictures are drawn with matplotlib, which is not installed.")


@pytest.mark.parametrize(("length", "drawn"), [(0.5, 0.5), (-0.1, 0.0), (math.inf, 0.0), (math.nan, 0.0)])
def test_bars_without_a_length_are_not_drawn(length: float, drawn: float) -> None:
    assert canvas.bar_length(length) == drawn


def test_matplotlib_is_imported_only_when_something_is_drawn() -> None:
    modules = "deepmedic.sessions.reports.plotting, deepmedic.plots.segmentation"
    code = f"import sys, {modules}; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_settings_of_the_user_neither_change_the_picture_nor_are_changed() -> None:
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red"}):
        with canvas.drawing():
            assert matplotlib.rcParams["font.size"] == 8.0
            assert matplotlib.rcParams["axes.facecolor"] == "white"
        assert matplotlib.rcParams["font.size"] == 31.0


@pytest.mark.parametrize("ending", [".png", ".pdf", ".PNG"])
def test_equal_figures_give_equal_bytes_without_dates(tmp_path: Path, ending: str) -> None:
    contents = []
    for attempt in range(2):
        with canvas.drawing():
            figure = canvas.new_figure(2, 1)
            figure.add_subplot().plot([0, 1], [1, 0])
            path = canvas.save_figure(figure, tmp_path / f"{attempt}{ending}")
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(b"%PDF" if ending == ".pdf" else b"\x89PNG")
    assert b"CreationDate" not in contents[0]
    assert b"Software" not in contents[0]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandLineError, match=r"curves\.svg: pictures are written as \.png or \.pdf"):
        canvas.check_format(tmp_path / "curves.svg")


def test_styles_of_curves_repeat_only_after_all_combinations() -> None:
    styles = [canvas.curve_style(index) for index in range(canvas.most_curves())]
    assert len(set(styles)) == canvas.most_curves() == 21
    assert canvas.curve_style(canvas.most_curves()) == styles[0]
