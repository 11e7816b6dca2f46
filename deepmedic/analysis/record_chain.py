"""Files of records that are only ever appended: one JSON object per line, chained by digests.

Every record holds the SHA-256 of the record before it and of itself, so that no later change goes unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic.errors import DataError
from deepmedic.files import append_line
from deepmedic.plain_content import finite

FORMAT = 1
FIRST = "0" * 64
"""What stands for the record before the first one."""


@dataclass(frozen=True)
class RecordChain:
    """One such file."""

    path: Path
    key: str
    """Under which the content of a record stands, "forecast"."""
    record_of: str
    """For messages: "a forecast"."""

    def append(self, content: dict[str, Any]) -> dict[str, Any]:
        """Append a record and return it; one that says the same already is returned instead.

        Call it while holding a lock, so that two processes do not append at once.

        Args:
            content: plain values; "date" alone does not make it another one.

        Raises:
            DataError: the file was changed since it was written.
            ResourceError: it cannot be written.
        """
        records = self.read()
        plain = finite(content)
        for record in records:
            if _undated(record[self.key]) == _undated(plain):
                return record
        before = records[-1]["sha256"] if records else FIRST
        record = {"format": FORMAT, "number": len(records) + 1, "before": before, self.key: plain}
        record["sha256"] = _digest(record)
        append_line(self.path, json.dumps(record, ensure_ascii=False, sort_keys=True))
        return record

    def read(self) -> list[dict[str, Any]]:
        """Return all records, oldest first; none if there is no file. A line cut short by a crash is none.

        Raises:
            DataError: a record was changed, or the chain is broken.
        """
        if not self.path.exists():
            return []
        records: list[dict[str, Any]] = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").split("\n"), 1):
            record = _parsed(line)
            if record is None:
                continue
            before = records[-1]["sha256"] if records else FIRST
            if record.get("before") != before or record.get("sha256") != _digest(record):
                raise DataError(
                    f"{self.path}:{number}: this record of {self.record_of} is not as it was written, or one before it "
                    f"is missing; {self.key}s are never changed. Restore the file from a backup, or move it away to "
                    "begin a new one."
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


def _undated(content: Any) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "date"}
