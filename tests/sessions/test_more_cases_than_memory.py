"""Training on more cases than memory holds: the same to the last bit, whatever is resident and however it is read."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from study import Study
from study_fixtures import quick, signal_at

from deepmedic import cli
from deepmedic.data.dataset import DataSet
from deepmedic.data.source import SegmentSource
from deepmedic.training.trainer import Trainer

CASES = 6
SIZES = [(14, 12, 11), (18, 10, 12), (11, 13, 14)]
SETTINGS = {
    "numberOfEpochs": 2,
    "numberOfSubepochs": 3,
    "numOfCasesLoadedPerSubepoch": 2,
    "augm_img_prms_tr": {"affine": {"prob": 0.5, "max_rot_xyz": [20.0, 20.0, 20.0]}},
    "augm_sample_prms_tr": {"reflect": [0.5, 0.5, 0]},
}
LARGEST = (1 + (18 + 4) * (10 + 4) * (12 + 4)) * (2 * 4 + 1 + 1)
"""Bytes of the largest case with two channels, labels and ROI, padded by what the network does not predict."""
VALIDATION = (1 + (20 + 4) * (18 + 4) * (16 + 4)) * (2 * 4 + 1 + 1)
TIGHT = (VALIDATION + 2.2 * LARGEST) / 2**30
ROOMY = (VALIDATION + 5.3 * LARGEST) / 2**30


@pytest.fixture(scope="module")
def many_once(written_once, tmp_path_factory) -> Study:
    """Six training cases of three sizes, two without their second channel, and one of the study's for validation."""
    study = Study(tmp_path_factory.mktemp("many") / "study")
    shutil.copytree(written_once, study.folder)
    for case in range(10, 10 + CASES):
        size = SIZES[case % 3]
        generator = np.random.default_rng(case)
        labels = np.zeros(size, np.uint8)
        labels[3:10, 3:9, 3:9] = 2
        labels[5:8, 4:7, 5:8] = 1
        study.write_image(case, "labels", labels)
        study.write_image(case, "roi", np.ones(size, np.uint8))
        for kind in ("t1", "t2"):
            study.write_image(case, kind, (labels * 3 + generator.normal(size=size)).astype(np.float32))
    study.list_cases("train", range(10, 10 + CASES))
    listing = study.folder / "lists" / "train_t2.cfg"
    lines = listing.read_text().splitlines()
    listing.write_text("\n".join("-" if number in (1, 4) else line for number, line in enumerate(lines)) + "\n")
    return study


@pytest.fixture
def many(many_once, tmp_path) -> Study:
    """The same in a folder of this test's own."""
    shutil.copytree(many_once.folder, tmp_path / "study")
    return Study(tmp_path / "study")


def outcome_of(study, out="out"):
    [final] = (study.folder / out / "cnnModels" / "first").glob("net.first.final*")
    return study.content(final)["parameters"], (study.folder / out / "logs" / "first.metrics.csv").read_text()


def assert_same(one, other) -> None:
    assert one[1] == other[1]
    assert [name for name in one[0] if not torch.equal(one[0][name], other[0][name])] == []


@pytest.fixture
def words(many):
    def words(budget, workers, **changes):
        config = many.train(
            validate=True, memoryBudget=budget, num_processes_sampling=workers, **{**SETTINGS, **changes}
        )
        return ["-newModel", many.folder / "model.cfg", "-train", config]

    return words


@pytest.fixture(scope="module")
def all_resident(many_once, tmp_path_factory):
    """What comes out when all cases stay in memory."""
    out = tmp_path_factory.mktemp("resident")
    config = many_once.train("resident", validate=True, folderForOutput=out, **SETTINGS)
    with quick():
        assert cli.main(["-newModel", str(many_once.model()), "-train", str(config), "-dev", "cpu"]) == 0
    return outcome_of(many_once, out)


@pytest.fixture
def watched(monkeypatch):
    """Notes how much is resident and in hand whenever a batch is cut."""
    seen = []
    original = SegmentSource.keep_what_is_read

    def keep(source):
        original(source)
        if source.settings.role == "train":
            seen.append((source.pool.bytes_allocated, source._reader.in_hand))

    monkeypatch.setattr(SegmentSource, "keep_what_is_read", keep)
    return seen


def test_memory_and_workers_make_no_difference(many, run, words, all_resident, watched):
    for budget, workers in ((TIGHT, -1), (TIGHT, 0), (ROOMY, 3)):
        watched.clear()
        outcome = run(*words(budget, workers), "-overwrite")
        assert outcome.code == 0
        assert "The 6 training cases take 2" in outcome.out
        assert_same(outcome_of(many), all_resident)
        assert len(watched) == 12
        # The one case that is being read may come on top.
        assert max(pool + (in_hand - 1) * LARGEST for pool, in_hand in watched) <= budget * 2**30 - VALIDATION
        assert (max(in_hand for _, in_hand in watched) > 0) == (workers >= 0)


@pytest.mark.parametrize("step", [2, 5])
def test_interrupted_it_goes_on_with_another_budget(many, run, words, all_resident, step):
    with signal_at(step):
        assert run(*words(TIGHT, 2)).code == 143
    outcome = run(*words(ROOMY, 1))
    assert outcome.code == 0
    assert "Changed since the checkpoint: num_processes_sampling: 2 -> 1" in outcome.err
    assert "Changed since the checkpoint: memoryBudget: " in outcome.err
    assert_same(outcome_of(many), all_resident)


@pytest.mark.parametrize("workers", [-1, 2])
def test_bad_voxels_found_on_the_way_stop_the_session_and_cost_no_checkpoint(many, run, words, all_resident, workers):
    path = many.image(10 + CASES - 1, "t1")  # beyond the cases that are read for the description of the data
    whole = path.read_bytes()
    path.write_bytes(whole[:-300])
    outcome = run(*words(TIGHT, workers))
    assert outcome.code == 4
    assert f"{path}: " in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.splitlines()[0].removeprefix("deepmedic: ") in many.log
    assert [many.trained(path)["save_index"] for path in many.saved()] == [1]
    path.write_bytes(whole)
    assert run(*words(TIGHT, workers)).code == 0
    assert_same(outcome_of(many), all_resident)


def test_bad_case_is_left_out_where_that_is_allowed_the_same_with_all_memory(many, run, words):
    path = many.image(10 + CASES - 1, "t1")
    path.write_bytes(path.read_bytes()[:-300])
    assert run(*words(None, None, folderForOutput="resident", allowSkippedCases=True)).code == 9
    outcome = run(*words(TIGHT, 2, allowSkippedCases=True))
    assert outcome.code == 9
    assert "1 case was left out: case15_t1" in outcome.err
    assert_same(outcome_of(many), outcome_of(many, "resident"))


def test_start_reads_no_more_voxels_than_the_description_of_the_data_needs(many, run, words, monkeypatch):
    """Thousands of cases: their headers are checked before the first step, their voxels when they are wanted."""
    read, original = [], DataSet.load
    monkeypatch.setattr(DataSet, "load", lambda data, case: read.append((data.role, case)) or original(data, case))
    monkeypatch.setattr(Trainer, "_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(*words(TIGHT, 2)).code == 130
    assert many.trained()["position"]["step"] == 0
    assert [case for role, case in read if role == "training"] == [0, 1, 2, 3, 4]
