"""Where a training in phases stands: which phase it is in, when one is over, and when the training is.

A training without phases is one of a single phase.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from deepmedic.config.training import EarlyStoppingConfig, TrainConfig
from deepmedic.errors import ModelError
from deepmedic.training import early_stopping
from deepmedic.training.log_lines import cost_terms
from deepmedic.training.state import PhaseState, TrainingState
from deepmedic.words import counted

log = logging.getLogger(__name__)

_OPTIMISERS = {0: "SGD", 1: "Adam", 2: "RMSProp"}


def is_over(config: TrainConfig, state: TrainingState) -> bool:
    """Return whether the phase that a training is in is over, before the epoch that comes next.

    `config` is that of the session as a whole.
    """
    epochs = config.in_phase(state.phase["index"]).epochs
    return state.stopping["stopped"] or state.position.epoch - state.phase["first_epoch"] >= epochs


def is_finished(config: TrainConfig, state: TrainingState) -> bool:
    """Return whether the training as a whole is over; arguments as for `is_over`."""
    is_last = state.phase["index"] + 1 >= len(config.phases)
    return state.forgot or (is_over(config, state) and (is_last or failed(config, state)))


def end_score(config: TrainConfig, state: TrainingState) -> float | None:
    """Return the validation score of the weights that a phase ends with, should it end now and not be undone."""
    stopping, best = config.in_phase(state.phase["index"]).early_stopping, state.phase["best"]
    if restores_best(stopping) and best is not None:
        return float(best["dice"])
    return state.phase["last_score"]


def failed(config: TrainConfig, state: TrainingState) -> bool:
    """Return whether a phase that is over has not improved as it must, so that it is undone."""
    required = config.phases[state.phase["index"]].required_improvement if config.phases else None
    start, end = state.phase["start_score"], end_score(config, state)
    if required is None or start is None:
        return False
    return end is None or not end > start + required


def take_score(config: TrainConfig, state: TrainingState, score: float, kind: Literal["samples", "volumes"]) -> None:
    """Take the validation score of an epoch that has ended into what is known of the best and the last one.

    Scores on samples and on whole volumes cannot be compared. Where a session changed from one to the other, early
    stopping, a schedule that watches scores and the improvement that a phase must bring begin anew with this one.

    Args:
        config: of the phase.
        state: of the training; its position is still in the epoch.
        score: mean foreground Dice.
        kind: what it was measured on.
    """
    if state.best is not None and state.best["kind"] != kind:
        state.stopping, state.phase["start_score"] = early_stopping.initial_state(), None
        if config.schedule.kind == "plateau":
            in_phase = state.position.epoch - state.phase["first_epoch"]
            state.schedule = {**state.schedule, "best_accuracy": 0.0, "best_epoch": in_phase}
    # The checkpoint that is saved next is this epoch's.
    this = {"dice": score, "kind": kind, "epoch": state.position.epoch, "save_index": state.save_index + 1}
    state.best = early_stopping.better(state.best, this)
    state.phase["best"], state.phase["last_score"] = early_stopping.better(state.phase["best"], this), score


def restores_best(stopping: EarlyStoppingConfig) -> bool:
    """Return whether a phase ends with the weights of its best epoch."""
    return stopping.patience is not None and stopping.restore_best


def best_weights(
    config: TrainConfig,
    state: TrainingState,
    read: Callable[[int], dict[str, Any] | None],
    *,
    even_if_newest: bool,
) -> dict[str, Any] | None:
    """Return the weights of the best epoch of a phase that is over, if it ends with them.

    Those of earlier phases do not count: they were trained with other frozen layers or another cost, and what a phase
    has learnt would be lost with them. A phase that must be better than what it began with has `requiredImprovement`.

    Args:
        config: of the session as a whole.
        state: of the training.
        read: reads the weights of an earlier checkpoint; None if it is gone.
        even_if_newest: read them also if the best checkpoint is the newest one.

    Returns:
        The weights; None where those of the network are the ones.
    """
    best = state.phase["best"]
    if best is None or not restores_best(config.in_phase(state.phase["index"]).early_stopping):
        return None
    if best["save_index"] == state.save_index and not even_if_newest:
        return None
    weights = read(best["save_index"])
    those = "the best one of its phase" if config.phases else "the best one"
    if weights is None:
        log.warning("The checkpoint of the best epoch #%d is gone: the last weights are kept.", best["epoch"])
    elif state.finished:
        log.info("The final model holds the weights of epoch #%d, %s.", best["epoch"], those)
    else:
        log.info("The next phase begins with the weights of epoch #%d, %s.", best["epoch"], those)
    return weights


def refuse_other_past(phase: PhaseState, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a config that lacks the phase a session is in, or has changed one that is over.

    Args:
        phase: where the session is.
        before: settings of the checkpoint.
        now: those of the config, as plain values.

    Raises:
        ModelError: names the phase and what differs.
    """
    old, new = before.get("phase") or {}, now.get("phase") or {}
    position = phase["index"] + 1
    if position > 1 and str(position) not in new:
        raise ModelError(
            f"this training is in its phase {position} ({_name(old, position)}), but the config has "
            f"{len(new) or 'no'} phases. Give it the phases it was begun with, or start anew with another sessionName."
        )
    for number in range(1, position):
        was, would_be = old.get(str(number), {}), new[str(number)]
        changed = [
            f"{key}: {was[key]} -> {would_be[key]}" for key in would_be if key in was and was[key] != would_be[key]
        ]
        if changed:
            raise ModelError(
                f"phase {number} ({_name(old, number)}) of this training is over and cannot be changed any more: "
                f"{'; '.join(changed)}. Put it back; what is to hold for later phases can stand in their tables."
            )


def settings_of(phase: PhaseState, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain settings that hold in a phase."""
    tables = settings.get("phase") or {}
    return {**settings, **tables.get(str(phase["index"] + 1), {})}


def title(config: TrainConfig, index: int) -> str:
    """Return what messages call a phase."""
    return f"Phase {index + 1} of {len(config.phases)} ({config.phases[index].name})"


def describe(config: TrainConfig, index: int) -> str:
    """Return in one line what a phase does: epochs, cost, optimiser, learning rate and how it may end."""
    phase = config.phases[index]
    state = "with a new state" if phase.reset_optimizer else "with its state kept"
    parts = [
        f"at most {counted(phase.epochs, 'epoch')}",
        f"cost {' + '.join(cost_terms(config.loss))}",
        f"{_OPTIMISERS[phase.optimizer.kind]} {state}",
        f'learning rate {phase.optimizer.learning_rate:g}, schedule "{phase.schedule.kind}"',
    ]
    if phase.refinements.rate_decay_per_layer is not None:
        parts.append(f"times {phase.refinements.rate_decay_per_layer:g} per layer below the classification layer")
    stopping = phase.early_stopping
    if stopping.patience is not None:
        best = ", then its best weights" if stopping.restore_best else ""
        patience = counted(stopping.patience, "epoch")
        parts.append(f"early stop after {patience} without a rise by {stopping.minimum_change:g}{best}")
    if phase.required_improvement is not None:
        parts.append(f"undone unless the validation score rises by more than {phase.required_improvement:g}")
    return ", ".join(parts)


def _name(phases: Mapping[str, Any], number: int) -> str:
    return str(phases.get(str(number), {}).get("name", ""))
