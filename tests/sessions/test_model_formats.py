"""Trained models of every format version that landed can be read, trained on, used and transferred."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from deepmedic import checkpoints

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "checkpoints").glob("format*_model.save"))
QUICK = {"numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def golden(request, study) -> Path:
    """A model that was trained for one epoch on the study's cases, by the version that wrote this format first."""
    return Path(shutil.copyfile(request.param, study.folder / "golden.save"))


def test_there_is_one_for_each_version():
    assert len(GOLDEN) == checkpoints.FORMAT_VERSION


def test_it_segments(study, run, golden):
    assert run("-test", study.folder / "test.cfg", "-model", golden).code == 0
    assert (study.out / "predictions" / "segment" / "metrics.csv").is_file()


def test_its_training_goes_on(study, run, golden):
    assert run("-train", study.train(numberOfEpochs=2, sessionName="first", **QUICK), "-model", golden).code == 0
    assert re.findall(r"Starting new Epoch! Epoch #(\d)", study.log) == ["1"]
    assert study.trained()["position"]["step"] == 5  # four of the epoch that is in the file, one of the next


def test_it_is_transferred_and_adapted(study, run, golden):
    assert run("-newModel", study.model("B", modelName="B", numberFMsPerLayerFC=[9]), "-pretrained", golden).code == 0
    [path] = (study.out / "cnnModels").glob("B.initial.pretrained.*.save")
    given, found = checkpoints.load(golden)["parameters"], checkpoints.load(path)["parameters"]
    assert torch.equal(found["normal/2/weight"], given["normal/2/weight"])
    outcome = run("-adapt", golden, "-classes", "background", "core", "edema", "-output", study.folder / "new.save")
    assert outcome.code == 0
    found = checkpoints.load(study.folder / "new.save")["parameters"]
    assert torch.equal(found["fc/2/weight"][:2], given["fc/2/weight"][:2])
