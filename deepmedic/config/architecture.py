"""The architecture of a network after all defaults of a model config are resolved.

This is what the network is built from, what geometry is computed from, and what a saved model stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deepmedic import geometry
from deepmedic.config.options import Size3

Padding = Literal["valid", "mirror", "zero"]
ActivationName = Literal["linear", "relu", "prelu", "elu", "selu"]


@dataclass(frozen=True)
class Pathway:
    """One stack of convolutional layers; layers are numbered from 1, the tuples have one entry per layer."""

    name: str
    """"normal", "subsampled1", "subsampled2", ... or "fc"; the first part of canonical parameter names."""
    feature_maps: tuple[int, ...]
    """Output channels of each layer; the last one of "fc" is the classification layer (number of classes)."""
    kernels: tuple[Size3, ...]
    paddings: tuple[Padding, ...]
    dropout_rates: tuple[float, ...]
    residual_layers: tuple[int, ...] = ()
    """1-based: to the output of layer i the input of layer i - 1 is added."""
    low_rank_layers: tuple[int, ...] = ()
    """1-based."""
    factor: Size3 = (1, 1, 1)
    """Voxels of the image per voxel of this pathway's input."""

    @property
    def depth(self) -> int:
        return len(self.feature_maps)

    @property
    def receptive_field(self) -> Size3:
        return geometry.receptive_field(self.kernels)

    def output_size(self, input_size: Size3) -> Size3:
        return geometry.output_size(input_size, self.kernels, self.paddings)


@dataclass(frozen=True)
class Architecture:
    """A multi-pathway network: parallel pathways whose outputs are concatenated and classified by the FC pathway."""

    input_channels: int
    classes: int
    """Including the background, class 0."""
    normal: Pathway
    subsampled: tuple[Pathway, ...]
    fc: Pathway
    activation: ActivationName = "prelu"
    batch_norm_window: int = 60
    """Iterations whose batch statistics are averaged for inference; 0 or less: no batch normalisation."""
    batch_norm_epsilon: float = 1.1754943508222875e-38
    weights_init: tuple[str, float] = ("fanIn", 2.0)

    @property
    def parallel(self) -> tuple[Pathway, ...]:
        """The pathways that see the image: normal first, then the subsampled ones."""
        return (self.normal, *self.subsampled)

    @property
    def pathways(self) -> tuple[Pathway, ...]:
        return (*self.parallel, self.fc)

    @property
    def receptive_field(self) -> Size3:
        """Voxels of the image that the normal pathway and the FC pathway see for one output voxel."""
        return geometry.receptive_field((*self.normal.kernels, *self.fc.kernels))

    def output_size(self, segment: Size3) -> Size3:
        """Size of the predicted box for an input segment of the normal pathway."""
        return self.fc.output_size(self.normal.output_size(segment))

    def input_sizes(self, segment: Size3) -> tuple[Size3, ...]:
        """Input size of each parallel pathway for a segment of the normal pathway."""
        normal_output = self.normal.output_size(segment)
        subsampled = (
            geometry.subsampled_input_size(normal_output, self.normal.receptive_field, pathway.factor)
            for pathway in self.subsampled
        )
        return (segment, *subsampled)

    def margins(self, segment: Size3) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Unpredicted voxels before and after the predicted box, per axis."""
        return geometry.margins(segment, self.output_size(segment))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts, lists and numbers, for a saved model."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_dict`."""
        values = dict(plain)
        pathways = {
            "normal": _pathway(values["normal"]),
            "subsampled": tuple(_pathway(pathway) for pathway in values["subsampled"]),
            "fc": _pathway(values["fc"]),
        }
        kind, number = values["weights_init"]
        return cls(**{**values, **pathways, "weights_init": (kind, float(number))})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _pathway(plain: Mapping[str, Any]) -> Pathway:
    return Pathway(**{key: _tuples(value) for key, value in plain.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def layer_names(architecture: Architecture) -> Iterator[tuple[Pathway, int]]:
    """All layers as (pathway, 1-based number), in the order normal, subsampled, FC."""
    for pathway in architecture.pathways:
        for number in range(1, pathway.depth + 1):
            yield pathway, number
