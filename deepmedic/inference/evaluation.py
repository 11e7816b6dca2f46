"""Scoring a prediction against labels: the log's three Dice coefficients, and the rows of the metrics table."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from deepmedic.config.scoring import ScoringConfig
from deepmedic.inference.predictor import Prediction
from deepmedic.inference.scoring import Compared, scored_rows
from deepmedic.metrics import (
    OWN_COLUMNS,
    MetricsRow,
    ThreeDices,
    confusion_counts,
    dice_123,
    format_ratio,
    mean_defined,
    metrics_rows,
    scored_classes,
)
from deepmedic.words import classes_by_number

log = logging.getLogger(__name__)

Purpose = Literal["Testing", "Validation"]
"""As the original's log names it."""


@dataclass(frozen=True)
class CaseEvaluation:
    """The scores of one case."""

    dices: ThreeDices
    """The original's, for the log."""
    rows: tuple[MetricsRow, ...]
    """Of the segmentation as it is saved, against the labels of the whole volume."""

    def to_plain(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for the record of a case."""
        return {"dices": asdict(self.dices), "rows": [row.as_dict() for row in self.rows]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> CaseEvaluation:
        """The inverse of `to_plain`.

        Raises:
            KeyError, TypeError: something is missing or unknown.
        """
        rows = []
        for row in plain["rows"]:
            own = {name: row[name] for name in OWN_COLUMNS} | {"classes": tuple(row["classes"])}
            further = {name: value for name, value in row.items() if name not in own}
            rows.append(MetricsRow(**own, further=further))
        return cls(ThreeDices(**plain["dices"]), tuple(rows))


def evaluate_case(
    name: str,
    prediction: Prediction,
    labels: torch.Tensor,
    roi: torch.Tensor | None,
    spacing: tuple[float, float, float],
    class_names: Sequence[str] | None = None,
    scoring: ScoringConfig | None = None,
) -> CaseEvaluation:
    """Compare a prediction with labels; `scoring` says what the rows have besides Dice, ratios and volumes.

    Args:
        name: of the case, for the table.
        prediction: the prediction.
        labels: integers [x, y, z] of the size before padding.
        roi: bool [x, y, z] of the same size, or None.
        spacing: millimetres per voxel along x, y, z.
        class_names: one per class, the background included.
        scoring: regions, and which further scores; None: none of all that.
    """
    classes = len(prediction.probabilities)
    dices = dice_123(prediction.segmentation_everywhere, labels, roi, classes)
    if scoring is not None:
        scored = scored_classes(classes, class_names, scoring.regions)
        case = Compared(name, prediction.segmentation, prediction.segmentation_everywhere, labels, roi, spacing)
        return CaseEvaluation(dices, tuple(scored_rows(case, scored, scoring)))
    counts = confusion_counts(prediction.segmentation, labels, classes)
    return CaseEvaluation(dices, tuple(metrics_rows(name, counts, math.prod(spacing), class_names)))


def mean_dices(evaluations: Sequence[CaseEvaluation]) -> ThreeDices | None:
    """Means over cases per class, each over the cases where it is defined; None without evaluated cases."""
    if not evaluations:
        return None
    columns = {}
    for kind in ("dice1", "dice2", "dice3"):
        per_case = [getattr(evaluation.dices, kind) for evaluation in evaluations]
        columns[kind] = [mean_defined(of_class) for of_class in zip(*per_case, strict=True)]
    return ThreeDices(**columns)


def described(dices: ThreeDices, class_names: Sequence[str] | None) -> str:
    """The Dice of each class but the background, of the segmentation as it is saved (within the ROI), in words."""
    names = class_names or classes_by_number(len(dices.dice2))
    return ", ".join(f"{name} {format_ratio(dice)}" for name, dice in list(zip(names, dices.dice2, strict=True))[1:])


def log_case(purpose: Purpose, index: int, dices: ThreeDices) -> None:
    """Log the Dice coefficients of one case in the original's words; entry 0 is the whole foreground."""
    log.debug("+++++++++++ Reporting Segmentation Metrics for Subject #%d +++++++++++", index)
    log.debug(
        "ACCURACY: (%s) The Per-Class DICE Coefficients for subject with index #%d equal: %s",
        purpose,
        index,
        _as_text(dices),
    )


def log_means(purpose: Purpose, dices: ThreeDices) -> None:
    """Log the mean Dice coefficients in the original's words, and what they are."""
    log.debug("++++++++++++++ Reporting Average Segmentation Metrics over all subjects +++++++++++++++++++")
    log.debug(
        "ACCURACY: (%s) The Per-Class average DICE Coefficients over all subjects are: %s", purpose, _as_text(dices)
    )
    log.debug(
        "EXPLANATION: each list begins with the whole foreground, then class 1, 2, ... DICE1: prediction against "
        "labels, both everywhere; DICE2: prediction inside the ROI against all labels; DICE3: both inside the ROI. "
        "N/A: the labels lack the class; such cases are left out of the means."
    )


def _as_text(dices: ThreeDices) -> str:
    return " ".join(
        f"{kind.upper()}=[ {' '.join(map(format_ratio, values))} ]" for kind, values in asdict(dices).items()
    )
