"""Which layers of a new model (the target) receive parameters from which layers of the source model.

Pathways correspond by index; further parallel pathways of the target receive from the last one of the source. Layers
correspond by index within their pathway, the classification layer only to the classification layer.
"""

from __future__ import annotations

from collections.abc import Iterable

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.errors import ModelError, ProblemList
from deepmedic.transfer.matching import LayerPair
from deepmedic.words import counted


def select(
    target: Architecture, source: Architecture, layers: tuple[int, ...] | None, transfer_classes: bool = False
) -> list[LayerPair]:
    """Return the pairs of layers to transfer, in the order of the target's layers.

    Args:
        layers: depths in the source model (see `source_depth`), or None for all but the classification layer.
        transfer_classes: the classification layer too, whether it is among `layers` or not.

    Raises:
        ModelError: the source is not deep enough, lacks a depth, or a depth has no counterpart in the target; or
            kernels have other shapes. All of them are listed (`SeveralProblems` if several).
    """
    problems = ProblemList()
    pairs = _default(target, source, problems) if layers is None else _listed(target, source, layers, problems)
    classifier = _classifier(target, source)
    if transfer_classes and classifier not in pairs:
        pairs.append(classifier)
    for pair in pairs:
        _require_equal_kernels(pair, problems)
    problems.raise_if_any()
    order = {pathway.name: number for number, pathway in enumerate(target.pathways)}
    return sorted(pairs, key=lambda pair: (order[pair.pathway.name], pair.layer))


def source_pathway(pathway: Pathway, target: Architecture, source: Architecture) -> Pathway:
    """Return the pathway of the source that a pathway of the target receives from."""
    if pathway.name == "fc":
        return source.fc
    number = [parallel.name for parallel in target.parallel].index(pathway.name)
    return source.parallel[min(number, len(source.parallel) - 1)]


def depth_of(architecture: Architecture, pathway: Pathway, layer: int) -> int:
    """Return a layer's depth: along its parallel pathway, or for the FC pathway going on after the normal pathway."""
    return layer + (architecture.normal.depth if pathway.name == "fc" else 0)


def _default(target: Architecture, source: Architecture, problems: ProblemList) -> list[LayerPair]:
    pairs, shallow = [], []
    for pathway in target.pathways:
        giver = source_pathway(pathway, target, source)
        if giver.depth < pathway.depth:
            shallow.append((pathway, giver))
        last = pathway.depth - 1 if pathway.name == "fc" else pathway.depth
        pairs += [LayerPair(pathway, layer, giver, layer) for layer in range(1, min(last, giver.depth) + 1)]
    if shallow:
        problems.add(_too_shallow(shallow, target, source))
    return pairs


def _listed(
    target: Architecture, source: Architecture, depths: tuple[int, ...], problems: ProblemList
) -> list[LayerPair]:
    pairs = []
    if not depths:
        problems.add(ModelError("-layers names no layer; give depths in the source model, such as -layers 1 2"))
    for depth in dict.fromkeys(depths):
        with problems.gather():
            pairs += _at_depth(target, source, depth)
    return pairs


def _at_depth(target: Architecture, source: Architecture, depth: int) -> list[LayerPair]:
    parallel, deepest = source.normal.depth, source.normal.depth + source.fc.depth
    if not 1 <= depth <= deepest:
        raise ModelError(
            f"-layers {depth}: the source model has no layer at depth {depth}; allowed are 1 to {deepest}: 1 to "
            f"{parallel} in its parallel pathways, {parallel + 1} to {deepest} in its FC pathway, where {deepest} is "
            "the classification layer"
        )
    if depth == deepest:
        return [_classifier(target, source)]
    if depth > parallel:
        layer = depth - parallel
        if layer < target.fc.depth:
            return [LayerPair(target.fc, layer, source.fc, layer)]
        raise ModelError(
            f"-layers {depth}: this is hidden layer {layer} of the source's FC pathway, and the new model's has "
            f"{counted(target.fc.depth - 1, 'hidden layer')}; leave {depth} out, or give the new model more layers in "
            "numberFMsPerLayerFC"
        )
    givers = [(pathway, source_pathway(pathway, target, source)) for pathway in target.parallel]
    pairs = [
        LayerPair(pathway, depth, giver, depth)
        for pathway, giver in givers
        if depth <= pathway.depth and depth <= giver.depth
    ]
    if not pairs:
        found = ", ".join(f"{pathway.name} {pathway.depth}" for pathway in target.parallel)
        raise ModelError(
            f"-layers {depth}: this is layer {depth} of the source's parallel pathways, and no parallel pathway of the "
            f"new model is that deep (layers: {found}); leave {depth} out, or give the new model more layers"
        )
    return pairs


def _classifier(target: Architecture, source: Architecture) -> LayerPair:
    return LayerPair(target.fc, target.fc.depth, source.fc, source.fc.depth)


def _require_equal_kernels(pair: LayerPair, problems: ProblemList) -> None:
    kernel = pair.pathway.kernels[pair.layer - 1]
    source_kernel = pair.source_pathway.kernels[pair.source_layer - 1]
    if kernel != source_kernel:
        problems.add(
            ModelError(
                f"pathway {pair.pathway.name}, layer {pair.layer}: kernels are {_size(kernel)} in the new model and "
                f"{_size(source_kernel)} in the source model ({pair.source_name}); transferred kernels must have the "
                "same shape. Give the new model the source's kernels, or name with -layers only layers whose kernels "
                "agree"
            )
        )


def _too_shallow(shallow: list[tuple[Pathway, Pathway]], target: Architecture, source: Architecture) -> ModelError:
    found = [
        f"pathway {pathway.name} of the new model has {counted(pathway.depth, 'layer')}, pathway {giver.name} of the "
        f"source model, which it would receive from, has {giver.depth}"
        for pathway, giver in shallow
    ]
    parallel, deepest = source.normal.depth, source.normal.depth + source.fc.depth
    return ModelError(
        f"the source model is not deep enough: {'; '.join(found)}. Name the layers to transfer with -layers, by their "
        f"depth in the source model: 1 to {parallel} are in its parallel pathways, {parallel + 1} to {deepest} in its "
        f"FC pathway, where {deepest} is the classification layer{_example(target, source)}. Or take all of the source "
        "over into a larger model with -grow exact"
    )


def _example(target: Architecture, source: Architecture) -> str:
    """Name the hidden depths that would be accepted."""
    accepted = []
    for depth in range(1, source.normal.depth + source.fc.depth):
        problems = ProblemList()
        with problems.gather():
            for pair in _at_depth(target, source, depth):
                _require_equal_kernels(pair, problems)
        if not problems.problems:
            accepted.append(depth)
    return f"; these two models allow -layers {_listing(accepted)}" if accepted else ""


def _listing(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _size(kernel: tuple[int, int, int]) -> str:
    return "x".join(map(str, kernel))
