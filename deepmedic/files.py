"""Writing files so that one under its final name is always whole: after a crash, a kill, or a full disk.

A file is written under a temporary name in the same folder, flushed, synced, read back, renamed to its final name, and
the folder is synced. Whatever goes wrong before the rename leaves the older file as it was. A temporary is named
`.<name>.<pid>.<host>-<random>.partial`, so that one left behind by a killed process can be recognised and removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from deepmedic.errors import ResourceError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What file systems answer that cannot sync a folder, or cannot hold two names for one file.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EXDEV, errno.EMLINK)
_TEMPORARY = re.compile(r"^\..+\.(?P<pid>\d+)\.(?P<host>[0-9a-f]{8})-[0-9a-f]{8}\.partial$", re.DOTALL)
_LONGEST_NAME_KEPT = 180
"""Bytes of the final name repeated in a temporary name; file systems allow 255 in all."""

_active: set[Path] = set()
"""Temporaries that this process is writing at this moment."""


def write_atomically(
    path: Path,
    write: Callable[[BinaryIO], object],
    verify: Callable[[Path], object] | None = None,
    *,
    expected_bytes: int | None = None,
) -> None:
    """Replace `path` by what `write` puts into an open binary file; other processes see the old or the new file only.

    `verify` is given the temporary's path after it was synced and raises to refuse it. `expected_bytes` is the final
    size where it is known, for the message of a full disk. Missing parent folders are made.

    Raises:
        ResourceError: the file cannot be written; the older file is untouched and the temporary is removed.
    """
    make_folder(path.parent)
    with _temporary(path) as temporary, _explained(path, temporary, expected_bytes):
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if verify is not None:
            verify(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, read back before the rename."""
    content = text.encode("utf-8", "backslashreplace")

    def verify(temporary: Path) -> None:
        if temporary.read_bytes() != content:
            raise ResourceError(f"{path}: what was read back differs from what was written; check the disk.")

    write_atomically(path, lambda file: file.write(content), verify, expected_bytes=len(content))


def write_json_atomically(path: Path, data: Any) -> None:
    """Replace `path` by `data` as indented JSON; equal data gives equal bytes.

    Not-a-number and infinity are written as Python's json module and nnU-Net do: NaN, Infinity.
    """
    write_text_atomically(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def link_atomically(source: Path, target: Path) -> None:
    """Make `target` a second name of the finished file `source`, in one step; a copy where links are not possible.

    Raises:
        ResourceError: neither a link nor a copy can be made; an older `target` is untouched.
    """
    with _temporary(target) as temporary, _explained(target, temporary, None):
        try:
            os.link(source, temporary)
        except OSError as problem:
            if problem.errno not in _UNSUPPORTED:
                raise
            _copy_durably(source, temporary)
        os.replace(temporary, target)  # does nothing where both are the same file already; _temporary then removes one
        _sync_folder(target.parent)


def append_line(path: Path, line: str) -> None:
    """Append `line` and a line end, in one write; makes the file and its folder again if they were removed.

    A line that a crash cut short is closed first, so that it spoils no other one.

    Raises:
        ResourceError: the line cannot be written.
    """
    make_folder(path.parent)
    content = line.encode("utf-8", "backslashreplace") + b"\n"
    with _explained(path, path, len(content)), open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        torn = False
        if size:
            file.seek(size - 1)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + content)


def remove_stale_temporaries(folder: Path, *, exclusive: bool = False) -> list[Path]:
    """Remove the temporaries in `folder` whose writer is dead, and return them; nothing else is touched.

    A writer on another host cannot be looked up, so its temporaries stay, unless the caller is the only one with a
    right to write in `folder` (`exclusive`, as under the session's lock). A missing folder has none.
    """
    removed = []
    for path in sorted(folder.glob(".*.partial")):
        match = _TEMPORARY.match(path.name)
        if match is None or path in _active or not path.is_file():
            continue
        of_this_host = match["host"] == _host_mark()
        if exclusive or (of_this_host and not is_other_process_alive(int(match["pid"]))):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def is_other_process_alive(pid: int) -> bool:
    """Whether a process other than this one has the number `pid` on this host."""
    if pid == os.getpid() or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write on the file system of `folder`, or of its nearest existing parent."""
    return shutil.disk_usage(_nearest_existing(folder)).free


def make_folder(path: Path) -> Path:
    """Make a folder and its parents where they are missing, and return it.

    Raises:
        ResourceError: it cannot be made, is no folder, or may not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ResourceError(
            f"{path}: the folder cannot be made, since {_nearest_existing(path)} is a file. "
            "Move that file away or choose another output folder."
        ) from None
    except OSError as problem:
        raise ResourceError(
            f"{path}: the folder cannot be made ({problem.strerror}). "
            "Make it yourself, correct its rights, or choose another output folder."
        ) from problem
    if not os.access(path, os.W_OK | os.X_OK):
        raise ResourceError(
            f"{path}: this user may not write to the folder. Correct its rights or choose another output folder."
        )
    return path


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A fresh temporary name beside `path`; whatever is left under it at the end is removed."""
    encoding = sys.getfilesystemencoding()
    kept = path.name.encode(encoding, "surrogateescape")[:_LONGEST_NAME_KEPT].decode(encoding, "ignore")
    temporary = path.with_name(f".{kept}.{os.getpid()}.{_host_mark()}-{secrets.token_hex(4)}.partial")
    _active.add(temporary)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        _active.discard(temporary)


@contextmanager
def _explained(path: Path, temporary: Path, expected_bytes: int | None) -> Iterator[None]:
    """Turn an error of the operating system into a refusal that says what is needed."""
    try:
        yield
    except OSError as problem:
        raise _refusal(path, temporary, expected_bytes, problem) from problem


def _refusal(path: Path, temporary: Path, expected_bytes: int | None, problem: OSError) -> ResourceError:
    if problem.errno not in _DISK_FULL:
        return ResourceError(
            f"{path}: cannot be written ({problem.strerror or problem}). An older file of that name was not changed. "
            "Check the folder's rights and the disk, or choose another output folder."
        )
    written = temporary.stat().st_size if temporary != path and temporary.exists() else 0  # free again in a moment
    need = f"{expected_bytes} bytes are" if expected_bytes is not None else f"at least {written} bytes are"
    free = free_bytes(path.parent) + written
    remedy = {
        errno.ENOSPC: "Free space on that disk, or choose another output folder.",
        errno.EDQUOT: "Your disk quota is used up: remove files or ask for more.",
        errno.EFBIG: "The system limits the size of files (see `ulimit -f`, or the file system): raise that limit.",
    }[problem.errno or errno.ENOSPC]
    return ResourceError(
        f"{path}: cannot be written ({problem.strerror}): {need} needed and {free} bytes are free. "
        f"An older file of that name was not changed. {remedy}"
    )


def _copy_durably(source: Path, target: Path) -> None:
    with open(source, "rb") as reading, open(target, "xb") as writing:
        shutil.copyfileobj(reading, writing)
        writing.flush()
        os.fsync(writing.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _nearest_existing(path: Path) -> Path:
    candidate = path.absolute()
    while not candidate.exists() and candidate != candidate.parent:
        candidate = candidate.parent
    return candidate


def _host_mark() -> str:
    """Eight hexadecimal digits that stand for this host in a temporary's name."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
