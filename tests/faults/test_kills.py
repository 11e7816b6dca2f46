"""A session that is killed at any moment goes on with the same command and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import re
import signal
import sys

import pytest
import torch
from study import Study

from deepmedic import checkpoints

KILLED = -signal.SIGKILL
KILLS = int(os.environ.get("KILLS", "8"))
"""At random times; by hand, more."""
QUICK = {"numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outcome_of(study, out) -> dict:
    """Everything that must not depend on interruptions."""
    [final] = (out / "cnnModels" / "first").glob("net.first.final.*.save")
    content = checkpoints.load(final)
    return {
        "tensors": {**content["parameters"], **flat(content["training"]["optimiser"]["slots"])},
        "training": {key: content["training"][key] for key in ("position", "history", "schedule", "finished")},
        "rolling rows": content["rolling_rows"],
        "best": content["training"]["best"] and content["training"]["best"]["epoch"],
        "metrics": (out / "logs" / "first.metrics.csv").read_bytes(),
        "predictions": contents(out / "predictions") if (out / "predictions").exists() else {},
        "names": sorted(re.sub(r"\d{4}-[\d.-]+", "DATE.", path.name) for path in final.parent.iterdir()),
    }


def flat(slots):
    return {f"{slot} of {name}": tensor for slot, tensors in slots.items() for name, tensor in tensors.items()}


def assert_same(one, other) -> None:
    tensors, others = one.pop("tensors"), other.pop("tensors")
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert one == other


def test_kills_at_random_times(study, server):
    """Eight of them, or as many as the environment says: `KILLS=30 pytest -s tests/faults/test_kills.py -k random`."""
    augmentation = {
        "augm_img_prms_tr": {"affine": {"prob": 0.3}},
        "augm_sample_prms_tr": {"reflect": [0.5, 0.5, 0]},
    }
    settings = {"numberOfEpochs": 2 * KILLS, "numberOfSubepochs": 1, "keepLastCheckpoints": 2, **augmentation}
    config = study.train("undisturbed", validate=True, folderForOutput="undisturbed", **settings)
    model = ["-newModel", study.folder / "model.cfg"]
    assert server.run("-train", config, *model).code == 0
    events = len((study.folder / "undisturbed" / "logs" / "first.jsonl").read_text().splitlines())

    # How far a session comes is told by its events, whatever else the machine does; on average two epochs.
    command = ["-train", study.train(validate=True, **settings), *model]
    moments, positions = random.Random(0), []
    for _ in range(KILLS):
        moment = {"seconds": moments.uniform(0, 0.05), "lines": moments.randint(0, 2 * events // KILLS)}
        ended = server.end(*command, number=signal.SIGKILL, begun=study.out / "logs" / "first.jsonl", **moment)
        assert ended.code in (KILLED, 0), ended.printed
        if ended.code == KILLED:
            positions.append(study.trained()["position"]["epoch"] if study.newest().exists() else -1)
    sys.stdout.write(f"{len(positions)} of {KILLS} kills; epochs that were saved by then: {positions}\n")
    assert len(positions) >= KILLS // 2
    assert len(set(positions)) >= KILLS // 4
    ended = server.run(*command)
    assert ended.code == 0, ended.printed
    test = ["-test", study.folder / "test.cfg", "-model"]
    assert server.run(*test, study.newest()).code == 0
    undisturbed = study.folder / "undisturbed"
    assert_same(
        outcome_of(study, study.out) | {"predictions": None}, outcome_of(study, undisturbed) | {"predictions": None}
    )
    predictions = contents(study.out / "predictions" / "first")
    assert predictions == contents(undisturbed / "predictions" / "first")
    assert not list(study.out.rglob("*.partial"))


@pytest.fixture(scope="module")
def undisturbed(written_once, server, tmp_path_factory):
    study, out = Study(written_once), tmp_path_factory.mktemp("undisturbed")
    config = study.train("undisturbed", folderForOutput=out, **QUICK)
    assert server.run("-newModel", study.folder / "model.cfg", "-train", config).code == 0
    config.unlink()
    return outcome_of(study, out)


@pytest.mark.parametrize("event", ["os.replace", "os.fsync", "open"])
@pytest.mark.parametrize("count", range(1, 7))
def test_kill_while_a_checkpoint_is_written(study, server, undisturbed, event, count):
    command = ["-newModel", study.folder / "model.cfg", "-train", study.train(**QUICK)]
    where = "/out/" if event == "open" else "cnnModels/first"
    ended = server.run(*command, fault=f"kill:{event}:{count}:{where}")
    assert ended.code == KILLED, ended.printed
    if list(study.checkpoints.glob("*.save")):
        _, content, notes = checkpoints.newest_valid(study.checkpoints)
        assert (content["modelName"], notes) == ("net", [])
    ended = server.run(*command)
    assert ended.code == 0, ended.printed
    assert not list(study.out.rglob("*.partial"))
    assert_same(outcome_of(study, study.out), dict(undisturbed))


@pytest.mark.parametrize(("count", "at_once"), [(1, 0), (4, 0), (7, 0), (2, 3), (5, 3), (8, 3), (11, 3)])
def test_kill_while_results_are_written(study, server, count, at_once):
    """Of three cases one after the other, or all at once; a case has four renames."""
    assert server.run("-newModel", study.folder / "model.cfg").code == 0
    [model] = (study.out / "cnnModels").glob("*.save")
    study.list_cases("val", [0, 1, 2])
    config = study.test(folderForOutput="undisturbed", saveProbMapsForEachClass=[False, True, False])
    assert server.run("-test", config, "-model", model).code == 0
    command = ["-test", study.test(saveProbMapsForEachClass=[False, True, False]), "-model", model]
    assert server.run(*command, fault=f"kill:os.replace:{count}:predictions", at_once=at_once).code == KILLED
    ended = server.run(*command, at_once=at_once)
    assert ended.code == 0, ended.printed
    if not at_once:
        assert ("0 kept from before" in ended.printed) == (count < 5)
    found = contents(study.out / "predictions")
    assert found == contents(study.folder / "undisturbed" / "predictions")


def test_files_are_synced_before_they_get_their_name_and_folders_after(study, server, tmp_path):
    command = ["-newModel", study.folder / "model.cfg", "-train", study.train(validate=True, numberOfEpochs=1, **QUICK)]
    assert server.run(*command, fault=f"trace:{tmp_path / 'trace'}").code == 0
    events = [line.split(" ") for line in (tmp_path / "trace").read_text().splitlines()]
    renames = [(position, event) for position, event in enumerate(events) if event[0] == "os.replace"]
    kinds = {event[3].rpartition(".")[2] for _, event in renames}
    assert {"save", "gz", "csv", "json"} <= kinds
    for position, (_, source, _, target) in renames:
        is_link = "latest" in target or "best" in target or "final" in target
        before = [event for event in events[:position] if event[1] == source]
        assert [event[0] for event in before] == ([] if is_link else ["open", "os.fsync"]), target
        after = [event[1] for event in events[position:] if event[0] == "os.fsync"]
        assert target.rpartition("/")[0] in after
