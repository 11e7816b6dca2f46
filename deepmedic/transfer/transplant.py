"""Transfer of parameters from a source model into a new model (`-pretrained`).

Same-index pathways and layers correspond; of kernels and input channels the smaller number is copied, the rest of the
new model keeps its random values. Which layers: `selection`; which channels: `matching`; how: `receiving`.
"""

from __future__ import annotations

from collections.abc import Iterator

from deepmedic.config.architecture import Architecture, layer_names
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.assembly import Assembly, classes, image_channels, match_layers
from deepmedic.transfer.growth import grow_exactly
from deepmedic.transfer.matching import NEW, LayerPair
from deepmedic.transfer.options import TransferOptions, log_frequencies
from deepmedic.transfer.receiving import receive
from deepmedic.transfer.report import TransferReport, TransferResult
from deepmedic.transfer.selection import select
from deepmedic.transfer.stem import build_stem

__all__ = ["TransferOptions", "TransferReport", "TransferResult", "transplant"]


def transplant(source: SavedModel, target: SavedModel, options: TransferOptions | None = None) -> TransferResult:
    """Return a copy of the new model `target` that has received parameters of `source`; neither is changed.

    By default every layer except the classification layer receives, and every pathway of the source must be at least
    as deep as the target's. Batch norm (gamma, beta, rolling statistics), PReLU slopes and biases go with their layer,
    the softmax bias with the classification layer. What one model has and the other lacks (batch norm, PReLU, low-rank
    kernels) has no counterpart: it stays new, and the report says so. With `options.grow` see `growth.grow_exactly`.

    Raises:
        ModelError: the models do not fit each other or the options (`SeveralProblems` if there are several reasons).
    """
    options = options or TransferOptions()
    log_shares = None
    if options.class_frequencies is not None:
        log_shares = log_frequencies(options.class_frequencies, target.architecture.classes)
    if options.grow is not None:
        return grow_exactly(source, target, options.source_sha256)
    pairs = select(target.architecture, source.architecture, options.layers, options.transfer_classes)
    assembly = Assembly(source, target)
    _receive_layers(assembly, {pair.name: pair for pair in pairs}, options)
    assembly.notes += _differences(target.architecture, source.architecture)
    if log_shares is not None:
        transferred = assembly.layers[-1].source is not None
        assembly.start_biases(log_shares, classes(source, target) if transferred else (NEW,) * len(log_shares))
    return assembly.result("pretrained", options.source_sha256)


def _receive_layers(assembly: Assembly, pairs: dict[str, LayerPair], options: TransferOptions) -> None:
    source, target = assembly.source, assembly.target
    channels = image_channels(source, target)
    stem = build_stem(channels, source.architecture.input_channels, options.new_channels)
    for pathway, layer in layer_names(target.architecture):
        pair = pairs.get(f"{pathway.name}/{layer}")
        if pair is None:
            assembly.add_new(
                pathway, layer, "not transferred by default" if options.layers is None else "not in -layers"
            )
            continue
        own_stem = stem if layer == 1 and pathway.name != "fc" else None
        match = match_layers(pair, source, target)
        assembly.add(pathway, layer, receive(match, assembly.parameters, source.parameters, own_stem), pair)


def _differences(target: Architecture, source: Architecture) -> Iterator[str]:
    """Say what makes the same parameters compute something else."""
    if target.activation != source.activation:
        yield f"the activation is {target.activation} in the new model and {source.activation} in the source model"
    normalized, source_normalized = target.batch_norm_window > 0, source.batch_norm_window > 0
    if normalized != source_normalized:
        having, lacking = ("new", "source") if normalized else ("source", "new")
        yield f"the {having} model has batch normalisation and the {lacking} model has none"
    elif normalized and target.batch_norm_epsilon != source.batch_norm_epsilon:
        yield (
            f"batchNormEpsilon is {target.batch_norm_epsilon:g} in the new model and "
            f"{source.batch_norm_epsilon:g} in the source model"
        )
    for own, giver in zip(target.subsampled, source.subsampled, strict=False):
        if own.factor != giver.factor:
            yield (
                f"the factor of pathway {own.name} is {list(own.factor)} in the new model and {list(giver.factor)} in "
                "the source model"
            )
