import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.augmentation import AffineAugmentation
from deepmedic.data.affine import augment_case, draw_affine
from deepmedic.data.centres import SubepochRequest
from deepmedic.data.pool import PoolLayout, VolumePool, elements_for
from deepmedic.data.randomness import stream
from deepmedic.data.sampling import CaseKey, SubepochSampler
from deepmedic.data.sampling_maps import SamplingRule
from deepmedic.data.segments import SegmentGeometry, gather
from deepmedic.errors import DataError, ResourceError

UNIFORM = SamplingRule(1, 3, (1.0,))
REQUEST = SubepochRequest(segments=12, cases=3, rule=UNIFORM, segment=(3, 3, 3))
GEOMETRY = SegmentGeometry(((3, 3, 3), (3, 3, 3)), ((1, 1, 1), (3, 3, 3)), (3, 3, 3), (1, 1, 1))
AFFINE = AffineAugmentation(probability=0.7)


class DataSet:
    """Cases in memory; notes which were read."""

    def __init__(self, make_case, n_cases, empty=(), small=()):
        self.read = []
        self.cases = []
        for number in range(n_cases):
            size = (2, 7, 6) if number in small else (6 + number % 3, 7, 6)
            case = make_case(size, number, with_roi=True)
            case.roi[:] = number not in empty
            self.cases.append(case)

    def __call__(self, number):
        self.read.append(number)
        return self.cases[number]

    def sampler(self, n_in_memory=None, role="train", affine=None, request=REQUEST):
        layout = PoolLayout.of(self.cases[0])
        largest = max(elements_for(case.size) for case in self.cases)
        elements = largest * (len(self.cases) * 2 if n_in_memory is None else n_in_memory)
        pool = VolumePool(layout, "cpu", elements * layout.bytes_per_voxel)
        return SubepochSampler(pool, self, len(self.cases), request, seed=5, role=role, affine=affine)


def segments_of(sampler, epoch, subepoch):
    plan = sampler.plan(epoch, subepoch)
    return plan, gather(sampler.pool, GEOMETRY, plan.rows, plan.centres)


def assert_same_segments(one, other):
    (plan, batch), (expected_plan, expected) = one, other
    assert (plan.cases, plan.skipped) == (expected_plan.cases, expected_plan.skipped)
    assert torch.equal(plan.rows, expected_plan.rows)
    assert torch.equal(plan.centres, expected_plan.centres)
    for values, wanted in zip((*batch.inputs, batch.labels), (*expected.inputs, expected.labels), strict=True):
        assert torch.equal(values, wanted)


def test_a_plan_uses_as_many_cases_as_asked_for(make_case):
    data = DataSet(make_case, 7)
    plan = data.sampler().plan(0, 0)
    assert len(plan) == 12
    assert len(set(plan.cases)) == 3
    assert data.read == list(plan.cases)
    assert plan.skipped == ()
    assert torch.bincount(plan.rows).tolist() == [4, 4, 4]


def test_fewer_cases_than_asked_for(make_case):
    plan = DataSet(make_case, 2).sampler().plan(0, 0)
    assert sorted(plan.cases) == [0, 1]


def test_cases_change_from_subepoch_to_subepoch(make_case):
    sampler = DataSet(make_case, 7).sampler()
    used = [sampler.plan(epoch, subepoch).cases for epoch in range(4) for subepoch in range(3)]
    assert len(set(used)) > 8
    assert set().union(*used) == set(range(7))


def test_wanted_cases_are_those_that_are_read(make_case):
    data = DataSet(make_case, 7)
    sampler = data.sampler()
    wanted = sampler.wanted_cases(1, 2)
    assert data.read == []
    assert list(sampler.plan(1, 2).cases) == wanted


def test_segments_come_from_the_volumes_of_their_cases(make_case):
    data = DataSet(make_case, 7)
    plan, batch = segments_of(data.sampler(), 2, 1)
    for k in range(len(plan)):
        case = data.cases[plan.cases[plan.rows[k]]]
        x, y, z = plan.centres[k].tolist()
        expected = case.channels[:, x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
        assert torch.equal(batch.inputs[0][k], expected)
        assert batch.labels[k].item() == case.labels[x, y, z]


@settings(max_examples=20, deadline=None)
@given(
    history=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=4),
    n_in_memory=st.integers(3, 7),
    augmented=st.booleans(),
)
def test_a_plan_depends_neither_on_history_nor_on_memory(history, n_in_memory, augmented, make_case):
    """What resuming in the middle relies on: any subepoch can be planned first."""
    data, affine = DataSet(make_case, 6, empty=[2]), AFFINE if augmented else None
    sampler = data.sampler(n_in_memory, affine=affine)
    for epoch, subepoch in history:
        sampler.plan(epoch, subepoch)
    fresh = DataSet(make_case, 6, empty=[2]).sampler(affine=affine)
    assert_same_segments(segments_of(sampler, 1, 1), segments_of(fresh, 1, 1))


