"""Batches of any subepoch by its numbers, and cases that cannot be used."""

from __future__ import annotations

import pytest
import torch

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.augmentation import AffineAugmentation, SegmentAugmentation
from deepmedic.config.sections import PreprocessingConfig
from deepmedic.config.training import AugmentationConfig, SamplingConfig
from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.pool import PoolLayout, VolumePool
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
        empty = {"labels": torch.zeros(8, 7, 6, dtype=torch.uint8)} if index in self.empty else {}
        return self.make(seed=index, **empty)

    def total_elements(self):
        return len(self) * (1 + 8 * 7 * 6)


@pytest.fixture
def make_source(make_case):
    def make(count=4, unreadable=(), empty=(), allow=True, budget=10**6, **settings) -> SegmentSource:
        cases = [Case(f"case-{number}", ()) for number in range(count)]
        needs = CaseNeeds(3, ((0, 0),) * 3, SEGMENT, 2)
        data = Cases("training", cases, [], PreprocessingConfig(allow_skipped_cases=allow), needs)
        data.make, data.read, data.unreadable, data.empty = make_case, [], unreadable, empty
        kernels, valid, none = ((3, 3, 3),), ("valid",), (0.0,)
        architecture = Architecture(
            2, 3, Pathway("normal", (2,), kernels, valid, none), (), Pathway("fc", (3,), ((1, 1, 1),), valid, none)
        )
        defaults = {"role": "train", "seed": 1, "segment": SEGMENT, "segments": 10, "batch_size": 4, "cases": 2}
        sampling = SamplingConfig(kind=3, proportions=(0, 1, 1))
        chosen = SourceSettings(**{**defaults, "sampling": sampling, **settings})
        pool = VolumePool(PoolLayout(2, torch.uint8), "cpu", budget)
        return SegmentSource(data, architecture, chosen, pool)

    return make


def all_of(source, epoch=0, subepoch=0) -> list[torch.Tensor]:
    batches = source.subepoch(epoch, subepoch)
    return [tensor for index in range(len(batches)) for tensor in (*batches[index].inputs, batches[index].labels)]


def same(one, other) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        AugmentationConfig(
            image=AffineAugmentation(probability=1.0, max_rotation=(20.0, 20.0, 20.0), max_scaling=0.1),
            segment=SegmentAugmentation(reflect=(0.5, 0.5, 0.5)),
        ),
    ],
)
def test_subepoch_depends_on_its_numbers_only(make_source, augmentation):
    one, other = make_source(augmentation=augmentation), make_source(augmentation=augmentation, budget=3 * ONE_CASE)
    one.read_all()
    later = all_of(one, 1, 2)
    all_of(other, 0, 0), all_of(other, 0, 1)
    assert same(all_of(other, 1, 2), later)
    assert not same(all_of(one, 1, 1), later)
    assert not same(all_of(make_source(augmentation=augmentation, seed=2), 1, 2), later)


def test_last_batch_is_left_out_unless_it_is_the_only_one(make_source):
    assert len(make_source().subepoch(0, 0)) == 2
    single = make_source(segments=3).subepoch(0, 0)
    assert (len(single), single[0].labels.shape[0]) == (1, 3)
    with pytest.raises(IndexError, match="batch 1 of 1"):
        single[1]


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
