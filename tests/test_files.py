"""Files are whole under their final name, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic import files
from deepmedic.errors import ResourceError

ROOT = Path(__file__).resolve().parent.parent
WRITE_TWICE = """
import sys
from pathlib import Path
from deepmedic.files import write_text_atomically
write_text_atomically(Path(sys.argv[1]), "older")
write_text_atomically(Path(sys.argv[1]), "newer")
"""


def run_python(script: str, *arguments: object, fault: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script in its own process, with the faults of tests/faults."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests' / 'faults'}:{ROOT}", "FAULT": fault}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def failing(code: int, after: int = 0):
    """A function that raises OSError(code) on the call after `after` good ones."""
    real, calls = os.fsync, []

    def call(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    return call


def hidden_files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_new_content_replaces_the_old_one_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "made" / "on the way" / "file.txt"
    files.write_text_atomically(path, "first")
    files.write_text_atomically(path, "zweite Fassung: ä\n")
    assert path.read_bytes() == "zweite Fassung: ä\n".encode()
    assert hidden_files(path.parent) == []


def test_file_gets_the_usual_rights(tmp_path):
    files.write_text_atomically(tmp_path / "ours", "x")
    (tmp_path / "usual").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_error_of_the_writer_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(file) -> None:
        file.write(b"half of the n")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        files.write_atomically(path, write)
    assert path.read_text() == "old"
    assert hidden_files(tmp_path) == []


def test_verification_sees_the_whole_file_and_can_refuse_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []

    def refuse(temporary: Path) -> None:
        seen.append((temporary.parent, temporary.read_bytes()))
        raise ResourceError("not what was written")

    with pytest.raises(ResourceError, match="not what was written"):
        files.write_atomically(path, lambda file: file.write(b"new"), refuse)
    assert seen == [(tmp_path, b"new")]
    assert path.read_text() == "old"
    assert hidden_files(tmp_path) == []


def test_text_that_reads_back_differently_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"something else")
    with pytest.raises(ResourceError, match="read back differs from what was written"):
        files.write_text_atomically(tmp_path / "file", "text")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_names_need_and_free_bytes(tmp_path, monkeypatch, code):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(files, "free_bytes", lambda folder: 4711)
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(ResourceError) as caught:
        files.write_text_atomically(path, "n" * 5000)
    message = str(caught.value)
    assert str(path) in message
    assert os.strerror(code) in message
    assert "5000 bytes are needed and 9711 bytes are free" in message  # with those of the temporary
    assert path.read_text() == "old"
    assert hidden_files(tmp_path) == []


def test_full_disk_without_a_known_size_names_what_was_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(ResourceError, match="at least 300 bytes are needed"):
        files.write_atomically(tmp_path / "file", lambda file: file.write(b"x" * 300))


def test_limit_on_file_size_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    script = """
import resource, sys
from pathlib import Path
from deepmedic.errors import ResourceError
from deepmedic.files import write_text_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text_atomically(Path(sys.argv[1]), "n" * 5000)
except ResourceError as problem:
    print(problem)
