"""The transfer documentation of the original, followed in order: its commands, its log phrases, its file names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from deepmedic import checkpoints
from deepmedic.sessions.training.checkpointing import CheckpointWriter

DATE = r"\d{4}-\d\d-\d\d\.\d\d\.\d\d\.\d\d\.\d{6}"
BLOCK = [
    "=======================================================",
    "=========== Compiling the Training Function ===========",
    "=======================================================",
    "(Re)Initializing parameters for the optimization. Reason: Uninitialized: [False], Reset requested: [True]",
    "...Initializing attributes for the optimization...",
]

MODEL_A: dict[str, Any] = {
    "modelName": "modelA",
    "folderForOutput": "./out",
    "numberOfOutputClasses": 3,
    "numberOfInputChannels": 2,
    "numberFMsPerLayerNormal": [3, 3, 4, 4],
    "kernelDimPerLayerNormal": [[3, 3, 3]] * 4,
    "useSubsampledPathway": True,
    "subsampleFactor": [3, 3, 3],
    "numberFMsPerLayerFC": [6, 5],
    "segmentsDimTrain": [11, 11, 11],
    "segmentsDimInference": [13, 13, 13],
    "batchSizeTrain": 2,
    "batchSizeVal": 2,
    "batchSizeInfer": 2,
    "rollAverageForBNOverThatManyBatches": 4,
}
"""Seven layers deep: four in each of two pathways, two hidden layers, the classification layer."""
ELEVEN_LAYERS = {
    "modelName": "modelB",
    "numberFMsPerLayerNormal": [3, 4, 4, 4, 5, 5, 5, 5],
    "kernelDimPerLayerNormal": [[3, 3, 3]] * 8,
    "numberFMsPerLayerFC": [8, 5],
    "segmentsDimTrain": [19, 19, 19],
    "segmentsDimInference": [19, 19, 19],
}
SESSION: dict[str, Any] = {
    "folderForOutput": "./out",
    "channelsTraining": ["./lists/train_t1.cfg", "./lists/train_t2.cfg"],
    "gtLabelsTraining": "./lists/train_labels.cfg",
    "roiMasksTraining": "./lists/train_roi.cfg",
    "numberOfEpochs": 2,
    "numberOfSubepochs": 1,
    "numberTrainingSegmentsLoadedOnGpuPerSubep": 4,
    "stable0orAuto1orPredefined2orExponential3LrSchedule": 3,
    "norm_zscore_prms": {"apply_to_all_channels": True},
}


@pytest.fixture
def follow(study, run):
    return Followed(study, run)


class Followed:
    """The folder in which the documentation is followed; configs are in the original's dialect."""

    def __init__(self, study: Any, run: Any) -> None:
        self.study, self._run = study, run

    def config(self, name: str, *settings: dict[str, Any], **changes: Any) -> Path:
        path = self.study.folder / f"{name}.cfg"
        merged = {key: value for part in (*settings, changes) for key, value in part.items()}
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in merged.items()))
        return path

    def run(self, *words: Any, code: int = 0) -> str:
        """Run a command and return what it printed."""
        outcome = self._run(*words)
        assert outcome.code == code, outcome.err
        return outcome.out + outcome.err

    def only(self, pattern: str) -> Path:
        """The one file below cnnModels whose path matches; newest of several."""
        folder = self.study.out / "cnnModels"
        found = [path for path in folder.rglob("*.save") if re.fullmatch(pattern, str(path.relative_to(folder)))]
        assert found, pattern
        return max(found, key=lambda path: path.name)

    def log(self, name: str) -> list[str]:
        """Lines of a log, without their time stamps."""
        lines = (self.study.out / "logs" / f"{name}.txt").read_text().splitlines()
        return [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d  ", "", line) for line in lines]

    def epochs(self, session: str) -> list[str]:
        return [
            found[1] for line in self.log(session) if (found := re.search(r"Starting new Epoch! Epoch (#\d)/", line))
        ]


def parameters(path: Path, key: str = "parameters") -> dict[str, torch.Tensor]:
    return checkpoints.load(path)[key]


def changed_layers(path: Path) -> set[str]:
    """Layers that a training moved."""
    before, after = parameters(path, "start_parameters"), parameters(path)
    return {name.rpartition("/")[0] for name in after if not torch.equal(before[name], after[name])}


def test_the_transfer_documentation_can_be_followed(follow, monkeypatch):
    trained = make_and_train_model_a(follow)
    fine_tune(follow, trained, monkeypatch)
    transfer_to_a_new_model(follow, trained)
    transfer_chosen_layers(follow, trained)
    freeze_layers(follow, trained)


def make_and_train_model_a(follow: Followed) -> Path:
    """Main documentation, section 2.1: the model and its log are named after it, the training after its session."""
    printed = follow.run("-newModel", follow.config("modelConfigA", MODEL_A))
    initial = follow.only(rf"modelA\.initial\.{DATE}\.save")
    assert str(initial) in printed
    assert any(str(initial) in line for line in follow.log("modelA"))
    session = follow.config("trainConfigForSessionA", SESSION, sessionName="trainSessionA")
    follow.run("-train", session, "-model", initial)
    assert follow.epochs("trainSessionA") == ["#0", "#1"]
    follow.only(rf"trainSessionA/modelA\.trainSessionA\.final\.{DATE}\.save")
    return follow.only(rf"trainSessionA/modelA\.trainSessionA\.{DATE}\.save")


def fine_tune(follow: Followed, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 1: the same model on other data, with `-resetOptimizer`."""
    session = follow.config("trainConfigForSessionB", SESSION, sessionName="trainSessionB", numberOfEpochs=3)
    before = trained.read_bytes()
    write = CheckpointWriter.__call__

    def write_and_die(self: CheckpointWriter, state: Any, extra: Any) -> None:
        write(self, state, extra)
        if state.position.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "__call__", write_and_die)
        follow.run("-train", session, "-resetOptimizer", "-model", trained, code=130)
    log = follow.log("trainSessionB")
    assert log[log.index(BLOCK[1]) - 1 :][: len(BLOCK)] == BLOCK
    assert follow.epochs("trainSessionB")[0] == "#0"
    assert trained.read_bytes() == before

    # Note 2: an interrupted session is gone on with, without the option (here also with it, by the same command).
    newest = follow.only(rf"trainSessionB/modelA\.trainSessionB\.{DATE}\.save")
    start, given = parameters(newest, "start_parameters"), parameters(trained)
    assert all(torch.equal(start[name], given[name]) for name in given)  # note 1: the parameters are not reset
    assert "Going on from" in follow.run("-train", session, "-model", newest)
    assert follow.epochs("trainSessionB") == ["#0", "#1", "#2"]
    assert "is finished" in follow.run("-train", session, "-resetOptimizer", "-model", trained)

    # The catch: without a reset the epochs of the earlier training count.
    session = follow.config("trainConfigGoOn", SESSION, sessionName="goOn", numberOfEpochs=3)
    follow.run("-train", session, "-model", trained)
    assert follow.epochs("goOn") == ["#2"]
    assert BLOCK[1] not in follow.log("goOn")


def transfer_to_a_new_model(follow: Followed, trained: Path) -> None:
    """Section 2: a new model for other channels or classes, and what goes where without `-layers`."""
    changes = {"modelName": "modelB", "numberOfOutputClasses": 4, "subsampleFactor": [[3, 3, 3], [5, 5, 5]]}
    wider = {**changes, "numberFMsPerLayerNormal": [6, 6, 8, 8], "numberFMsPerLayerFC": [12, 10]}
    config = follow.config("modelConfigB", MODEL_A, wider)
    follow.run("-newModel", config, "-pretrained", trained)
    made = follow.only(rf"modelB\.initial\.pretrained\.{DATE}\.save")
    log = "\n".join(follow.log("modelB"))
    for pathway in ("NORMAL", "SUBSAMPLED[3, 3, 3]", "SUBSAMPLED[5, 5, 5]"):
        for index in range(4):
            place = f"[Pathway_{pathway}][Conv.Layer_{index} (index)], depth [{index + 1}] (Target)"
            assert f"{place}: Receiving parameters..." in log
    assert "[Pathway_FC][Conv.Layer_1 (index)], depth [6] (Target): Receiving parameters..." in log
    assert "depth [7] (Target)" not in log  # the classification layer
    for phrase in (
        "Transferring weights [W].",
        "Transferring biases [b].",
        "Transferring g of Batch Norm [gBn].",
        "Transferring a of PReLu [aPrelu].",
        "Transferring rolling average of MU of Batch Norm [muBnsArrayForRollingAverage].",
        "Transferring rolling average of Variance of Batch Norm [varBnsArrayForRollingAverage].",
    ):
        assert phrase in log
    given, found = parameters(trained), parameters(made)
    for pathway, source in (("normal", "normal"), ("subsampled1", "subsampled1"), ("subsampled2", "subsampled1")):
        assert torch.equal(found[f"{pathway}/2/weight"][:3, :3], given[f"{source}/2/weight"])
        assert torch.equal(found[f"{pathway}/3/prelu_alpha"][:3], given[f"{source}/3/prelu_alpha"])

    # It is trained like any new model; note 3: no reset is needed.
    follow.run("-train", follow.config("trainingConfig", SESSION, sessionName="onDataB"), "-model", made)
    assert follow.epochs("onDataB") == ["#0", "#1"]
    assert any("Reason: Uninitialized: [True], Reset requested: [False]" in line for line in follow.log("onDataB"))

    # What is required.
    other_kernels = {"kernelDimPerLayerNormal": [[3, 3, 3]] * 3 + [[5, 5, 5]], "segmentsDimTrain": [13, 13, 13]}
    config = follow.config("otherKernels", MODEL_A, changes, other_kernels)
    assert "kernels are 5x5x5 in the new model and 3x3x3 in the source model" in follow.run(
        "-newModel", config, "-pretrained", trained, code=5
    )
    config = follow.config("modelConfigB", MODEL_A, ELEVEN_LAYERS)
    assert "Name the layers to transfer with -layers" in follow.run("-newModel", config, "-pretrained", trained, code=5)


def transfer_chosen_layers(follow: Followed, trained: Path) -> None:
    """Section 2.2: `-layers 1 2 5` from seven layers into eleven."""
    config = follow.config("modelConfigB", MODEL_A, ELEVEN_LAYERS)
    follow.run("-newModel", config, "-pretrained", trained, "-layers", 1, 2, 5)
    made = follow.only(rf"modelB\.initial\.pretrained\.{DATE}\.save")
    assert checkpoints.load(made)["provenance"]["map"] == {
        name: name for name in ("normal/1", "normal/2", "subsampled1/1", "subsampled1/2", "fc/1")
    }
    receiving = "[Pathway_FC][Conv.Layer_0 (index)], depth [9] (Target): Receiving parameters..."
    assert receiving in follow.log("modelB")
    given, found = parameters(trained), parameters(made)
    assert torch.equal(found["normal/2/weight"][:3, :3], given["normal/2/weight"])
    # The first FC layer sees both pathways, four feature maps of each in model A and five in model B.
    for ours, theirs in ((slice(0, 4), slice(0, 4)), (slice(5, 9), slice(4, 8))):
        assert torch.equal(found["fc/1/weight"][:6, ours], given["fc/1/weight"][:, theirs])
    follow.run(
        "-train", follow.config("trainingConfig", SESSION, sessionName="deeper", numberOfEpochs=1), "-model", made
    )


def freeze_layers(follow: Followed, trained: Path) -> None:
    """Section 3: layers that stay as they are; low-resolution pathways freeze as the normal one does."""
    frozen = {"layersToFreezeNormal": [1, 2, 3], "layersToFreezeFC": [1]}
    session = follow.config("trainConfigFrozen", SESSION, frozen, sessionName="frozen")
    follow.run("-train", session, "-resetOptimizer", "-model", trained)
    made = follow.only(rf"frozen/modelA\.frozen\.final\.{DATE}\.save")
    assert changed_layers(made) == {"normal/4", "subsampled1/4", "fc/2", "fc/3", "softmax"}

    session = follow.config("trainConfigFrozen", SESSION, frozen, layersToFreezeSubsampled=[], sessionName="other")
    follow.run("-train", session, "-resetOptimizer", "-model", trained)
    made = follow.only(rf"other/modelA\.other\.final\.{DATE}\.save")
    assert {f"subsampled1/{layer}" for layer in range(1, 5)} <= changed_layers(made)

    session = follow.config("trainConfigFree", SESSION, sessionName="free")
    follow.run("-train", session, "-resetOptimizer", "-model", trained)
    moved = changed_layers(follow.only(rf"free/modelA\.free\.final\.{DATE}\.save"))
    assert moved == {name.rpartition("/")[0] for name in parameters(trained)}
