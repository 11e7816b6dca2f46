"""Memory that runs out in training, on a device that is pretended to be small."""

from __future__ import annotations

import pytest
import torch

from deepmedic.data.source import SegmentSource
from deepmedic.training.trainer import Trainer

LONGER = {"numOfCasesLoadedPerSubepoch": 1, "numberOfSubepochs": 3}


def same_tensors(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def small_device(monkeypatch):
    """Makes gradients run out of memory from a certain step on, unless there is room for volumes or few segments."""

    def make(volumes: int, segments: int, step: int = 0):
        original, tried = Trainer._gradients, []

        def gradients(trainer, batch):
            result = original(trainer, batch)
            resident = trainer.parts.training.pool.bytes_allocated
            tried.append((trainer.state.position.step, batch.inputs[0].shape[0], resident))
            if trainer.state.position.step >= step and resident > volumes and batch.inputs[0].shape[0] > segments:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return result

        monkeypatch.setattr(Trainer, "_gradients", gradients)
        return tried

    return make


ONE_CASE = (1 + 24 * 22 * 20) * 10


@pytest.mark.parametrize("step", [0, 3])
def test_resident_volumes_go_first_and_nothing_else_changes(study, run, small_device, step):
    model = ["-newModel", study.folder / "model.cfg"]
    undisturbed = study.train("undisturbed", validate=True, folderForOutput="undisturbed", **LONGER)
    assert run(*model, "-train", undisturbed).code == 0
    tried = small_device(volumes=ONE_CASE, segments=0, step=step)
    outcome = run(*model, "-train", study.train(validate=True, **LONGER))
    assert outcome.code == 0
    assert outcome.err.count("The volumes that it does not need were given up") == 1
    assert [resident for number, _, resident in tried if number == step] == [2 * ONE_CASE, ONE_CASE]
    assert max(resident for number, _, resident in tried if number > step) <= ONE_CASE
    [expected] = (study.folder / "undisturbed" / "cnnModels" / "first").glob("*final*")
    assert same_tensors(study.content()["parameters"], study.content(expected)["parameters"])
    assert study.metrics == (study.folder / "undisturbed" / "logs" / "first.metrics.csv").read_text()


def test_batch_size_that_fits_is_named_and_with_it_the_session_goes_on(study, run, small_device):
    command = ["-newModel", study.folder / "model.cfg", "-train"]
    small_device(volumes=0, segments=3, step=5)
    outcome = run(*command, study.train(**LONGER, numberTrainingSegmentsLoadedOnGpuPerSubep=12))
    assert outcome.code == 6
    assert "Memory ran out in a step with batchsize_train = 4" in outcome.err
    assert "Set batchsize_train to 3 or less, and repeat the command to go on." in outcome.err
    assert "Traceback" not in outcome.err
    assert study.trained()["position"]["step"] == 0
    outcome = run(*command, study.train(**LONGER, numberTrainingSegmentsLoadedOnGpuPerSubep=12, batchsize_train=3))
    assert outcome.code == 0
    assert "Changed since the checkpoint: batchsize_train: 4 -> 3" in outcome.err


def test_validation_on_samples_gives_up_the_volumes_of_training(study, run, monkeypatch):
    given_up, original = [], Trainer._logits

    def logits(trainer, batch):
        training = trainer.parts.training.pool.bytes_allocated
        if not trainer.network.training and training > 0 and trainer.state.position.step:
            given_up.append(training)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(trainer, batch)

    monkeypatch.setattr(Trainer, "_logits", logits)
    config = study.train(validate=True, performFullInferenceOnValidationImagesEveryFewEpochs=False, **LONGER)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
    assert outcome.code == 0
    # The training reads its cases again; each validation after that gives them up again.
    assert given_up == [2 * ONE_CASE] + [ONE_CASE] * 4


def test_batch_size_of_validation_is_named(study, run, monkeypatch):
    original = Trainer._logits

    def logits(trainer, batch):
        if not trainer.network.training and batch.inputs[0].shape[0] > 1:
            raise MemoryError
        return original(trainer, batch)

    monkeypatch.setattr(Trainer, "_logits", logits)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train(validate=True))
    assert outcome.code == 6
    assert "a step with batchsize_val_samples = 4, although" in outcome.err
    assert "MemoryError. batchsize_val_samples = 1 fits" in outcome.err


def test_elsewhere_the_keys_are_named(study, run, monkeypatch):
    def out_of_memory(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(SegmentSource, "subepoch", out_of_memory)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train())
    assert outcome.code == 6
    assert "Memory ran out on cpu: CUDA out of memory. Lower memoryBudget" in outcome.err
