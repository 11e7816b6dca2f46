"""Cases read ahead at inference: how many at once, by the memory that reading them takes."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest

from deepmedic.data.dataset import DataSet
from deepmedic.inference import case_reading
from deepmedic.inference.case_reading import reading_ahead
from deepmedic.inference.flow import Flow


class Cases:
    """Pretends to read cases, all of which wait for each other; `largest` is the one whose reading takes most."""

    def __init__(self, make_case, each: int, largest: int) -> None:
        self.cases = [None] * 20
        self.make_case = make_case
        self.sizes = [each] * 20
        self.sizes[13] = largest
        self.begun: list[int] = []
        self.told: list[int] = []
        self.may_go_on = threading.Event()

    def bytes_to_read(self, index: int) -> int:
        return self.sizes[index]

    def read_each(self, index: int, needs=()):
        self.begun.append(index)
        assert self.may_go_on.wait(20)
        return [self.make_case((9, 9, 9), name=str(index))]

    def tell(self, index: int) -> None:
        self.told.append(index)


def begun_by(cases: Cases, count: int) -> list[int]:
    """What was begun, once so many were and some time passed in which further ones could."""
    deadline = time.monotonic() + 10
    while len(cases.begun) < count:
        assert time.monotonic() < deadline, cases.begun
        time.sleep(0.001)
    time.sleep(0.05)
    return sorted(cases.begun)


@contextmanager
def reading(cases: Cases, flow: Flow, depth: int = 1):
    with reading_ahead(cases, range(20), [], None, flow, lambda: depth) as read:
        try:
            yield read
        finally:
            cases.may_go_on.set()


@pytest.mark.parametrize(("largest", "ahead"), [(120, 8), (500, 2), (333, 3), (1001, 1), (10**9, 1)])
def test_the_case_that_takes_most_to_read_limits_how_many_are_read_ahead(make_case, largest, ahead) -> None:
    """One is waited for, the others are ahead of it; no case is begun beyond what the memory holds."""
    cases = Cases(make_case, 100, largest)
    with reading(cases, Flow(readers=12, memory=1000)) as read:
        index, take = next(read)
        assert index == 0
        assert begun_by(cases, 1 + ahead) == list(range(1 + ahead))
        cases.may_go_on.set()
        assert take().prepared[0].name == "0"
        assert begun_by(cases, 1 + ahead) == list(range(1 + ahead))
        assert cases.told == [0]


def test_groups_of_cases_need_as_many_whatever_the_memory(make_case) -> None:
    cases = Cases(make_case, 100, 10**9)
    with reading(cases, Flow(readers=12, memory=1000), depth=5) as read:
        next(read)
        assert begun_by(cases, 6) == list(range(6))


def test_a_case_that_takes_more_than_its_header_says_limits_those_after_it(make_case, monkeypatch) -> None:
    """Three readers are five cases ahead; when the first one was seen, one is enough."""
    monkeypatch.setattr(case_reading, "_WHILE_READ", 10**6)
    cases = Cases(make_case, 1, 1)
    cases.may_go_on.set()
    with reading(cases, Flow(readers=3, memory=10**6)) as read:
        for index, take in read:
            assert take().prepared[0].name == str(index)
            if index in (0, 4, 5, 9):
                expected = max(6, index + 2)
                assert begun_by(cases, expected) == list(range(expected))
    assert cases.told == list(range(20))


def test_the_memory_that_reading_takes_is_that_of_files_voxels_and_tensors(make_data) -> None:
    """Two channels in float32, labels and ROI in bytes: as read, and as kept, with 2 voxels around and border values;
    and one channel as it is stored and in float64."""
    data: DataSet = make_data(1)
    voxels, kept = 12 * 11 * 10, 16 * 15 * 14 + 1
    assert data.bytes_to_read(0) == (2 * 4 + 2) * (voxels + kept) + (4 + 8) * voxels
    prepared = data.load(0)
    tensors = (prepared.channels, prepared.labels, prepared.roi, prepared.border_values)
    assert sum(tensor.nbytes for tensor in tensors) <= (2 * 4 + 2) * kept
