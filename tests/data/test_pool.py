import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.data.pool import PoolLayout, VolumePool, elements_for
from deepmedic.data.segments import SegmentGeometry, gather_at
from deepmedic.errors import DataError, ResourceError

ONE_CASE = elements_for((8, 7, 6))
GEOMETRY = SegmentGeometry(((3, 3, 3), (3, 3, 3)), ((1, 1, 1), (3, 3, 3)), (3, 3, 3), (1, 1, 1))


def assert_same(case, expected):
    assert (case.name, case.size, case.padding) == (expected.name, expected.size, expected.padding)
    for name in ("channels", "labels", "roi", "weight_maps", "border_values"):
        value, wanted = getattr(case, name), getattr(expected, name)
        assert (value is None) == (wanted is None), name
        if wanted is not None:
            assert value.dtype == wanted.dtype
            torch.testing.assert_close(value.cpu(), wanted, rtol=0, atol=0)


class Loader:
    """Gives cases of different sizes by number, and notes which were asked for."""

    def __init__(self, make_case):
        self.make_case = make_case
        self.loaded = []

    def __call__(self, number):
        self.loaded.append(number)
        return self.case(number)

    def case(self, number):
        return self.make_case((3 + number % 4, 4, 3 + number % 3), number, with_roi=True, n_weight_maps=1)

    def pool(self, elements, device="cpu"):
        layout = PoolLayout.of(self.case(0))
        return VolumePool(layout, device, elements * layout.bytes_per_voxel)


@pytest.fixture
def loader(make_case):
    return Loader(make_case)


def test_resident_case_is_what_was_loaded(loader, device):
    pool = loader.pool(1000, device)
    assert pool.require([4, 1], loader) == [4, 1]
    for number in (4, 1):
        assert_same(pool.view(number), loader.case(number))
        assert pool.view(number).channels.device.type == device


def test_only_what_is_missing_is_loaded(loader):
    pool = loader.pool(1000)
    pool.require([4, 1], loader)
    assert pool.require([1, 2, 1], loader) == [2]
    assert loader.loaded == [4, 1, 2]
    assert pool.keys == [4, 1, 2]
    assert 4 in pool
    assert 3 not in pool


def test_rows_of_the_table_follow_the_request(loader):
    pool = loader.pool(1000)
    pool.require([4, 1, 2], loader)
    pool.require([2, 4], loader)
    assert pool.table.sizes.tolist() == [list(loader.case(2).size), list(loader.case(4).size)]
    _, y, z = loader.case(2).size
    assert pool.table.strides[0].tolist() == [y * z, z, 1]


def test_bytes_are_counted(make_case):
    layout = PoolLayout(channels=2, label_dtype=torch.uint8, roi=True, weight_maps=3)
    pool = VolumePool(layout, "cpu", budget_bytes=10**6, expected_elements=500)
    assert layout.bytes_per_voxel == 2 * 4 + 1 + 1 + 3 * 4
    assert (pool.capacity, pool.bytes_allocated, pool.bytes_used) == (500, 500 * 22, 0)
    pool.require([0], lambda _: make_case(with_roi=True, n_weight_maps=3))
    assert pool.capacity == 500
    assert pool.bytes_used == (8 * 7 * 6 + 1) * 22


def test_expected_elements_stay_within_the_budget():
    pool = VolumePool(PoolLayout(channels=1), "cpu", budget_bytes=400, expected_elements=10**9)
    assert pool.bytes_allocated == 400


def test_growing_keeps_what_is_there(loader):
    pool = loader.pool(10_000)
    for number in range(12):
        pool.require([number], loader)
    assert loader.loaded == list(range(12))
    for number in range(12):
        assert_same(pool.view(number), loader.case(number))


def test_least_recently_used_makes_room(make_case):
    pool = VolumePool(PoolLayout.of(make_case()), "cpu", 3 * ONE_CASE * 9)
    pool.require([0, 1, 2], lambda seed: make_case(seed=seed))
    pool.require([0], lambda seed: make_case(seed=seed))
    assert pool.require([3], lambda seed: make_case(seed=seed)) == [3]
    assert pool.keys == [0, 2, 3]
    assert pool.require([2, 3, 4], lambda seed: make_case(seed=seed)) == [4]
    assert pool.keys == [2, 3, 4]


