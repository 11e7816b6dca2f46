"""How a whole small network can stand in a larger one; see `growth_parts` for single pathways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.errors import ModelError
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.assembly import classes, image_channels
from deepmedic.transfer.growth_parts import PathwayPlan, padded_axes, shrinkage
from deepmedic.transfer.growth_plan import Impossible, PathwayPlanner
from deepmedic.transfer.matching import NEW, Origins, pathway_starts


@dataclass(frozen=True)
class NetworkPlan:
    """The parts of all layers of a larger network."""

    parallel: dict[str, PathwayPlan]
    """By name of the larger network's pathway; additional pathways are not in it."""
    fc: PathwayPlan
    starts: dict[str, int]
    """Where the channels of a pathway of the small network start in its fused input of the FC pathway, by name."""


def plan_growth(source: SavedModel, target: SavedModel) -> NetworkPlan:
    """Return how the network of `source` stands in that of `target`.

    Raises:
        ModelError: it cannot, so that both compute the same; says why.
    """
    try:
        for reason in _differences(source, target):
            raise Impossible(reason)
        return _plan(source, target)
    except Impossible as reason:
        raise ModelError(
            f"-grow exact: model {target.name} cannot compute exactly what model {source.name} computes: {reason}. "
            "Change its config, or transfer single layers without -grow"
        ) from reason


def _differences(source: SavedModel, target: SavedModel) -> Iterator[str]:
    own, giver = target.architecture, source.architecture
    names, source_names = target.config.class_names, source.config.class_names
    if own.classes != giver.classes:
        yield f"it has {own.classes} classes and the source model has {giver.classes}"
    if names and source_names and set(names) != set(source_names):
        yield f"its classes are {', '.join(names)}, and those of the source model {', '.join(source_names)}"
    missing = set(range(giver.input_channels)) - set(image_channels(source, target))
    if missing:
        lacking = [_channel(source, channel) for channel in sorted(missing)]
        yield f"it lacks image channels of the source model: {', '.join(lacking)}"
    yields_by_slope = own.activation == "prelu" and giver.activation in ("relu", "linear")
    if own.activation != giver.activation and not yields_by_slope:
        yield f"its activation is {own.activation} and that of the source model {giver.activation}"
    if (own.batch_norm_window > 0) != (giver.batch_norm_window > 0):
        having, lacks = ("it", "the source model") if own.batch_norm_window > 0 else ("the source model", "it")
        yield f"{having} has batch normalisation and {lacks} has none (rollAverageForBNOverThatManyBatches)"
    elif own.batch_norm_window > 0 and own.batch_norm_epsilon != giver.batch_norm_epsilon:
        yield f"its batchNormEpsilon is {own.batch_norm_epsilon:g} and the source model's {giver.batch_norm_epsilon:g}"


def _plan(source: SavedModel, target: SavedModel) -> NetworkPlan:
    own, giver = target.architecture, source.architecture
    plans: dict[str, PathwayPlan] = {}
    not_identity = _not_identity(own)
    for pathway, source_pathway in _same_resolution(own, giver):
        planner = PathwayPlanner(pathway, source_pathway, image_channels(source, target), not_identity)
        plans[pathway.name] = _planned(planner)
    _require_same_growth(plans, own)
    starts = dict(zip((pathway.name for pathway in giver.parallel), pathway_starts(giver.parallel), strict=True))
    padded = frozenset(axis for plan in plans.values() for axis in padded_axes(plan.pathway, plan.mapped))
    fc = _planned(
        PathwayPlanner(own.fc, giver.fc, _fused(own, plans, starts), not_identity, classes(source, target), padded)
    )
    _require_same_grid(fc, plans)
    return NetworkPlan(plans, fc, starts)


def _planned(planner: PathwayPlanner) -> PathwayPlan:
    try:
        return planner.plan()
    except Impossible as reason:
        raise Impossible(f"pathway {planner.pathway.name}: {reason}") from reason


def _same_resolution(own: Architecture, giver: Architecture) -> Iterator[tuple[Pathway, Pathway]]:
    """Pair the pathways of the small network with pathways of the same factor, preferably of the same index."""
    yield own.normal, giver.normal
    taken: set[int] = set()
    for index, source_pathway in enumerate(giver.subsampled):
        candidates = [
            number
            for number, pathway in enumerate(own.subsampled)
            if number not in taken and pathway.factor == source_pathway.factor
        ]
        if not candidates:
            factor = list(source_pathway.factor)
            raise Impossible(f"it has no low-resolution pathway for the source model's with factor {factor}")
        number = index if index in candidates else candidates[0]
        taken.add(number)
        yield own.subsampled[number], source_pathway


def _require_same_growth(plans: dict[str, PathwayPlan], own: Architecture) -> None:
    """Low-resolution inputs are cut by the normal pathway's receptive field, so all must grow by the same."""
    normal = plans[own.normal.name]
    expected = shrinkage(normal.pathway, normal.inserted)
    for plan in plans.values():
        found = shrinkage(plan.pathway, plan.inserted)
        if found != expected:
            raise Impossible(
                f"inserted layers take {found} voxels off pathway {plan.pathway.name} and {expected} off the normal "
                "pathway; they must take off the same"
            )


def _require_same_grid(fc: PathwayPlan, plans: dict[str, PathwayPlan]) -> None:
    """Low-resolution grids start with the FC pathway's input; if that grows, they must fall on the same voxels."""
    taken = shrinkage(fc.pathway, fc.inserted)
    for plan in plans.values():
        factor = plan.pathway.factor
        if any(voxels // 2 % step for voxels, step in zip(taken, factor, strict=True)):
            raise Impossible(
                f"inserted layers of the FC pathway take {tuple(n // 2 for n in taken)} voxels off each side, which "
                f"moves the grid of pathway {plan.pathway.name} with factor {factor}; pad them, or use kernels of 1x1x1"
            )


def _fused(own: Architecture, plans: dict[str, PathwayPlan], starts: dict[str, int]) -> Origins:
    origins: list[int] = []
    for pathway in own.parallel:
        plan = plans.get(pathway.name)
        if plan is None:
            origins += [NEW] * pathway.feature_maps[-1]
            continue
        start = starts[plan.source.name]
        origins += [NEW if origin == NEW else start + origin for origin in plan.steps[-1].outputs]
    return tuple(origins)


def _not_identity(own: Architecture) -> str | None:
    if own.activation in ("linear", "prelu"):
        return None
    return (
        f"a layer with activation {own.activation} cannot be inserted, because it cannot pass its input on unchanged; "
        "use prelu, or insert two layers with a residual connection over both"
    )


def _channel(source: SavedModel, channel: int) -> str:
    names = source.config.channel_names
    return names[channel] if names else f"number {channel} (counted from 0)"
