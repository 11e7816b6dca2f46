"""Faults injected from outside into a Python process: put this folder on PYTHONPATH and set FAULT.

FAULT=kill:<event>:<count>[:<regex>]           SIGKILL itself just before the count-th matching event (from 1)
FAULT=errno:<event>:<count>:[<regex>]:<ERRNO>  raise OSError(ERRNO) at that event instead
FAULT=trace:<file>                             append one line per event to the file
FAULT=noexec:<file>                            exit with 97 and note it when a program is started or a network used

Events: os.replace, os.fsync, open (for writing, from Python). The regex is searched in the path.
"""

from __future__ import annotations

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
    if _MODE == "trace":
        _note(f"{event} {where}")
    if _MODE not in ("kill", "errno") or event != _WORDS[0]:
        return
    pattern = _WORDS[2] if len(_WORDS) > 2 else ""
    if not re.search(pattern, where):
        return
    _seen[event] += 1
    if _seen[event] != int(_WORDS[1]):
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
    sys.addaudithook(_audit)
