"""A cross-validation that is killed goes on with the same command and ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import signal

import pytest
from study import CLASSES, Study

from deepmedic import checkpoints

CASES = 4
QUICK = {"numberOfEpochs": 1, "numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}
KILLS = {
    "before the split is stored": "os.replace:1:folds.json",
    "in the training of the second fold": "os.replace:2:first_fold2.*save",
    "before a checkpoint has its names": "os.replace:1:first_fold1.final",
    "in the scoring of the first fold": "os.replace:1:heldOut.*_Segm",
    "before the table": "os.replace:1:cross_validation.json",
}


@pytest.fixture(scope="session")
def four_cases(all_in_training) -> Study:
    return all_in_training(CASES)


def command(study: Study, out: str) -> list:
    config = study.train(out, folderForOutput=out, saveProbMapsForEachClassVal=[False] * CLASSES, **QUICK)
    return ["-newModel", study.folder / "model.cfg", "-train", config, "-crossValidate", "2"]


def digests(out) -> dict[str, str]:
    """What must not depend on interruptions: parameters, histories, results, splits and the table."""
    found = {}
    for fold in (1, 2):
        [final] = (out / "cnnModels" / f"first_fold{fold}").glob("*.final.*.save")
        tensors = checkpoints.load(final)["parameters"]
        content = b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
        found[f"fold {fold}"] = hashlib.sha256(content).hexdigest()
    assert list(out.rglob("*.partial")) == []
    patterns = ("logs/*.metrics.csv", "predictions/*/predictions/*.nii.gz", "predictions/*/metrics.csv")
    for pattern in (*patterns, "predictions/first/*", "splits/first/folds.json"):
        paths = sorted(out.glob(pattern))
        assert paths
        for path in paths:
            found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="session")
def undisturbed(four_cases, server) -> dict[str, str]:
    ended = server.run(*command(four_cases, "undisturbed"))
    assert ended.code == 0, ended.printed
    return digests(four_cases.folder / "undisturbed")


@pytest.mark.parametrize("fault", KILLS.values(), ids=[name.replace(" ", "_") for name in KILLS])
def test_a_killed_cross_validation_goes_on_to_the_same_bytes(four_cases, undisturbed, server, fault):
    out = f"killed_{list(KILLS.values()).index(fault)}"
    words = command(four_cases, out)
    assert server.run(*words, fault=f"kill:{fault}").code == -signal.SIGKILL
    ended = server.run(*words)
    assert ended.code == 0, ended.printed
    assert digests(four_cases.folder / out) == undisturbed
