"""Initialisations that take less than the weights from a source model: their statistics, or their values shuffled.

What makes a transferred model better may be its features, or only that its weights have a good scale. To tell these
apart, Matsoukas et al. ("What Makes Transfer Learning Work for Medical Images: Feature Reuse & Other Factors", CVPR
2022) compare weight transfer (WT) with statistics transfer (ST): every tensor drawn anew, independently and normally
distributed with the mean and standard deviation of the source's tensor, and normalisation layers reset.

Here the source itself is changed so, and then transferred as any other. Which layers and channels correspond, what is
cut and what stays new is therefore the same as with the weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from deepmedic.config.architecture import Architecture, layer_names
from deepmedic.config.initialisation import Initialisation
from deepmedic.data.randomness import stream
from deepmedic.errors import ModelError
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.options import TransferOptions
from deepmedic.transfer.receiving import tensor_names
from deepmedic.transfer.report import TransferResult
from deepmedic.transfer.selection import depth_of
from deepmedic.transfer.transplant import transplant

_INSTEAD = {
    "statistics": "statistics only: drawn with the mean and deviation of the source's tensors",
    "order": "the source's values in random order",
}


def initialise(
    source: SavedModel, target: SavedModel, initialisation: Initialisation, options: TransferOptions, seed: int
) -> TransferResult:
    """Return a copy of the new model `target` that starts from `source` as asked, and the report of it.

    "WT" is plain `transplant`; so is any initialisation that keeps the weights of every layer that is transferred.

    Args:
        initialisation: anything but "RI", which takes nothing.
        options: of the transfer; the classification layer is transferred only if they say so.
        seed: of the draws; that of one tensor does not depend on which other tensors are drawn.

    Raises:
        ModelError: the models do not fit each other, or the initialisation names a layer that the source lacks.
    """
    result = transplant(with_less(source, initialisation, seed), target, options)
    if initialisation.rest == "weights":
        return result
    layers = tuple(
        replace(layer, note=_INSTEAD[initialisation.rest])
        if layer.source_pathway is not None
        and layer.source_layer is not None
        and not _kept(initialisation, source.architecture, layer.source_pathway.name, layer.source_layer)
        else layer
        for layer in result.report.layers
    )
    provenance = {**(result.model.provenance or {}), "initialisation": initialisation.name}
    return TransferResult(replace(result.model, provenance=provenance), replace(result.report, layers=layers))


def with_less(source: SavedModel, initialisation: Initialisation, seed: int) -> SavedModel:
    """Return the source with the layers that an initialisation does not keep drawn anew, or shuffled.

    Weights, biases and PReLU slopes are drawn tensor by tensor; batch norm becomes that of a new model.

    Raises:
        ModelError: the source has no such depth or pathway.
    """
    _check(initialisation, source.architecture)
    fresh = SavedModel.new(source.config, seed).parameters
    changed = dict(source.parameters)
    for pathway, layer in layer_names(source.architecture):
        if _kept(initialisation, source.architecture, pathway.name, layer):
            continue
        for name in tensor_names(source.parameters, pathway, layer):
            if name.rpartition("/")[2].startswith("bn_"):
                changed[name] = fresh[name]
            elif initialisation.rest == "order":
                changed[name] = shuffled(source.parameters[name], seed, name)
            else:
                changed[name] = drawn_like(source.parameters[name], seed, name)
    return replace(source, parameters=changed)


def drawn_like(tensor: Tensor, seed: int, name: str) -> Tensor:
    """Draw independent normal values with the mean and standard deviation of a tensor, of the same shape."""
    values = tensor.double()
    draws = torch.from_numpy(stream(seed, "statistics transfer", name).standard_normal(tuple(tensor.shape)))
    return (values.mean() + values.std(correction=0) * draws).to(tensor.dtype)


def shuffled(tensor: Tensor, seed: int, name: str) -> Tensor:
    """Return the values of a tensor in a random order, in the same shape."""
    order = stream(seed, "shuffled transfer", name).permutation(tensor.numel())
    return tensor.flatten()[torch.from_numpy(order)].reshape(tensor.shape)


def deepest_kept(architecture: Architecture) -> int:
    """Return the largest n of "WT-ST-n": the last layer before the classification layer."""
    return architecture.normal.depth + architecture.fc.depth - 1


def _kept(initialisation: Initialisation, architecture: Architecture, pathway: str, layer: int) -> bool:
    of_name = next(own for own in architecture.pathways if own.name == pathway)
    return initialisation.keeps(pathway, depth_of(architecture, of_name, layer))


def _check(initialisation: Initialisation, architecture: Architecture) -> None:
    kept, deepest = initialisation.kept, deepest_kept(architecture)
    names = [pathway.name for pathway in architecture.pathways]
    if isinstance(kept, str) and kept not in names:
        raise ModelError(
            f"initialisation {initialisation.name}: the source model has no pathway {kept}; it has {', '.join(names)}"
        )
    if isinstance(kept, int) and kept > deepest:
        raise ModelError(
            f"initialisation {initialisation.name}: the source model has no layer at depth {kept} to keep; allowed are "
            f"0 to {deepest}, of which 0 keeps none and {deepest} all but the classification layer, which is always new"
        )
