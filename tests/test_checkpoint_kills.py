"""A kill at any moment of a save leaves the last good checkpoint; files and folders are synced in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepmedic.checkpoints import newest_valid
from deepmedic.files import remove_stale_temporaries

ROOT = Path(__file__).resolve().parent.parent
SAVE_TWICE = """
import sys
from pathlib import Path
import torch
from deepmedic.checkpoints import save

def save_twice(folder):
    for counter in (1, 2):
        content = {"modelName": "tiny", "session": "first", "counter": counter, "weight": torch.full((300,), counter)}
        save(folder / f"{counter}.save", content)
"""
SAVE_TWICE_NOW = f"{SAVE_TWICE}\nsave_twice(Path(sys.argv[1]))"
SAVE_WITH_KILLS = f"""{SAVE_TWICE}
import os, sitecustomize
for event in ("os.replace", "os.fsync", "open"):
    for count in range(1, 7):
        folder = Path(sys.argv[1]) / f"{{event}}.{{count}}"
        worker = os.fork()
        if worker == 0:
            sitecustomize._WORDS[:] = [event, str(count), str(folder)]
            save_twice(folder)
            os._exit(0)
        print(event, count, os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
"""


def run_python(script: str, argument: Path, fault: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests' / 'faults'}:{ROOT}", "FAULT": fault}
    command = [sys.executable, "-c", script, str(argument)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, dict[tuple[str, int], int]]:
    """A folder per kill, with what it left of two saves, and the exit code of each process."""
    folder = tmp_path_factory.mktemp("killed")
    done = run_python(SAVE_WITH_KILLS, folder, fault="kill:nothing:0")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    return folder, {(event, int(count)): int(code) for event, count, code in lines}


@pytest.mark.parametrize(
    ("event", "whole_files"), [("os.replace", [0, 1]), ("os.fsync", [0, 1, 1, 2]), ("open", [0, 1])]
)
@pytest.mark.parametrize("count", range(1, 7))
def test_killed_save_leaves_the_last_good_checkpoint(killed, event, whole_files, count):
    folder, exit_codes = killed[0] / f"{event}.{count}", killed[1]
    is_killed = count <= len(whole_files)
    whole = whole_files[count - 1] if is_killed else 2
    assert exit_codes[event, count] == (-signal.SIGKILL if is_killed else 0)
    temporaries = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert remove_stale_temporaries(folder) == temporaries
    assert {path.name for path in folder.iterdir()} == {f"{counter}.save" for counter in range(1, whole + 1)}
    if whole:
        path, content, notes = newest_valid(folder)
        assert (path.name, content["counter"], notes) == (f"{whole}.save", whole, [])
        assert torch.equal(content["weight"], torch.full((300,), whole))


def test_file_is_synced_before_the_rename_and_the_folder_after(tmp_path):
    trace, folder = tmp_path / "trace", tmp_path / "out"
    assert run_python(SAVE_TWICE_NOW, folder, fault=f"trace:{trace}").returncode == 0
    events = [line.split(" ") for line in trace.read_text().splitlines() if str(folder) in line]
    assert [event[0] for event in events] == ["open", "os.fsync", "os.replace", "os.fsync"] * 2
    for counter, (opened, synced, renamed, synced_folder) in enumerate((events[:4], events[4:]), 1):
        assert opened[1] == synced[1] == renamed[1]
        assert renamed[3] == str(folder / f"{counter}.save")
        assert synced_folder[1] == str(folder)
