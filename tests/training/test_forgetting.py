"""When the guard of the source task ends a training, by hand-made scores."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from deepmedic.config.source_task import SourceTaskConfig
from deepmedic.config.training import TrainConfig
from deepmedic.training.forgetting import ForgettingGuard
from deepmedic.training.history import VolumeRecord
from deepmedic.training.recorder import Recorder, RecorderOutputs


@pytest.mark.parametrize(
    ("before", "after", "stops"),
    [
        (0.75, 0.5, False),
        (0.75, 0.25, True),
        (0.5, 0.75, False),
        (math.nan, 0.0, False),
        (0.75, math.nan, False),
        (math.nan, math.nan, False),
        (None, 0.0, False),
    ],
)
def test_it_ends_where_more_than_allowed_is_lost_for_certain(before, after, stops, caplog) -> None:
    config = TrainConfig(folder_for_output=Path("out"), batch_size=1)
    guard = ForgettingGuard(
        SourceTaskConfig(largest_loss=0.25, when_exceeded="stop"),
        _Scores(before, after),
        Recorder(config, ["background", "one"], RecorderOutputs()),
    )
    guard.begin()
    assert guard.after_epoch(None, 0) is stops
    assert any(record.levelno >= logging.WARNING for record in caplog.records) is stops


class _Scores:
    def __init__(self, before: float | None, after: float | None) -> None:
        self._before, self._after = before, after

    def before_training(self) -> VolumeRecord:
        return VolumeRecord({}, self._before)

    def __call__(self, network, epoch) -> VolumeRecord:
        return VolumeRecord({}, self._after)
