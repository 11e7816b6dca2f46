import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.training import SamplingConfig
from deepmedic.data.centres import category_counts
from deepmedic.data.randomness import stream
from deepmedic.data.sampling_maps import (
    RowMasses,
    SamplingRule,
    centre_box,
    mass_scale,
    row_masses,
    sampling_maps,
    weight_mass,
)
from deepmedic.errors import ConfigError, DataError

GOLDEN = Path(__file__).parents[1] / "golden" / "geometry"
MAPS = json.loads((GOLDEN / "sampling_maps.json").read_text())


def rule(kind, proportions=None, classes=3):
    return SamplingRule.from_config(SamplingConfig(kind=kind, proportions=proportions), classes)


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("record", MAPS, ids=lambda record: record["array"])
    def test_maps(self, record, make_case):
        with np.load(GOLDEN / "sampling_maps.npz") as arrays:
            expected = arrays[record["array"]]
            case = make_case(
                channels=np.zeros((1, *arrays["gt"].shape), np.float32),
                labels=arrays["gt"].astype(np.uint8),
                roi=arrays["roi"] > 0 if record["roi"] else None,
                weight_maps=arrays["weight_maps"][: len(expected)] if record["weight_maps"] else None,
            )
        sampling = rule(record["sampling_type"], tuple(record["proportions_given"]))
        assert list(sampling.categories) == record["categories"]
        np.testing.assert_array_equal(sampling_maps(sampling, case).float(), expected)

    @pytest.mark.parametrize("record", MAPS, ids=lambda record: record["array"])
    def test_shares(self, record):
        sampling = rule(record["sampling_type"], tuple(record["proportions_given"]))
        assert list(sampling.proportions) == record["proportions_normalised"]
        counts = category_counts(
            stream(0), record["n_samples"], sampling.proportions, np.array(record["valid"], dtype=bool)
        )
        assert counts.tolist() == record["n_per_category_one_draw"]

    @pytest.mark.parametrize(("number", "segment"), [(0, (15, 15, 15)), (1, (16, 17, 18)), (2, (14, 15, 16))])
    def test_valid_centres(self, number, segment):
        with np.load(GOLDEN / "train_segments.npz") as arrays:
            expected = arrays[f"valid_centres{number}"]
        mask = np.zeros_like(expected)
        mask[centre_box(expected.shape, segment)] = 1
        np.testing.assert_array_equal(mask, expected)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 12), segment=st.integers(1, 12))
def test_centres_are_those_whose_segment_is_inside(size, segment):
    possible = [c for c in range(size) if c - (segment - 1) // 2 >= 0 and c - (segment - 1) // 2 + segment <= size]
    box = centre_box((size, 20, 20), (segment, 1, 1))
    assert list(range(size))[box[0]] == possible
    assert box[1:] == (slice(0, 20), slice(0, 20))


@pytest.mark.parametrize("kind", [0, 3])
def test_equal_proportions_unless_given(kind):
    sampling = rule(kind)
    assert sampling.proportions == pytest.approx([1 / len(sampling.categories)] * len(sampling.categories))


@pytest.mark.parametrize("kind", [1, 2])
def test_proportions_are_ignored_with_one_category(kind):
    assert rule(kind, (0.2, 0.8)).proportions == (1.0,)


@pytest.mark.parametrize(
    ("kind", "proportions", "message"),
    [
        (0, (1.0,), "has 1 values, but sampling of kind 0 has 2 categories: Foreground, Background. Give one value"),
        (3, (1.0, 2.0), "has 2 values, but sampling of kind 3 has 3 categories: Class-0, Class-1, Class-2"),
        (0, (0.0, 0.0), r"is \[0.0, 0.0\]; allowed are values of 0 or more, at least one above 0"),
        (0, (-1.0, 2.0), r"is \[-1.0, 2.0\]; allowed"),
        (0, (float("nan"), 2.0), r"is \[nan, 2.0\]; allowed"),
    ],
)
def test_proportions_that_cannot_be_used(kind, proportions, message):
    config = SamplingConfig(kind=kind, proportions=proportions)
    with pytest.raises(ConfigError, match="proportionOfSamplesToExtractPerCategoryTraining " + message):
        SamplingRule.from_config(config, 3, "proportionOfSamplesToExtractPerCategoryTraining")


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([0, 1, 2, 3]),
    roi=st.booleans(),
    size=st.tuples(*[st.integers(1, 7)] * 3),
    segment=st.tuples(*[st.integers(1, 5)] * 3),
)
def test_rows_sum_up_the_maps(kind, roi, size, segment, make_case):
    case = make_case(size, with_roi=roi)
    sums = row_masses(rule(kind), case, segment)
    maps = sampling_maps(rule(kind), case).long()[:, *centre_box(size, segment)]
    assert sums.size == maps.shape[1:]
    assert sums.begin == tuple((n - 1) // 2 for n in segment)
    for masses, expected in zip(sums.masses, maps.sum(dim=3), strict=True):
        assert masses.tolist() == expected.flatten().tolist()
    assert sums.exists.tolist() == [bool(each.any()) for each in maps]
    assert set(sums.scales) == {1.0}


@settings(max_examples=60, deadline=None)
@given(
    masses=st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5).filter(
        lambda rows: any(map(sum, rows))
    ),
    share=st.floats(0.05, 1),
)
def test_row_of_a_ticket_is_where_the_sum_of_all_rows_before_exceeds_it(masses, share):
    """By all tickets at once and by few of them, which takes another way."""
    flat = np.array(masses).ravel()
    sums = RowMasses((0, 0, 0), (len(masses), 4, 9), (np.zeros_like(flat), flat.astype(np.uint8)), (1.0, 1.0))
    total = int(flat.sum())
    assert sums.total(1) == total
    assert sums.exists.tolist() == [False, True]
    tickets = np.arange(total)[: max(1, int(share * total))]
    expected = [
        (row, rank) for row, mass in enumerate(flat.tolist()) for rank in range(mass)
    ]  # ticket t is the t-th unit of mass
    for some in (tickets, tickets[-len(masses) :]):
        row, rank = sums.row_of(1, some)
        assert list(zip(row.tolist(), rank.tolist(), strict=True)) == [expected[ticket] for ticket in some]


