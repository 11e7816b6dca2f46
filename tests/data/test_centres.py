import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from deepmedic.data.centres import SubepochRequest, category_counts, chosen_order, plan_segments, share_out
from deepmedic.data.randomness import SubepochId, stream
from deepmedic.data.sampling_maps import SamplingRule, centre_box, sampling_maps

ID = SubepochId(0, "train", 1, 2)


def request_for(kind, segments, segment=(3, 3, 3), proportions=None, classes=3):
    names = {0: 2, 1: 1, 2: 1, 3: classes}[kind]
    shares = proportions or (1 / names,) * names
    return SubepochRequest(segments, 10, SamplingRule(kind, classes, shares), segment)


def plan(make_pool, cases, request, subepoch=ID, device="cpu"):
    numbers = list(range(len(cases)))
    return plan_segments(make_pool(cases, device), numbers, numbers, request, subepoch)


class TestShares:
    def test_all_cases_in_random_order(self):
        orders = [chosen_order(SubepochId(0, "train", 0, n), 6) for n in range(50)]
        assert all(sorted(order) == list(range(6)) for order in orders)
        assert len({tuple(order) for order in orders}) > 40

    def test_cases_get_the_same_and_the_rest_is_random(self):
        shares = np.array([share_out(stream(0, n), 17, 5) for n in range(400)])
        assert (shares.sum(axis=1) == 17).all()
        assert shares.min() == 3
        # two segments are left over, each with the same chance for every case
        assert chisquare((shares - 3).sum(axis=0)).pvalue > 0.001

    def test_fewer_segments_than_cases(self):
        assert share_out(stream(0), 2, 5).sum() == 2

    def test_categories_get_their_share_rounded_down_and_the_rest_is_random(self):
        counts = np.array([category_counts(stream(0, n), 11, (0.25, 0.75), np.array([True, True])) for n in range(999)])
        # 2.75 and 8.25: at least 2 and 8, and one more
        assert sorted({tuple(count) for count in counts.tolist()}) == [(2, 9), (3, 8)]
        assert chisquare((counts - [2, 8]).sum(axis=0), [0.25 * 999, 0.75 * 999]).pvalue > 0.001

    def test_others_take_the_share_of_a_category_that_is_missing(self):
        """Behaviour 38."""
        counts = category_counts(stream(0), 60, (1 / 6, 2 / 6, 3 / 6), np.array([True, False, True]))
        assert counts.tolist() == [15, 0, 45]

    @settings(max_examples=50, deadline=None)
    @given(
        n=st.integers(0, 500),
        weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=6),
        missing=st.integers(0, 5),
        seed=st.integers(0, 99),
    )
    def test_counts_always_add_up(self, n, weights, missing, seed):
        exists = np.arange(len(weights)) != missing
        if not exists.any():
            exists[:] = True
        counts = category_counts(stream(seed), n, weights, exists)
        assert counts.sum() == n
        assert (counts[~exists] == 0).all()


