"""Mono- and dual-phase training from Python: split, trained, and tested with the best weights."""

from __future__ import annotations

import hashlib
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from study import TRAIN, Study

import deepmedic
from deepmedic.data.splits import read_split
from deepmedic.errors import ConfigError, OutputHeldError
from deepmedic.training.trainer import Trainer

ALL_CASES = {
    **TRAIN,
    "numberOfSubepochs": 1,
    "numberTrainingSegmentsLoadedOnGpuPerSubep": 4,
    "saveSegmentationVal": False,
    "saveProbMapsForEachClassVal": [False, False, False],
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Study:
    study = Study(tmp_path_factory.mktemp("study"))
    study.write_cases(5)
    study.list_cases("train", range(5))
    study.model()
    return study


@pytest.fixture
def study(written, tmp_path) -> Study:
    shutil.copytree(written.folder, tmp_path / "study")
    study = Study(tmp_path / "study")
    study.config("all", ALL_CASES)
    return study


@pytest.fixture
def mono(study):
    def call(epochs=2, **options):
        options = {"split": (0.6, 0.2, 0.2), "device": "cpu", **options}
        return deepmedic.mono_phase_model_training(
            study.folder / "model.cfg", epochs, study.folder / "all.cfg", **options
        )

    return call


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_best_weights_are_kept_and_tested(study, mono, monkeypatch):
    scores = [0.9, 0.1, 0.2]
    monkeypatch.setattr(Trainer, "_score", lambda self: scores[self.state.position.epoch])
    result = mono(3)
    assert result.finished
    assert result.model.training["position"]["epoch"] == 1
    assert result.model_path == result.training.best_model_path
    # The same as -test with that file.
    split = read_split(result.split)
    assert {part: len(subjects) for part, subjects in split.parts.items()} == {
        "training": 3,
        "validation": 1,
        "test": 1,
    }
    assert result.test_results == study.out / "predictions" / "first_test"
    assert 0 <= result.test_dice <= 1
    assert result.test_scores["mean_foreground_dice"] == result.test_dice
    records = list(result.test_results.rglob("*.json"))
    assert any(sha256(result.model_path) in record.read_text() for record in records)


def test_second_call_is_refused_or_resumed_but_does_not_train_again(study, mono):
    first = mono()
    files = {path: path.stat().st_mtime_ns for path in study.checkpoints.iterdir()}
    with pytest.raises(OutputHeldError, match=r"there is a training already\. Go on with it, or"):
        mono()
    second = mono(existing="resume")
    assert {path: path.stat().st_mtime_ns for path in study.checkpoints.iterdir()} == files
    assert second.test_scores == first.test_scores
    assert second.split.read_bytes() == first.split.read_bytes()
    third = mono(existing="overwrite")
    assert {path.name for path in study.checkpoints.iterdir()}.isdisjoint(
        path.name for path in files if "latest" not in path.name
    )
    assert third.test_scores == first.test_scores


def test_stored_split_is_used_again(study, mono):
    first = mono(seed=4)
    kept = shutil.copy(first.split, study.folder / "kept.json")
    shutil.rmtree(study.out)
    again = mono(split=kept)
    assert read_split(again.split).parts == read_split(first.split).parts


def test_without_a_test_part_nothing_is_tested(mono):
    result = mono(1, split=(0.8, 0.2))
    assert result.test_results is None
    assert math.isnan(result.test_dice)


def test_two_phases_are_those_of_the_recipe(study, mono):
    result = deepmedic.dual_phase_model_training(
        study.folder / "model.cfg", (2, 1), study.folder / "all.cfg", split=(0.6, 0.2, 0.2), device="cpu"
    )
    history = result.training.model.training["history"]
    assert history["phases"] == [[0, "all layers"], [1, "all layers"], [2, "FC pathway"]]
    assert "Frozen layers, whose parameters do not change: normal/1, normal/2, subsampled1/1" in study.log
    assert math.isfinite(result.test_dice)


def test_trained_model_keeps_its_weights_and_begins_anew(study, mono):
    trained = mono(1).training.model
    config = study.config("second", ALL_CASES, sessionName="second")
    result = deepmedic.mono_phase_model_training(trained, 1, config, split=(0.6, 0.2, 0.2), device="cpu")
    start = result.training.model.start_parameters
    assert all(torch.equal(start[name], tensor) for name, tensor in trained.parameters.items())
    assert result.training.model.training["position"]["epoch"] == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "epochs = (0,); allowed are 1 whole numbers from 1, one per phase."),
        ({"existing": "keep"}, ConfigError, "existing = 'keep'; allowed are 'refuse', 'resume', 'overwrite'."),
        ({"split": (0.5, 0.2)}, deepmedic.DeepMedicError, "sum to 1"),
    ],
)
def test_refusals(mono, options, error, message):
    with pytest.raises(error) as raised:
        mono(**options)
    assert message in str(raised.value)


def test_config_with_phases_of_its_own_is_refused(study):
    config = study.config("own", ALL_CASES, phase=[{}, {}])
    with pytest.raises(ConfigError, match=r"own\.cfg: this config has phases or a recipe of its own"):
        deepmedic.mono_phase_model_training(study.folder / "model.cfg", 1, config, device="cpu")
