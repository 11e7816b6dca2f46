"""How learning rate and momentum change from epoch to epoch.

All schedules but `auto` are functions of the epoch alone. `auto` also depends on past validation accuracies; the few
numbers it needs from them are its whole state, a plain dictionary that goes into checkpoints.
"""

from __future__ import annotations

from typing import TypedDict

from deepmedic.config.training import OptimizerConfig, ScheduleConfig
from deepmedic.errors import ConfigError

_POLYNOMIAL_POWER = 0.9
_TARGET_OFFSET = 1e-8


class ScheduleState(TypedDict):
    """What `auto` remembers. The rate itself is not kept: it follows from the number of reductions."""

    best_accuracy: float
    best_epoch: int
    last_reduction: int
    """Epoch at whose end the rate was lowered last."""
    reductions: int


def initial_state() -> ScheduleState:
    """Return the state before the first epoch."""
    return {"best_accuracy": 0.0, "best_epoch": 0, "last_reduction": 0, "reductions": 0}


def rate_and_momentum(
    config: ScheduleConfig, optimizer: OptimizerConfig, epochs: int, epoch: int, state: ScheduleState
) -> tuple[float, float]:
    """Return the learning rate and the momentum for all steps of `epoch`, counted from 0, out of `epochs`.

    `state` matters for `auto` only.

    Raises:
        ConfigError: the schedule has no epochs left after those to wait, or `predef` names no epochs.
    """
    initial, momentum = optimizer.learning_rate, optimizer.momentum
    if config.kind == "stable":
        return initial / config.divide_by ** _stable_reductions(config, epoch), momentum
    if config.kind == "predef":
        return initial / config.divide_by ** _predefined_reductions(config, epoch), momentum
    if config.kind == "auto":
        return initial / config.divide_by ** state["reductions"], momentum
    progress = _progress(config, epochs, epoch)
    if config.kind == "poly":
        return initial * (1.0 - progress) ** _POLYNOMIAL_POWER, momentum
    target_rate, target_momentum = config.exponential_end(initial)
    if not config.theano:
        target_rate += _TARGET_OFFSET
    rate = initial * (target_rate / initial) ** progress
    return rate, momentum + progress * (target_momentum - momentum)


def after_epoch(
    config: ScheduleConfig, epochs: int, epoch: int, accuracy: float | None, state: ScheduleState
) -> ScheduleState:
    """Return the state once `epoch`, counted from 0, has ended; the same one for every schedule but `auto`.

    `accuracy` is the mean over the epoch of the accuracy on validation samples, 0 to 1. `auto` lowers the rate at the
    end of an epoch if the best accuracy and the last reduction both lie at least the epochs to wait in the past. An
    accuracy of None or NaN (no validation sample was classified) is no improvement.
    """
    if config.kind != "auto":
        return state
    updated = state.copy()
    if accuracy is not None and accuracy > state["best_accuracy"] + config.minimum_increase:
        updated["best_accuracy"] = float(accuracy)
        updated["best_epoch"] = epoch
    wait = config.waiting(epochs)
    if epoch >= updated["best_epoch"] + wait and epoch >= updated["last_reduction"] + wait:
        updated["last_reduction"] = epoch
        updated["reductions"] += 1
    return updated


def _stable_reductions(config: ScheduleConfig, epoch: int) -> int:
    """Count reductions: none, or in a Theano config one after every so many epochs."""
    return epoch // config.stable_interval if config.stable_interval else 0


def _predefined_reductions(config: ScheduleConfig, epoch: int) -> int:
    """Count the listed epochs that have ended: epoch e still has the old rate, e + 1 the lower one."""
    if not config.predefined_epochs:
        raise ConfigError(
            "typeOfLearningRateSchedule is 'predef', but no epochs are given; list them, for instance "
            "predefinedSchedule = [17, 22, 27]"
        )
    return sum(epoch > boundary for boundary in config.predefined_epochs)


def _progress(config: ScheduleConfig, epochs: int, epoch: int) -> float:
    """Return how far the schedule has come: 0 while waiting, 1 after the last epoch."""
    wait = config.waiting(epochs)
    if not wait < epochs:
        raise ConfigError(
            f"numEpochsToWaitBeforeLoweringLr is {wait:g}, which leaves none of the {epochs} epochs for the schedule "
            f"'{config.kind}'; give fewer epochs to wait than numberOfEpochs"
        )
    return min(max(epoch - wait, 0.0), epochs - wait) / (epochs - wait)