class TestCentres:
    @settings(max_examples=25, deadline=None)
    @given(
        kind=st.sampled_from([0, 1, 2, 3]),
        roi=st.booleans(),
        weighted=st.booleans(),
        segment=st.tuples(*[st.integers(1, 4)] * 3),
        sizes=st.lists(st.tuples(*[st.integers(4, 8)] * 3), min_size=1, max_size=3),
        seed=st.integers(0, 1000),
    )
    def test_every_centre_is_in_the_map_of_its_category(
        self, kind, roi, weighted, segment, sizes, seed, make_case, make_pool
    ):
        request = request_for(kind, 40, segment)
        n_maps = weighted * len(request.rule.categories)
        cases = [make_case(size, seed + k, with_roi=roi, n_weight_maps=n_maps) for k, size in enumerate(sizes)]
        for case in cases:  # a background voxel that can be drawn, so that all cases are usable
            voxel = tuple(part.start for part in centre_box(case.size, segment))
            case.labels[voxel] = 0
            if case.roi is not None:
                case.roi[voxel] = True

        drawn = plan(make_pool, cases, request)

        assert len(drawn) == 40
        assert drawn.centres.shape == (40, 3)
        for row, centre, category in zip(drawn.rows, drawn.centres, drawn.categories, strict=True):
            case = cases[row]
            assert sampling_maps(request.rule, case)[int(category), *centre] > 0
            assert all(
                part.start <= c < part.stop for part, c in zip(centre_box(case.size, segment), centre, strict=True)
            )

    @pytest.mark.parametrize("weighted", [False, True])
    def test_same_voxels_as_searching_all_of_them(self, weighted, make_case, make_pool, device):
        """The oracle numbers every voxel's mass in turn; a ticket is the voxel in whose mass it falls."""
        request = request_for(3, 500, (3, 2, 1))
        case = make_case((7, 6, 9), seed=3, with_roi=True, n_weight_maps=3 if weighted else 0)
        drawn = plan(make_pool, [case], request, device=device)

        box = centre_box(case.size, request.segment)
        maps = sampling_maps(request.rule, case)[:, *box].double().numpy()
        generator = ID.stream("centres", 0)
        counts = category_counts(generator, 500, request.rule.proportions, np.array([True] * 3))
        expected = []
        for category, count in enumerate(counts):
            flat = maps[category].ravel()
            # whole numbers: the largest power of two with a sum below 2^61 that the bound on the sum allows
            top = np.frexp(flat.max())[1] + int(flat.size).bit_length()
            masses = [int(mass * 2.0 ** (61 - top)) for mass in flat] if weighted else flat.astype(int).tolist()
            until = np.cumsum(np.array(masses, dtype=object))
            for ticket in generator.integers(0, int(until[-1]), size=count):
                voxel = next(k for k, end in enumerate(until) if end > ticket)
                expected.append([*np.unravel_index(voxel, maps.shape[1:]), category])
        expected = np.array(expected)[ID.stream("order").permutation(500)]
        np.testing.assert_array_equal(drawn.centres, expected[:, :3] + [part.start for part in box])
        np.testing.assert_array_equal(drawn.categories, expected[:, 3])

    @pytest.mark.parametrize("kind", [0, 1, 3])
    def test_voxels_of_a_category_are_equally_likely(self, kind, make_case, make_pool):
        request = request_for(kind, 30_000, (3, 3, 3))
        case = make_case((6, 7, 5), with_roi=True)
        drawn = plan(make_pool, [case], request)
        for category, mask in enumerate(sampling_maps(request.rule, case)):
            observed = self.histogram(drawn, category, case)
            allowed = torch.zeros(case.size, dtype=torch.bool)
            allowed[1:-1, 1:-1, 1:-1] = mask[1:-1, 1:-1, 1:-1]
            assert (observed[~allowed] == 0).all()
            assert chisquare(observed[allowed]).pvalue > 0.001

    def test_voxels_are_as_likely_as_their_weight(self, make_case, make_pool):
        request = request_for(0, 40_000, (2, 1, 2), proportions=(0.3, 0.7))
        case = make_case((5, 4, 6), n_weight_maps=2)
        case.weight_maps[:, 2, 2, 2] = 9
        drawn = plan(make_pool, [case], request)
        for category, share in enumerate((0.3, 0.7)):
            weights = case.weight_maps[category, :-1, :, :-1].double()
            observed = self.histogram(drawn, category, case)[:-1, :, :-1]
            assert observed.sum() == round(40_000 * share)
            expected = weights / weights.sum() * observed.sum()
            assert chisquare(observed.flatten(), expected.flatten()).pvalue > 0.001

    @staticmethod
    def histogram(drawn, category, case):
        counts = torch.zeros(case.size)
        chosen = drawn.centres[drawn.categories == category]
        return counts.index_put_(tuple(chosen.T), torch.ones(len(chosen)), accumulate=True)

    def test_a_weight_that_is_tiny_beside_another_counts(self, make_case, make_pool):
        weights = np.zeros((1, 4, 4, 4), np.float32)
        weights[0, 1, 1, 1] = 1e-20
        case = make_case((4, 4, 4), weight_maps=weights)
        drawn = plan(make_pool, [case], request_for(1, 5))
        assert drawn.centres.tolist() == [[1, 1, 1]] * 5


class TestPlans:
    def test_the_same_plan_again(self, make_case, make_pool):
        cases = [make_case(seed=k) for k in range(3)]
        one, other = (plan(make_pool, cases, request_for(3, 50)) for _ in range(2))
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.centres, other.centres)

    @pytest.mark.parametrize(
        "subepoch", [SubepochId(1, "train", 1, 2), SubepochId(0, "val", 1, 2), SubepochId(0, "train", 2, 2)]
    )
    def test_another_plan_for_another_purpose(self, subepoch, make_case, make_pool):
        """Consecutive subepochs of the original could draw identical samples (behaviour 35)."""
        cases = [make_case(seed=k) for k in range(3)]
        one, other = (plan(make_pool, cases, request_for(3, 50), each) for each in (ID, subepoch))
        assert not torch.equal(one.centres, other.centres)

    def test_cases_are_mixed(self, make_case, make_pool):
        drawn = plan(make_pool, [make_case(seed=k) for k in range(4)], request_for(1, 40))
        assert torch.bincount(drawn.rows).tolist() == [10, 10, 10, 10]
        assert drawn.rows[:20].unique().tolist() == [0, 1, 2, 3]
        assert drawn.cases == (0, 1, 2, 3)

    def test_a_case_draws_the_same_centres_beside_others(self, make_case, make_pool):
        """A case's centres come from its own stream: other cases of the subepoch do not change them."""
        first, second = make_case(seed=1), make_case((6, 6, 6), seed=2)
        alone = plan(make_pool, [first], request_for(1, 10))
        together = plan(make_pool, [first, second], request_for(1, 20))
        of_first = together.centres[together.rows == 0]
        assert sorted(of_first.tolist()) == sorted(alone.centres.tolist())
