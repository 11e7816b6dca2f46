"""Cross-checks of the keys for what the original does not have: plateau schedule, warm-up, early stopping."""

from __future__ import annotations

from collections.abc import Mapping

from deepmedic.config.source import Refusals, listed
from deepmedic.config.training import TrainConfig

_ON_SAMPLES = "performValidationOnSamplesThroughoutTraining"
_ON_VOLUMES = "performFullInferenceOnValidationImagesEveryFewEpochs"


def check_refinements(config: TrainConfig, refusals: Refusals, given: frozenset[str]) -> list[str]:
    """Refuse values that contradict each other, and return notes on keys without effect."""
    users = {
        "typeOfLearningRateSchedule": config.schedule.kind == "plateau",
        "earlyStoppingPatience": config.early_stopping.patience is not None,
    }
    needs_score(users, config, refusals)
    warm_up = config.refinements.warm_up_epochs
    if refusals.usable("warmUpEpochs", "numberOfEpochs") and warm_up > config.epochs:
        refusals.refuse("warmUpEpochs", f"found {warm_up:g}; allowed: at most numberOfEpochs ({config.epochs})")
    return [*_check_plateau(config, refusals, given), *_unused_early_stopping(config, refusals, given)]


def needs_score(users: Mapping[str, bool], config: TrainConfig, refusals: Refusals) -> None:
    """Refuse keys that depend on a validation score (those with True) where nothing is validated."""
    if config.validate_on_samples or config.validate_on_volumes or not refusals.usable(_ON_SAMPLES, _ON_VOLUMES):
        return
    for key, is_user in users.items():
        if is_user and refusals.usable(key):
            refusals.refuse(
                key,
                f"depends on the validation score, but nothing is validated; set {_ON_SAMPLES} or {_ON_VOLUMES} = true",
            )


def _check_plateau(config: TrainConfig, refusals: Refusals, given: frozenset[str]) -> list[str]:
    schedule, rate = config.schedule, config.optimizer.learning_rate
    if schedule.kind != "plateau":
        unused = "lowestLearningRate" in given and refusals.usable("typeOfLearningRateSchedule")
        return [f'lowestLearningRate not used, because the schedule is "{schedule.kind}"'] if unused else []
    if schedule.epochs_to_wait == 0:
        refusals.refuse(
            "numEpochsToWaitBeforeLoweringLr", 'found 0; allowed: a number greater than 0 for the schedule "plateau"'
        )
    if refusals.usable("lowestLearningRate", "learningRate") and schedule.lowest_rate > rate:
        refusals.refuse(
            "lowestLearningRate", f"found {schedule.lowest_rate:g}; allowed: at most learningRate ({rate:g})"
        )
    return []


def _unused_early_stopping(config: TrainConfig, refusals: Refusals, given: frozenset[str]) -> list[str]:
    unused = [key for key in ("earlyStoppingMinimumChange", "earlyStoppingRestoreBest") if key in given]
    if not unused or config.early_stopping.patience is not None or not refusals.usable("earlyStoppingPatience"):
        return []
    return [f"{listed(unused)} not used, because earlyStoppingPatience is not given"]
