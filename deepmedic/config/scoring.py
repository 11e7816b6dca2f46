"""Keys that say how segmentations are scored against labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepmedic.config.options import option

WHOLE_FOREGROUND = "whole foreground"
"""The name, in tables of scores, of all classes but the background as one."""


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """What the metrics of an inference session cover; Dice, ratios and volumes of each class are always there."""

    regions: Mapping[str, tuple[int, ...]] = option(
        "regions",
        {},
        minimum=1,
        nonempty=True,
        origin="new",
        default_text="none",
        doc="Classes that are scored together as one, beside each class by itself: a name for each region and the "
        "numbers of its classes, for instance {wholeTumour = [1, 2, 3, 4], core = [1, 3, 4]}. The whole foreground is "
        "scored in any case.",
    )
    surface_distances: bool = option(
        "surfaceDistances",
        True,
        origin="new",
        doc="Whether the distances between the surfaces of prediction and labels are measured, in millimetres: the "
        "95th percentile of the Hausdorff distance and the average symmetric surface distance. They take longer than "
        "all other scores; switch them off if they delay a fast GPU.",
    )
    lesion_counts: bool = option(
        "lesionCounts",
        True,
        origin="new",
        doc="Whether lesions (connected components; voxels that share a face, an edge or a corner are connected) are "
        "counted: how many the labels have, how many of them are detected, how many predicted ones are false.",
    )