def test_training_and_validation_may_share_a_pool(make_case):
    data, others = DataSet(make_case, 4), DataSet(make_case, 5)
    training, alone = data.sampler(), others.sampler(role="val")
    validation = SubepochSampler(training.pool, others, 5, REQUEST, seed=5, role="val")
    training.plan(0, 0)
    assert_same_segments(segments_of(validation, 0, 0), segments_of(alone, 0, 0))
    assert {key.role for key in training.pool.keys} == {"train", "val"}


class TestUnusableCases:
    @pytest.mark.parametrize("unusable", [{"empty": [0, 3]}, {"small": [0, 3]}])
    def test_others_take_their_place(self, unusable, make_case):
        """Fault C17: an empty ROI does not stop training, and no segment is lost."""
        sampler = DataSet(make_case, 6, **unusable).sampler()
        skipped = set()
        for epoch in range(6):
            plan = sampler.plan(epoch, 0)
            assert len(plan.cases) == 3
            assert not {0, 3} & set(plan.cases)
            assert len(plan) == 12
            skipped |= set(plan.skipped)
        assert skipped == {0, 3}

    def test_they_are_counted_again_but_read_once(self, make_case):
        data = DataSet(make_case, 3, empty=[1])
        sampler = data.sampler()
        assert [sampler.plan(0, n).skipped for n in range(3)] == [(1,)] * 3
        assert data.read.count(1) == 1

    def test_a_plan_does_not_depend_on_whether_they_are_known(self, make_case):
        sampler = DataSet(make_case, 6, empty=[0, 3]).sampler()
        for n in range(4):
            sampler.plan(0, n)
        fresh = DataSet(make_case, 6, empty=[0, 3]).sampler()
        assert_same_segments(segments_of(sampler, 7, 0), segments_of(fresh, 7, 0))

    def test_a_category_with_proportion_0_does_not_make_a_case_usable(self, make_case):
        data = DataSet(make_case, 3)
        data.cases[2].labels[:] = 1
        rule = SamplingRule(3, 3, (0.5, 0.0, 0.5))
        plan = data.sampler(request=SubepochRequest(9, 3, rule, (3, 3, 3))).plan(0, 0)
        assert plan.skipped == (2,)
        assert set(plan.categories.tolist()) == {0, 2}

    def test_the_log_names_them(self, make_case, caplog):
        sampler = DataSet(make_case, 2, empty=[1]).sampler()
        with caplog.at_level(logging.WARNING, logger="deepmedic.data.sampling"):
            sampler.plan(0, 0)
            sampler.plan(0, 1)
        [record] = caplog.records
        assert record.getMessage().startswith("case-1 is passed over: it has no voxel on which a segment of (3, 3, 3)")

    def test_none_is_left(self, make_case):
        with pytest.raises(DataError, match=r"None of the 3 cases \(train\) has a voxel on which a segment of \(3, 3"):
            DataSet(make_case, 3, empty=[0, 1, 2]).sampler().plan(0, 0)


