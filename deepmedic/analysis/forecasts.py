"""A forecast, once made, is kept: one JSON object per line, chained by digests so that no later change goes unnoticed.

Every record holds the SHA-256 of the record before it and of itself. Records are only ever appended. Whoever scores
forecasts reads them with `read_forecasts`, which refuses a file in which a record was changed, moved or removed (other
than at its end).
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from deepmedic.errors import DataError
from deepmedic.files import append_line

FORMAT = 1
FIRST = "0" * 64
"""What stands for the record before the first one."""


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
    records = read_forecasts(path)
    plain = _finite(forecast)
    for record in records:
        if _undated(record["forecast"]) == _undated(plain):
            return record
    before = records[-1]["sha256"] if records else FIRST
    record = {"format": FORMAT, "number": len(records) + 1, "before": before, "forecast": plain}
    record["sha256"] = _digest(record)
    append_line(path, json.dumps(record, ensure_ascii=False, sort_keys=True))
    return record


def read_forecasts(path: Path) -> list[dict[str, Any]]:
    """Return all records of a file, oldest first; none if there is no such file. A line cut short by a crash is none.

    Raises:
        DataError: a record was changed, or the chain is broken.
    """
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        record = _parsed(line)
        if record is None:
            continue
        before = records[-1]["sha256"] if records else FIRST
        if record.get("before") != before or record.get("sha256") != _digest(record):
            raise DataError(
                f"{path}:{number}: this record of a forecast is not as it was written, or one before it is missing; "
                "forecasts are never changed. Restore the file from a backup, or move it away to begin a new one."
            )
        records.append(record)
    return records


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None  # an empty line, or one that a crash cut short
    return record if isinstance(record, dict) else {}


def _digest(record: dict[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _undated(forecast: Any) -> dict[str, Any]:
    return {key: value for key, value in forecast.items() if key != "date"}


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
