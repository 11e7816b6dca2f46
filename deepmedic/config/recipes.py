"""The phases that a named recipe stands for, which depend on how deep the model is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.optimisation import FreezeConfig
from deepmedic.config.phases import PhaseConfig
from deepmedic.config.refinements import EarlyStoppingConfig
from deepmedic.config.training import TrainConfig

T = TypeVar("T")

_LOWER_RATE = 0.01
"""Of the second phase of "headFirst", as a share of the first one's."""
_DEPTHS_OF_HEAD_FIRST = 2
_PATIENCE = 10
_MINIMUM_CHANGE = 0.001


@dataclass(frozen=True)
class _Stage:
    """What one phase of a recipe trains."""

    name: str
    depth: int | None
    """Layers down to this depth below the classification layer are trained; None: all."""
    is_on_probation: bool = False
    """Whether it is undone if it does not help."""


def with_recipe(config: TrainConfig, architecture: Architecture) -> TrainConfig:
    """Return a config with the phases of its recipe for a model; one without a recipe as it is."""
    if config.recipe.kind is None:
        return config
    stages = _stages(config, architecture)
    stopping = config.early_stopping if config.recipe.kind == "mono" else _early_stopping(config)
    phases = []
    for index, stage in enumerate(stages):
        freezing = config.freezing
        if stage.depth is not None:
            freezing = frozen_below(architecture, stage.depth, config.freezing)
        phases.append(
            PhaseConfig(
                name=stage.name,
                epochs=_entry(config.recipe.epochs or (config.epochs,), index),
                required_improvement=stopping.minimum_change if stage.is_on_probation else None,
                schedule=config.schedule,
                optimizer=replace(config.optimizer, learning_rate=_entry(_rates(config), index)),
                refinements=config.refinements,
                early_stopping=stopping,
                freezing=freezing,
            )
        )
    return replace(config, phases=tuple(phases))


def frozen_below(architecture: Architecture, depth: int, also: FreezeConfig) -> FreezeConfig:
    """Freeze all layers deeper than `depth` below the classification layer, which has depth 0, and those of `also`.

    The last layers of all parallel pathways feed the first one of the FC pathway, so they are of one depth.
    """
    given = also.normal if also.subsampled is None else also.subsampled
    nested = bool(given) and not isinstance(given[0], int)
    lists = list(given) if nested else [given] * len(architecture.subsampled)
    below_fc = depth - architecture.fc.depth
    return replace(
        also,
        normal=_layers(architecture.normal, below_fc, also.normal),
        subsampled=tuple(
            _layers(pathway, below_fc, own)  # type: ignore[arg-type]
            for pathway, own in zip(architecture.subsampled, lists, strict=False)
        ),
        fc=_layers(architecture.fc, depth, also.fc),
    )


def _layers(pathway: Pathway, depth: int, also: tuple[int, ...]) -> tuple[int, ...]:
    """Layers of a pathway deeper than `depth` below its last one, which has depth 0, and those of `also`."""
    deeper = range(1, pathway.depth - max(depth, -1))
    return tuple(sorted({*deeper, *also}))


def _stages(config: TrainConfig, architecture: Architecture) -> list[_Stage]:
    recipe = config.recipe
    whole_fc = architecture.fc.depth - 1
    head = whole_fc if recipe.head == "fc" else 0
    deepest = whole_fc + max(pathway.depth for pathway in architecture.parallel)
    if recipe.kind == "mono":
        return [_Stage("mono", None)]
    if recipe.kind == "dual":
        return [_Stage("all layers", None), _Stage("FC pathway", whole_fc)]
    if recipe.kind == "headFirst":
        top = min(head + (recipe.depths or _DEPTHS_OF_HEAD_FIRST), deepest)
        return [_Stage("head", head), _Stage("top layers", top)]
    last = deepest if recipe.depths is None else min(head + recipe.depths, deepest)
    further = [_Stage(f"depth {depth}", depth, is_on_probation=True) for depth in range(head + 1, last + 1)]
    return [_Stage("head", head), *further]


def _rates(config: TrainConfig) -> tuple[float, ...]:
    if config.recipe.learning_rates is not None:
        return config.recipe.learning_rates
    rate = config.optimizer.learning_rate
    return (rate, rate * _LOWER_RATE) if config.recipe.kind == "headFirst" else (rate,)


def _early_stopping(config: TrainConfig) -> EarlyStoppingConfig:
    asked, given = config.early_stopping, config.source.given
    return EarlyStoppingConfig(
        patience=_PATIENCE if asked.patience is None else asked.patience,
        minimum_change=_or_default(asked.minimum_change, "earlyStoppingMinimumChange" in given, _MINIMUM_CHANGE),
        restore_best=asked.restore_best or "earlyStoppingRestoreBest" not in given,
    )


def _or_default(value: float, is_given: bool, default: float) -> float:
    return value if is_given or value != 0 else default


def _entry(values: tuple[T, ...], index: int) -> T:
    return values[min(index, len(values) - 1)]
