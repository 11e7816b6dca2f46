"""Cases of an inference read ahead, in another thread, while others are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.inference.results import Record, case_fingerprint, labels_fingerprint
from deepmedic.inference.survey import Saving


class CaseSource(Protocol):
    """Cases that can be read one at a time, such as `deepmedic.data.dataset.DataSet`."""

    @property
    def cases(self) -> Sequence[Case]:
        """The files of each case."""

    def load(self, index: int) -> PreparedCase:
        """Read and prepare one case; may be called from another thread.

        Raises:
            DataError: its voxels cannot be used.
        """

    def load_each(self, index: int, needs: Sequence[CaseNeeds]) -> list[PreparedCase]:
        """Read one case and prepare it for each of several networks; as `load` otherwise."""


@dataclass(frozen=True)
class ReadCase:
    """One case, read."""

    prepared: list[PreparedCase]
    """For each model."""
    record: Record | None
    """What its results are made from, when they are saved."""


@contextmanager
def reading_ahead(
    data: CaseSource,
    indices: Sequence[int],
    needs: Sequence[CaseNeeds],
    saving: Saving | None,
    depth: Callable[[], int],
) -> Iterator[Iterator[tuple[int, Callable[[], ReadCase]]]]:
    """Give each case's index and a call that returns the case or raises; those after it are being read already.

    Args:
        data: the cases.
        indices: those to be read, in this order.
        needs: how each network wants them; empty: as the data set is set up.
        saving: where their results go; None: nowhere.
        depth: how many cases are read ahead, asked each time; at least 1.
    """

    def read(index: int) -> ReadCase:
        prepared = data.load_each(index, needs) if needs else [data.load(index)]
        if saving is None:
            return ReadCase(prepared, None)
        case = data.cases[index]
        fingerprints = case_fingerprint(case, saving.run), labels_fingerprint(case)
        return ReadCase(prepared, Record(*fingerprints, scoring=saving.scoring))

    reader = ThreadPoolExecutor(1, thread_name_prefix="reader")

    def ahead() -> Iterator[tuple[int, Callable[[], ReadCase]]]:
        reading: deque[tuple[int, Future[ReadCase]]] = deque()
        for index in indices:
            reading.append((index, reader.submit(read, index)))
            while len(reading) > depth():
                earlier, case = reading.popleft()
                yield earlier, case.result
        for last, case in reading:
            yield last, case.result

    try:
        yield ahead()
    finally:
        reader.shutdown(cancel_futures=True)
