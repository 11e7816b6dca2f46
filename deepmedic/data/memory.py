"""How much memory this process may use."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def memory_limit() -> int:
    """Bytes that this process may use: the least of installed memory, limits of its control groups, address space."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    for file in _limit_files():
        text = _read(file)
        if text.isdecimal():  # "max" means no limit
            limits.append(int(text))
    return min(limits)


def bytes_as_text(count: float) -> str:
    """A number of bytes for messages, for instance "4.1 GiB"."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def _limit_files() -> Iterator[Path]:
    """Where containers and batch systems state a limit: the process's control groups and those around them."""
    yield _CGROUPS / "memory.max"
    yield _CGROUPS / "memory" / "memory.limit_in_bytes"
    for line in _read(_OWN_CGROUPS).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0":  # version 2, one hierarchy
            top, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = top / group.lstrip("/")
        while folder != top and top in folder.parents:
            yield folder / name
            folder = folder.parent


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
