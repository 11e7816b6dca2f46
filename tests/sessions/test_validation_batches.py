"""Small batches of validation on samples are computed together on a CPU; no number shows it."""

from __future__ import annotations

import pytest

from deepmedic.sessions.training import segment_sources
from deepmedic.training.trainer import Trainer

SMALL = {"numberValidationSegmentsLoadedOnGpuPerSubep": 22, "batchsize_val_samples": 2}
"""Segments of 5^3 voxels, the receptive field; a training batch has four of 9^3, as many voxels as 23."""


@pytest.fixture
def validated(study, run, monkeypatch):
    """Trains, and returns the sizes of the batches that were validated, and the history."""
    sizes: list[int] = []
    original = Trainer._validation_counts

    def counts(trainer, batch):
        sizes.append(batch.inputs[0].shape[0])
        return original(trainer, batch)

    monkeypatch.setattr(Trainer, "_validation_counts", counts)

    def train(session: str, **changes):
        sizes.clear()
        config = study.train(session, validate=True, folderForOutput=session, **{**SMALL, **changes})
        assert run("-newModel", study.folder / "model.cfg", "-train", config).code == 0
        return list(sizes), (study.folder / session / "logs" / "first.metrics.csv").read_text()

    return train


def test_numbers_are_those_of_single_batches(validated, monkeypatch):
    together, history = validated("together")
    monkeypatch.setattr(segment_sources, "batches_together", lambda plan, validation: 1)
    assert validated("single") == ([2] * 11 * 4, history)
    assert together == [22] * 4


def test_no_more_voxels_than_a_training_batch_has(validated):
    assert validated("fewer", batchsize_train=2)[0] == [10, 10, 2] * 4
    assert validated("alone", batchsize_train=2, batchsize_val_samples=11)[0] == [11, 11] * 4
