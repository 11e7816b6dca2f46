"""What all transfers between two models share: channel correspondences by name, and the result with its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from deepmedic.config.architecture import Pathway
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.matching import (
    LayerMatch,
    LayerPair,
    Origins,
    by_name_or_position,
    feature_maps,
    layer_inputs,
)
from deepmedic.transfer.received import LayerTransfer, TensorTransfer
from deepmedic.transfer.receiving import SOFTMAX_BIAS, nothing_received, tensor_names
from deepmedic.transfer.report import Kind, TransferReport, TransferResult
from deepmedic.transfer.selection import depth_of


def image_channels(source: SavedModel, target: SavedModel) -> Origins:
    """Match image channels by name if both models know them, else by position."""
    return by_name_or_position(
        target.config.channel_names,
        source.config.channel_names,
        target.architecture.input_channels,
        source.architecture.input_channels,
    )


def classes(source: SavedModel, target: SavedModel) -> Origins:
    """Match classes by name if both models know them, else by position."""
    return by_name_or_position(
        target.config.class_names, source.config.class_names, target.architecture.classes, source.architecture.classes
    )


def match_layers(pair: LayerPair, source: SavedModel, target: SavedModel) -> LayerMatch:
    """Match the channels of a pair of layers."""
    inputs = layer_inputs(pair, target.architecture, source.architecture, image_channels(source, target))
    is_classifier = pair.pathway.name == "fc" and pair.layer == pair.pathway.depth
    return LayerMatch(pair, inputs, classes(source, target) if is_classifier else feature_maps(pair))


@dataclass
class Assembly:
    """A model in the making: a copy of the target's parameters, and what its layers have received so far."""

    source: SavedModel
    target: SavedModel
    parameters: dict[str, Tensor] = field(init=False)
    layers: list[LayerTransfer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that both models are whole.

        Raises:
            ModelError: the parameters of one of them do not fit its own architecture.
        """
        self.source.network()
        self.target.network()
        self.parameters = {name: tensor.clone() for name, tensor in self.target.parameters.items()}

    def add(
        self, pathway: Pathway, layer: int, tensors: Sequence[TensorTransfer], pair: LayerPair | None = None
    ) -> None:
        """Record what a layer received; nothing of it is a layer that receives nothing."""
        if not any(tensor.received for tensor in tensors):
            pair = None
        self.layers.append(
            LayerTransfer(
                pathway=pathway,
                layer=layer,
                depth=depth_of(self.target.architecture, pathway, layer),
                tensors=tuple(tensors),
                source_pathway=pair.source_pathway if pair else None,
                source_layer=pair.source_layer if pair else None,
            )
        )

    def add_new(self, pathway: Pathway, layer: int, note: str = "") -> None:
        """Record a layer that keeps its own values."""
        names = tensor_names(self.parameters, pathway, layer)
        self.add(pathway, layer, [nothing_received(name, self.parameters[name]) for name in names])
        self.note_layer(note)

    def note_layer(self, note: str) -> None:
        """Add a note to the layer recorded last."""
        self.layers[-1] = replace(self.layers[-1], note=note)

    def note_tensor(self, name: str, note: str) -> None:
        """Add to the note of a tensor of the layer recorded last."""

        def noted(tensor: TensorTransfer) -> TensorTransfer:
            return replace(tensor, note="; ".join(filter(None, (tensor.note, note))))

        tensors = (noted(tensor) if tensor.name == name else tensor for tensor in self.layers[-1].tensors)
        self.layers[-1] = replace(self.layers[-1], tensors=tuple(tensors))

    def start_biases(self, log_frequencies: Sequence[float], class_origins: Origins) -> None:
        """Let the biases of classes that received none start at the logarithm of the classes' frequencies."""
        new = [number for number, origin in enumerate(class_origins) if origin < 0]
        if new:
            bias = self.parameters[SOFTMAX_BIAS]
            bias[new] = bias.new_tensor([log_frequencies[number] for number in new])
            self.note_tensor(SOFTMAX_BIAS, f"log frequency of class {', '.join(map(str, new))}")

    def result(self, kind: Kind, source_sha256: str | None) -> TransferResult:
        """Return the finished model, untrained, and its report."""
        report = TransferReport(
            kind=kind,
            source_name=self.source.name,
            target_name=self.target.name,
            layers=tuple(self.layers),
            source_tensors=tuple(self.source.parameters),
            notes=tuple(self.notes),
        )
        provenance: dict[str, Any] = {
            "kind": "adapted" if kind == "adapted" else "pretrained",
            "source": source_sha256,
            "map": report.layer_map(),
        }
        if kind == "grown":
            provenance["grow"] = "exact"
        provenance |= _seed(self.target.provenance)
        model = replace(
            self.target, parameters=self.parameters, start_parameters=None, training=None, provenance=provenance
        )
        return TransferResult(model, report)


def _seed(provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the seed that the new values were drawn from, if the provenance of the new model knows it."""
    return {"seed": provenance["seed"]} if provenance and "seed" in provenance else {}
