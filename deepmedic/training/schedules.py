"""How learning rate and momentum change from epoch to epoch.

All schedules but `auto` and `plateau` are functions of the epoch alone. These two also depend on past results of
validation; the few numbers they need from them are their whole state, a plain dictionary that goes into checkpoints.
"""

from __future__ import annotations

import math
from typing import TypedDict

from deepmedic.config.training import OptimizerConfig, ScheduleConfig
from deepmedic.errors import ConfigError

_POLYNOMIAL_POWER = 0.9
_TARGET_OFFSET = 1e-8


class ScheduleState(TypedDict):
    """What `auto` and `plateau` remember. The rate itself is not kept: it follows from the number of reductions."""

    best_accuracy: float
    """Of `plateau` the best score."""
    best_epoch: int
    last_reduction: int
    """Epoch at whose end the rate was lowered last."""
    reductions: int


def initial_state() -> ScheduleState:
    """Return the state before the first epoch."""
    return {"best_accuracy": 0.0, "best_epoch": 0, "last_reduction": 0, "reductions": 0}


def state_at(epoch: int) -> ScheduleState:
    """Return the state of a schedule that begins to watch the validation at `epoch`."""
    return {"best_accuracy": 0.0, "best_epoch": epoch, "last_reduction": epoch, "reductions": 0}


def rate_and_momentum(
    config: ScheduleConfig, optimizer: OptimizerConfig, epochs: int, epoch: int, state: ScheduleState
) -> tuple[float, float]:
    """Return the learning rate and the momentum for all steps of `epoch`, counted from 0, out of `epochs`.

    `state` matters for `auto` and `plateau` only.

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
    if config.kind == "plateau":
        return max(initial / config.divide_by ** state["reductions"], config.lowest_rate), momentum
    progress = _progress(config, epochs, epoch)
    if config.kind == "poly":
        return initial * (1.0 - progress) ** _POLYNOMIAL_POWER, momentum
    target_rate, target_momentum = config.exponential_end(initial)
    if not config.theano:
        target_rate += _TARGET_OFFSET
    rate = initial * (target_rate / initial) ** progress
    return rate, momentum + progress * (target_momentum - momentum)


def after_epoch(
    config: ScheduleConfig, epochs: int, epoch: int, result: float | None, state: ScheduleState
) -> ScheduleState:
    """Return the state once `epoch`, counted from 0, has ended; the same one for schedules that do not watch.

    `result` is what the schedule watches, 0 to 1: for `auto` the mean over the epoch of the accuracy on validation
    samples, for `plateau` the mean Dice of the foreground classes that chooses the best checkpoint. They lower the rate
    at the end of an epoch if the best result and the last reduction both lie at least the epochs to wait in the past. A
    result of None or NaN (nothing was classified) is no improvement to `auto`; `plateau` waits for an epoch that has
    one, since whole volumes may be validated every few epochs only.
    """
    if config.kind not in ("auto", "plateau"):
        return state
    if config.kind == "plateau" and (result is None or math.isnan(result)):
        return state
    updated = state.copy()
    if result is not None and result > state["best_accuracy"] + config.minimum_increase:
        updated["best_accuracy"] = float(result)
        updated["best_epoch"] = epoch
    wait = config.waiting(epochs)
    if epoch >= updated["best_epoch"] + wait and epoch >= updated["last_reduction"] + wait:
        updated["last_reduction"] = epoch
        updated["reductions"] += 1
    return updated


def warm_up_factor(warm_up_epochs: float, epochs_done: float) -> float:
    """Return the factor of the learning rate, rising linearly to 1, for the step that ends at `epochs_done` epochs.

    Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.2.
    """
    return min(1.0, epochs_done / warm_up_epochs) if warm_up_epochs > 0 else 1.0


def batch_factor(reference_batch_size: int | None, batch_size: int) -> float:
    """Return the factor of all learning rates for another batch size than theirs: the linear rule of Goyal et al."""
    return batch_size / reference_batch_size if reference_batch_size is not None else 1.0


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
