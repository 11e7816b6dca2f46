"""The guard against forgetting: the source task is scored during the training of another one."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from study import table_of

from deepmedic import checkpoints
from deepmedic.model.parameters import named_tensors
from deepmedic.model.saved import SavedModel
from deepmedic.plots.history_files import read_history
from deepmedic.sessions.training.source_task import SourceTaskScorer, with_classifier_of
from deepmedic.training.history import BEFORE_TRAINING, History, VolumeRecord

QUICK = {"numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}
CASES = {
    "channels": ["lists/val_t1.cfg", "lists/val_t2.cfg"],
    "gtLabels": "lists/val_labels.cfg",
    "roiMasks": "lists/val_roi.cfg",
}


@pytest.fixture
def fine_tune(study, run, source):
    """Fine-tune the source model with a guard, and return the outcome."""

    def fine_tune(*, start=None, task=CASES, **changes):
        words = start or ["-model", source, "-resetOptimizer"]
        return run(*words, "-train", study.train(**{**QUICK, "sourceTask": task, **changes}))

    return fine_tune


@pytest.fixture
def scores(monkeypatch):
    """Let the source task have these scores: before the training, then epoch by epoch."""
    given: list[float] = []
    monkeypatch.setattr(SourceTaskScorer, "before_training", lambda self: VolumeRecord({}, given[0]))
    monkeypatch.setattr(SourceTaskScorer, "__call__", lambda self, network, epoch: VolumeRecord({}, given[epoch + 1]))
    return given


def history_of(study) -> History:
    return History.from_plain(study.trained()["history"])


def mean_dice(study, run, model) -> float:
    """What an inference of its own says of a model on the cases."""
    assert run("-test", study.test(), "-model", model, "-overwrite").code == 0
    rows = table_of(study.out / "predictions" / "segment" / "metrics.csv")
    rows = [row for row in rows if row["class_index"] in ("1", "2")]
    assert len(rows) == 2
    return float(np.mean([float(row["dice"]) for row in rows]))


def test_scores_are_those_of_an_inference_on_the_same_cases(study, run, source, fine_tune):
    before = mean_dice(study, run, source)
    assert fine_tune(learningRate=0.05).code == 0
    task = history_of(study).source_task
    assert list(task) == [BEFORE_TRAINING, 0, 1]
    assert task[BEFORE_TRAINING].foreground_dice == pytest.approx(before)
    assert task[1].foreground_dice == pytest.approx(mean_dice(study, run, study.newest()))
    assert f"source task: mean Dice {before:.4f} (before the training)" in study.log
    assert f"(before the training it was {before:.4f})" in study.log


def test_scoring_changes_nothing_of_the_training(study, run, source, fine_tune):
    assert fine_tune().code == 0
    guarded = study.content()["parameters"]
    assert fine_tune(task=None, folderForOutput="plain").code == 0
    plain = checkpoints.load(study.folder / "plain/cnnModels/first/net.first.latest.save")["parameters"]
    assert all(torch.equal(guarded[name], plain[name]) for name in plain)


def test_history_has_its_rows_and_plots_its_curve(study, fine_tune):
    assert fine_tune(task={**CASES, "everyEpochs": 2}).code == 0
    rows = [line.split(",")[:4] for line in study.metrics.splitlines() if ",sourceTask," in line]
    assert rows[0] == ["-1", "", "sourceTask", "all"]
    assert {row[0] for row in rows} == {"-1", "1"}
    history = read_history(study.newest())
    assert history.on_source_task().x == (0.0, 2.0)
    assert history.classes == 3


class TestOtherClasses:
    """The trained model has two classes, the source three."""

    @pytest.fixture
    def adapted(self, study, run, source):
        path = study.folder / "two.save"
        assert run("-adapt", source, "-classes", "background", "any", "-output", path).code == 0
        for case in range(3):
            labels = np.zeros((20, 18, 16), np.uint8)
            labels[4:16, 4:14, 4:12] = 1
            study.write_image(case, "any", labels)
        for role, cases in (("train", (0, 1)), ("val", (2,))):
            lines = [f"../images/case{case}_any.nii.gz\n" for case in cases]
            (study.folder / "lists" / f"{role}_any.cfg").write_text("".join(lines))
        return path

    def test_source_classifier_is_put_on_the_trained_layers(self, study, run, source, adapted, fine_tune):
        keys = {"gtLabelsTraining": "lists/train_any.cfg", "learningRate": 0.01}
        outcome = fine_tune(start=["-model", adapted], task={**CASES, "model": "A.save"}, **keys)
        assert outcome.code == 0, outcome.err
        task = history_of(study).source_task
        assert task[BEFORE_TRAINING].foreground_dice == pytest.approx(mean_dice(study, run, source))
        combined = with_classifier_of(
            SavedModel.from_content(checkpoints.load(source), "A"),
            SavedModel.from_content(study.content(), "B").network(),
        )
        content = {**checkpoints.load(source), "training": None}
        content["parameters"] = {name: tensor.detach().clone() for name, tensor in named_tensors(combined).items()}
        del content["session"], content["counter"]
        checkpoints.save(study.folder / "combined.save", content)
        expected = mean_dice(study, run, study.folder / "combined.save")
        assert task[1].foreground_dice == pytest.approx(expected)

    def test_other_inputs_of_the_classifier_are_refused(self, study, run, source, fine_tune):
        model = study.model("wide", modelName="wide", numberOfOutputClasses=2, classNames=None, numberFMsPerLayerFC=[7])
        keys = {"gtLabelsTraining": "lists/train_any.cfg"}
        outcome = fine_tune(start=["-newModel", model], task={**CASES, "model": "A.save"}, **keys)
        assert outcome.code == 5
        assert "sourceTask.model: the classification layer of model net cannot be used in the trained" in outcome.err
        assert "5 inputs" in outcome.err
        assert "7 inputs" in outcome.err


class TestTolerance:
    @pytest.fixture(autouse=True)
    def given(self, scores):
        scores += [0.8, 0.75, 0.6, 0.5]

    def test_warning(self, study, fine_tune):
        assert fine_tune(task={**CASES, "largestLoss": 0.1}, numberOfEpochs=3).code == 0
        assert "After epoch #0 the mean Dice of the source task" not in study.log
        assert (
            "After epoch #1 the mean Dice of the source task is lower by 0.2000 than before the training; sourceTask "
            "allows 0.1." in study.log
        )
        assert study.trained()["position"]["epoch"] == 3

    def test_stop_and_going_on_with_a_larger_tolerance(self, study, fine_tune):
        stop = {**CASES, "largestLoss": 0.1, "whenExceeded": "stop"}
        assert fine_tune(task=stop, numberOfEpochs=3).code == 0
        assert (study.trained()["position"]["epoch"], study.trained()["finished"]) == (2, True)
        assert "allows 0.1. The training ends." in study.log
        outcome = fine_tune(task=stop, numberOfEpochs=3)
        assert (
            "but too much of the source task was lost. Nothing was done. To train on, raise largestLoss of"
            in outcome.out
        )
        assert fine_tune(task={**stop, "largestLoss": 0.5}, numberOfEpochs=3).code == 0
        assert study.trained()["position"]["epoch"] == 3


def test_interrupted_scoring_is_repeated_and_ends_the_same(study, run, source, fine_tune, monkeypatch):
    assert fine_tune(folderForOutput="whole").code == 0
    original = SourceTaskScorer.__call__

    def interrupted(self, network, epoch):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, network, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(SourceTaskScorer, "__call__", interrupted)
        assert fine_tune().code == 143
    assert study.trained()["position"]["stage"] == "volumes"
    assert fine_tune().code == 0
    assert study.metrics == (study.folder / "whole" / "logs" / "first.metrics.csv").read_text()


def test_check_reads_its_cases(study, fine_tune, run, source):
    outcome = run("-model", source, "-resetOptimizer", "-train", study.train(**QUICK, sourceTask=CASES), "-check")
    assert outcome.code == 0, outcome.err
    assert "source task: 1" in outcome.out


@pytest.mark.parametrize(
    ("task", "code", "message"),
    [
        ({"model": "A.save"}, 3, "sourceTask.channels: is missing; list the cases to be scored, or give dataframe"),
        ({**CASES, "channels": ["lists/val_t1.cfg"]}, 5, "sourceTask: found 1 channels, but the model has 2"),
        ({**CASES, "model": "absent.save"}, 5, "absent.save: there is no such file or folder"),
        ({**CASES, "everyEpoch": 2}, 3, "sourceTask.everyEpoch: is not a key of this table; did you mean everyEpochs?"),
    ],
)
def test_refusals(study, fine_tune, task, code, message):
    outcome = fine_tune(task=task)
    assert outcome.code == code
    assert message in outcome.err
    assert not study.out.exists()
