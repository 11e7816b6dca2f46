"""`-plot`: training curves of one or several sessions as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepmedic.plots.curves import PlotRequest, plot_sessions
from deepmedic.plots.history_files import read_histories

DEFAULT_OUTPUT = Path("trainingProgress.pdf")
"""In the current folder, as the original's script saves it."""


def plot(
    sessions: Sequence[Path],
    output: Path | None = None,
    detailed: bool = False,
    classes: Sequence[int] = (),
    moving_average: int = 1,
) -> Path:
    """Draw `-plot SESSION [SESSION ...] [-detailed] [-plotClasses 1 2] [-movingAverage N] [-output FILE]`.

    Args:
        sessions: histories (`logs/<session>.metrics.csv`), saved models, sessions' folders, or
            `<folderForOutput>/<session>`.
        output: a .png or .pdf file; None: `DEFAULT_OUTPUT`.
        detailed: every metric of each class, instead of the mean accuracy only.
        classes: those drawn when `detailed`, 0 for the whole foreground; empty: all of them.
        moving_average: number of subepochs that values on samples are averaged over.

    Returns:
        The path of the picture, for the line that says what was written.

    Raises:
        CommandLineError: values out of range, a class that a session lacks, or no session where a path points to.
        DataError: a file that is no history, or has nothing to plot.
        ModelError: a saved model that is damaged.
        ResourceError: matplotlib is not installed, or the picture cannot be written.
    """
    request = PlotRequest(
        sessions=tuple(sessions),
        output=output or DEFAULT_OUTPUT,
        detailed=detailed,
        classes=tuple(classes) or None,
        moving_average=moving_average,
    )
    return plot_sessions(request)


def phase_changes(sessions: Sequence[Path]) -> list[str]:
    """Return a line for each later phase of the sessions: how the mean validation Dice changed in it.

    Raises as `plot` does for sessions that cannot be read.
    """
    return [
        f"Session {history.name}: validation Dice before and at the end of phase {change}"
        for history in read_histories(sessions)
        for change in history.phase_changes()
    ]
