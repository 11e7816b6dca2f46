"""Messages reach the console and the session's logs, and a lost log never stops a run."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from deepmedic import logs
from deepmedic.errors import ResourceError

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
log = logging.getLogger("deepmedic.somewhere.inside")


@pytest.fixture(autouse=True)
def quiet_afterwards():
    """Leave the package's logger as it was found."""
    package = logging.getLogger("deepmedic")
    level, handlers = package.level, list(package.handlers)
    yield
    package.setLevel(level)
    package.handlers[:] = handlers


def refuse(path: Path, line: str) -> None:
    raise ResourceError(f"{path}: the disk is full")


def test_console_has_messages_without_time_stamps(capsys):
    logs.init_logging()
    log.info("Starting new Epoch! Epoch #%d", 0)
    log.debug("not shown")
    log.warning("intensities are not normalised")
    shown = capsys.readouterr()
    assert shown.out == "Starting new Epoch! Epoch #0\n"
    assert shown.err == "WARNING: intensities are not normalised\n"


def test_second_call_does_not_double_messages_and_can_silence_them(capsys):
    logs.init_logging()
    logs.init_logging()
    log.info("once")
    logs.init_logging(console=False)
    log.info("never")
    assert capsys.readouterr().out == "once\n"


def test_console_that_went_away_does_not_stop_the_run(monkeypatch):
    class Closed:
        encoding = "utf-8"
        attempts = 0

        def write(self, text: str) -> None:
            self.attempts += 1
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    closed = Closed()
    monkeypatch.setattr(sys, "stdout", closed)
    logs.init_logging()
    log.info("to nobody")
    assert closed.attempts == 1


def test_console_without_the_letters_shows_them_escaped(monkeypatch):
    plain = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    logs.init_logging()
    log.info("Größe")
    assert plain.buffer.getvalue() == b"Gr\\xf6\\xdfe\n"


def test_session_log_has_time_stamps_and_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "logs" / "mine.txt"
    for run in (1, 2):
        with logs.session_log(path):
            log.info("run %d", run)
            log.warning("careful")
        log.info("after the session")
    lines = path.read_text().splitlines()
    assert [re.sub(rf"^{STAMP}  ", "", line) for line in lines] == [
        "run 1",
        "WARNING: careful",
        "run 2",
        "WARNING: careful",
    ]
    assert all(re.match(rf"{STAMP}  ", line) for line in lines)


def test_session_log_has_details_that_the_console_does_not_show(tmp_path, capsys):
    package = logging.getLogger("deepmedic")
    logs.init_logging()
    with logs.session_log(tmp_path / "mine.txt"):
        log.debug("a detail")
        log.info("a result")
    log.debug("after the session")
    assert package.level == logging.INFO
    assert [line.split("  ")[1] for line in (tmp_path / "mine.txt").read_text().splitlines()] == [
        "a detail",
        "a result",
    ]
    assert capsys.readouterr().out == "a result\n"


def test_removed_log_folder_is_made_again(tmp_path):
    path, events = tmp_path / "logs" / "mine.txt", logs.EventLog(tmp_path / "logs" / "mine.jsonl")
    with logs.session_log(path):
        log.info("before")
        events.write("before")
        shutil.rmtree(tmp_path / "logs")
        log.info("after")
        events.write("after")
    assert path.read_text().endswith("after\n")
    assert "before" not in path.read_text()
    assert json.loads(events.path.read_text())["event"] == "after"


def test_log_that_cannot_be_written_is_reported_once(tmp_path, monkeypatch, capsys):
    logs.init_logging()
    events = logs.EventLog(tmp_path / "mine.jsonl")
    monkeypatch.setattr(logs, "append_line", refuse)
    with logs.session_log(tmp_path / "mine.txt"):
        for step in range(3):
            log.info("step %d", step)
            events.write("step", number=step)
    shown = capsys.readouterr()
    assert shown.out == "step 0\nstep 1\nstep 2\n"
    assert len(shown.err.splitlines()) == 2
    assert f"goes on without its log: {tmp_path / 'mine.txt'}: the disk is full" in shown.err
    assert f"goes on without its record of events: {tmp_path / 'mine.jsonl'}" in shown.err


def test_events_are_one_json_object_per_line(tmp_path):
    events = logs.EventLog(tmp_path / "mine.jsonl")
    events.write("started", seed=0, output=Path("/some/where"), names=["Größe\nzwei"])
    events.write("epoch", dice=np.float32(0.5), classes={2, 1}, lost=float("nan"))
    first, second = [json.loads(line) for line in events.path.read_text(encoding="utf-8").splitlines()]
    assert re.fullmatch(STAMP, first.pop("time"))
    assert first == {"event": "started", "seed": 0, "output": "/some/where", "names": ["Größe\nzwei"]}
    assert (second["event"], second["dice"], second["classes"]) == ("epoch", 0.5, [1, 2])
    assert np.isnan(second["lost"])


def test_name_that_is_no_text_is_logged_escaped(tmp_path, monkeypatch):
    # pytest's own record of log messages cannot be sent between processes with such a name in it.
    monkeypatch.setattr(logging.getLogger("deepmedic"), "propagate", False)
    name = os.fsdecode(b"scan\xff.nii")
    with logs.session_log(tmp_path / "mine.txt"):
        log.warning("cannot read %s", name)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8").endswith("cannot read scan\\udcff.nii\n")


def test_refusal_is_noted_only_in_a_log_that_exists(tmp_path, monkeypatch):
    path = tmp_path / "mine.txt"
    logs.log_refusal(path, "no such key")
    assert not path.exists()
    path.write_text("earlier\n")
    logs.log_refusal(path, "no such key")
    assert re.fullmatch(rf"earlier\n{STAMP}  ERROR: no such key\n", path.read_text())
    monkeypatch.setattr(logs, "append_line", refuse)
    logs.log_refusal(path, "on a full disk")
    assert "on a full disk" not in path.read_text()
