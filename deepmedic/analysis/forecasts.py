"""A forecast, once made, is kept: records of `-analyse` that are only ever appended.

Whoever scores forecasts reads them with `read_forecasts`, which refuses a file in which a record was changed, moved or
removed (other than at its end).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepmedic.analysis.record_chain import RecordChain


def forecasts_file(folder: Path) -> Path:
    """Where the forecasts of an output folder are kept."""
    return folder / "forecasts" / "forecasts.jsonl"


def append_forecast(path: Path, forecast: dict[str, Any]) -> dict[str, Any]:
    """Append a forecast and return the record; one that says the same already is returned instead.

    Call it while holding a lock, so that two processes do not append at once.

    Args:
        path: the file, made when it does not exist.
        forecast: plain values; "date" alone does not make it another one.

    Raises:
        DataError: the file was changed since it was written.
        ResourceError: it cannot be written.
    """
    return _chain(path).append(forecast)


def read_forecasts(path: Path) -> list[dict[str, Any]]:
    """Return all records of a file, oldest first; none if there is no such file. A line cut short by a crash is none.

    Raises:
        DataError: a record was changed, or the chain is broken.
    """
    return _chain(path).read()


def _chain(path: Path) -> RecordChain:
    return RecordChain(path, "forecast", "a forecast")
