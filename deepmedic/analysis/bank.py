"""The features of all cases of a data set as one table, and its division into parts with different subjects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepmedic.analysis.features import CaseFeatures
from deepmedic.errors import DataError

MOST_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Bank:
    """Sampled voxels of all cases, one row each, with their features at every layer of one or several networks."""

    subjects: tuple[str, ...]
    """In the order in which they are listed; a subject may have several cases."""
    subject_of: Tensor
    """int64 [voxel], position in `subjects`."""
    labels: Tensor
    """int64 [voxel]."""
    stands_for: Tensor
    """float64 [voxel]: voxels of the same class in the case per sampled one."""
    features: dict[str, dict[str, Tensor]]
    """By network and layer: float32 [voxel, channel]."""
    classes: int

    @classmethod
    def of(cls, cases: Iterable[CaseFeatures], classes: int) -> Bank:
        """Put the cases of `stream_features` together.

        Raises:
            DataError: the cases are of fewer than two subjects, so that none is left to test on.
        """
        found = list(cases)
        subjects = list(dict.fromkeys(case.subject for case in found))
        if len(subjects) < 2:
            raise DataError(
                f"found labelled cases of {len(subjects)} subjects that can be used; an analysis needs at least 2, for "
                "what is learnt from some is tested on others. List more cases."
            )
        networks = {
            name: {layer: torch.cat([case.features[name][layer] for case in found]) for layer in layers}
            for name, layers in found[0].features.items()
        }
        return cls(
            subjects=tuple(subjects),
            subject_of=torch.cat([torch.full((len(case.labels),), subjects.index(case.subject)) for case in found]),
            labels=torch.cat([case.labels for case in found]),
            stands_for=torch.cat([case.voxels.stands_for for case in found]),
            features=networks,
            classes=classes,
        )

    def rows_of(self, subjects: Sequence[int]) -> Tensor:
        """int64 [voxel]: the rows of these subjects."""
        return torch.isin(self.subject_of, torch.tensor(list(subjects))).nonzero()[:, 0]

    def folds(self) -> list[Fold]:
        """Divide the subjects into at most five parts, each of which is tested once on what the others teach.

        Subjects are dealt out in the order in which they are listed, so that the division does not depend on a seed.
        """
        count = len(self.subjects)
        parts = min(count, MOST_FOLDS)
        tested = [tuple(range(first, count, parts)) for first in range(parts)]
        return [Fold(tuple(sorted(set(range(count)) - set(part))), part) for part in tested]

    def frequencies(self, subjects: Sequence[int]) -> Tensor:
        """float64 [class]: the share of each class among the voxels of the ROI of these subjects."""
        rows = self.rows_of(subjects)
        totals = torch.zeros(self.classes, dtype=torch.float64)
        totals.index_add_(0, self.labels[rows], self.stands_for[rows])
        return totals / totals.sum()

    def by_subject(self, values: Tensor) -> Iterator[Tensor]:
        """The rows of `values` [voxel, ...] that belong to each subject."""
        for subject in range(len(self.subjects)):
            yield values[self.subject_of == subject]


@dataclass(frozen=True)
class Fold:
    """Subjects to learn from and subjects to test on, by their position; none is in both."""

    learning: tuple[int, ...]
    testing: tuple[int, ...]
