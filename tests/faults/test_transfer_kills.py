"""A transfer or a fine-tuning that is killed with kill -9 goes on with the same command, from the same origin."""

from __future__ import annotations

import signal

import pytest
import torch

from deepmedic import checkpoints

KILLED = -signal.SIGKILL
QUICK = {"numberOfEpochs": 2, "numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}
WIDER = {"modelName": "wider", "numberFMsPerLayerNormal": [4, 6], "numberFMsPerLayerFC": [7]}


def outcome_of(out) -> dict[str, torch.Tensor]:
    [final] = (out / "cnnModels" / "first").glob("*.first.final.*.save")
    return checkpoints.load(final)["parameters"]


@pytest.fixture(params=["transfer", "fine-tuning"])
def words(request, study, source):
    if request.param == "transfer":
        return ["-newModel", study.model("B", **WIDER), "-pretrained", source]
    return ["-model", source, "-resetOptimizer"]


@pytest.mark.parametrize("fault", ["os.replace:1:/out/", "os.replace:3:cnnModels/first", "os.fsync:5:cnnModels/first"])
def test_killed_and_repeated_it_ends_as_if_nothing_had_happened(study, source, server, words, fault):
    before = source.read_bytes()
    undisturbed = study.train("undisturbed", folderForOutput="undisturbed", **QUICK)
    assert server.run(*words, "-train", undisturbed).code == 0
    command = [*words, "-train", study.train(**QUICK)]
    ended = server.run(*command, fault=f"kill:{fault}")
    assert ended.code == KILLED, ended.printed
    ended = server.run(*command)
    assert ended.code == 0, ended.printed
    assert "is finished" in server.run(*command).printed
    expected, found = outcome_of(study.folder / "undisturbed"), outcome_of(study.out)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert not list(study.out.rglob("*.partial"))
    assert source.read_bytes() == before


def test_a_killed_transfer_without_training_leaves_no_half_model(study, source, server):
    command = ["-newModel", study.model("B", **WIDER), "-pretrained", source]
    assert server.run(*command, fault="kill:os.replace:1:cnnModels").code == KILLED
    assert not list((study.out / "cnnModels").glob("*.save"))
    assert server.run(*command).code == 0
    [path] = (study.out / "cnnModels").glob("wider.initial.pretrained.*.save")
    assert checkpoints.load(path)["modelName"] == "wider"
