"""Signals at any time, and a second command for the same session."""

from __future__ import annotations

import os
import random
import signal
import socket
import time

import pytest
import torch
from study import Study, spawn

SETTINGS = {"numberOfEpochs": 10}


@pytest.fixture(scope="module")
def undisturbed(written_once, server, tmp_path_factory):
    study, out = Study(written_once), tmp_path_factory.mktemp("undisturbed")
    config = study.train("undisturbed", validate=True, folderForOutput=out, **SETTINGS)
    assert server.run("-newModel", study.folder / "model.cfg", "-train", config).code == 0
    config.unlink()
    [final] = (out / "cnnModels" / "first").glob("*final*")
    return study.content(final)["parameters"], (out / "logs" / "first.metrics.csv").read_text()


@pytest.fixture
def command(study):
    return ["-newModel", study.folder / "model.cfg", "-train", study.train(validate=True, **SETTINGS)]


def assert_undisturbed(study, undisturbed) -> None:
    parameters, metrics = study.content()["parameters"], study.metrics
    assert metrics == undisturbed[1]
    assert [name for name in parameters if not torch.equal(parameters[name], undisturbed[0][name])] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_at_random_times(study, server, command, undisturbed, number):
    moments, codes = random.Random(int(number)), []
    for _ in range(3):
        started, seconds = time.monotonic(), moments.uniform(0, 0.5)
        lock = study.out / "logs" / ".first.lock"
        codes.append(server.end(*command, seconds=seconds, number=number, begun=lock).code)
        assert time.monotonic() - started < seconds + 30
    assert set(codes) <= {128 + number, 0}
    assert codes[0] == 128 + number
    ended = server.run(*command)
    assert ended.code == 0, ended.printed
    assert_undisturbed(study, undisturbed)


def test_second_command_is_refused_and_does_no_harm(study, server, run, command, undisturbed):
    pid = server.start(*command)
    lock = study.out / "logs" / ".first.lock"
    deadline = time.monotonic() + 60
    while not (lock.exists() and lock.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    try:
        outcome = run(*command)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - started < 5
    assert outcome.code == 8
    assert (
        f'Session "first" in {study.out} is in use by process {pid} on host {socket.gethostname()}, started 2'
        in outcome.err
    )
    assert server.wait().code == 0
    assert_undisturbed(study, undisturbed)


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT"])
def test_full_disk_while_a_checkpoint_is_written(study, server, command, undisturbed, code):
    # Each checkpoint syncs its file and, for each of its names, its folder; this is the file of the second one.
    ended = server.run(*command, fault=f"errno:os.fsync:4:cnnModels/first:{code}")
    assert ended.code == 6
    assert "bytes are needed and" in ended.printed
    assert "Traceback" not in ended.printed
    assert ended.printed.strip().splitlines()[-1].removeprefix("deepmedic: ") in study.log
    assert study.trained()["position"]["step"] == 0
    assert not list(study.out.rglob("*.partial"))
    assert server.run(*command).code == 0
    assert_undisturbed(study, undisturbed)


def test_command_as_it_is_installed(study, command, undisturbed):
    """One process that imports everything itself, as a batch system would start and stop it."""
    words = [*command, "-dev", "cpu"]
    process = spawn(words)
    while not list(study.checkpoints.glob("net.first.latest.save")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "SIGTERM: the state is saved. Repeat the same command" in error
    process = spawn(words)
    printed, error = process.communicate(timeout=120)
    assert (process.returncode, "Going on from" in printed) == (0, True), error
    assert_undisturbed(study, undisturbed)
