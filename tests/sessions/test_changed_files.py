"""Files of cases that are changed in place between two runs of a training: the session says which, and goes on."""

from __future__ import annotations

import gzip
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from study import IMAGES
from study_fixtures import signal_at

from deepmedic import checkpoints
from deepmedic.training.trainer import Trainer

QUICK = {"numberOfEpochs": 1, "numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}
MODEL = ("-newModel", "model.cfg", "-train", "train.cfg")
SAID = "Changed in place since the checkpoint: "


def correct(study, case: int, kind: str) -> None:
    """Change one voxel of an image, as someone who corrects it does."""
    image = nib.load(study.image(case, kind))
    voxels = np.asarray(image.dataobj).copy()
    voxels[5, 5, 5] = 0 if voxels[5, 5, 5] == 1 else 1
    study.write_image(case, kind, voxels, image.affine)


def said(outcome) -> list[str]:
    return [line.partition(SAID)[2] for line in outcome.err.splitlines() if SAID in line]


@pytest.fixture
def begun(study, run, monkeypatch):
    """A study whose session trained for one epoch, with validation; the working folder is the study's."""
    monkeypatch.chdir(study.folder)
    study.train(validate=True, **QUICK)
    assert run(*MODEL).code == 0
    return study


def test_each_changed_file_is_named_once_with_its_role_and_case(begun, run):
    for case, kind in ((0, "labels"), (1, "roi"), (2, "t1")):
        correct(begun, case, kind)
    begun.train(validate=True, **{**QUICK, "numberOfEpochs": 2})
    check, outcome = run(*MODEL, "-check"), run(*MODEL)
    expected = [
        f"training case case0_t1, labels: {begun.image(0, 'labels')} (other contents)",
        f"training case case1_t1, ROI mask: {begun.image(1, 'roi')} (other contents)",
        f"validation case case2, channel 1: {begun.image(2, 't1')} (other contents)",
    ]
    assert outcome.code == 0
    assert said(outcome) == expected
    assert "until the checkpoint is of the files as they were then. To train anew" in outcome.err
    assert all(line in begun.log for line in expected)
    assert all(line in check.out for line in expected)
    begun.train(validate=True, **{**QUICK, "numberOfEpochs": 3})
    assert said(run(*MODEL)) == []  # what the last checkpoint knows is what is there


def test_a_finished_session_says_that_it_did_not_learn_from_the_files_as_they_are(begun, run):
    correct(begun, 0, "labels")
    outcome = run(*MODEL)
    assert outcome.code == 0
    assert "Nothing was done" in outcome.out
    assert said(outcome) == [f"training case case0_t1, labels: {begun.image(0, 'labels')} (other contents)"]


def test_files_that_were_only_copied_or_compressed_anew_are_the_same(begun, run):
    for kind in IMAGES:
        path = begun.image(0, kind)
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
        os.utime(path, (1, 1))
    outcome = run(*MODEL)
    assert outcome.code == 0
    assert said(outcome) == []


def test_uncompressed_files_are_told_by_size_and_time(study, run, monkeypatch):
    monkeypatch.chdir(study.folder)
    plain = study.folder / "images" / "plain.nii"
    plain.write_bytes(gzip.decompress(study.image(0, "labels").read_bytes()))
    (study.folder / "lists" / "train_labels.cfg").write_text("../images/plain.nii\n../images/case1_labels.nii.gz\n")
    study.train(**QUICK)
    assert run(*MODEL).code == 0
    shutil.copy2(plain, study.folder / "kept.nii")
    assert said(run(*MODEL)) == []
    os.utime(plain, (1, 1))
    assert said(run(*MODEL)) == [f"training case case0_t1, labels: {plain} (modified since)"]
    plain.write_bytes(plain.read_bytes().replace(b"\x02" * 6, b"\x01" * 6))
    assert said(run(*MODEL)) == [f"training case case0_t1, labels: {plain} (modified since)"]
    shutil.copy2(study.folder / "kept.nii", plain)
    assert said(run(*MODEL)) == []


def test_a_checkpoint_of_an_earlier_version_knows_no_files(begun, run):
    path = begun.newest()
    content = checkpoints.load(path)
    assert content["training"].pop("files").keys() == {"training", "validation"}
    for other in begun.checkpoints.glob("*.save"):
        other.unlink()
    checkpoints.save(path, content)
    correct(begun, 0, "labels")
    begun.train(validate=True, **{**QUICK, "numberOfEpochs": 2})
    outcome = run(*MODEL)
    assert outcome.code == 0
    assert said(outcome) == []
    assert begun.trained()["files"]["training"]["case0_t1"].keys() == {"channel 1", "channel 2", "labels", "ROI mask"}


@pytest.mark.parametrize(("case", "batches"), [(0, [0, 1]), (2, [1])], ids=["training", "validation"])
def test_an_interrupted_subepoch_is_repeated_if_training_files_changed(study, run, monkeypatch, case, batches):
    monkeypatch.chdir(study.folder)
    study.train(validate=True, numberOfEpochs=1)
    with signal_at(2):  # the first of the two steps of the second subepoch
        assert run(*MODEL).code == 143
    assert study.trained()["position"]["step"] == 3
    taken, step = [], Trainer._step

    def noted(self, *arguments):
        taken.append(self.state.position.batch)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", noted)
    correct(study, case, "labels")
    outcome = run(*MODEL)
    assert outcome.code == 0
    assert len(said(outcome)) == 1
    assert taken == batches


def test_a_search_for_a_learning_rate_is_not_taken_for_that_of_other_files(study, run, monkeypatch):
    monkeypatch.chdir(study.folder)
    study.train(findLr={"method": "ramp", "rampSteps": 20})
    command = ("-newModel", "model.cfg", "-findLr", "train.cfg")
    assert run(*command).code == 0
    assert "This search was made before" in run(*command).out
    correct(study, 0, "labels")
    assert run(*command).code == 8


def test_many_changed_files_are_told_in_short(begun, run, monkeypatch):
    monkeypatch.setattr("deepmedic.sessions.training.changed_files._MOST_SHOWN", 2)
    for kind in IMAGES:
        correct(begun, 0, kind)
    assert said(run(*MODEL))[2:] == ["and 2 more files"]
