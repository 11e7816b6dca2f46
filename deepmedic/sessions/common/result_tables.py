"""Tables of results as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deepmedic.files import write_text_atomically


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """Write rows, the head first; numbers have nine digits, more than float32 holds.

    Raises:
        ResourceError: the file cannot be written; an older one is untouched.
    """
    text = io.StringIO()
    shown = [[f"{cell:.9g}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    csv.writer(text, lineterminator="\n").writerows(shown)
    write_text_atomically(path, text.getvalue())
    return path
