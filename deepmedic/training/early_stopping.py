"""When a training ends because the validation score no longer rises."""

from __future__ import annotations

import math
from typing import Any, TypedDict

from deepmedic.config.training import EarlyStoppingConfig


class StoppingState(TypedDict):
    """What early stopping remembers; goes into checkpoints."""

    score: float | None
    """The best so far, by the minimum change."""
    epoch: int
    """The epoch it was reached in."""
    stopped: bool
    """Whether the training was ended."""


def initial_state() -> StoppingState:
    """Return the state before the first epoch."""
    return {"score": None, "epoch": 0, "stopped": False}


def after_epoch(config: EarlyStoppingConfig, epoch: int, score: float | None, state: StoppingState) -> StoppingState:
    """Return the state once `epoch`, counted from 0, has ended with a validation score (None: it has none)."""
    if config.patience is None or score is None or math.isnan(score):
        return state
    if state["score"] is None or score > state["score"] + config.minimum_change:
        return {"score": float(score), "epoch": epoch, "stopped": False}
    return {**state, "stopped": epoch - state["epoch"] >= config.patience}


def better(best: dict[str, Any] | None, this: dict[str, Any]) -> dict[str, Any]:
    """The better one of two epochs, the earlier one of equal ones.

    Scores on samples and on whole volumes cannot be compared; a session may change from one to the other.
    """
    return this if best is None or best["kind"] != this["kind"] or this["dice"] > best["dice"] else best
