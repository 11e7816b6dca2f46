"""Files made to do harm are refused, and nothing in them runs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from deepmedic import checkpoints, model_files
from deepmedic.checkpoints import load, save
from deepmedic.errors import ModelError

ROOT = Path(__file__).resolve().parent.parent
LOAD = """
import sys
from pathlib import Path
from deepmedic.checkpoints import load
from deepmedic.errors import ModelError
try:
    load(Path(sys.argv[1]))
except ModelError as problem:
    print(problem)
"""


class RunsACommand:
    """What a hostile pickle holds."""

    def __init__(self, witness: Path) -> None:
        self.command = f"touch {witness}"

    def __reduce__(self):
        return os.system, (self.command,)


def run_python(script: str, argument: Path, fault: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests' / 'faults'}:{ROOT}", "FAULT": fault}
    command = [sys.executable, "-c", script, str(argument)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def a_model() -> dict:
    return {"modelName": "tiny", "counter": 3, "weight": torch.arange(10.0), "history": [0.5, None]}


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "model.save"
    save(path, a_model())
    return path.read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(path)
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def repacked(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with these members and a matching seal, as someone with knowledge of the format would make it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = bytes(checkpoints._SEAL_LENGTH)
    size = len(buffer.getvalue()) - checkpoints._SEAL_LENGTH
    return buffer.getvalue()[:size] + checkpoints._seal(checkpoints._sha256_of_first(buffer, size))


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_file_repacked_with_care_is_accepted(tmp_path, saved_bytes):
    path = tmp_path / "model.save"
    path.write_bytes(repacked(members_of(saved_bytes)))
    assert load(path)["counter"] == 3


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrapping", ["pickle", "gzip", "torch", "sealed"])
def test_hostile_pickle_is_refused_and_nothing_runs(tmp_path, saved_bytes, protocol, wrapping):
    witness, path = tmp_path / "pwned", tmp_path / "model.save"
    hostile = pickle.dumps({"modelName": "tiny", "weight": RunsACommand(witness)}, protocol=protocol)
    members = {**members_of(saved_bytes), "archive/data.pkl": hostile}
    without_header = {name: content for name, content in members.items() if not name.endswith("json")}
    content = {
        "pickle": hostile,
        "gzip": gzip.compress(hostile),
        "torch": repacked(without_header),
        "sealed": repacked(members),
    }[wrapping]
    message = refused(path, content)
    if wrapping == "sealed":
        assert "asks to run code while it is read (" in message
        assert "nothing was run" in message
    assert not witness.exists()


def test_hostile_pickle_starts_no_program(tmp_path, saved_bytes):
    witness, path, violations = tmp_path / "pwned", tmp_path / "model.save", tmp_path / "violations"
    hostile = pickle.dumps({"weight": RunsACommand(witness)}, protocol=2)
    path.write_bytes(repacked({**members_of(saved_bytes), "archive/data.pkl": hostile}))
    done = run_python(LOAD, path, fault=f"noexec:{violations}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "asks to run code while it is read (posix system)" in done.stdout
    assert not violations.exists()
    assert not witness.exists()


def test_the_check_for_started_programs_itself_works(tmp_path):
    violations = tmp_path / "violations"
    done = run_python("import os; os.system('true')", tmp_path, fault=f"noexec:{violations}")
    assert done.returncode == 97
    assert "os.system" in violations.read_text()


def swapped(path: Path, saved_bytes: bytes, content: object) -> str:
    """The refusal of a well-formed file whose content is another one than its header says."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    header = members_of(saved_bytes)[model_files.HEADER_MEMBER]
    return refused(path, repacked({**members_of(buffer.getvalue()), model_files.HEADER_MEMBER: header}))


def test_content_that_does_not_match_its_digest_is_refused(tmp_path, saved_bytes):
    path = tmp_path / "model.save"
    assert "does not match the digest" in swapped(path, saved_bytes, {"formatVersion": 1, **a_model(), "counter": 4})
    assert "does not match the digest" in swapped(path, saved_bytes, [1, 2])


def test_unusual_content_is_refused_in_bounded_memory(tmp_path, saved_bytes):
    path = tmp_path / "model.save"
    endless: list = []
    for _ in range(60):
        endless = [endless, endless]
    for content in (endless, {"a": torch.zeros(1).expand(10**13)}, {"a": torch.zeros(8)[::2]}, {"a": OrderedDict()}):
        assert "its content is not as this program writes it" in swapped(path, saved_bytes, content)


def test_unusual_zip_files_are_refused(tmp_path, saved_bytes):
    path, members = tmp_path / "model.save", members_of(saved_bytes)
    assert "has other members" in refused(path, repacked({**members, "archive/constants.pkl": b""}))
    assert "has other members" in refused(path, repacked({**members, "../escape": b""}))
    assert "are compressed or overlap" in refused(path, repacked(members, zipfile.ZIP_DEFLATED))
    without = {name: content for name, content in members.items() if name != "archive/data.pkl"}
    assert "has other members" in refused(path, repacked(without))
    buffer = io.BytesIO(saved_bytes)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", members["archive/data/0"])
    assert "has other members" in refused(path, buffer.getvalue())
