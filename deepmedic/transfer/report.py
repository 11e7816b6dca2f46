"""What each tensor of a new model received from the source model, as plain values, a table and log lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from deepmedic.config.architecture import Pathway
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.received import LayerTransfer, TensorTransfer
from deepmedic.transfer.report_table import grouped_names, table

Kind = Literal["pretrained", "grown", "adapted"]

_CALLED = {
    "weight": "weights [W]",
    "bias": "biases [b]",
    "bn_gamma": "g of Batch Norm [gBn]",
    "bn_beta": "biases [b]",
    "prelu_alpha": "a of PReLu [aPrelu]",
    "bn_mean_rolling": "rolling average of MU of Batch Norm [muBnsArrayForRollingAverage]",
    "bn_var_rolling": "rolling average of Variance of Batch Norm [varBnsArrayForRollingAverage]",
}
"""What the original's log calls each role."""


@dataclass(frozen=True)
class TransferReport:
    """What a new model received, layer by layer in its own order."""

    kind: Kind
    source_name: str
    target_name: str
    layers: tuple[LayerTransfer, ...]
    source_tensors: tuple[str, ...]
    """Canonical names of all tensors of the source."""
    notes: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, TensorTransfer]:
        """By canonical name."""
        return {tensor.name: tensor for layer in self.layers for tensor in layer.tensors}

    @property
    def unused(self) -> tuple[str, ...]:
        """Tensors of the source that nothing received from."""
        used = {tensor.source for tensor in self.tensors.values()}
        return tuple(name for name in self.source_tensors if name not in used)

    @property
    def transferred(self) -> int:
        """Parameters received; rolling statistics do not count."""
        return sum(layer.transferred for layer in self.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def share(self) -> float:
        """Of the new model's parameters, the share that came from the source."""
        return self.transferred / self.parameters

    def layer_map(self) -> dict[str, str]:
        """Return the layers that received, each with its source layer, for the provenance of the model."""
        return {layer.name: layer.source for layer in self.layers if layer.source is not None}

    def summary(self) -> str:
        """One sentence."""
        return (
            f"{self.transferred} of {self.parameters} parameters ({self.share:.1%}) of model {self.target_name} come "
            f"from model {self.source_name}"
        )

    def to_text(self) -> str:
        """A table with the layers, and for each of them its tensors grouped by what they received."""
        lines = [self.summary() + ".", *table(self.layers)]
        if self.unused:
            lines.append(f"Not used of the source: {', '.join(grouped_names(self.unused, self.source_tensors))}")
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "source": self.source_name,
            "target": self.target_name,
            "transferred": self.transferred,
            "parameters": self.parameters,
            "share": self.share,
            "layers": [
                {
                    "layer": layer.name,
                    "depth": layer.depth,
                    "source": layer.source,
                    "note": layer.note,
                    "transferred": layer.transferred,
                    "parameters": layer.parameters,
                    "tensors": [tensor.to_plain() for tensor in layer.tensors],
                }
                for layer in self.layers
            ],
            "unused": list(self.unused),
            "notes": list(self.notes),
        }

    def log_lines(self) -> list[str]:
        """Lines with the phrases by which the original's users look for a transfer in the log."""
        return [line for layer in self.layers if layer.source is not None for line in _log_lines(layer)]


@dataclass(frozen=True)
class TransferResult:
    """A model with what it received, and the report of it."""

    model: SavedModel
    report: TransferReport


def _log_lines(layer: LayerTransfer) -> Iterator[str]:
    giver = layer.source_pathway
    if giver is None or layer.source_layer is None:
        return
    yield (
        f"[Pathway_{_type(layer.pathway)}][Conv.Layer_{layer.layer - 1} (index)], depth [{layer.depth}] (Target): "
        "Receiving parameters..."
    )
    if giver.name != layer.pathway.name:
        yield (
            "\tSource model has fewer parallel pathways than Target: parameters are received from its last parallel "
            f"pathway [Pathway_{_type(giver)}]."
        )
    place = f"[Pathway_{_type(giver)}][Conv.Layer_{layer.source_layer - 1} (index)]"
    yield f"\t...receiving parameters from {place} (Source)."
    called: dict[str, None] = {}
    for tensor in layer.tensors:
        if tensor.received and tensor.name == "softmax/bias":
            called["biases [b] of the softmax"] = None
        elif tensor.received:
            called[_CALLED["weight" if tensor.role.startswith("weight") else tensor.role]] = None
    yield from (f"\tTransferring {what}." for what in called)


def _type(pathway: Pathway) -> str:
    if pathway.name in ("normal", "fc"):
        return pathway.name.upper()
    return f"SUBSAMPLED{list(pathway.factor)}"
