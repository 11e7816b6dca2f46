"""A kill at every single moment of writing two consecutive checkpoints: each open, write, sync, rename, link, removal.

What a training session writes checkpoints with is run alone, in forked copies of one process: see `two_checkpoints.py`.
`test_kills.py` kills whole sessions at a selection of these moments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KILLED = -9


@pytest.fixture(scope="module", params=["epochs", "validation"])
def kills(request, tmp_path_factory):
    """One record per kill, in the order of the moments, and the record of the copy that was not killed."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "FAULT": "kill:nothing:0"}
    command = [sys.executable, str(HERE / "two_checkpoints.py"), request.param, str(tmp_path_factory.mktemp("kills"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *killed, undisturbed = [json.loads(line) for line in done.stdout.splitlines()]
    return killed, undisturbed


def test_every_moment_is_among_them(kills):
    killed, undisturbed = kills
    assert (undisturbed["code"], undisturbed["counter"]) == (0, 3)
    assert {record["code"] for record in killed} == {KILLED}
    all_moments = [record["moment"].partition(" ")[0] for record in killed]
    assert "os.unlink" in all_moments
    moments = [moment for moment in all_moments if moment != "os.unlink"]
    # Each checkpoint: its file, and "latest" as a second name of it.
    file, name = ["open", "write", "half", "os.fsync", "os.replace", "os.fsync"], ["os.link", "os.replace", "os.fsync"]
    assert moments[:9] == file + name
    second = moments.index("open", 1)
    assert moments[second : second + 9] == file + name
    assert moments.count("open") == moments.count("half") == 2


def test_the_last_whole_checkpoint_is_found_whatever_was_being_written(kills):
    killed, _ = kills
    renamed = [number for number, record in enumerate(killed) if is_rename_of_a_checkpoint(record["moment"])]
    assert len(renamed) == 2
    for number, record in enumerate(killed):
        # A kill comes just before its moment: the rename itself brings the next checkpoint.
        expected = 1 + sum(number > moment for moment in renamed)
        assert (record["counter"], record["whole"], record["notes"]) == (expected, True, []), record["moment"]


def test_going_on_ends_as_if_there_had_been_no_kill(kills):
    killed, undisturbed = kills
    for record in killed:
        assert (record["goes on"], record["names"]) == (0, undisturbed["names"]), record["moment"]
    assert not any("partial" in name for name in undisturbed["names"])


def is_rename_of_a_checkpoint(moment: str) -> bool:
    return moment.startswith("os.replace") and not any(tag in moment for tag in (".latest.", ".best.", ".final."))
