"""Cases read ahead in threads: which, how many at once, and what becomes of errors."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from deepmedic.data import reading
from deepmedic.data.reading import CaseReader, Reading, read_ahead, workers_of
from deepmedic.errors import DataError


class Files:
    """Pretends to read cases; each waits until it is let go on, and it is noted which thread reads it."""

    def __init__(self, bad=(), go_on=True):
        self.bad = dict.fromkeys(bad, DataError("it is damaged"))
        self.may_go_on = threading.Event()
        if go_on:
            self.may_go_on.set()
        self.threads = {}
        self.begun = []

    def __call__(self, case):
        self.begun.append(case)
        self.threads[case] = threading.current_thread().name
        assert self.may_go_on.wait(10)
        if case in self.bad:
            raise self.bad[case]
        return f"case {case}"


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def make_reader():
    readers = []

    def make(files, workers=2, in_hand=3) -> CaseReader:
        readers.append(CaseReader(files, Reading(workers, in_hand)))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def test_cases_are_read_before_they_are_taken(make_reader):
    files = Files()
    reader = make_reader(files, in_hand=9)
    reader.want([4, 1, 7])
    wait_until(lambda: len(reader.ready()) == 3)
    assert reader.ready() == [(4, "case 4"), (1, "case 1"), (7, "case 7")]
    assert all(name.startswith("reader") for name in files.threads.values())
    assert [reader.take(case) for case in (7, 4, 1)] == ["case 7", "case 4", "case 1"]
    assert (reader.in_hand, reader.ready()) == (0, [])
    assert sorted(files.begun) == [1, 4, 7]


def test_no_more_are_in_hand_than_allowed(make_reader):
    files = Files()
    reader = make_reader(files, in_hand=3)
    reader.want(range(10))
    most = reader.in_hand
    for case in range(10):
        wait_until(lambda: all(future.done() for future in reader._in_hand.values()))
        assert set(files.begun) == set(range(min(case + 3, 10)))
        assert reader.take(case) == f"case {case}"
        most = max(most, reader.in_hand)
    assert most == 3


def test_what_is_wanted_no_more_is_dropped_but_counts_until_it_is_read(make_reader):
    files = Files(go_on=False)
    reader = make_reader(files, workers=1, in_hand=2)
    reader.want([0, 1, 2])
    wait_until(lambda: files.begun == [0])
    reader.want([5, 6])
    assert reader.in_hand == 2  # 0, which is being read, and 5; 1 was not begun
    files.may_go_on.set()
    wait_until(lambda: reader.ready() == [(5, "case 5")])
    reader.take(5)
    wait_until(lambda: reader.ready() == [(6, "case 6")])
    assert files.begun == [0, 5, 6]


def test_wanted_again_it_is_not_read_again(make_reader):
    files = Files()
    reader = make_reader(files)
    reader.want([3, 4])
    reader.want([4, 3])
    assert [reader.take(4), reader.take(3)] == ["case 4", "case 3"]
    assert sorted(files.begun) == [3, 4]


def test_case_that_was_not_wanted_is_read_by_the_caller(make_reader):
    files = Files()
    reader = make_reader(files, in_hand=1)
    reader.want([0, 1])
    assert (reader.take(8), reader.take(1)) == ("case 8", "case 1")
    assert files.threads[8] == files.threads[1] == threading.current_thread().name
    assert reader.take(0) == "case 0"
    assert sorted(files.begun) == [0, 1, 8]


def test_error_appears_when_the_case_is_taken(make_reader):
    files = Files(bad=[1])
    reader = make_reader(files, in_hand=4)
    reader.want([0, 1, 2])
    wait_until(lambda: len(reader.ready()) == 2)
    assert reader.take(0) == "case 0"
    with pytest.raises(DataError, match="it is damaged"):
        reader.take(1)
    assert reader.take(2) == "case 2"


def test_dropped_error_is_none(make_reader):
    reader = make_reader(Files(bad=[1]))
    reader.want([1])
    wait_until(lambda: all(future.done() for future in reader._in_hand.values()))
    reader.want([])
    assert reader.take(2) == "case 2"


def test_case_for_which_memory_ran_out_is_read_again_alone(make_reader):
    files = Files(bad=[1])
    files.bad[1] = MemoryError()
    reader = make_reader(files)
    reader.want([1])
    wait_until(lambda: all(future.done() for future in reader._in_hand.values()))
    del files.bad[1]
    assert reader.take(1) == "case 1"
    assert files.begun == [1, 1]


def test_where_memory_ran_out_what_is_being_read_comes_first(make_reader):
    files = Files(bad=[1])
    files.bad[1] = MemoryError()
    others_go_on, ended = threading.Event(), []

    def load(case):
        if case == 2 and threading.current_thread().name.startswith("reader"):
            assert others_go_on.wait(10)
        found = files(case)
        ended.append(case)
        return found

    reader = make_reader(load)
    reader.want([1, 2])
    wait_until(lambda: reader._in_hand[1].done())
    del files.bad[1]
    threading.Timer(0.1, others_go_on.set).start()
    assert reader.take(1) == "case 1"
    assert ended == [2, 1]


def test_how_many_are_in_hand_can_change(make_reader):
    files = Files()
    reader = make_reader(files, workers=2, in_hand=0)
    reader.want(range(9))
    assert (files.begun, reader.in_hand) == ([], 0)
    reader.allow(4)
    wait_until(lambda: len(reader.ready()) == 4)
    reader.allow(2)
    assert [reader.take(0), reader.take(1)] == ["case 0", "case 1"]
    assert (reader.in_hand, sorted(files.begun)) == (2, [0, 1, 2, 3])
    assert reader.take(2) == "case 2"
    wait_until(lambda: len(reader.ready()) == 2)
    assert sorted(files.begun) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 3])
def test_threads_of_each_reader(count):
    before, found = torch.get_num_threads(), []
    reader = CaseReader(lambda _: found.append(torch.get_num_threads()), Reading(2, 2), threads_each=count)
    reader.want([0, 1])
    reader.take(0), reader.take(1)
    reader.close()
    assert (found, torch.get_num_threads()) == ([count, count], before)


def test_without_workers_nothing_is_read_ahead(make_reader):
    files = Files()
    reader = make_reader(files, workers=0)
    reader.want([0, 1])
    assert (files.begun, reader.in_hand) == ([], 0)
    assert reader.take(1) == "case 1"
    assert files.threads[1] == threading.current_thread().name


def test_closed_reader_leaves_no_thread():
    before = threading.active_count()
    reader = CaseReader(Files(), Reading(3, 3))
    reader.want(range(3))
    assert threading.active_count() > before
    reader.close()
    assert threading.active_count() == before


def test_all_cases_in_turn():
    files = Files(bad=[2])
    found = []
    for case, read in read_ahead(files, 4, Reading(2, 2)):
        try:
            found.append((case, read()))
        except DataError as problem:
            found.append((case, str(problem)))
    assert found == [(0, "case 0"), (1, "case 1"), (2, "it is damaged"), (3, "case 3")]
    assert sorted(files.begun) == [0, 1, 2, 3]


def test_workers_as_the_original_counts_them(monkeypatch):
    assert [workers_of(number) for number in (-1, 0, 1, 7)] == [0, 1, 1, 7]
    for cores, expected in ((1, 1), (2, 2), (64, 4), (None, 1)):
        monkeypatch.setattr(reading.os, "cpu_count", lambda cores=cores: cores)
        assert workers_of(None) == expected
