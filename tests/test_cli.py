"""Errors become exit codes in one place, and each command gives its answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepmedic import cli
from deepmedic.errors import DataError, ResourceError
from deepmedic.versions import VERSION

ROOT = Path(__file__).parents[1]


@pytest.fixture
def outcome(monkeypatch, capsys):
    """Run a command whose session raises an error; return its exit code and what it said."""

    def outcome(error: BaseException) -> tuple[int, str]:
        def fail(arguments):
            raise error

        monkeypatch.setattr(cli, "_session", fail)
        return cli.main(["-train", "t.cfg"]), capsys.readouterr().err

    return outcome


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("case x: bad"), 4, "deepmedic: case x: bad\n"),
        (ResourceError("no room"), 6, "deepmedic: no room\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 6, "deepmedic: /x/y: the system says: Permission denied."),
        (OSError("strange"), 6, "deepmedic: the system says: strange."),
        (MemoryError(), 6, "deepmedic: memory ran out"),
        (KeyboardInterrupt(), 130, "deepmedic: interrupted; there was nothing new to save.\n"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "deepmedic: interrupted"),
    ],
)
def test_errors_become_exit_codes_without_a_traceback(outcome, error, code, text):
    found, said = outcome(error)
    assert found == code
    assert said.startswith(text)
    assert "Traceback" not in said


def test_defect_is_shown_with_its_traceback(outcome, caplog):
    assert outcome(ZeroDivisionError("oops"))[0] == 1
    assert "This is a defect of the program" in caplog.text
    assert "ZeroDivisionError: oops" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_end_a_command_that_has_nothing_to_save(monkeypatch, capsys, number):
    monkeypatch.setattr(cli, "_session", lambda arguments: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    # Shells let commands in the background ignore it, tests among them.
    of_tests = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(["-train", "t.cfg"]) == 128 + number
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGINT, of_tests)


def test_help(capsys):
    assert cli.main(["-h"]) == 0
    assert capsys.readouterr().out.startswith("usage: deepmedic OPTIONS")


def test_versions(capsys):
    assert cli.main(["-version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["deepmedic", VERSION]
    assert {"torch", "CUDA of torch", "cuDNN of torch", "NVIDIA driver", "GPU"} <= {line[:15].strip() for line in lines}


def test_explanation_of_a_key(capsys):
    assert cli.main(["-explain", "numberOfEpochs"]) == 0
    assert "numberOfEpochs" in capsys.readouterr().out


def test_reader_that_stops_reading_is_no_error():
    command = f"{sys.executable} {ROOT / 'deepmedic_run.py'} -explain e; echo code $? >&2"
    done = subprocess.run(
        f"({command}) | head -n 1", shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert "Traceback" not in done.stderr
    assert done.stderr.strip() in ("code 0", "code 141")


class TestEndOfTheProcess:
    @staticmethod
    def run(before: str, *words: str) -> tuple[int, str, str]:
        """Exit code, output and errors of the command in a process that is prepared by `before`."""
        program = f"import atexit, sys\nfrom deepmedic import cli\n{before}\ncli.command()\n"
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    TAKEN_APART = "atexit.register(print, 'taken apart')"

    def test_all_is_said_and_nothing_is_taken_apart(self):
        assert self.run(self.TAKEN_APART, "-version") == (0, versions_of_a_process(), "")

    def test_refusals_keep_their_exit_code(self):
        code, said, errors = self.run(self.TAKEN_APART, "-absent")
        assert (code, said) == (2, "")
        assert errors.startswith("deepmedic: ")

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    @pytest.mark.parametrize(("word", "code"), [("-version", 0), ("-absent", 2)])
    def test_streams_may_be_closed(self, closed, word, code):
        command = f"{sys.executable} {ROOT / 'deepmedic_run.py'} {word} {closed}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert "Traceback" not in done.stderr

    def test_files_do_not_get_the_numbers_of_closed_streams(self):
        before = "import os\ncli.main = lambda: 10 + os.open(os.devnull, os.O_RDONLY)"
        program = f"import os\nfrom deepmedic import cli\nos.closerange(0, 3)\n{before}\ncli.command()"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 13

    def test_letters_that_the_terminal_has_not_are_escaped(self):
        command = [sys.executable, str(ROOT / "deepmedic_run.py"), "-explain", "\u65e5\u672c"]
        surroundings = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
        assert done.returncode == 0
        assert "\\u65e5\\u672c" in done.stdout

    @pytest.mark.skipif(
        not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full, as Linux has it"
    )
    def test_a_refusal_that_cannot_be_said_keeps_its_exit_code(self):
        command = [sys.executable, str(ROOT / "deepmedic_run.py"), "-absent"]
        with open("/dev/full", "w") as full:
            assert subprocess.run(command, stderr=full, check=False).returncode == 2

    @pytest.mark.parametrize("watcher", ["sys.setprofile(lambda *_: None)", "sys.settrace(lambda *_: None)"])
    def test_profilers_and_debuggers_see_the_end(self, watcher):
        assert self.run(f"{self.TAKEN_APART}; {watcher}", "-version")[1].endswith("taken apart\n")

    def test_threads_that_still_work_are_waited_for(self):
        begin = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('worked'))).start()"
        assert self.run(begin, "-version")[1].endswith("worked\n")
        as_daemon = begin.replace("print('worked'))", "print('worked')), daemon=True")
        assert not self.run(as_daemon, "-version")[1].endswith("worked\n")


def versions_of_a_process() -> str:
    command = [sys.executable, "-c", "from deepmedic import cli; cli.main(['-version'])"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