"""
    done = run_python(script, path)
    assert "5000 bytes are needed" in done.stdout
    assert "ulimit -f" in done.stdout
    assert path.read_text() == "old"
    assert hidden_files(tmp_path) == []


def test_other_errors_of_the_system_are_refusals(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(ResourceError, match=r"file: cannot be written \(Input/output error\)"):
        files.write_text_atomically(tmp_path / "file", "x")


def test_folder_that_cannot_be_synced_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL, after=1))
    files.write_text_atomically(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


def test_folder_in_the_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(ResourceError, match=r"file: cannot be written \(Is a directory\)"):
        files.write_text_atomically(tmp_path / "file", "x")
    assert hidden_files(tmp_path) == []


def test_long_names_fit(tmp_path):
    path = tmp_path / ("ü" * 120)
    files.write_text_atomically(path, "x")
    assert path.read_text() == "x"


def test_file_is_synced_before_the_rename_and_the_folder_after(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "out" / "file"
    assert run_python(WRITE_TWICE, path, fault=f"trace:{trace}").returncode == 0
    events = [line for line in trace.read_text().splitlines() if str(path.parent) in line]
    assert len(events) == 8
    for opened, synced, renamed, folder in (events[:4], events[4:]):
        temporary = opened.removeprefix("open ")
        assert temporary.endswith(".partial")
        assert synced == f"os.fsync {temporary}"
        assert renamed == f"os.replace {temporary} -> {path}"
        assert folder == f"os.fsync {path.parent}"


@pytest.mark.parametrize(
    ("fault", "content"),
    [
        ("open:1", None),
        ("os.fsync:1", None),
        ("os.replace:1", None),
        ("os.fsync:2", "older"),
        ("open:2", "older"),
        ("os.replace:2", "older"),
        ("os.fsync:4", "newer"),
    ],
)
def test_killed_writer_leaves_a_whole_file_or_none(tmp_path, fault, content):
    path = tmp_path / "file"
    done = run_python(WRITE_TWICE, path, fault=f"kill:{fault}:{tmp_path}")
    assert done.returncode == -signal.SIGKILL
    assert (path.read_text() if path.exists() else None) == content
    left = hidden_files(tmp_path)
    assert sorted(stale.name for stale in files.remove_stale_temporaries(tmp_path)) == sorted(left)
    assert hidden_files(tmp_path) == []


def temporary_of(folder: Path, pid: int, host: str | None = None) -> Path:
    mark = hashlib.sha256((host or socket.gethostname()).encode()).hexdigest()[:8]
    path = folder / f".model.save.{pid}.{mark}-0123abcd.partial"
    path.touch()
    return path


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_only_temporaries_of_dead_writers_are_removed(tmp_path):
    dead = temporary_of(tmp_path, dead_pid())
    earlier_run_with_this_pid = temporary_of(tmp_path, os.getpid())
    kept = [
        temporary_of(tmp_path, os.getppid()),
        temporary_of(tmp_path, dead_pid(), host="another"),
        tmp_path / ".partial",
        tmp_path / ".model.save.12.partial",
        tmp_path / "model.save.12.0123abcd-0123abcd.partial",
        tmp_path / "model.save",
    ]
    for path in kept:
        path.touch()
    folder = tmp_path / dead.name.replace("0123abcd", "11111111")
    folder.mkdir()
    assert set(files.remove_stale_temporaries(tmp_path)) == {dead, earlier_run_with_this_pid}
    assert set(tmp_path.iterdir()) == {*kept, folder}


def test_exclusive_caller_removes_temporaries_of_other_hosts_but_not_its_own(tmp_path):
    foreign = temporary_of(tmp_path, 1, host="another")
    removed = []
    files.write_atomically(
        tmp_path / "file",
        lambda file: removed.extend(files.remove_stale_temporaries(tmp_path, exclusive=True)),
    )
    assert removed == [foreign]
    assert (tmp_path / "file").exists()


def test_missing_folder_has_no_temporaries(tmp_path):
    assert files.remove_stale_temporaries(tmp_path / "none") == []


@pytest.mark.parametrize(("pid", "alive"), [(os.getppid(), True), (1, True), (0, False), (-5, False), (2**70, False)])
def test_liveness_of_other_processes(pid, alive):
    assert files.is_other_process_alive(pid) is alive


def test_json_is_readable_and_repeatable(tmp_path):
    data = {"b": [1, 2.5, float("inf")], "a": {"name": "Größe", "none": None}, "nan": float("nan")}
    files.write_json_atomically(tmp_path / "1.json", data)
    files.write_json_atomically(tmp_path / "2.json", data)
    text = (tmp_path / "1.json").read_text(encoding="utf-8")
    assert text == (tmp_path / "2.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    back = json.loads(text)
    assert list(back) == ["b", "a", "nan"]
    assert back["b"] == data["b"]
    assert back["a"] == data["a"]
    assert math.isnan(back["nan"])


def test_link_is_a_second_name_and_moves_on(tmp_path):
    first, second, latest = tmp_path / "1", tmp_path / "2", tmp_path / "latest"
    first.write_text("first")
    second.write_text("second")
    files.link_atomically(first, latest)
    assert latest.samefile(first)
    files.link_atomically(first, latest)
    assert hidden_files(tmp_path) == []
    files.link_atomically(second, latest)
    assert latest.read_text() == "second"
    assert first.read_text() == "first"


def test_copy_is_made_where_links_are_not_possible(tmp_path, monkeypatch):
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "1").write_text("first")
    files.link_atomically(tmp_path / "1", tmp_path / "latest")
    assert (tmp_path / "latest").read_text() == "first"
    assert not (tmp_path / "latest").samefile(tmp_path / "1")


def test_link_to_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ResourceError, match=r"latest: cannot be written \(No such file"):
        files.link_atomically(tmp_path / "none", tmp_path / "latest")


def test_lines_are_appended_also_after_the_folder_was_removed(tmp_path):
    path = tmp_path / "logs" / "events.jsonl"
    files.append_line(path, "one")
    files.append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    path.unlink()
    path.parent.rmdir()
    files.append_line(path, "three")
    assert path.read_text() == "three\n"


def test_line_cut_short_by_a_crash_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"whole": 1}\n{"cut": ')
    files.append_line(path, '{"next": 2}')
    assert path.read_text().splitlines() == ['{"whole": 1}', '{"cut": ', '{"next": 2}']


def test_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "output").write_text("I am a file")
    with pytest.raises(ResourceError, match=r"since .*output is a file") as caught:
        files.make_folder(tmp_path / "output" / "logs")
    assert str(tmp_path / "output" / "logs") in str(caught.value)
    with pytest.raises(ResourceError, match="output is a file"):
        files.make_folder(tmp_path / "output")


def test_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ResourceError, match=r"may not write to the folder\. Correct its rights"):
        files.make_folder(tmp_path / "output")


def test_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    def refuse(self: Path, **options: bool) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match=r"cannot be made \(Permission denied\)"):
        files.make_folder(tmp_path / "output")


def test_free_bytes_of_a_folder_yet_to_be_made(tmp_path):
    status = os.statvfs(tmp_path)
    free = files.free_bytes(tmp_path / "not" / "yet")
    assert free == pytest.approx(status.f_bavail * status.f_frsize, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(content=st.binary(max_size=200))
def test_written_bytes_and_digest_match(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("digest") / "file"
    files.write_atomically(path, lambda file: file.write(content))
    assert path.read_bytes() == content
    assert files.sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_names_need_not_be_in_the_encoding_of_the_locale(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from deepmedic.files import write_text_atomically; "
        "write_text_atomically(Path(os.fsdecode(os.fsencode(sys.argv[1]) + b'/\\xc3\\xbc.txt')), 'text')"
    )
    surroundings = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=surroundings, check=True)
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [b"\xc3\xbc.txt"]
