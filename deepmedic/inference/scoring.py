"""All scores of one case: the three Dice coefficients, distances and lesions of every class and region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from deepmedic.components import bounding_box
from deepmedic.config.scoring import ScoringConfig
from deepmedic.inference.lesions import count_lesions
from deepmedic.inference.surfaces import surface_scores
from deepmedic.metrics import MetricsRow, Scored, confusion_matrix, dice_or_nan, merged_counts, metrics_row

_BYTES_TO_COUNT = 8
"""Per voxel: values of labels and prediction, within the ROI and without, and numbers for pairs of them."""
_BYTES_OF_MASKS = 32
"""Per voxel, as measured, for distances of surfaces or for lesions, when masks fill the image. Noise takes twice as
much, but what is predicted or true commonly fills a small part."""


@dataclass(frozen=True)
class Compared:
    """One case: what is predicted, and what is true. Axes x, y, z, sizes before padding."""

    name: str
    segmentation: torch.Tensor
    """Integers [x, y, z]; 0 outside the ROI."""
    segmentation_everywhere: torch.Tensor
    """The same before the ROI is applied."""
    labels: torch.Tensor
    """Integers [x, y, z]."""
    roi: torch.Tensor | None
    """bool [x, y, z]; None: everywhere."""
    spacing: tuple[float, float, float]
    """Millimetres per voxel along x, y, z."""


def scored_rows(case: Compared, scored: Sequence[Scored], scoring: ScoringConfig) -> list[MetricsRow]:
    """The rows of one case, one for each of `scored`.

    Their further columns: `dice1` (the prediction before the ROI is applied, against the labels) and `dice3` (both
    inside the ROI), both equal to `dice` without an ROI; `hd95_mm` and `assd_mm`; `lesions_truth`,
    `lesions_predicted`, `lesions_detected`, `lesions_missed`, `lesions_false` and `lesion_f1`.
    """
    number = 1 + max(label for one in scored for label in one.classes)
    cut, background = _without_background(case)
    roi = torch.ones_like(cut.labels, dtype=torch.bool) if cut.roi is None else cut.roi
    saved = confusion_matrix(cut.segmentation, cut.labels, number)
    everywhere = confusion_matrix(cut.segmentation_everywhere, cut.labels, number)
    inside = confusion_matrix(cut.segmentation * roi, cut.labels * roi, number)
    for matrix in (saved, everywhere, inside):
        matrix[0, 0] += background
    rows = []
    for one in scored:
        further = {
            "dice1": dice_or_nan(merged_counts(everywhere, one.classes)),
            "dice3": dice_or_nan(merged_counts(inside, one.classes)),
            **_scores_of_masks(cut, one.classes, number, scoring),
        }
        rows.append(metrics_row(case.name, one, merged_counts(saved, one.classes), math.prod(case.spacing), further))
    return rows


def scoring_memory(voxels: int, scoring: ScoringConfig | None) -> int:
    """Bytes that scoring a case of so many voxels takes while it lasts, beside labels and prediction.

    Args:
        voxels: of the image.
        scoring: what is measured besides Dice, ratios and volumes; None: nothing.
    """
    of_masks = scoring is not None and (scoring.surface_distances or scoring.lesion_counts)
    return voxels * (_BYTES_OF_MASKS if of_masks else _BYTES_TO_COUNT)


def _without_background(case: Compared) -> tuple[Compared, int]:
    """The smallest box around everything that is predicted or true, and how many voxels are beyond it."""
    anything = (case.segmentation_everywhere != 0) | (case.segmentation != 0) | (case.labels != 0)
    box = bounding_box(anything.numpy()) or (slice(1), slice(1), slice(1))
    cut = replace(
        case,
        segmentation=case.segmentation[box],
        segmentation_everywhere=case.segmentation_everywhere[box],
        labels=case.labels[box],
        roi=None if case.roi is None else case.roi[box],
    )
    return cut, case.labels.numel() - cut.labels.numel()


def _scores_of_masks(case: Compared, classes: Sequence[int], number: int, scoring: ScoringConfig) -> dict[str, float]:
    """Distances and lesions of classes merged to one, of `number` classes in all."""
    belongs = np.zeros(number, bool)
    belongs[list(classes)] = True
    predicted, true = belongs[case.segmentation.numpy()], belongs[case.labels.numpy()]
    found: dict[str, float] = {}
    if scoring.surface_distances:
        surfaces = surface_scores(predicted, true, case.spacing)
        found |= {"hd95_mm": surfaces.hd95, "assd_mm": surfaces.assd}
    if scoring.lesion_counts:
        lesions = count_lesions(predicted, true)
        found |= {
            "lesions_truth": lesions.true,
            "lesions_predicted": lesions.predicted,
            "lesions_detected": lesions.detected,
            "lesions_missed": lesions.missed,
            "lesions_false": lesions.false,
            "lesion_f1": lesions.f1,
        }
    return found
