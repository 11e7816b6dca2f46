"""Which feature maps an inference saves."""

from __future__ import annotations

from deepmedic.config.architecture import Architecture
from deepmedic.config.sections import OutputConfig

FeatureRanges = dict[int, dict[int, tuple[int, int]]]
"""Feature maps by pathway (normal, subsampled 1, 2, ..., FC) and layer, all counted from 0: first and one past last."""


def selected_feature_maps(architecture: Architecture, output: OutputConfig) -> FeatureRanges:
    """Return the feature maps that a config selects, limited to those that exist; layers without any are left out.

    One list serves all low-resolution pathways.
    """
    if not output.save_feature_maps:
        return {}
    lists = [
        output.feature_maps_normal,
        *([output.feature_maps_subsampled] * len(architecture.subsampled)),
        output.feature_maps_fc,
    ]
    selected: FeatureRanges = {}
    for pathway_index, (pathway, layers) in enumerate(zip(architecture.pathways, lists, strict=True)):
        for layer, (bounds, maps) in enumerate(zip(layers, pathway.feature_maps, strict=False)):
            if bounds and bounds[0] < min(bounds[1], maps):
                selected.setdefault(pathway_index, {})[layer] = (bounds[0], min(bounds[1], maps))
    return selected
