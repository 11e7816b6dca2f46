"""The memory limit is the smallest of those that apply."""

import os
import resource
from pathlib import Path

import pytest

from deepmedic.data import memory


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert memory.memory_limit() == installed
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.memory_limit() == installed
    (tmp_path / "memory.max").write_text("1234567\n")
    assert memory.memory_limit() == 1234567
    (tmp_path / "own").write_text("12:cpu:/x\n4:memory:/batch/job\n0::/slurm/job7/step\n")
    (tmp_path / "slurm" / "job7").mkdir(parents=True)
    (tmp_path / "slurm" / "job7" / "memory.max").write_text("123456")
    assert memory.memory_limit() == 123456
    (tmp_path / "memory" / "batch").mkdir(parents=True)
    (tmp_path / "memory" / "batch" / "memory.limit_in_bytes").write_text("12345")
    assert memory.memory_limit() == 12345
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    assert memory.memory_limit() == 1000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (4.4e9, "4.1 GiB"), (2**50, "1024.0 TiB")],
)
def test_bytes_are_written_for_people(count: float, text: str) -> None:
    assert memory.bytes_as_text(count) == text
