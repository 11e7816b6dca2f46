"""Phases of a training: what each one may set for itself, and the keys of the recipes that are made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from deepmedic.config.optimisation import FreezeConfig, OptimizerConfig, ScheduleConfig
from deepmedic.config.options import option, section
from deepmedic.config.refinements import EarlyStoppingConfig, RefinementConfig
from deepmedic.config.source import ConfigSource

_OF_THE_SESSION: dict[str, str | None] = {"reference_batch_size": None, "weight_averaging": None}
"""Refinements that all phases have in common."""


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """One phase of a training; keys that its table leaves out are as in the file itself."""

    name: str = option(
        "name",
        "",
        nonempty=True,
        origin="new",
        default_text='"phase 1", "phase 2", ...',
        doc="What the log, the metric history and plots call the phase.",
    )
    epochs: int = option(
        "numberOfEpochs",
        35,
        minimum=1,
        default_text="numberOfEpochs of the file",
        doc="Epochs of the phase, at most; early stopping may end it before. Epochs are counted on from phase to "
        "phase; the schedule of the learning rate, predefinedSchedule and warmUpEpochs count from the phase's start.",
    )
    reset_optimizer: bool = option(
        "resetOptimizer",
        True,
        origin="new",
        doc="Whether the phase begins with a new state of the optimiser. False keeps what was accumulated for "
        "parameters that the phase before trained too; it needs the same kind of optimiser.",
    )
    required_improvement: float | None = option(
        "requiredImprovement",
        None,
        minimum=0,
        maximum=1,
        origin="new",
        default_text="off",
        doc="Rise of the validation score (0 to 1) over that at the start of the phase that it must exceed. If it does "
        "not, the phase is undone: the weights it started from are restored and the training ends.",
    )
    schedule: ScheduleConfig = section(ScheduleConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    refinements: RefinementConfig = section(RefinementConfig, _OF_THE_SESSION)
    early_stopping: EarlyStoppingConfig = section(EarlyStoppingConfig)
    freezing: FreezeConfig = section(FreezeConfig)
    source: ConfigSource = field(default_factory=ConfigSource, compare=False)
    """The keys that stand in the table."""


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """A named sequence of phases."""

    kind: Literal["mono", "dual", "headFirst", "gradual"] | None = option(
        "recipe",
        None,
        origin="new",
        default_text="off",
        doc='A named sequence of phases instead of [[phase]] tables. "mono": one phase. "dual": all layers, then the '
        'FC pathway alone. "headFirst": recipeHead alone, then also recipeDepths depths below it, at a hundredth of '
        'the learning rate. "gradual": recipeHead alone, then one depth more in each phase, as long as each raises the '
        "validation score by more than earlyStoppingMinimumChange. All but mono need validation, and stop each phase "
        "early: earlyStoppingPatience is 10, earlyStoppingMinimumChange 0.001 and earlyStoppingRestoreBest true, "
        "unless given.",
    )
    epochs: tuple[int, ...] | None = option(
        "recipeEpochs",
        None,
        minimum=1,
        nonempty=True,
        origin="new",
        default_text="numberOfEpochs for each phase",
        doc="Epochs of each phase of the recipe, at most; the last number holds for all further phases.",
    )
    learning_rates: tuple[float, ...] | None = option(
        "recipeLearningRates",
        None,
        above=0,
        nonempty=True,
        origin="new",
        default_text='learningRate for each phase; "headFirst": [learningRate, learningRate / 100]',
        doc="Learning rate at the start of each phase of the recipe; the last number holds for all further phases.",
    )
    head: Literal["classifier", "fc"] | None = option(
        "recipeHead",
        None,
        origin="new",
        default_text='"classifier"',
        doc='What the first phase of "headFirst" and "gradual" trains: "classifier" the classification layer alone, '
        '"fc" the whole FC pathway.',
    )
    depths: int | None = option(
        "recipeDepths",
        None,
        minimum=1,
        origin="new",
        default_text='2 for "headFirst", all for "gradual"',
        doc="How many depths below recipeHead are trained in the end. A depth is one layer of the FC pathway, or, "
        "below it, one layer of every parallel pathway.",
    )
