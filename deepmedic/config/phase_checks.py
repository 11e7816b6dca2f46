"""Cross-checks of how a training learns, phase by phase, and of what phases demand of each other."""

from __future__ import annotations

from deepmedic.config.phase_tables import PhaseRefusals, refusals_by_phase
from deepmedic.config.phases import PhaseConfig, RecipeConfig
from deepmedic.config.refinement_checks import check_refinements, needs_score
from deepmedic.config.source import Refusals, shown
from deepmedic.config.training import ScheduleConfig, TrainConfig

_ON_SAMPLES = "performValidationOnSamplesThroughoutTraining"
_LONGEST_NAME = 60
_FIXED_LENGTHS = {"mono": 1, "dual": 2, "headFirst": 2}
"""Phases of the recipes that have the same number for every model."""


def check_phases(config: TrainConfig, refusals: Refusals, given: frozenset[str]) -> list[str]:
    """Refuse what contradicts itself in a phase, or between phases, and return notes on keys without effect.

    A config without phases is checked as a training of one phase.
    """
    notes: list[str] = []
    for phase, own in refusals_by_phase(config, refusals):
        _check_schedule(phase, own)
        notes += check_refinements(phase, own, given)
    for index, phase_config in enumerate(config.phases):
        own = PhaseRefusals(refusals, index, phase_config.source.given)
        _check_demands(config, index, own)
    _check_names(config.phases, refusals)
    return list(dict.fromkeys(notes))


def check_recipe(config: TrainConfig, refusals: Refusals) -> None:
    """Refuse keys of a recipe that contradict each other; its phases are checked once the model is known."""
    recipe = config.recipe
    if not refusals.usable("recipe"):
        return
    if recipe.kind is None:
        _refuse_recipe_keys(recipe, refusals)
        return
    if config.phases:
        refusals.refuse("recipe", f"{shown(recipe.kind)} stands together with [[phase]] tables; keep one of them")
    if recipe.kind != "mono":
        needs_score({"recipe": True}, config, refusals)
    phases = _FIXED_LENGTHS.get(recipe.kind)
    for key, entries in {"recipeEpochs": recipe.epochs, "recipeLearningRates": recipe.learning_rates}.items():
        if phases is not None and entries is not None and len(entries) > phases:
            refusals.refuse(key, f"found {len(entries)} numbers; allowed: at most {phases}, one per phase")
    unused = {"recipeHead": recipe.head, "recipeDepths": recipe.depths} if recipe.kind in ("mono", "dual") else {}
    for key, value in unused.items():
        if value is not None:
            refusals.refuse(key, f'found {shown(value)}, which the recipe "{recipe.kind}" has no use for; leave it out')


def _refuse_recipe_keys(recipe: RecipeConfig, refusals: Refusals) -> None:
    keys = {
        "recipeEpochs": recipe.epochs,
        "recipeLearningRates": recipe.learning_rates,
        "recipeHead": recipe.head,
        "recipeDepths": recipe.depths,
    }
    for key, value in keys.items():
        if value is not None:
            refusals.refuse(key, 'stands without a recipe; add recipe = "dual", for instance, or leave it out')


def _check_demands(config: TrainConfig, index: int, refusals: Refusals) -> None:
    """Refuse what a phase asks of the one before it where there is none, or another kind of optimiser."""
    phase = config.phases[index]
    if phase.required_improvement is not None:
        needs_score({"requiredImprovement": True}, config, refusals)
        if index == 0:
            refusals.refuse("requiredImprovement", "stands in the first phase, which has none before it to improve on")
    if phase.reset_optimizer:
        return
    if index == 0:
        refusals.refuse("resetOptimizer", "is false in the first phase, which has no state of the optimiser to keep")
    elif config.phases[index - 1].optimizer.kind != phase.optimizer.kind:
        refusals.refuse(
            "resetOptimizer",
            "found false, but the phase before has another optimiser (sgd0orAdam1orRms2), whose state it cannot keep; "
            "leave it out",
        )


def _check_names(phases: tuple[PhaseConfig, ...], refusals: Refusals) -> None:
    names = [phase.name for phase in phases]
    for index, name in enumerate(names):
        if name in names[:index]:
            refusals.refuse(("phase", index, "name"), f"found {shown(name)} a second time; allowed: a name of its own")
        elif not name.isprintable() or len(name) > _LONGEST_NAME:
            refusals.refuse(
                ("phase", index, "name"), f"found {shown(name)}; allowed: at most {_LONGEST_NAME} printable characters"
            )


def _check_schedule(config: TrainConfig, refusals: Refusals) -> None:
    schedule = config.schedule
    if not refusals.usable("typeOfLearningRateSchedule", "numberOfEpochs", "numEpochsToWaitBeforeLoweringLr"):
        return
    name = f'the schedule "{schedule.kind}"'
    waiting = schedule.waiting(config.epochs)
    if schedule.kind in ("poly", "expon") and waiting >= config.epochs:
        refusals.refuse(
            "numEpochsToWaitBeforeLoweringLr",
            f"found {waiting:g}; allowed: less than numberOfEpochs ({config.epochs}) for {name}",
        )
    if schedule.kind == "predef":
        _check_predefined(schedule, name, refusals)
    if schedule.kind == "auto" and not config.validate_on_samples and refusals.usable(_ON_SAMPLES):
        refusals.refuse(
            _ON_SAMPLES,
            f"found false; allowed: true for {name}, which lowers the learning rate by the validation accuracy",
        )
    target = schedule.exponential_target
    if schedule.kind == "expon" and target is not None and not schedule.theano:
        if target[0] < 0:
            refusals.refuse(("paramsForExpSchedForLrAndMom", 0), f"found {target[0]:g}; allowed: at least 0")
        if not 0 <= target[1] <= 1:
            refusals.refuse(("paramsForExpSchedForLrAndMom", 1), f"found {target[1]:g}; allowed: from 0 to 1")


def _check_predefined(schedule: ScheduleConfig, name: str, refusals: Refusals) -> None:
    key, epochs = "predefinedSchedule", schedule.predefined_epochs or ()
    if not refusals.usable(key):
        return
    if not epochs:
        refusals.refuse(key, f"is missing; {name} needs the epochs at which to divide, such as [17, 22, 27]")
    elif list(epochs) != sorted(set(epochs)):
        refusals.refuse(key, f"found {list(epochs)}; allowed: epochs in rising order")
