"""One writer per output folder and session.

The lock is the system's own on an open file (`flock`): it ends with the process that took it, however that ended, so
that a killed session never stands in the way of the next one. The file's content only tells who holds it. On a file
system without such locks (some network mounts) the file's existence is the lock and its content decides: a holder on
this host that is no longer alive is replaced; one on another host cannot be looked up and must be cleared by hand.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from deepmedic.errors import OutputHeldError, ResourceError
from deepmedic.files import is_other_process_alive, make_folder

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
_LONGEST_CONTENT = 4096
_ATTEMPTS = 10
_PAUSE = 0.05
"""Seconds between attempts; together they stay far below the time in which a refusal is due."""

_held: dict[int, Path] = {}
"""The locks of this process: descriptor -> file."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    pid: int
    host: str
    started: str
    """Local time with its offset, for people."""


class _NoLocksError(Exception):
    """The file system has no locks."""


@contextmanager
def session_lock(folder: Path, session: str) -> Iterator[Path]:
    """Hold the output `folder` for `session` inside the block; yields the lock file, `logs/.<session>.lock`.

    Nothing else is created, and the file is removed at the end. Processes forked inside the block do not keep the lock.

    Raises:
        OutputHeldError: at once, if another session holds it; names its process, host and start time.
        ResourceError: the lock file cannot be made.
    """
    path = folder / "logs" / f".{session}.lock"
    make_folder(path.parent)
    try:
        try:
            descriptor = _take_from_the_dead(path)
        except _NoLocksError:
            path = path.with_suffix(".held")
            descriptor = _take_by_existence(path)
    except OSError as problem:
        raise ResourceError(
            f"{path}: the session's lock cannot be made ({problem.strerror}). "
            "Check the folder's rights and the disk, or choose another output folder."
        ) from problem
    if descriptor is None:
        raise _held_by_another(folder, session, path)
    try:
        yield path
    finally:
        if descriptor in _held:  # not in a forked child, which has closed it
            with suppress(OSError):
                path.unlink()  # while it is still held: whoever waits on this file notices that it is gone
            del _held[descriptor]
            os.close(descriptor)


def refuse_if_held(folder: Path, session: str) -> None:
    """Raise OutputHeldError if another process holds the output `folder` for `session`; makes and changes nothing."""
    path = folder / "logs" / f".{session}.lock"
    if path.with_suffix(".held").exists() and not _is_dead(path.with_suffix(".held")):
        raise _held_by_another(folder, session, path.with_suffix(".held"))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _held_by_another(folder, session, path) from None
    except OSError:
        return
    finally:
        os.close(descriptor)


def read_holder(path: Path) -> Holder | None:
    """Who wrote a lock file; None where that cannot be read."""
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(_LONGEST_CONTENT))
        return Holder(pid=int(content["pid"]), host=str(content["host"]), started=str(content["started"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _take_from_the_dead(path: Path) -> int | None:
    """As `_take`, with patience for the last workers of a killed session, which let go once they run again."""
    for _ in range(_ATTEMPTS):
        descriptor = _take(path)
        if descriptor is not None or not _is_dead(path):
            break
        time.sleep(_PAUSE)
    return descriptor


def _take(path: Path) -> int | None:
    """Lock the file and write this process's name into it; None if another one holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as problem:
            os.close(descriptor)
            if problem.errno not in _NO_LOCKS_HERE:
                raise
            with suppress(OSError):
                path.unlink()
            raise _NoLocksError from problem
        if _is_file_at(path, descriptor):
            return _hold(path, descriptor)
        os.close(descriptor)  # its holder removed the file between our opening and locking it


def _take_by_existence(path: Path) -> int | None:
    """The same for a file system without locks: whoever creates the file holds it."""
    if _is_dead(path):
        path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    return _hold(path, descriptor)


def _is_dead(path: Path) -> bool:
    """Whether the lock file names a process of this host that does not live any more."""
    holder = read_holder(path)
    if holder is None or holder.host != socket.gethostname() or path in _held.values():
        return False
    return not is_other_process_alive(holder.pid)


def _hold(path: Path, descriptor: int) -> int:
    """Write this process's name into the lock file that it now holds."""
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    content = json.dumps(asdict(Holder(os.getpid(), socket.gethostname(), started))).encode()
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, content)
    except OSError:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    _held[descriptor] = path
    return descriptor


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _held_by_another(folder: Path, session: str, path: Path) -> OutputHeldError:
    for _ in range(_ATTEMPTS):
        holder = read_holder(path)
        if holder is not None:
            break
        time.sleep(_PAUSE)  # it may have taken the lock an instant ago, and be about to write its name
    if holder is None:
        who = "another process, which left no name"
    else:
        who = f"process {holder.pid} on host {holder.host}, started {holder.started}"
    return OutputHeldError(
        f'Session "{session}" in {folder} is in use by {who} (lock file {path}). Wait for it to end, stop it, or '
        "choose another session name or output folder."
        + (" If no such process exists any more, remove that file." if path.suffix == ".held" else "")
    )


def _let_go_after_fork() -> None:
    """A forked worker must not keep its parent's lock alive once the parent is gone."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)
