"""One session per output folder and session name; a dead one never blocks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepmedic import locks
from deepmedic.errors import OutputHeldError, ResourceError
from deepmedic.locks import session_lock

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys, time
from pathlib import Path
from deepmedic.locks import session_lock
with session_lock(Path(sys.argv[1]), "mine"):
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from deepmedic.locks import session_lock
with session_lock(Path(sys.argv[1]), "mine"):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(30)
        os._exit(0)
    sys.stdin.read()
"""
TAKE_OFTEN = """
import os, sys
from pathlib import Path
from deepmedic import locks
from deepmedic.errors import OutputHeldError
from deepmedic.locks import session_lock
locks._PAUSE = 0
folder = Path(sys.argv[1])
for _ in range(300):
    try:
        with session_lock(folder, "mine"):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            os.unlink(folder / "inside")
    except OutputHeldError:
        pass
"""


@contextmanager
def another_process(script: str, folder: Path):
    """Run a script in its own process until the end of the block; yields it after its first line of output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        process.first_line = process.stdout.readline().strip()
        try:
            yield process
        finally:
            process.kill()


def without_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_only_the_lock_file_is_made_and_it_goes_again(tmp_path):
    with session_lock(tmp_path / "output", "mine") as path:
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
        assert path == tmp_path / "output" / "logs" / ".mine.lock"
        holder = locks.read_holder(path)
        assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", holder.started)
    assert not path.exists()


def test_second_session_is_refused_at_once_and_names_the_holder(tmp_path):
    with another_process(HOLD, tmp_path) as process:
        before = time.monotonic()
        with pytest.raises(OutputHeldError) as caught, session_lock(tmp_path, "mine"):
            pass
        assert time.monotonic() - before < 1
        holder = locks.read_holder(tmp_path / "logs" / ".mine.lock")
        message = str(caught.value)
        assert f'"mine" in {tmp_path} is in use by process {process.pid} on host {socket.gethostname()}' in message
        assert f"started {holder.started}" in message
        assert "Wait for it to end" in message
        assert caught.value.exit_code == 8
        process.communicate("")
    with session_lock(tmp_path, "mine") as path:
        assert locks.read_holder(path).pid == os.getpid()


def test_same_process_is_refused_too_and_the_first_lock_stays(tmp_path):
    with session_lock(tmp_path, "mine") as path:
        with pytest.raises(OutputHeldError, match=f"process {os.getpid()} "), session_lock(tmp_path, "mine"):
            pass
        assert path.exists()


def test_other_sessions_and_folders_are_free(tmp_path):
    with (
        session_lock(tmp_path, "mine") as a,
        session_lock(tmp_path, "yours") as b,
        session_lock(tmp_path / "x", "mine") as c,
    ):
        assert len({a, b, c}) == 3


def test_killed_session_does_not_block(tmp_path):
    with another_process(HOLD, tmp_path) as process:
        assert process.first_line == "held"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / "logs" / ".mine.lock").exists()
        with session_lock(tmp_path, "mine") as path:
            assert locks.read_holder(path).pid == os.getpid()


def test_forked_worker_does_not_keep_the_lock_of_a_killed_session(tmp_path):
    with another_process(HOLD_AND_FORK, tmp_path) as process:
        worker = int(process.first_line)
        try:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            with session_lock(tmp_path, "mine") as path:
                assert locks.read_holder(path).pid == os.getpid()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="mine"), session_lock(tmp_path, "mine"):
        raise ValueError("mine")
    with session_lock(tmp_path, "mine") as path:
        assert path.exists()


def test_removal_of_the_file_never_lets_two_in(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TAKE_OFTEN, str(tmp_path)]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [b"", b"", b""]


def test_file_removed_between_opening_and_locking_is_made_again(tmp_path, monkeypatch):
    path, real, calls = tmp_path / "logs" / ".mine.lock", fcntl.flock, []

    def flock_of_a_removed_file(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_of_a_removed_file)
    with session_lock(tmp_path, "mine"):
        assert locks.read_holder(path).pid == os.getpid()
        with pytest.raises(OutputHeldError, match="is in use"), session_lock(tmp_path, "mine"):
            pass


def test_holder_without_a_name_is_still_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PAUSE", 0)
    (tmp_path / "logs").mkdir()
    with open(tmp_path / "logs" / ".mine.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(OutputHeldError, match="another process, which left no name"),
            session_lock(tmp_path, "mine"),
        ):
            pass


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"pid": "x", "host": 1, "started": 2}', b"\xff"])
def test_unreadable_content_names_nobody(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)
    assert locks.read_holder(tmp_path / "lock") is None


def test_lock_file_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "logs" / ".mine.lock").mkdir(parents=True)
    message = r"\.mine\.lock: the session's lock cannot be made \(Is a directory\)"
    with pytest.raises(ResourceError, match=message), session_lock(tmp_path, "mine"):
        pass


def test_file_system_without_locks_uses_the_file_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", without_locks)
    with session_lock(tmp_path, "mine") as path:
        assert list((tmp_path / "logs").iterdir()) == [path]
        with pytest.raises(OutputHeldError, match="If no such process exists any more"), session_lock(tmp_path, "mine"):
            pass
    assert list((tmp_path / "logs").iterdir()) == []


@pytest.mark.parametrize(
    ("pid", "host", "blocks"),
    [
        (os.getpid(), socket.gethostname(), False),  # an earlier process of the same number, as in a container
        (os.getppid(), socket.gethostname(), True),
        (os.getpid(), "another", True),
    ],
    ids=["own number", "alive", "another host"],  # numbers of processes differ between workers of pytest-xdist
)
def test_file_system_without_locks_looks_the_holder_up(tmp_path, monkeypatch, pid, host, blocks):
    monkeypatch.setattr(fcntl, "flock", without_locks)
    (tmp_path / "logs").mkdir()
    left = tmp_path / "logs" / ".mine.held"
    left.write_text(json.dumps({"pid": pid, "host": host, "started": "some time"}))
    if blocks:
        with pytest.raises(OutputHeldError, match=f"process {pid} on host {host}"), session_lock(tmp_path, "mine"):
            pass
        assert left.exists()
    else:
        with session_lock(tmp_path, "mine") as path:
            assert path == left


def test_other_errors_of_locking_are_refusals(tmp_path, monkeypatch):
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with (
        pytest.raises(ResourceError, match=r"lock cannot be made \(Input/output error\)"),
        session_lock(tmp_path, "mine"),
    ):
        pass