def test_rows_of_weight_maps_ignore_the_roi(make_case):
    case = make_case(with_roi=True, n_weight_maps=3)
    sums = row_masses(rule(3), case, (3, 3, 3))
    inner = case.weight_maps[:, 1:-1, 1:-1, 1:-1].double()
    for masses, scale, weights in zip(sums.masses, sums.scales, inner, strict=True):
        np.testing.assert_allclose(masses / scale, weights.sum(dim=2).flatten(), rtol=1e-14)


def test_row_sums_take_little_memory(make_case):
    assert [masses.dtype for masses in row_masses(rule(3), make_case(), (1, 1, 1)).masses] == [np.uint8] * 3


def test_a_volume_smaller_than_the_segment_has_no_centres(make_case):
    assert not row_masses(rule(1), make_case((8, 7, 6)), (5, 5, 7)).exists.any()


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0, float(np.float32(3e38)), width=32), min_size=1, max_size=50),
    factor=st.sampled_from([1.0, 1e-30, 2.0**-149]),
)
def test_masses_are_the_weights_times_a_power_of_two(weights, factor):
    values = torch.tensor(weights, dtype=torch.float32) * factor
    scale = mass_scale(values, "case")
    assert np.frexp(scale)[0] == 0.5
    masses = [int(mass) for mass in weight_mass(values, scale)]
    assert sum(masses) < 2**61
    # In Python's exact fractions: nothing but what is below a whole number is lost.
    assert masses == [int(float(value) * int(scale) if scale >= 1 else float(value) * scale) for value in values]


def test_scales_may_differ_between_voxels():
    weights, scales = torch.tensor([[1.5], [2.0]]), torch.tensor([[2.0], [8.0]], dtype=torch.float64)
    assert weight_mass(weights, scales).tolist() == [[3], [16]]


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_weights_that_are_no_weights(value, make_case):
    weights = np.ones((1, 8, 7, 6), np.float32)
    weights[0, 3, 3, 3] = value
    with pytest.raises(DataError, match=r"A weight map of case-0 for sampling has values from .* allowed are finite"):
        row_masses(rule(1), make_case(weight_maps=weights), (1, 1, 1))


def test_number_of_weight_maps(make_case):
    with pytest.raises(
        DataError, match="case-0 has 1 weight maps, but sampling of kind 0 has 2 categories: Foreground"
    ):
        row_masses(rule(0), make_case(n_weight_maps=1), (1, 1, 1))


@pytest.mark.parametrize("kind", [0, 3])
def test_neither_labels_nor_weight_maps(kind, make_case):
    with pytest.raises(DataError, match=f"case-0 has neither labels nor weight maps, .* sampling of kind {kind} needs"):
        sampling_maps(rule(kind), make_case(labels=None))


def test_uniform_sampling_needs_no_labels(make_case):
    assert sampling_maps(rule(1), make_case(labels=None)).all()
