"""What a drawing of an architecture says: per pathway and layer, sizes, kernels, receptive fields, parameters."""

from __future__ import annotations

from dataclasses import dataclass

from deepmedic import geometry
from deepmedic.config.architecture import Architecture, Padding, Pathway
from deepmedic.config.options import Size3
from deepmedic.model import parameters
from deepmedic.report.content import Model, Table


@dataclass(frozen=True)
class LayerFacts:
    """One convolutional layer."""

    number: int
    """Within its pathway, from 1."""
    kernel: Size3
    channels_in: int
    channels_out: int
    receptive_field: Size3
    """In voxels of the pathway's own input; that of the FC pathway goes on from the normal one."""
    parameters: int
    output: Size3
    """Size of its feature maps for the segment that is drawn, voxels."""
    padding: Padding
    dropout: float
    residual: bool
    """The input of the layer before is added to its output."""
    low_rank: bool

    @property
    def traits(self) -> tuple[str, ...]:
        """What is special about it, in words."""
        named = {
            "residual": self.residual,
            "low rank": self.low_rank,
            f"{self.padding} padding": self.padding != "valid",
            f"dropout {self.dropout:g}": self.dropout > 0,
        }
        return tuple(name for name, applies in named.items() if applies)


@dataclass(frozen=True)
class PathwayFacts:
    """One pathway, for a segment of one size."""

    name: str
    factor: Size3
    channels_in: int
    size: Size3
    """Of its input, voxels."""
    layers: tuple[LayerFacts, ...]

    @property
    def spans(self) -> Size3:
        """Voxels of the image from the first to the last that one output voxel depends on, per axis."""
        x, y, z = (
            (field - 1) * factor + 1 for field, factor in zip(self.layers[-1].receptive_field, self.factor, strict=True)
        )
        return x, y, z


def pathways_of(architecture: Architecture, segment: Size3) -> tuple[PathwayFacts, ...]:
    """Describe all pathways, FC last, for an input segment of the normal pathway."""
    counts = {(row.pathway, row.layer): row for row in parameters.layer_table(architecture)}
    sizes = [*architecture.input_sizes(segment), architecture.normal.output_size(segment)]
    fused = sum(pathway.feature_maps[-1] for pathway in architecture.parallel)
    entering = [architecture.input_channels] * len(architecture.parallel) + [fused]
    found = []
    for pathway, size, channels in zip(architecture.pathways, sizes, entering, strict=True):
        rows = [counts[pathway.name, number] for number in range(1, pathway.depth + 1)]
        layers = _layers(pathway, size, channels, rows)
        found.append(PathwayFacts(pathway.name, pathway.factor, channels, size, layers))
    return tuple(found)


def layer_table(model: Model) -> Table:
    """Return the layers as a table for the page."""
    segment = drawn_segment(model)
    rows = [
        (
            *(pathway.name, layer.number, by(layer.kernel), layer.channels_in, layer.channels_out),
            *(by(layer.receptive_field), by(layer.output), layer.parameters, ", ".join(layer.traits)),
        )
        for pathway in pathways_of(model.architecture, segment)
        for layer in pathway.layers
    ]
    columns = ("pathway", "layer", "kernel", "channels in", "feature maps", "receptive field")
    return Table((*columns, f"size for {by(segment)}", "parameters", "particulars"), tuple(rows))


def drawn_segment(model: Model) -> Size3:
    """The segment whose sizes a drawing shows: the first, which is that of training."""
    return next(iter(model.segments.values()))


def by(size: Size3) -> str:
    """A size in words: "3x3x3"."""
    return "x".join(map(str, size))


def _layers(pathway: Pathway, size: Size3, channels: int, rows: list[parameters.LayerRow]) -> tuple[LayerFacts, ...]:
    layers = []
    for row in rows:
        at = row.layer - 1
        size = geometry.output_size(size, pathway.kernels[at : at + 1], pathway.paddings[at : at + 1])
        layers.append(
            LayerFacts(
                number=row.layer,
                kernel=row.kernel,
                channels_in=channels,
                channels_out=row.feature_maps,
                receptive_field=row.receptive_field,
                parameters=row.parameters,
                output=size,
                padding=pathway.paddings[at],
                dropout=pathway.dropout_rates[at],
                residual=row.layer in pathway.residual_layers,
                low_rank=row.layer in pathway.low_rank_layers,
            )
        )
        channels = row.feature_maps
    return tuple(layers)
