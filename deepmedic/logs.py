"""Where messages go: the console, the session's readable log, and its record of events as JSON lines.

Modules log with `logging.getLogger(__name__)`. A log whose file or folder was removed during a run is made again, and
one that cannot be written is reported once and never stops the run.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from deepmedic.errors import ResourceError
from deepmedic.files import append_line

_PACKAGE_LOGGER = logging.getLogger("deepmedic")
_logger = logging.getLogger(__name__)


class _MessageFormatter(logging.Formatter):
    """The message as it is; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname}: {text}" if record.levelno >= logging.WARNING else text


class _ConsoleHandler(logging.Handler):
    """Messages to stdout, warnings and errors to stderr, without time stamps."""

    def emit(self, record: logging.LogRecord) -> None:
        # The streams are looked up each time, since callers redirect them; a closed pipe must not stop a training.
        stream: TextIO = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        with suppress(OSError, ValueError):
            encoding = getattr(stream, "encoding", None) or "utf-8"
            printable = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
            stream.write(printable + "\n")
            stream.flush()


class _SessionFileHandler(logging.Handler):
    """Messages with time stamps, appended to a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._reported = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            append_line(self.path, f"{_time(record.created)}  {self.format(record)}")
        except ResourceError as problem:
            if not self._reported:
                self._reported = True  # before the warning, which comes back to this handler
                _logger.warning("The session goes on without its log: %s", problem)


class EventLog:
    """The record of a session for programs: one JSON object per line: `time`, `event`, and its own fields."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reported = False

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; paths become text, and scalars of numpy and torch become numbers."""
        line = json.dumps({"time": _time(), "event": event, **fields}, ensure_ascii=False, default=_plain)
        try:
            append_line(self.path, line)
        except ResourceError as problem:
            if not self._reported:
                self._reported = True
                _logger.warning("The session goes on without its record of events: %s", problem)


def init_logging(console: bool = True) -> None:
    """Send this package's messages (from level INFO) to the console, or stop doing so; may be called again."""
    _PACKAGE_LOGGER.setLevel(logging.INFO)
    for handler in list(_PACKAGE_LOGGER.handlers):
        if isinstance(handler, _ConsoleHandler):
            _PACKAGE_LOGGER.removeHandler(handler)
    if console:
        handler = _ConsoleHandler(logging.INFO)
        handler.setFormatter(_MessageFormatter())
        _PACKAGE_LOGGER.addHandler(handler)


@contextmanager
def session_log(path: Path) -> Iterator[Path]:
    """Append this package's messages, with time stamps, to the readable log `path` inside the block.

    The log also gets the lines of level DEBUG, which the console does not show.
    """
    handler = _SessionFileHandler(path)
    handler.setFormatter(_MessageFormatter())
    level = _PACKAGE_LOGGER.level
    _PACKAGE_LOGGER.setLevel(logging.DEBUG)
    _PACKAGE_LOGGER.addHandler(handler)
    try:
        yield path
    finally:
        _PACKAGE_LOGGER.removeHandler(handler)
        _PACKAGE_LOGGER.setLevel(level)


def log_refusal(path: Path, message: str) -> None:
    """Note a refusal in the session's readable log if that exists already; a refused run creates none."""
    if path.is_file():
        with suppress(ResourceError):
            append_line(path, f"{_time()}  ERROR: {message}")


def _time(seconds: float | None = None) -> str:
    """Local time with milliseconds and offset, "2026-01-31 23:59:59.123+01:00"."""
    moment = datetime.now() if seconds is None else datetime.fromtimestamp(seconds)
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds")


def _plain(value: Any) -> Any:
    """What JSON writes for a value that it does not know."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    item = getattr(value, "item", None)
    return str(value) if item is None else item()
