"""Fixtures for whole commands on a study in small; the conftest of a folder that uses them imports them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from study import Study

from deepmedic import cli
from deepmedic.logs import init_logging
from deepmedic.training.trainer import Trainer


@contextmanager
def signal_at(step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Let the process get a signal whenever a training makes this step, counted from 0 over all epochs."""
    original = Trainer._step

    def interrupted(self: Trainer, *arguments: Any) -> None:
        if self.state.position.step == step:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        yield


@contextmanager
def quick() -> Iterator[None]:
    """For fixtures that several tests share, what the two below do for each test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch) -> None:
    """Nothing here is about power failures, and a disk shared by many takes its time to sync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def written_once(tmp_path_factory) -> Path:
    study = Study(tmp_path_factory.mktemp("study"))
    study.write_cases()
    study.model()
    study.train()
    study.test()
    return study.folder


@pytest.fixture
def study(written_once, tmp_path) -> Study:
    """Three cases, lists, `model.cfg`, `train.cfg` and `test.cfg` in a folder of this test's own."""
    return Study(written_once).copied_to(tmp_path / "study")


@pytest.fixture(scope="session")
def all_in_training(written_once, tmp_path_factory) -> Callable[[int], Study]:
    """Makes a study of so many cases, all of them listed for training."""

    def make(cases: int) -> Study:
        study = Study(written_once).copied_to(tmp_path_factory.mktemp("cases") / "study")
        study.write_cases(cases)
        study.list_cases("train", range(cases))
        return study

    return make


@pytest.fixture(scope="session")
def source_once(written_once, tmp_path_factory) -> Path:
    """A model that another session, `other`, trained for one epoch."""
    study, out = Study(tmp_path_factory.mktemp("source") / "study"), tmp_path_factory.mktemp("source_out")
    shutil.copytree(written_once, study.folder)
    config = study.train("other", sessionName="other", folderForOutput=out, numberOfEpochs=1, numberOfSubepochs=1)
    with quick():
        assert cli.main(["-newModel", str(study.folder / "model.cfg"), "-train", str(config), "-dev", "cpu"]) == 0
    [path] = (out / "cnnModels" / "other").glob("net.other.final.*.save")
    return path


@pytest.fixture
def source(study, source_once) -> Path:
    """The model A that others learn from, as a file in the study's folder."""
    return Path(shutil.copy(source_once, study.folder / "A.save"))


@pytest.fixture
def pictures() -> None:
    """Asked for by tests that need pictures, which others of an analysis do without: drawing takes longest of all."""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys) -> Iterator[Callable[..., Outcome]]:
    """Run a command line on the CPU and return its exit code and what it printed."""

    def run(*words: Any) -> Outcome:
        capsys.readouterr()
        code = cli.main([str(word) for word in (*words, "-dev", "cpu")])
        return Outcome(code, *capsys.readouterr())

    yield run
    init_logging(console=False)
    logging.getLogger("deepmedic").setLevel(logging.NOTSET)
