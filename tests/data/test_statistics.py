"""Statistics in constant memory against numpy on all values at once."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.data import statistics
from deepmedic.data.statistics import ValueStatistics, digest, label_counts


def exact_percentile(values: np.ndarray, percent: float) -> float:
    """The smallest value that so many percent do not exceed, by counting."""
    for value in sorted(values.tolist()):
        if np.count_nonzero(values <= value) >= percent / 100 * values.size:
            return value
    raise AssertionError("no value is the largest")


numbers = st.floats(-(2.0**99), 2.0**99, width=32, allow_nan=False).map(lambda x: 0.0 if abs(x) < 1e-30 else x)


@given(st.lists(numbers, min_size=1, max_size=60), st.integers(0, 60), st.sampled_from([0.5, 25.0, 50.0, 99.5]))
@settings(max_examples=40, deadline=None)
def test_pieces_give_what_numpy_gives_for_the_whole(values, cut, percent):
    array = np.array(values, np.float32)
    found = ValueStatistics.of(array[:cut])
    found.merge(ValueStatistics.of(array[cut:]))
    exact = array.astype(np.float64)
    assert found.count == array.size
    assert found.zeros == np.count_nonzero(array == 0)
    assert (found.minimum, found.maximum) == (exact.min(), exact.max())
    largest = np.abs(exact).max()
    assert found.mean == pytest.approx(exact.mean(), rel=1e-9, abs=1e-12 * largest)
    assert found.std == pytest.approx(exact.std(), rel=1e-6, abs=1e-9 * largest)
    assert found.percentile(percent) == pytest.approx(exact_percentile(exact, percent), rel=1e-3)


def test_a_large_mean_costs_no_digits(monkeypatch):
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    values = (2.0**20 + np.random.default_rng(0).integers(0, 9, 50_000)).astype(np.float32)
    assert ValueStatistics.of(values).std == pytest.approx(values.astype(np.float64).std(), rel=1e-12)


def test_plain_numbers_of_a_small_array_are_those_counted_by_hand():
    plain = ValueStatistics.of(np.array([[0, 0, 2], [4, 4, 8]], np.int16)).to_plain((50.0,))
    assert plain == {
        "voxels": 6, "mean": 3.0, "std": pytest.approx(math.sqrt((9 + 9 + 1 + 1 + 1 + 25) / 6)), "minimum": 0.0,
        "maximum": 8.0, "percentiles": {"50": pytest.approx(2, rel=1e-3)}, "shareOfZeros": pytest.approx(1 / 3),
    }  # fmt: skip


def test_nothing_added_is_said_to_be_nothing():
    empty = ValueStatistics.of(np.zeros(0, np.float32))
    assert empty.to_plain() == {"voxels": 0}
    assert math.isnan(empty.percentile(50))
    assert not empty.constant


@pytest.mark.parametrize(("values", "constant"), [([7, 7, 7], True), ([0], True), ([7, 7, 8], False)])
def test_constant_values_are_noticed(values, constant):
    assert ValueStatistics.of(np.array(values, np.float32)).constant is constant


def test_labels_are_counted_also_those_that_do_not_occur():
    labels = np.random.default_rng(1).choice([0, 1, 3], size=(5, 4, 3)).astype(np.uint8)
    counted = Counter(labels.ravel().tolist())
    assert label_counts(labels, 5).tolist() == [counted[number] for number in range(5)]


def test_digests_know_values_and_shape_and_not_memory_order():
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert digest(voxels) == digest(np.asfortranarray(voxels))
    others = [voxels.reshape(4, 3, 2), voxels + 1, voxels[:, :, ::-1]]
    assert len({digest(array) for array in [voxels, *others]}) == 4
    assert digest(np.full((2, 2, 2), 3.0, np.float32)) is None
