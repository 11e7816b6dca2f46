"""What an analysis was made on: how many cases, voxels and subjects, and a digest by which it is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepmedic.analysis.features import CaseFeatures
from deepmedic.data.dataset import DataSet


@dataclass(frozen=True)
class DataSummary:
    """The labelled cases of a new task."""

    cases: tuple[str, ...]
    subjects: int
    voxels: dict[str, float]
    """By class: voxels within the ROI that the models reach, of all cases."""
    spacing: tuple[float, float, float]
    """Median, millimetres."""
    shape_median: tuple[float, ...]
    sha256: str
    """Digest of the names, sampled labels and intensities of all cases."""

    @classmethod
    def of(cls, cases: Sequence[CaseFeatures], data: DataSet, class_names: Sequence[str]) -> DataSummary:
        """Sum up the cases of `stream_features`."""
        voxels = torch.zeros(len(class_names), dtype=torch.float64)
        for case in cases:
            voxels.index_add_(0, case.labels, case.voxels.stands_for)
        shapes = np.array([headers.shape for headers in data.headers])
        return cls(
            cases=tuple(case.name for case in cases),
            subjects=len({case.subject for case in cases}),
            voxels=dict(zip(class_names, (round(count) for count in voxels.tolist()), strict=True)),
            spacing=data.median_spacing(),
            shape_median=tuple(np.median(shapes, axis=0).tolist()),
            sha256=_digest(cases),
        )

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "cases": len(self.cases),
            "subjects": self.subjects,
            "names": list(self.cases),
            "voxels": self.voxels,
            "spacing": list(self.spacing),
            "shapeMedian": list(self.shape_median),
            "sha256": self.sha256,
        }


def _digest(cases: Sequence[CaseFeatures]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        digest.update(json.dumps([case.name, case.subject, case.intensities], sort_keys=True).encode())
        for tensor in (case.voxels.positions, case.labels, case.voxels.stands_for):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
