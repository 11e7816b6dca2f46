"""A training in phases that is killed, at the border of two phases too, ends as if nothing had happened."""

from __future__ import annotations

import signal

import pytest
from study import Study

from deepmedic import checkpoints

KILLED = -signal.SIGKILL
SETTINGS = {
    "numberOfSubepochs": 1,
    "numberTrainingSegmentsLoadedOnGpuPerSubep": 4,
    "validate": True,
    "performFullInferenceOnValidationImagesEveryFewEpochs": False,
    "recipe": "gradual",
    "recipeEpochs": [1],
    "recipeDepths": 2,
    "earlyStoppingMinimumChange": 0,
    "earlyStoppingPatience": 1,
}


def outcome_of(out) -> dict:
    """Everything that must not depend on interruptions."""
    [final] = (out / "cnnModels" / "first").glob("net.first.final.*.save")
    content = checkpoints.load(final)
    kept = ("position", "phase", "history", "schedule", "stopping", "finished")
    return {
        "parameters": {name: tensor.tolist() for name, tensor in content["parameters"].items()},
        "rows": content["rolling_rows"],
        "training": {name: content["training"][name] for name in kept},
        "best": content["training"]["best"]["epoch"],
        "metrics": (out / "logs" / "first.metrics.csv").read_bytes(),
        "files": len(list(final.parent.iterdir())),
    }


@pytest.fixture(scope="module")
def undisturbed(written_once, server, tmp_path_factory):
    study, out = Study(written_once), tmp_path_factory.mktemp("undisturbed")
    config = study.train("undisturbed", folderForOutput=out, **SETTINGS)
    assert server.run("-newModel", study.folder / "model.cfg", "-train", config).code == 0
    config.unlink()
    return outcome_of(out)


def test_the_undisturbed_training_has_more_than_one_phase(undisturbed):
    assert undisturbed["training"]["phase"]["index"] >= 1


@pytest.mark.parametrize(
    "event", ["os.replace:4", "os.replace:5", "os.replace:6", "os.fsync:6", "os.fsync:8", "open:9"]
)
def test_killed_and_repeated_it_ends_the_same(study, server, undisturbed, event):
    command = ["-newModel", study.folder / "model.cfg", "-train", study.train(**SETTINGS)]
    ended = server.run(*command, fault=f"kill:{event}:/out/")
    assert ended.code == KILLED, ended.printed
    ended = server.run(*command)
    assert ended.code == 0, ended.printed
    assert not list(study.out.rglob("*.partial"))
    assert outcome_of(study.out) == undisturbed


def test_killed_between_two_phases_it_begins_the_second_one(study, server, undisturbed):
    """The history is written at the start and after each epoch: for the third time in the second phase."""
    command = ["-newModel", study.folder / "model.cfg", "-train", study.train(**SETTINGS)]
    ended = server.run(*command, fault="kill:os.replace:3:metrics.csv")
    assert ended.code == KILLED, ended.printed
    assert checkpoints.newest_valid(study.checkpoints)[1]["training"]["phase"]["index"] == 0
    assert "== Phase 2 of 3 (depth 1), from epoch #1" in study.log
    ended = server.run(*command)
    assert ended.code == 0, ended.printed
    assert outcome_of(study.out) == undisturbed
