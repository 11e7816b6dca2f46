"""How a budget of bytes is shared between resident cases and those read ahead."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from deepmedic.config.sections import PreprocessingConfig
from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.residency import reading_bytes, residency_of

BYTES = 2 * 4
ONE = 2000
"""What the largest case takes while it is read, in elements."""
CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Headers(NamedTuple):
    loaded_bytes: int
    reading_bytes: int


@pytest.fixture
def data(monkeypatch):
    """Six cases without labels, the largest of 1000 elements, all together of 4000; reading takes as much again."""
    lengths = [999, 699, 699, 599, 499, 499]
    monkeypatch.setattr(DataSet, "padded_size", lambda self, index: (lengths[index], 1, 1))
    cases = [Case(f"case-{number}", ()) for number in range(6)]
    headers = [Headers((length + 1) * BYTES // 4, (length + 1) * BYTES * 3 // 4) for length in lengths]
    return DataSet("training", cases, headers, PreprocessingConfig(), CaseNeeds(3, ((0, 0),) * 3, (1, 1, 1), 2))


def test_reading_a_case_takes_what_is_stored_read_and_kept(data):
    assert reading_bytes(data) == ONE * BYTES


def test_all_cases_are_resident_where_they_fit(data):
    for budget in (4000, 4999, 10**6):
        assert residency_of(data, budget * BYTES, 2, 2, CPU).everything
    assert not residency_of(data, 3999 * BYTES, 2, 2, CPU).everything


@pytest.mark.parametrize(
    ("budget", "in_hand", "resident"),
    [
        (1700, 1, 1700),  # the two largest, which one subepoch may need
        (3699, 1, 3699),
        (3700, 2, 1700),
        (4000, 1, 4000),  # all of them
        (8500, 3, 4500),
        (10900, 4, 4900),
        (12900, 4, 6900),  # more than twice as many as there are workers would only wait
    ],
)
def test_cases_in_hand_take_what_residents_do_not_need(data, budget, in_hand, resident):
    found = residency_of(data, budget * BYTES, cases=2, workers=2, device=CPU)
    assert (found.reading.workers, found.reading.in_hand) == (2, in_hand)
    assert found.pool_bytes == resident * BYTES
    assert found.pool_bytes + (in_hand - 1) * ONE * BYTES <= budget * BYTES


def test_on_a_gpu_cases_in_hand_are_elsewhere(data):
    found = residency_of(data, 2100 * BYTES, cases=2, workers=4, device=GPU)
    assert (found.pool_bytes, found.reading.in_hand) == (2100 * BYTES, 2)
    assert residency_of(data, 10**6 * BYTES, cases=2, workers=4, device=GPU).reading.in_hand == 8


def test_without_workers_only_one_case_is_in_hand(data):
    found = residency_of(data, 10**6 * BYTES, cases=2, workers=0, device=CPU)
    assert (found.reading.workers, found.reading.in_hand, found.pool_bytes) == (0, 1, 10**6 * BYTES)
