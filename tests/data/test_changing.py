"""Versions of cases computed ahead: the same as computed when needed, few at once, from copies."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from deepmedic.data.changing import ChangedCases


@pytest.fixture
def cases(make_case):
    return {number: make_case((4, 3, 5), number, with_roi=True) for number in range(5)}


def doubled(case):
    return replace(case, channels=case.channels * 2)


def test_a_version_is_what_the_change_makes_of_the_case_as_it_was(cases):
    changed = ChangedCases(cases.get, lambda _: doubled)
    expected = cases[1].channels * 2
    changed.want([1, 2])
    cases[1].channels.zero_()
    assert torch.equal(changed.take(1).channels, expected)
    changed.close()


def test_only_two_are_in_hand_and_taking_one_begins_the_next(cases):
    asked = []

    def original(key):
        asked.append(key)
        return cases[key]

    changed = ChangedCases(original, lambda _: doubled)
    changed.want([3, 0, 4, 1])
    assert asked == [3, 0]
    changed.take(3)
    assert asked == [3, 0, 4]
    changed.close()


def test_what_was_not_wanted_or_is_not_resident_was_not_computed(cases):
    changed = ChangedCases({0: cases[0]}.get, lambda _: doubled)
    changed.want([1, 0])
    assert changed.take(1) is None
    assert changed.take(4) is None
    assert changed.take(0) is not None
    assert changed.take(0) is None
    changed.close()


def test_what_is_wanted_no_longer_is_dropped(cases):
    going, finish = threading.Event(), threading.Event()

    def slowly(case):
        going.set()
        assert finish.wait(10)
        return doubled(case)

    changed = ChangedCases(cases.get, lambda _: slowly)
    changed.want([0, 1])
    assert going.wait(10)
    changed.want([1, 2])
    finish.set()
    assert changed.take(0) is None
    assert torch.equal(changed.take(2).channels, cases[2].channels * 2)
    changed.close()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["Python", "torch", "torch on a CPU"],
)
def test_memory_that_is_not_enough_leaves_it_to_the_user(cases, error):
    def fails(_):
        raise error

    changed = ChangedCases(cases.get, lambda _: fails)
    changed.want([0])
    assert changed.take(0) is None
    changed.close()


def test_other_errors_reach_the_user(cases):
    def fails(_):
        raise ValueError("no such order")

    changed = ChangedCases(cases.get, lambda _: fails)
    changed.want([0])
    with pytest.raises(ValueError, match="no such order"):
        changed.take(0)
    changed.close()
