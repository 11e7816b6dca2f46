"""Faults injected from outside into a Python process: put this folder on PYTHONPATH and set FAULT.

FAULT=kill:<event>:<count>[:<regex>]           SIGKILL itself just before the count-th matching event (from 1);
                                               the event "any" stands for all of them
FAULT=errno:<event>:<count>:[<regex>]:<ERRNO>  raise OSError(ERRNO) at that event instead
FAULT=trace:<file>                             append one line per open, os.fsync and os.replace to the file
FAULT=noexec:<file>                            exit with 97 and note it when a program is started or a network used

Events: os.replace, os.fsync, os.link, os.unlink, open (for writing, from Python), and of files opened with mode "xb",
as those are that will be renamed: write, and half, when half of what is to be written at once is on the disk. The regex
is searched in the path.
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

_MODE, *_WORDS = os.environ.get("FAULT", "").split(":")
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect")
_seen: Counter[str] = Counter()


def _note(line: str) -> None:
    descriptor = os.open(_WORDS[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, line.encode("utf-8", "replace") + b"\n")
    os.close(descriptor)


def _happens(event: str, where: str) -> None:
    if _MODE == "trace" and event in ("open", "os.fsync", "os.replace"):
        _note(f"{event} {where}")
    if _MODE not in ("kill", "errno") or _WORDS[0] not in (event, "any"):
        return
    pattern = _WORDS[2] if len(_WORDS) > 2 else ""
    if not re.search(pattern, where):
        return
    _seen[_WORDS[0]] += 1
    if _seen[_WORDS[0]] != int(_WORDS[1]):
        return
    if _MODE == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    code = getattr(errno, _WORDS[3])
    raise OSError(code, os.strerror(code), where)


def _watched(event: str, original: Callable[..., Any], where: Callable[..., str]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        _happens(event, where(*arguments))
        return original(*arguments, **options)

    return call


def _path_of(descriptor: Any) -> str:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    return os.readlink(f"/proc/self/fd/{number}")


class _WatchedFile:
    """A file that is written in two parts, so that a kill can come between them."""

    def __init__(self, file: Any, path: str) -> None:
        self._file = file
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _WatchedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        _happens("write", self._path)
        content = memoryview(data).cast("B")
        self._file.write(content[: len(content) // 2])
        self._file.flush()
        _happens("half", self._path)
        self._file.write(content[len(content) // 2 :])
        return len(content)


_open = builtins.open


def _open_watched(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
    opened = _open(file, mode, *arguments, **options)
    return _WatchedFile(opened, str(file)) if mode == "xb" else opened


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+"):
        _happens("open", str(arguments[0]))
    elif _MODE == "noexec" and event in _FORBIDDEN:
        _note(f"{event} {arguments!r}")
        os._exit(97)


if _MODE:
    os.replace = _watched("os.replace", os.replace, lambda source, target: f"{source} -> {target}")
    os.rename = _watched("os.replace", os.rename, lambda source, target: f"{source} -> {target}")
    os.fsync = _watched("os.fsync", os.fsync, _path_of)
    os.link = _watched("os.link", os.link, lambda source, target: f"{source} -> {target}")
    os.unlink = _watched("os.unlink", os.unlink, str)
    builtins.open = _open_watched
    sys.addaudithook(_audit)