def test_a_case_larger_than_any_gap_is_placed_after_compaction(make_case):
    sizes = {0: (4, 4, 4), 1: (5, 4, 4), 2: (4, 4, 4), 3: (5, 4, 4), 4: (8, 4, 5)}
    cases = {number: make_case(size, number) for number, size in sizes.items()}
    elements = sum(elements_for(sizes[number]) for number in range(4))
    pool = VolumePool(PoolLayout.of(cases[0]), "cpu", elements * 9)
    pool.require([0, 1, 2, 3], cases.__getitem__)
    pool.require([1, 3], cases.__getitem__)
    # 0 and 2 go; together they leave room for less than 4 needs, so 1 goes as well, and 3 must be moved
    pool.require([3, 4], cases.__getitem__)
    assert pool.keys == [3, 4]
    assert_same(pool.view(3), cases[3])
    assert_same(pool.view(4), cases[4])


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), min_size=1, max_size=8),
    elements=st.integers(280, 600),
)
def test_segments_do_not_depend_on_history_or_budget(requests, elements, make_case):
    """Whatever was evicted, moved or loaded again before, the same segments come out."""
    loader = Loader(make_case)
    pool = loader.pool(elements)
    for keys in requests:
        pool.require(keys, loader)
        rows = torch.arange(len(keys)).repeat(2)
        starts = torch.tensor([[0, 1, 0]] * len(keys) + [[-1, 0, 2]] * len(keys))
        batch = gather_at(pool, GEOMETRY, rows, starts, with_labels=True)
        fresh = loader.pool(10_000)
        fresh.require(keys, loader)
        expected = gather_at(fresh, GEOMETRY, rows, starts, with_labels=True)
        for values, wanted in zip((*batch.inputs, batch.labels), (*expected.inputs, expected.labels), strict=True):
            assert torch.equal(values, wanted)
        assert pool.bytes_allocated <= pool.budget_bytes


def test_cases_that_do_not_fit_together(make_case):
    pool = VolumePool(PoolLayout.of(make_case()), "cpu", 2 * ONE_CASE * 9)
    with pytest.raises(ResourceError) as refusal:
        pool.require([5, 6, 7], lambda seed: make_case(seed=seed))
    message = str(refusal.value)
    assert re.search(r"3 cases must be in memory together, and the first 3 of them \(up to case-7\) need", message)
    need, budget = 3 * ONE_CASE * 9 / 2**30, 2 * ONE_CASE * 9 / 2**30
    assert f"need {need:.3g} GiB on cpu, but memoryBudget allows {budget:.3g} GiB" in message
    assert "Raise memoryBudget (in GiB) or lower numOfCasesLoadedPerSubepoch" in message


def test_the_pool_still_works_after_a_refusal(make_case):
    pool = VolumePool(PoolLayout.of(make_case()), "cpu", 2 * ONE_CASE * 9)
    with pytest.raises(ResourceError):
        pool.require([5, 6, 7], lambda seed: make_case(seed=seed))
    pool.require([6, 7], lambda seed: make_case(seed=seed))
    assert_same(pool.view(7), make_case(seed=7))


def test_offered_cases_evict_nothing(make_case):
    pool = VolumePool(PoolLayout.of(make_case()), "cpu", 2 * ONE_CASE * 9)
    pool.require([0], lambda seed: make_case(seed=seed))
    assert pool.offer("spare", make_case(seed=1))
    assert not pool.offer("too much", make_case(seed=2))
    assert pool.keys == [0, "spare"]
    assert_same(pool.view("spare"), make_case(seed=1))
    pool.require([0, 3], lambda seed: make_case(seed=seed))
    assert pool.keys == [0, 3]


class TestReadAhead:
    """Cases put into the pool while others are in use."""

    @pytest.fixture
    def pool(self, make_case):
        pool = VolumePool(PoolLayout.of(make_case()), "cpu", 4 * ONE_CASE * 9)
        pool.require([0, 1, 2], lambda seed: make_case(seed=seed))
        pool.require([1, 3], lambda seed: make_case(seed=seed))
        return pool  # 1 and 3 in use, 0 and 2 not

    def test_what_is_expected_later_or_not_at_all_makes_room(self, pool, make_case):
        pool.expect({4: 0, 0: 1})
        assert pool.keep(4, make_case(seed=4))
        assert pool.keys == [0, 1, 3, 4]
        pool.expect({4: 0, 0: 1, 5: 0})
        assert pool.keep(5, make_case(seed=5))
        assert pool.keys == [1, 3, 4, 5]

    def test_what_is_in_use_or_expected_as_soon_stays(self, pool, make_case):
        pool.expect({4: 1, 0: 1, 2: 0})
        assert not pool.keep(4, make_case(seed=4))
        assert pool.keys == [0, 1, 2, 3]

    def test_nothing_is_given_up_in_vain(self, pool, make_case):
        pool.expect({4: 0, 0: 3})
        assert not pool.keep(4, make_case((12, 12, 12), seed=4))
        assert pool.keys == [0, 1, 2, 3]

    def test_segments_in_use_are_gathered_as_before(self, make_case):
        sizes = {0: (4, 4, 4), 1: (5, 4, 4), 2: (4, 4, 4), 3: (5, 4, 4), 4: (6, 4, 5)}
        cases = {number: make_case(size, number) for number, size in sizes.items()}
        elements = sum(elements_for(sizes[number]) for number in range(4))
        pool = VolumePool(PoolLayout.of(cases[0]), "cpu", elements * 9)
        pool.require([0, 1, 2, 3], cases.__getitem__)
        pool.require([3, 1], cases.__getitem__)
        places = torch.tensor([0, 1, 1]), torch.tensor([[0, 1, 0], [-1, 0, 2], [2, 2, 2]])
        before, starts = gather_at(pool, GEOMETRY, *places, with_labels=True), pool.table.starts.tolist()
        pool.expect({4: 0})
        assert pool.keep(4, cases[4])  # 0 and 2 leave two gaps, which are too small: 1 and 3 move
        assert pool.table.starts.tolist() != starts
        after = gather_at(pool, GEOMETRY, *places, with_labels=True)
        for values, wanted in zip((*after.inputs, after.labels), (*before.inputs, before.labels), strict=True):
            assert torch.equal(values, wanted)
        assert_same(pool.view(4), cases[4])


