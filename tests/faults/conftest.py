"""A study in small, and a server that runs commands in processes of their own, which may be killed."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from study_fixtures import (
    all_in_training,
    one_thread,
    run,
    source,
    source_once,
    study,
    without_waiting_for_the_disk,
    written_once,
)

__all__ = [
    "all_in_training",
    "one_thread",
    "run",
    "source",
    "source_once",
    "study",
    "without_waiting_for_the_disk",
    "written_once",
]

HERE = Path(__file__).parent
LONGEST = 120
"""Seconds that no command may exceed."""


class Ended(NamedTuple):
    code: int
    """Negative for a signal that was not caught."""
    printed: str


class CommandServer:
    """Runs commands on the CPU, one at a time, each in a process of its own."""

    def __init__(self, outputs: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "OMP_NUM_THREADS": "1"}
        environment["FAULT"] = "kill:nothing:0"  # so that the hooks are there
        command = [sys.executable, str(HERE / "command_server.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self._outputs = outputs
        self._count = 0

    def start(self, *words: Any, fault: str = "", at_once: int = 0) -> int:
        """Start a command and return its process id; `wait` must follow."""
        self._count += 1
        self._output.touch()
        request = {
            "words": [str(word) for word in (*words, "-dev", "cpu")],
            "fault": fault,
            "at_once": at_once,
            "output": str(self._output),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def wait(self) -> Ended:
        """Wait for the end of the command that was started."""
        code = self._answer()
        return Ended(code, self._output.read_text())

    def end(self, *words: Any, seconds: float, number: int, begun: Path | None = None, lines: int = 0) -> Ended:
        """Run a command and send it a signal so many seconds after the file `begun` has content, or after the start.

        With `lines`, the file must have grown by that many. Nothing is sent to a command that is over by then.
        """
        before = _lines(begun) if begun is not None and lines else 0
        pid = self.start(*words)
        deadline = time.monotonic() + LONGEST
        while begun is not None and time.monotonic() < deadline and _is_alive(pid):
            if begun.exists() and begun.read_text() and _lines(begun) >= before + lines:
                break
            time.sleep(0.002)
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        return self.wait()

    def run(self, *words: Any, fault: str = "", at_once: int = 0) -> Ended:
        self.start(*words, fault=fault, at_once=at_once)
        return self.wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    @property
    def _output(self) -> Path:
        return self._outputs / f"{self._count}.txt"

    def _answer(self) -> int:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], LONGEST)
        assert ready, f"a command took more than {LONGEST} seconds: {self._output.read_text()}"
        return int(self._process.stdout.readline())


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[CommandServer]:
    server = CommandServer(tmp_path_factory.mktemp("printed"))
    assert server.run("-version").code == 0  # so that no test measures how long the imports take
    yield server
    server.close()
