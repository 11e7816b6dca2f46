"""Cases of an inference read ahead, in other threads, while others are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.reading import CaseReader, Reading
from deepmedic.inference.flow import Flow
from deepmedic.inference.results import Record, case_fingerprint, labels_fingerprint
from deepmedic.inference.survey import Saving

_WHILE_READ = 3
"""A case takes so many times its memory while it is read: as it is stored, as it is read, and as it is kept, maybe for
several networks."""


class CaseSource(Protocol):
    """Cases that can be read one by one, such as `deepmedic.data.dataset.DataSet`."""

    @property
    def cases(self) -> Sequence[Case]:
        """The files of each case."""

    def read_each(self, index: int, needs: Sequence[CaseNeeds] = ()) -> list[PreparedCase]:
        """Read one case and prepare it for each of several networks; without needs for the one it was set up for.

        Called from several threads at once, so it says nothing to the user.

        Raises:
            DataError: its voxels cannot be used.
        """

    def bytes_to_read(self, index: int) -> int:
        """Memory that reading one case takes until it is kept, by its headers."""

    def tell(self, index: int) -> None:
        """Say what a user should know of a case that was read; called in the order of the cases, by one thread."""


@dataclass(frozen=True)
class ReadCase:
    """One case, read."""

    prepared: list[PreparedCase]
    """For each model."""
    record: Record | None
    """What its results are made from, when they are saved."""

    @property
    def memory(self) -> int:
        """Bytes of its tensors."""
        tensors = {
            id(tensor): tensor.nbytes
            for one in self.prepared
            for tensor in (one.channels, one.labels, one.roi, one.weight_maps)
            if tensor is not None
        }
        return sum(tensors.values())


@contextmanager
def reading_ahead(
    data: CaseSource,
    indices: Sequence[int],
    needs: Sequence[CaseNeeds],
    saving: Saving | None,
    flow: Flow,
    depth: Callable[[], int],
) -> Iterator[Iterator[tuple[int, Callable[[], ReadCase]]]]:
    """Give each case's index and a call that returns the case or raises; those after it are being read already.

    What is said of the cases, and what is raised, comes in their order, and when a case is asked for.

    Args:
        data: the cases.
        indices: those to be read, in this order.
        needs: how each network wants them; empty: as the data set is set up.
        saving: where their results go; None: nowhere.
        flow: how many are read at once, in how much memory.
        depth: how many cases are read ahead at least, asked each time; 1 or more.
    """
    largest = max((data.bytes_to_read(index) for index in indices), default=0)

    def read(index: int) -> ReadCase:
        prepared = data.read_each(index, needs)
        if saving is None:
            return ReadCase(prepared, None)
        case = data.cases[index]
        fingerprints = case_fingerprint(case, saving.run), labels_fingerprint(case)
        return ReadCase(prepared, Record(*fingerprints, scoring=saving.scoring))

    # One reader's computations may take all cores, as those of several together.
    reader = CaseReader(read, Reading(flow.readers, 0), flow.threads_per_reader)

    def take(index: int, further: int) -> ReadCase:
        nonlocal largest
        reader.allow(further)
        case = reader.take(index)
        largest = max(largest, _WHILE_READ * case.memory)
        data.tell(index)
        return case

    def ahead() -> Iterator[tuple[int, Callable[[], ReadCase]]]:
        reader.want(indices)
        for index in indices:
            further = max(depth(), flow.cases_ahead(largest))
            reader.allow(1 + further)
            yield index, partial(take, index, further)

    try:
        yield ahead()
    finally:
        reader.close()
