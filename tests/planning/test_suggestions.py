"""Suggestions from fingerprints made up for one property each."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.data.fingerprint import CaseFacts, CaseSummary, ChannelOfCase, Fingerprint
from deepmedic.data.statistics import ValueStatistics
from deepmedic.planning.suggestions import (
    Room,
    batch_size,
    mirroring,
    normalisation,
    proportions,
    segment_size,
    suggest,
)

KERNELS = ((3, 3, 3),) * 4
NETWORK = Architecture(
    input_channels=1,
    classes=3,
    normal=Pathway("normal", (4,) * 4, KERNELS, ("valid",) * 4, (0.0,) * 4),
    subsampled=(),
    fc=Pathway("fc", (3,), ((1, 1, 1),), ("valid",), (0.0,)),
)
ROOMY = Room(lambda segment, batch: 0, 1)


def per_voxel(bytes_each: int, allowed: int) -> Room:
    return Room(lambda segment, batch: bytes_each * batch * segment[0] * segment[1] * segment[2], allowed)


def facts(name: str = "a", *, values=(0.0, 1.0), labels=(90, 9, 1), codes="RAS", shape=(50, 60, 70), roi=True):
    statistics = ValueStatistics.of(np.array(values, np.float32))
    lowest = list(values).count(min(values)) / len(values)
    channel = ChannelOfCase(statistics.mean, statistics.std, lowest, statistics.constant)
    counted = None if labels is None else np.array(labels)
    case = CaseFacts(name, shape, (1.0, 1.0, 1.0), codes, (channel,), counted, counted, 5 if roi else None, ())
    return CaseSummary(case, ((statistics, ValueStatistics()),))


def fingerprint(*cases: CaseSummary) -> Fingerprint:
    found = Fingerprint("training", 1, 3)
    for case in cases or (facts(),):
        found.add(case)
    return found


class TestSegments:
    def test_the_preferred_box_surrounded_by_what_the_network_loses(self):
        assert segment_size(NETWORK, (50, 60, 70), ROOMY).size == (29, 29, 29)

    def test_thin_images_get_thin_boxes(self):
        choice = segment_size(NETWORK, (50, 60, 8), ROOMY)
        assert (choice.size, choice.limited_by) == ((29, 29, 15), ("the images",))

    def test_memory_shortens_the_longest_axes(self):
        room = per_voxel(1, 4 * 19**3)
        choice = segment_size(NETWORK, (50, 60, 70), room)
        assert (choice.size, choice.limited_by) == ((19, 19, 19), ("memory",))

    @given(st.tuples(*[st.integers(1, 300)] * 3), st.integers(1, 10**9))
    @settings(max_examples=40, deadline=None)
    def test_whatever_is_asked_the_network_predicts_something(self, shape, allowed):
        size = segment_size(NETWORK, shape, per_voxel(100, allowed)).size
        box = NETWORK.output_size(size)
        assert all(1 <= extent <= 21 for extent in box)
        assert all(extent % 2 == 1 for extent in box)

    @pytest.mark.parametrize(("allowed", "batch"), [(10**9, 10), (3 * 8000, 3), (10, 1)])
    def test_batches_are_as_large_as_memory_allows_up_to_ten(self, allowed, batch):
        assert batch_size((20, 20, 20), per_voxel(1, allowed)) == batch


class TestNormalisation:
    def test_raw_intensities(self):
        found = normalisation(fingerprint(facts(values=range(100, 200)), facts(values=range(400, 500))))
        assert found.value == {"apply_to_all_channels": True}
        assert found.reason == "within the ROI means range from 149.5 to 449.5; a network needs about 0 and 1"

    def test_intensities_that_are_normalised_already(self):
        found = normalisation(fingerprint(facts(values=(-1.0, 1.0)), facts(values=(-0.95, 1.0))))
        assert "already have mean 0 and deviation 1" in found.reason

    def test_outliers_are_cut_off(self):
        values = [*range(100), 100_000]
        assert normalisation(fingerprint(facts(values=values))).value["cutoff_percents"] == [5.0, 95.0]

    @pytest.mark.parametrize("air", [0, -5])
    def test_air_without_a_mask_is_left_out(self, air):
        found = normalisation(fingerprint(facts(values=[air] * 50 + list(range(50, 100)), roi=False)))
        assert found.value["cutoff_below_mean"] is True
        assert "50% of the voxels have the lowest value (air)" in found.reason

    def test_a_channel_that_is_constant_in_a_case_is_left_out(self):
        found = Fingerprint("training", 2, 3)
        case = facts(values=range(9))
        constant = ValueStatistics.of(np.ones(5, np.float32))
        both = (*case.facts.channels, ChannelOfCase(1.0, 0.0, 0.0, True))
        found.add(
            CaseSummary(SimpleNamespace(**{**vars(case.facts), "channels": both}), (*case.channels, (constant,) * 2))
        )
        suggestion = normalisation(found)
        assert suggestion.value == {"apply_per_channel": [True, False]}
        assert "channel 2 is constant in a case" in suggestion.reason


class TestSampling:
    def test_cube_roots_of_the_shares(self):
        found = proportions(fingerprint(facts(labels=(729, 216, 55))), ["none", "core", "rim"])
        assert found.value == pytest.approx([0.47, 0.31, 0.2], abs=0.015)
        assert "none 72.9%, core 21.6%, rim 5.5%" in found.reason

    def test_classes_without_voxels_get_nothing_and_rare_ones_at_least_2_percent(self):
        found = proportions(fingerprint(facts(labels=(10**9, 1, 0))), ["none", "core", "rim"])
        assert found.value[1:] == [0.02, 0.0]

    @pytest.mark.parametrize("labels", [None, (100, 0, 0), (0, 0, 0)])
    def test_nothing_to_weigh(self, labels):
        assert proportions(fingerprint(facts(labels=labels)), ["none", "core", "rim"]) is None


class TestMirroring:
    @pytest.mark.parametrize(
        ("codes", "value"), [("RAS", [0.5, 0.0, 0.0]), ("PIL", [0.0, 0.0, 0.5]), ("ALS", [0.0, 0.5, 0.0])]
    )
    def test_left_and_right(self, codes, value):
        assert mirroring(fingerprint(facts(codes=codes)), ["none", "lesion"]).value == value

    def test_not_where_classes_have_sides_or_cases_run_differently(self):
        assert mirroring(fingerprint(), ["none", "left_hippocampus"]) is None
        assert mirroring(fingerprint(), ["none", "Hippocampus-R"]) is None
        assert mirroring(fingerprint(facts(), facts(codes="LAS")), ["none", "lesion"]) is None


def test_all_together():
    found = suggest(fingerprint(), NETWORK, per_voxel(10, 10**7), ["none", "core", "rim"])
    assert [suggestion.key for suggestion in found] == [
        "segmentsDimTrain",
        "batchsize_train",
        "norm_zscore_prms",
        "proportionOfSamplesToExtractPerCategoryTraining",
        "augm_sample_prms_tr.reflect",
    ]
    assert all(suggestion.reason for suggestion in found)
