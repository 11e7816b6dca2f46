"""Cases that are in memory already for another purpose, and so need not be read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.preprocessing import PreparedCase


class ResidentCases:
    """The cases of a data set; those that another one keeps resident, and pads in the same way, are taken from there.

    Validation on samples keeps the cases that validation on whole volumes is about to read, and training those that a
    model describes.
    """

    def __init__(self, data: DataSet, keeper: DataSet, resident: Callable[[int], PreparedCase | None]) -> None:
        """Create a view of `data`.

        Args:
            data: the cases, as they are to be prepared.
            keeper: the same cases as they are kept, prepared for another size of segments perhaps.
            resident: a case of `keeper`, if it is in memory and stays there while it is used here; may be called from
                another thread.
        """
        self._data = data
        self._keeper = keeper
        self._resident = resident

    @property
    def cases(self) -> Sequence[Case]:
        """The files of each case."""
        return self._data.cases

    def read_each(self, index: int, needs: Sequence[CaseNeeds] = ()) -> list[PreparedCase]:
        """One case on the CPU, equal to what `DataSet.read_each` gives; may be called from another thread too.

        Raises:
            DataError: as `DataSet.read_each`.
        """
        case = None if needs else self._if_resident(index)
        return self._data.read_each(index, needs) if case is None else [case]

    def bytes_to_read(self, index: int) -> int:
        """As if it were read."""
        return self._data.bytes_to_read(index)

    def tell(self, index: int) -> None:
        """Log what a user should know of a case; nothing of one that was not read again."""
        self._data.tell(index)

    def load_if_usable(self, index: int) -> PreparedCase | None:
        """One case likewise; None for one that cannot be used while cases may be skipped."""
        case = self._if_resident(index)
        return self._data.load_if_usable(index) if case is None else case

    def _if_resident(self, index: int) -> PreparedCase | None:
        case = self._resident(index) if self._is_prepared_alike(index) else None
        if case is None:
            return None
        return replace(
            case,
            channels=_on_cpu(case.channels),
            labels=None if case.labels is None else case.labels.cpu(),
            # Beside cases with a mask, those without are kept with one that is true everywhere.
            roi=None if case.roi is None or self.cases[index].roi is None else case.roi.cpu(),
            weight_maps=None if case.weight_maps is None else _on_cpu(case.weight_maps),
            border_values=case.border_values.cpu(),
        )

    def _is_prepared_alike(self, index: int) -> bool:
        """Whether both data sets prepare a case to equal tensors, and keep all of it."""
        data, keeper = self._data, self._keeper
        if data.cases[index] != keeper.cases[index] or data.preprocessing != keeper.preprocessing:
            return False
        if data.headers[index].header.resampled_from is not None:
            return False  # labels and ROI on the grid of the files are not kept
        wanted, kept = data.needs, keeper.needs
        alike = replace(wanted, segment=kept.segment, margins=kept.margins) == kept
        padded = data.preprocessing.pad_images
        same_margins = wanted.margins == kept.margins or not padded
        return alike and same_margins and data.padded_size(index) == keeper.padded_size(index)


def _on_cpu(images: torch.Tensor) -> torch.Tensor:
    """Copy [image, x, y, z] one by one: together they are no block of memory, and would first be made one there."""
    return torch.stack([image.cpu() for image in images])
