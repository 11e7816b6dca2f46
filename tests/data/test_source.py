"""Batches of any subepoch by its numbers, and cases that cannot be used."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.augmentation import AffineAugmentation, SegmentAugmentation
from deepmedic.config.sections import PreprocessingConfig
from deepmedic.config.training import AugmentationConfig, SamplingConfig
from deepmedic.data import source as source_module
from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.pool import PoolLayout, VolumePool, elements_for
from deepmedic.data.reading import Reading
from deepmedic.data.source import SegmentSource, SourceSettings
from deepmedic.errors import DataError

SEGMENT = (5, 5, 5)
TEXTS = {"unreadable": "case 1 is bad", "empty": "training, case case-1: no segment can be drawn from it"}
ONE_CASE = (1 + 8 * 7 * 6) * 9


class Cases(DataSet):
    """Cases made in memory, of which some cannot be read."""

    def load(self, index):
        self.read.append(index)
        if index in self.unreadable:
            raise DataError(f"case {index} is bad")
        size = self.size(index)
        empty = {"labels": torch.zeros(size, dtype=torch.uint8)} if index in self.empty else {}
        return self.make(size, seed=index, **empty)

    def total_elements(self):
        return sum(elements_for(self.size(index)) for index in range(len(self)))


@pytest.fixture(scope="session")
def make_source(make_case):
    def make(
        count=4, unreadable=(), empty=(), allow=True, budget=10**6, reading=None, size=None, **settings
    ) -> SegmentSource:
        cases = [Case(f"case-{number}", ()) for number in range(count)]
        needs = CaseNeeds(3, ((0, 0),) * 3, SEGMENT, 2)
        data = Cases("training", cases, [], PreprocessingConfig(allow_skipped_cases=allow), needs)
        data.make, data.read, data.unreadable, data.empty = make_case, [], unreadable, empty
        data.size = size or (lambda index: (8, 7, 6))
        kernels, valid, none = ((3, 3, 3),), ("valid",), (0.0,)
        architecture = Architecture(
            2, 3, Pathway("normal", (2,), kernels, valid, none), (), Pathway("fc", (3,), ((1, 1, 1),), valid, none)
        )
        defaults = {"role": "train", "seed": 1, "segment": SEGMENT, "segments": 10, "batch_size": 4, "cases": 2}
        sampling = SamplingConfig(kind=3, proportions=(0, 1, 1))
        chosen = SourceSettings(**{**defaults, "sampling": sampling, **settings})
        pool = VolumePool(PoolLayout(2, torch.uint8), "cpu", budget)
        return SegmentSource(data, architecture, chosen, pool, reading=reading)

    return make


def all_of(source, epoch=0, subepoch=0) -> list[torch.Tensor]:
    batches = source.subepoch(epoch, subepoch)
    return [tensor for index in range(len(batches)) for tensor in (*batches[index].inputs, batches[index].labels)]


def same(one, other) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


AUGMENTED = AugmentationConfig(
    image=AffineAugmentation(probability=0.8, max_rotation=(20.0, 20.0, 20.0), max_scaling=0.1),
    segment=SegmentAugmentation(reflect=(0.5, 0.5, 0.5)),
)


@pytest.mark.parametrize("augmentation", [None, AUGMENTED])
def test_subepoch_depends_on_its_numbers_only(make_source, augmentation):
    one, other = make_source(augmentation=augmentation), make_source(augmentation=augmentation, budget=3 * ONE_CASE)
    one.read_all()
    later = all_of(one, 1, 2)
    all_of(other, 0, 0), all_of(other, 0, 1)
    assert same(all_of(other, 1, 2), later)
    assert not same(all_of(one, 1, 1), later)
    assert not same(all_of(make_source(augmentation=augmentation, seed=2), 1, 2), later)


@pytest.mark.parametrize("augmentation", [None, AUGMENTED])
def test_how_many_batches_are_placed_together_makes_no_difference(make_source, augmentation, monkeypatch):
    chosen = {"augmentation": augmentation, "segments": 21}
    together = all_of(make_source(**chosen))
    monkeypatch.setattr(source_module, "_PLACED_AT_ONCE", 2)
    assert same(all_of(make_source(**chosen)), together)
    batches = make_source(**chosen).subepoch(0, 0)
    assert torch.equal(batches[4].inputs[0], together[-2])
    assert torch.equal(batches[0].inputs[0], together[0])


def test_last_batch_is_left_out_unless_it_is_the_only_one(make_source):
    assert len(make_source().subepoch(0, 0)) == 2
    single = make_source(segments=3).subepoch(0, 0)
    assert (len(single), single[0].labels.shape[0]) == (1, 3)
    with pytest.raises(IndexError, match="batch 1 of 1"):
        single[1]


def test_batches_together_hold_the_same_segments(make_source, monkeypatch):
    monkeypatch.setattr(source_module, "_PLACED_AT_ONCE", 1)
    chosen = {"segments": 22, "augmentation": AUGMENTED}
    one_by_one, together = make_source(**chosen), make_source(**chosen, batches_together=2).subepoch(0, 0)
    assert [together[batch].labels.shape[0] for batch in range(len(together))] == [8, 8, 4]
    inputs, labels = all_of(one_by_one)[::2], all_of(one_by_one)[1::2]
    assert torch.equal(torch.cat([together[batch].inputs[0] for batch in range(3)]), torch.cat(inputs))
    assert torch.equal(torch.cat([together[batch].labels for batch in range(3)]), torch.cat(labels))


def test_names_of_the_cases_of_a_batch(make_source):
    batches = make_source(count=2).subepoch(0, 0)
    assert set(batches.case_names(0)) | set(batches.case_names(1)) == {"case-0", "case-1"}


class TestReadingAll:
    def test_cases_are_read_once(self, make_source):
        source = make_source()
        source.read_all()
        assert sorted(source.data.read) == [0, 1, 2, 3]
        all_of(source), all_of(source, 3, 3)
        assert len(source.data.read) == 4

    def test_nothing_is_read_where_not_everything_fits(self, make_source):
        source = make_source(budget=4 * ONE_CASE - 1)
        source.read_all()
        assert source.data.read == []


@pytest.mark.parametrize("fault", ["unreadable", "empty"])
@pytest.mark.parametrize("budget", [10**6, 2 * ONE_CASE])
class TestUnusableCases:
    def test_they_are_refused(self, make_source, fault, budget):
        source = make_source(allow=False, budget=budget, **{fault: (1,)})
        with pytest.raises(DataError, match=TEXTS[fault]):
            source.read_all(), [source.subepoch(0, number) for number in range(9)]

    def test_they_are_left_out_where_that_is_allowed(self, make_source, fault, budget, caplog):
        source = make_source(budget=budget, **{fault: (1,)})
        source.read_all()
        for number in range(9):
            batches = source.subepoch(0, number)
            assert "case-1" not in batches.case_names(0) + batches.case_names(1)
        assert list(source.skipped) == ["case-1"]
        assert TEXTS[fault] in source.skipped["case-1"]
        assert len([record for record in caplog.records if "case-1" in record.getMessage()]) == 1

    def test_when_they_are_found_makes_no_difference(self, make_source, fault, budget):
        early, late = make_source(**{fault: (1,)}), make_source(budget=budget, **{fault: (1,)})
        early.read_all()
        assert same(all_of(early, 2, 0), all_of(late, 2, 0))


def test_reading_can_be_interrupted(make_source):
    class LeaveError(Exception):
        pass

    def leave():
        raise LeaveError

    source = make_source()
    source._before_reading = leave
    with pytest.raises(LeaveError):
        source.subepoch(0, 0)


def settled(source) -> None:
    """Wait until the threads have read what they may."""
    deadline = time.monotonic() + 10
    while not all(future.done() for future in source._reader._in_hand.values()):
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.fixture
def closing():
    sources = []
    yield lambda source: sources.append(source) or source
    for source in sources:
        source.close()


class TestReadingAhead:
    """More cases than memory holds."""

    @tried(max_examples=12, deadline=None)
    @given(
        workers=st.integers(0, 3),
        in_hand=st.integers(1, 6),
        resident=st.integers(2, 8),
        augmentation=st.sampled_from([None, AUGMENTED]),
        begin=st.integers(0, 5),
        unusable=st.sampled_from([{}, {"unreadable": (3,), "empty": (1,)}]),
    )
    def test_segments_are_those_of_a_run_with_all_cases_resident(
        self, make_source, workers, in_hand, resident, augmentation, begin, unusable
    ):
        """Whatever the memory, the number of workers, and the subepoch that a resumed session begins with."""

        def size(index):
            return (8, 7 + index % 3, 6 + index % 2)

        budget = resident * elements_for((8, 9, 7)) * 9
        common = {"count": 8, "size": size, "augmentation": augmentation, "subepochs": 3, "epochs": 2, **unusable}
        everything = make_source(**common)
        everything.read_all()
        few = make_source(budget=budget, reading=Reading(workers, in_hand), **common)
        for number in range(begin, 6):
            where = divmod(number, 3)
            assert same(all_of(few, *where), all_of(everything, *where))
            assert few.pool.bytes_allocated <= budget
            assert few._reader.in_hand <= in_hand
        few.close()
        everything.close()

    def test_next_cases_are_read_while_these_are_used(self, make_source, closing):
        source = closing(make_source(count=9, budget=4 * ONE_CASE, reading=Reading(2, 4), subepochs=5, epochs=2))
        all_of(source, 0, 0)
        for number in range(1, 10):
            settled(source)
            batches = source.subepoch(*divmod(number - 1, 5))
            wanted = source.sampler.wanted_cases(*divmod(number, 5))
            settled(source)
            batches[0]
            assert [case for case in wanted if not source.sampler.has(case)] == []
            read = len(source.data.read)
            source.subepoch(*divmod(number, 5))
            ahead = source.sampler.wanted_cases(*divmod(number + 1, 5)) if number < 9 else []
            settled(source)
            assert set(source.data.read[read:]) <= set(ahead)

    def test_nothing_is_read_for_what_comes_after_the_last_epoch(self, make_source, closing):
        source = closing(make_source(count=9, budget=4 * ONE_CASE, subepochs=2, epochs=1))
        all_of(source, 0, 1)
        assert sorted(source.data.read) == sorted(source.sampler.wanted_cases(0, 1))

    def test_cases_wanted_again_soon_are_not_read_again(self, make_source, closing):
        """With room for all cases but one, knowing what comes saves more reading than last use alone does."""

        def count(subepochs):
            source = closing(
                make_source(count=8, budget=6 * ONE_CASE, reading=Reading(0, 1), subepochs=subepochs, cases=3)
            )
            for number in range(60):
                source.subepoch(*divmod(number, 20))
            return len(source.data.read)

        informed, uninformed = count(20), count(None)
        assert informed < 0.75 * uninformed

    def test_what_cannot_be_kept_yet_waits_in_hand(self, make_source, closing):
        source = closing(make_source(count=9, budget=2 * ONE_CASE, reading=Reading(2, 2), subepochs=3))
        first = source.subepoch(0, 0)
        settled(source)
        before = first[0]
        waiting = [case for case, _ in source._reader.ready()]
        assert waiting == [case for case in source.sampler.wanted_cases(0, 1) if not source.sampler.has(case)]
        assert same(first[0].inputs, before.inputs)
        source.subepoch(0, 1)
        assert all(source.data.read.count(case) == 1 for case in waiting)

    def test_bad_case_is_refused_when_its_subepoch_comes(self, make_source, closing):
        common = {"count": 9, "budget": 4 * ONE_CASE, "reading": Reading(2, 4), "subepochs": 50, "epochs": 1}
        order = closing(make_source(**common)).sampler
        first = next(n for n in range(50) if 5 in order.wanted_cases(0, n))
        assert first > 0
        source = closing(make_source(unreadable=(5,), allow=False, **common))
        for number in range(first):
            all_of(source, 0, number)
        settled(source)
        assert 5 in source.data.read
        with pytest.raises(DataError, match="case 5 is bad"):
            source.subepoch(0, first)

    def test_threads_end_with_the_source(self, make_source):
        before = set(threading.enumerate())
        source = make_source(count=9, budget=3 * ONE_CASE, subepochs=3)
        all_of(source)
        source.close()
        assert set(threading.enumerate()) <= before
