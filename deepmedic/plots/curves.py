"""Training curves of one or several sessions, as PNG or PDF: an overview, or one panel per metric and class.

What was measured in every subepoch stands at its place within the epoch, so that sessions with different numbers of
subepochs can be compared. Metrics of a class are of that class against all others, and class 0 is the whole
foreground, as in the log. Dice on whole volumes is the log's DICE2: the prediction within the ROI against the labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepmedic.errors import CommandLineError, DataError
from deepmedic.plots import canvas
from deepmedic.plots.histories import SessionHistory
from deepmedic.plots.history_files import read_histories
from deepmedic.plots.layouts import CurveSettings, Rows, one_session, overview, several_sessions
from deepmedic.plots.panels import DASHES, Style, draw_panel, extent_of
from deepmedic.training.history import ROLES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_PANEL_INCHES = (2.55, 1.95)
_OVERVIEW_INCHES = (6.0, 2.3)


@dataclass(frozen=True)
class PlotRequest:
    """What to draw.

    Raises:
        CommandLineError: the values contradict each other or are out of range.
    """

    sessions: tuple[Path, ...]
    """Histories (`logs/<session>.metrics.csv`), saved models, sessions' folders, or `<output folder>/<session>`."""
    output: Path
    """A .png or .pdf file; one that is there is replaced."""
    detailed: bool = False
    """Every metric of each class, instead of the mean accuracy only."""
    classes: tuple[int, ...] | None = None
    """Those drawn when `detailed`; 0: the whole foreground; None: the whole foreground and all classes."""
    moving_average: int = 1
    """Values per subepoch become means over so many; 1: as they are. Whole volumes are never smoothed."""

    def __post_init__(self) -> None:
        canvas.check_format(self.output)
        most = canvas.most_curves()
        if not self.sessions:
            raise CommandLineError("-plot needs at least one session: -plot OUTPUT/logs/SESSION.metrics.csv")
        if len(self.sessions) > most:
            raise CommandLineError(
                f"-plot: of {len(self.sessions)} sessions at most {most} can be told apart; give fewer."
            )
        if self.moving_average < 1:
            raise CommandLineError(f"-movingAverage {self.moving_average}: allowed are whole numbers from 1 on.")
        if self.classes is None:
            return
        asked = f"-plotClasses {' '.join(map(str, self.classes))}"
        if not self.detailed:
            raise CommandLineError(
                f"{asked} only has a meaning with -detailed; without, all classes are taken together."
            )
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise CommandLineError(f"{asked}: give at least one class, and none twice.")
        if len(self.classes) > most:
            raise CommandLineError(
                f"{asked}: of {len(self.classes)} classes at most {most} can be told apart; give fewer."
            )


def plot_sessions(request: PlotRequest) -> Path:
    """Draw the curves of a request and return the path of the picture; equal histories give equal bytes.

    Raises:
        CommandLineError: no session, or several, where a path points to; a class that a session does not have.
        DataError: a file that is no history, or has nothing to plot.
        ModelError: a saved model that is damaged.
        ResourceError: matplotlib is not installed, or the picture cannot be written.
    """
    with canvas.drawing():
        histories = read_histories(request.sessions)
        classes = _chosen_classes(histories, request.classes) if request.detailed else []
        rows = _rows(histories, classes, request)
        if not any(shown.lines for row in rows for shown in row):
            sources = ", ".join(str(history.source) for history in histories)
            raise DataError(f"{sources}: there is nothing to plot: none of the metrics asked for is defined.")
        figure = _figure(rows, histories, request)
        _add_legend(figure, histories, classes, request)
        return canvas.save_figure(figure, request.output)


def _chosen_classes(histories: Sequence[SessionHistory], asked: tuple[int, ...] | None) -> list[int]:
    """The classes to draw, in the order asked for.

    Raises:
        CommandLineError: a session lacks one of them.
    """
    fewest = min(histories, key=lambda history: history.classes)
    if asked is None:
        every = list(range(fewest.classes)) if fewest.classes > 2 else [1]
        if len(every) <= canvas.most_curves():
            return every
        log.info(
            "%d classes cannot be told apart; the whole foreground is drawn. Choose with -plotClasses.", len(every) - 1
        )
        return [0]
    for class_index in asked:
        if not 0 <= class_index < fewest.classes:
            raise CommandLineError(
                f"-plotClasses {class_index}: session {fewest.name} has the classes 1 to {fewest.classes - 1}; "
                "0 stands for the whole foreground."
            )
    return list(asked)


def _rows(histories: Sequence[SessionHistory], classes: Sequence[int], request: PlotRequest) -> Rows:
    settings = CurveSettings(request.moving_average, dashed_training=_has_validation(histories))
    if not request.detailed:
        return overview(histories, settings)
    if len(histories) == 1:
        return one_session(histories[0], classes, settings)
    return several_sessions(histories, classes, settings)


def _has_validation(histories: Sequence[SessionHistory]) -> bool:
    return any(row.role == "validation" for history in histories for row in history.rows)


def _figure(rows: Rows, histories: Sequence[SessionHistory], request: PlotRequest) -> Figure:
    columns = max(len(row) for row in rows)
    width, height = _PANEL_INCHES if request.detailed else _OVERVIEW_INCHES
    figure = canvas.new_figure(columns * width, len(rows) * height + 0.6, layout="constrained")
    grid = figure.add_gridspec(len(rows), columns)
    extent = extent_of(histories)
    for row_index, row in enumerate(rows):
        is_last = row_index == len(rows) - 1
        for column, shown in enumerate(row):
            axes = figure.add_subplot(grid[row_index, column])
            if not shown.lines:
                axes.set_axis_off()
                continue
            draw_panel(axes, shown, extent)
            is_lowest = is_last or column >= len(rows[row_index + 1])
            axes.set_xlabel("epochs of training" if is_lowest else "")
    if len(histories) == 1:
        changes = "".join(f"\nvalidation Dice, phase {change}" for change in histories[0].phase_changes())
        figure.suptitle(f"Session {histories[0].name}{changes}", fontsize=10)
    return figure


def _add_legend(
    figure: Figure, histories: Sequence[SessionHistory], classes: Sequence[int], request: PlotRequest
) -> None:
    """Say below the panels what colours and dashes stand for, and how curves were smoothed."""
    if len(histories) > 1:
        named = [history.name for history in histories]
    else:
        named = [histories[0].name_of(class_index) for class_index in classes]
    handles = [_sample(name, canvas.curve_style(index)) for index, name in enumerate(named)]
    if request.detailed and _has_validation(histories):
        handles += [_sample(role, ("0.25", ""), dashed=role == "training") for role in ROLES]
    note = f"On samples: means over {request.moving_average} subepochs; faint: each subepoch by itself."
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, min(len(handles), 6)),
        handlelength=2.6,
        title=note if request.moving_average > 1 else None,
        title_fontproperties={"size": 7},
    )


def _sample(name: str, style: Style, dashed: bool = False) -> Artist:
    """A line for the legend."""
    from matplotlib.lines import Line2D

    colour, marker = style
    return Line2D([], [], color=colour, marker=marker, linestyle=DASHES if dashed else "-", label=name)