class TestAugmentedCases:
    def test_some_cases_are_replaced_by_a_changed_version(self, make_case):
        data = DataSet(make_case, 3)
        sampler = data.sampler(affine=AFFINE)
        plan = sampler.plan(2, 1)
        changed = 0
        for case in plan.cases:
            matrix = draw_affine(stream(5, "train", 2, 1, "affine", case), AFFINE)
            key = CaseKey("train", case, () if matrix is None else (2, 1))
            expected = data.cases[case]
            if matrix is not None:
                changed += 1
                expected = augment_case(expected, matrix, AFFINE, "cpu")
            assert torch.equal(sampler.pool.view(key).channels, expected.channels)
            assert torch.equal(sampler.pool.view(key).labels, expected.labels)
        assert changed in (1, 2, 3)

    def test_files_are_read_once_when_everything_fits(self, make_case):
        data = DataSet(make_case, 3)
        sampler = data.sampler(affine=AFFINE)
        for subepoch in range(5):
            sampler.plan(0, subepoch)
        assert sorted(data.read) == [0, 1, 2]

    def test_versions_of_other_subepochs_are_given_up(self, make_case):
        sampler = DataSet(make_case, 3).sampler(affine=AffineAugmentation(probability=1.0))
        for subepoch in range(3):
            sampler.plan(0, subepoch)
            versions = {key.version for key in sampler.pool.keys}
            assert versions == {(), (0, subepoch)}

    def test_a_small_pool_holds_only_what_is_needed(self, make_case):
        sampler = DataSet(make_case, 5).sampler(n_in_memory=3, affine=AffineAugmentation(probability=1.0))
        for subepoch in range(3):
            sampler.plan(0, subepoch)
            needed = [key for key in sampler.pool.keys if key.version == (0, subepoch)]
            assert len(needed) == 3

    def test_a_seed_of_its_own_gives_every_case_the_same_transformation(self, make_case):
        affine = AffineAugmentation(probability=1.0, seed=77)
        data = DataSet(make_case, 2)
        sampler = data.sampler(affine=affine)
        matrix = draw_affine(stream(77, "affine"), affine)
        for subepoch in range(2):
            for case in sampler.plan(3, subepoch).cases:
                expected = augment_case(data.cases[case], matrix, affine, "cpu")
                version = sampler.pool.view(CaseKey("train", case, (3, subepoch)))
                assert torch.equal(version.channels, expected.channels)

    def test_versions_computed_ahead_are_the_same(self, make_case, monkeypatch):
        monkeypatch.setattr("deepmedic.data.sampling._CORES_FOR_TWO_THINGS", 1)
        affine = AffineAugmentation(probability=0.7)
        ahead, plain = (DataSet(make_case, 6).sampler(affine=affine) for _ in range(2))
        for subepoch in range(4):
            assert_same_segments(segments_of(ahead, 1, subepoch), segments_of(plain, 1, subepoch))
            ahead.change_ahead(1, subepoch + 1)
            ahead.plan(7, subepoch)  # rearranges the pool while versions are computed
            ahead.change_ahead(1, subepoch + 1)
        ahead.close()

    def test_nothing_is_computed_ahead_for_a_gpu_or_without_augmentation(self, make_case, monkeypatch):
        plain = DataSet(make_case, 3).sampler()
        on_gpu = DataSet(make_case, 3).sampler(affine=AffineAugmentation(probability=1.0))
        monkeypatch.setattr("deepmedic.data.sampling._CORES_FOR_TWO_THINGS", 1)
        for sampler in (plain, on_gpu):
            sampler.plan(0, 0)
            monkeypatch.setattr(sampler, "_changed", None)  # any use of it would fail
        on_gpu.pool.device = torch.device("cuda", 0)
        for sampler in (plain, on_gpu):
            sampler.change_ahead(0, 1)
            assert sampler.wanted_cases(0, 1)

    def test_nothing_is_computed_ahead_where_training_keeps_all_cores_busy(self, make_case, monkeypatch):
        sampler = DataSet(make_case, 3).sampler(affine=AffineAugmentation(probability=1.0))
        sampler.plan(0, 0)
        monkeypatch.setattr("deepmedic.data.sampling._CORES_FOR_TWO_THINGS", torch.get_num_threads() + 1)
        monkeypatch.setattr(sampler, "_changed", None)  # any use of it would fail
        sampler.change_ahead(0, 1)
        assert sampler.wanted_cases(0, 1)


def test_cases_of_one_subepoch_that_do_not_fit(make_case):
    with pytest.raises(ResourceError, match="3 cases must be in memory together"):
        DataSet(make_case, 4).sampler(n_in_memory=1).plan(0, 0)


def test_error_of_reading_a_case_is_passed_on(make_case):
    def unreadable(number):
        raise DataError(f"case {number} is truncated")

    pool = VolumePool(PoolLayout.of(make_case()), "cpu", 10**6)
    with pytest.raises(DataError, match=r"case \d is truncated"):
        SubepochSampler(pool, unreadable, 4, REQUEST, 0, "train").plan(0, 0)


def test_plan_lives_on_the_cpu_as_plain_numbers(make_case):
    plan = DataSet(make_case, 3).sampler().plan(0, 0)
    assert all(isinstance(case, int) and not isinstance(case, np.integer) for case in plan.cases)
    for tensor in (plan.rows, plan.centres, plan.categories):
        assert tensor.dtype == torch.int64
        assert tensor.device.type == "cpu"
