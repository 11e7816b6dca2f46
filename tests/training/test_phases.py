"""What a validation score changes in the state of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepmedic.config.optimisation import ScheduleConfig
from deepmedic.config.training import EarlyStoppingConfig, TrainConfig
from deepmedic.training import early_stopping, schedules
from deepmedic.training.phases import take_score
from deepmedic.training.state import TrainingState, phase_at

STOPPING = EarlyStoppingConfig(patience=2)


def config_of(schedule: str) -> TrainConfig:
    return TrainConfig(
        folder_for_output=Path("out"), batch_size=1, schedule=ScheduleConfig(kind=schedule), early_stopping=STOPPING
    )


def trained_until(epoch: int, kind: str, score: float) -> TrainingState:
    """A training whose second phase began in epoch 3, with its best score in the epoch before this one."""
    state = TrainingState(session="s", seed=0, origin={}, settings={})
    state.phase = phase_at(1, 3, 0.8)
    state.position.epoch = epoch
    best = {"dice": score, "kind": kind, "epoch": epoch - 1, "save_index": 7}
    state.best = state.phase["best"] = best
    state.stopping = {"score": score, "epoch": epoch - 1, "stopped": False}
    state.schedule = {"best_accuracy": score, "best_epoch": epoch - 4, "last_reduction": 1, "reductions": 2}
    state.save_index = 8
    return state


def test_scores_of_one_kind_are_compared() -> None:
    state = trained_until(9, "volumes", 0.6)
    take_score(config_of("plateau"), state, 0.5, "volumes")
    assert state.best == state.phase["best"] == {"dice": 0.6, "kind": "volumes", "epoch": 8, "save_index": 7}
    assert (state.phase["last_score"], state.phase["start_score"]) == (0.5, 0.8)
    assert state.stopping == {"score": 0.6, "epoch": 8, "stopped": False}
    assert state.schedule["best_accuracy"] == 0.6


@pytest.mark.parametrize("schedule", ["plateau", "auto"])
def test_scores_of_another_kind_begin_anew(schedule) -> None:
    """The accuracy on samples that `auto` watches is the same measure as before."""
    state = trained_until(9, "samples", 0.9)
    before = state.schedule
    take_score(config_of(schedule), state, 0.5, "volumes")
    assert state.best == state.phase["best"] == {"dice": 0.5, "kind": "volumes", "epoch": 9, "save_index": 9}
    assert (state.phase["last_score"], state.phase["start_score"]) == (0.5, None)
    anew = {**before, "best_accuracy": 0.0, "best_epoch": 6}
    assert state.schedule == (anew if schedule == "plateau" else before)


def test_a_training_does_not_end_early_because_volumes_have_lower_scores_than_samples() -> None:
    state, config = trained_until(9, "samples", 0.9), config_of("plateau")
    for score in (0.5, 0.55, 0.6, 0.65):
        take_score(config, state, score, "volumes")
        epoch = state.position.epoch
        state.schedule = schedules.after_epoch(config.schedule, 50, epoch - 3, score, state.schedule)
        state.stopping = early_stopping.after_epoch(STOPPING, epoch, score, state.stopping)
        state.position.epoch += 1
    assert state.stopping == {"score": 0.65, "epoch": 12, "stopped": False}
    assert (state.schedule["best_accuracy"], state.schedule["reductions"]) == (0.65, 2)