class TestShrinking:
    @pytest.fixture
    def pool(self, loader):
        pool = loader.pool(2000)
        pool.require([0, 1, 2, 3, 4, 5], loader)
        pool.require([4, 1], loader)
        return pool

    def test_cases_in_use_stay_and_are_gathered_as_before(self, pool, loader):
        places = torch.tensor([0, 1, 1]), torch.tensor([[0, 1, 0], [-1, 0, 2], [2, 2, 2]])
        before = gather_at(pool, GEOMETRY, *places, with_labels=True)
        assert pool.shrink(10**9)
        assert sorted(pool.keys) == [1, 4]
        assert (
            pool.bytes_allocated
            == pool.bytes_used
            == sum(elements_for(loader.case(number).size) * pool.layout.bytes_per_voxel for number in (1, 4))
        )
        after = gather_at(pool, GEOMETRY, *places, with_labels=True)
        for values, wanted in zip((*after.inputs, after.labels), (*before.inputs, before.labels), strict=True):
            assert torch.equal(values, wanted)
        for number in (1, 4):
            assert_same(pool.view(number), loader.case(number))

    def test_a_second_time_there_is_nothing_to_give_up(self, pool):
        assert pool.shrink(10**9)
        assert not pool.shrink(10**9)

    def test_without_the_table_nothing_stays(self, pool, loader):
        assert pool.shrink(10**9, keep_table=False)
        assert (pool.keys, pool.bytes_allocated) == ([], 0)
        pool.require([3], loader)
        assert_same(pool.view(3), loader.case(3))

    def test_the_budget_is_lowered_for_good(self, pool, loader):
        least = 2 * elements_for((6, 4, 5)) * pool.layout.bytes_per_voxel
        pool.shrink(least)
        for number in range(6):
            pool.require([number, number + 1], loader)
            assert pool.bytes_allocated <= least
        assert pool.budget_bytes == least
        pool.shrink(10**9)
        assert pool.budget_bytes == least


def test_discarded_cases_leave_room(make_case):
    pool = VolumePool(PoolLayout.of(make_case()), "cpu", 2 * ONE_CASE * 9)
    pool.require([(0, "a"), (0, "b")], lambda key: make_case(seed=ord(key[1])))
    pool.discard([(0, "a"), "never there"])
    assert pool.keys == [(0, "b")]
    assert pool.bytes_used == ONE_CASE * 9


def test_derived_values_live_as_long_as_the_case(make_case):
    pool = VolumePool(PoolLayout.of(make_case()), "cpu", ONE_CASE * 9)
    computed = []

    def compute(case):
        computed.append(case.name)
        return float(case.channels.sum())

    for key in (0, 0, 1, 0):
        pool.require([key], lambda seed: make_case(seed=seed))
        value = pool.derived(key, "sum", compute)
        assert value == pytest.approx(float(make_case(seed=key).channels.sum()), rel=1e-5)
    assert computed == ["case-0", "case-1", "case-0"]


def test_a_case_without_roi_is_roi_everywhere(make_case):
    pool = VolumePool(PoolLayout(channels=2, roi=True), "cpu", 10**6)
    pool.require([0], lambda _: make_case(labels=None))
    assert pool.view(0).roi.all()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (PoolLayout(channels=3), "case-0 has 2 channels, the other cases have 3; list the same channels"),
        (PoolLayout(channels=2, label_dtype=torch.uint8), "case-0 has no labels, but labels are needed here"),
        (PoolLayout(channels=2, weight_maps=2), "case-0 has 0 weight maps for sampling, the other cases have 2"),
    ],
)
def test_a_case_that_lacks_something(layout, message, make_case):
    with pytest.raises(DataError, match=message):
        VolumePool(layout, "cpu", 10**6).require([0], lambda _: make_case(labels=None))


def test_labels_of_another_type_are_not_cut_to_8_bits(make_case):
    labels = np.full((8, 7, 6), 300, np.int32)
    pool = VolumePool(PoolLayout(channels=2, label_dtype=torch.uint8), "cpu", 10**6)
    with pytest.raises(TypeError, match=r"Labels of case-0 are torch\.int32, those of the pool torch\.uint8"):
        pool.require([0], lambda _: make_case(labels=labels))
