"""What all pictures have in common: matplotlib as an optional extra, one style, colours, and files that repeat exactly.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which readers with any kind of colour vision can
tell apart. Yellow is left out, since it is hard to see as a line on white.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmedic.errors import CommandLineError, ResourceError
from deepmedic.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Blue, vermillion, green, purple, orange, sky blue, black."""
MARKERS = ("", "o", "s")
"""With the colours used up, curves go on in the same colours with marks."""
FORMATS = (".png", ".pdf")

_STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.0,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,  # text that journals and drawing programs can edit
}


def curve_style(index: int) -> tuple[str, str]:
    """Return colour and marker of the curve with this index; they repeat after `most_curves()`."""
    return COLOURS[index % len(COLOURS)], MARKERS[index // len(COLOURS) % len(MARKERS)]


def most_curves() -> int:
    """How many curves of one panel can be told apart."""
    return len(COLOURS) * len(MARKERS)


def bar_length(length: float) -> float:
    """How long a bar is drawn: not below 0, and not at all where its length is infinite or not a number."""
    return max(0.0, length) if math.isfinite(length) else 0.0


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the style of this program whatever the user's settings of matplotlib, which are as before afterwards.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as problem:
        raise ResourceError(
            "Pictures are drawn with matplotlib, which is not installed. "
            'Install it with: python -m pip install "deepmedic[report]"'
        ) from problem
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def can_draw() -> bool:
    """Whether pictures can be drawn; if not a warning says why, for results do not have to wait for their pictures."""
    try:
        with drawing():
            return True
    except ResourceError as problem:
        log.warning("No pictures: %s", problem)
        return False


def new_figure(width: float, height: float, layout: Any = None) -> Figure:
    """Return an empty figure, in inches; call it and all else that draws inside `drawing()`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def check_format(path: Path) -> None:
    """Refuse a name whose ending is no format that pictures are written in.

    Raises:
        CommandLineError: naming the endings that are.
    """
    if path.suffix.lower() not in FORMATS:
        raise CommandLineError(f"{path}: pictures are written as {' or '.join(FORMATS)}; end the name in one of them.")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or PDF, by the ending of `path`; equal figures give equal bytes (no dates in the file).

    Raises:
        CommandLineError: another ending.
        ResourceError: the file cannot be written; an older one is untouched.
    """
    check_format(path)
    kind = path.suffix.lower().removeprefix(".")
    undated = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=undated)
    write_atomically(path, lambda file: file.write(content.getbuffer()), expected_bytes=content.tell())
    return path
