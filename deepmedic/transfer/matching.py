"""Which channels of a new model correspond to which channels of the source model.

Channels correspond by position, apart from these: image channels and classes by name where both models know their
names; the fused input of the FC pathway pathway by pathway; and the feature maps of low-rank layers within each of
their three groups of kernels. The source is the model that gives, the target the one that receives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepmedic.config.architecture import Architecture, Pathway

NEW = -1

Origins = tuple[int, ...]
"""For each channel of the target the corresponding channel of the source, counted from 0, or `NEW`."""

Names = tuple[str, ...] | None


@dataclass(frozen=True)
class LayerPair:
    """A layer of the target and the layer of the source that it receives from; layers are numbered from 1."""

    pathway: Pathway
    layer: int
    source_pathway: Pathway
    source_layer: int

    @property
    def name(self) -> str:
        return f"{self.pathway.name}/{self.layer}"

    @property
    def source_name(self) -> str:
        return f"{self.source_pathway.name}/{self.source_layer}"

    @property
    def same_kind(self) -> bool:
        """Whether both or neither of the layers have low-rank kernels."""
        in_target = self.layer in self.pathway.low_rank_layers
        return in_target == (self.source_layer in self.source_pathway.low_rank_layers)


@dataclass(frozen=True)
class LayerMatch:
    """A pair of layers with the correspondence of its input channels and of its feature maps."""

    pair: LayerPair
    inputs: Origins
    outputs: Origins


def by_position(count: int, source_count: int) -> Origins:
    return tuple(channel if channel < source_count else NEW for channel in range(count))


def by_name_or_position(names: Names, source_names: Names, count: int, source_count: int) -> Origins:
    """Match by name when both sides have names, else by position."""
    if names is None or source_names is None:
        return by_position(count, source_count)
    return tuple(source_names.index(name) if name in source_names else NEW for name in names)


def feature_maps(pair: LayerPair) -> Origins:
    """Match the outputs of two layers by position; of two low-rank layers, within each group of kernels."""
    count = pair.pathway.feature_maps[pair.layer - 1]
    source_count = pair.source_pathway.feature_maps[pair.source_layer - 1]
    low_rank = pair.layer in pair.pathway.low_rank_layers
    if not (low_rank and pair.same_kind):
        return by_position(count, source_count)
    groups = zip(low_rank_groups(count).values(), low_rank_groups(source_count).values(), strict=True)
    return tuple(
        source.start + channel if channel < len(source) else NEW
        for own, source in groups
        for channel in range(len(own))
    )


def low_rank_groups(count: int) -> dict[str, range]:
    """Return the feature maps of a low-rank layer that each of its weights makes, by role."""
    third = count // 3
    return {
        "weight_x": range(third),
        "weight_y": range(third, 2 * third),
        "weight_z": range(2 * third, count),
    }


def fused(target: Architecture, source: Architecture) -> Origins:
    """Match the concatenated outputs of the parallel pathways, same-index pathways with each other.

    Channels of pathways that the source lacks are new, so that a wider or an additional pathway shifts no other one.
    """
    origins: list[int] = []
    starts = pathway_starts(source.parallel)
    for number, pathway in enumerate(target.parallel):
        if number < len(source.parallel):
            source_pathway = source.parallel[number]
            last = LayerPair(pathway, pathway.depth, source_pathway, source_pathway.depth)
            origins += [starts[number] + origin if origin != NEW else NEW for origin in feature_maps(last)]
        else:
            origins += [NEW] * pathway.feature_maps[-1]
    return tuple(origins)


def pathway_starts(pathways: Sequence[Pathway]) -> list[int]:
    """Return where the channels of each parallel pathway start in their concatenation."""
    starts = [0]
    for pathway in pathways:
        starts.append(starts[-1] + pathway.feature_maps[-1])
    return starts[:-1]


def layer_inputs(pair: LayerPair, target: Architecture, source: Architecture, image_channels: Origins) -> Origins:
    """Match the input channels of two layers.

    Between a first layer of the FC pathway and a later one (classification layers at different depths) nothing
    corresponds: one sees the fused pathways, the other hidden feature maps.
    """
    is_first, source_is_first = pair.layer == 1, pair.source_layer == 1
    if is_first != source_is_first:
        return (NEW,) * input_count(target, pair.pathway, pair.layer)
    if not is_first:
        return feature_maps(LayerPair(pair.pathway, pair.layer - 1, pair.source_pathway, pair.source_layer - 1))
    return fused(target, source) if pair.pathway.name == "fc" else image_channels


def input_count(architecture: Architecture, pathway: Pathway, layer: int) -> int:
    """Return the number of input channels of a layer, counted from 1."""
    if layer > 1:
        return pathway.feature_maps[layer - 2]
    if pathway.name != "fc":
        return architecture.input_channels
    return sum(parallel.feature_maps[-1] for parallel in architecture.parallel)


def pairs_of(origins: Origins) -> tuple[list[int], list[int]]:
    """Return the channels of the target that are not new, and their channels in the source."""
    own = [channel for channel, origin in enumerate(origins) if origin != NEW]
    return own, [origins[channel] for channel in own]


def is_identity(origins: Origins, source_count: int) -> bool:
    """Whether every channel corresponds to the same one in a source of as many channels."""
    return origins == tuple(range(source_count))
