"""`-check` reads everything that a run would read, says what the run would do and need, and makes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepmedic.locks import session_lock


@pytest.fixture
def command(study):
    return ["-newModel", study.folder / "model.cfg", "-train", study.train(validate=True)]


@pytest.fixture
def untouched(study):
    before = study.files()
    yield
    assert study.files() == before


@pytest.mark.usefixtures("untouched")
class TestTraining:
    def test_it_prints_settings_time_memory_and_disk(self, study, run, command):
        outcome = run(*command, "-check")
        assert (outcome.code, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert lines[0] == "OK"
        for line in (
            "session: first",
            f"output: {study.out}",
            "begins: starts with a new model",
            "  training: 2",
            "  validation: 1",
            "  numberOfEpochs: 2",
            "  typeOfLearningRateSchedule: poly",
        ):
            assert line in lines
        estimates = lines[lines.index("estimated:") + 1 :][:4]
        assert [line.split(":")[0].strip() for line in estimates] == [
            "time",
            "memoryOfVolumes",
            "memoryOfOneStep",
            "disk",
        ]
        assert "hours for 8 steps of " in estimates[0]

    def test_it_writes_what_it_found_as_json_when_asked(self, run, command, tmp_path):
        assert run(*command, "-check", "-output", tmp_path / "found.json").code == 0
        found = json.loads((tmp_path / "found.json").read_text())
        assert found["cases"] == {"training": 2, "validation": 1}
        assert found["settings"]["batchsize_train"] == 4

    def test_all_bad_voxels_are_listed(self, study, run, command):
        for case in (0, 2):
            study.write_image(case, "labels", np.full((20, 18, 16), 9, np.uint8))
        outcome = run(*command, "-check")
        assert outcome.code == 4
        assert outcome.err.count("labels out of range: 9") == 2

    def test_it_exits_as_the_run_would(self, study, run, command):
        study.write_image(1, "roi", np.zeros((20, 18, 16), np.uint8))
        outcome = run(*command, "-check")
        assert outcome.code == 4
        assert "case1_t1: no segment can be drawn from it" in outcome.err
        study.train(validate=True, allowSkippedCases=True)
        outcome = run(*command, "-check")
        assert outcome.code == 9
        assert "case1_t1: training, case case1_t1: no segment can be drawn" in outcome.out


def test_it_says_how_a_session_would_go_on(study, run, command):
    assert run(*command).code == 0
    assert "begins: finished: 2 epochs are trained; nothing would be done" in run(*command, "-check").out
    study.train(validate=True, numberOfEpochs=3)
    outcome = run(*command, "-check")
    assert outcome.code == 0
    assert ", epoch 2, subepoch 0; changed: numberOfEpochs: 2 -> 3" in outcome.out
    assert "hours for 4 steps of" in outcome.out


@pytest.mark.usefixtures("untouched")
def test_it_says_what_a_new_model_would_be(study, run, tmp_path):
    outcome = run("-newModel", study.folder / "model.cfg", "-check", "-output", tmp_path / "found.json")
    assert outcome.code == 0
    assert "receptiveField: [5, 5, 5]" in outcome.out
    assert json.loads((tmp_path / "found.json").read_text())["model"] == "net"


def test_inference(study, run, command):
    assert run(*command).code == 0
    before = study.files()
    outcome = run("-test", study.folder / "test.cfg", "-model", study.checkpoints, "-check")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("OK\nsession: segment\n")
    for text in ("tiling: segments", "memoryOfOneBatch: ", "hours for all cases", "kept from before: 0", "disk: "):
        assert text in outcome.out
    assert study.files() == before


@pytest.mark.parametrize("kind", ["-train", "-test"])
def test_session_in_use_is_refused(study, run, command, kind):
    assert run(*command).code == 0
    other = ["-test", study.folder / "test.cfg", "-model", study.checkpoints]
    with session_lock(study.out, "first" if kind == "-train" else "segment"):
        outcome = run(*(command if kind == "-train" else other), "-check")
    assert outcome.code == 8
    assert "is in use by process" in outcome.err
