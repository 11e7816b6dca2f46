"""Scores per subject and their intervals, against counting by hand, metrics.py and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepmedic.analysis.scores import Confusions, interval
from deepmedic.metrics import confusion_counts, mean_foreground_dice, metrics_rows

SUBJECTS = ("Ann", "Bob")
#                        Ann ---------------  Bob -----------
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 0, 0, 1, 1])
PREDICTED = torch.tensor([0, 1, 1, 1, 0, 2, 0, 2, 1, 1])
SUBJECT = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])


class TestConfusions:
    def test_scores_of_a_case_counted_by_hand(self) -> None:
        found = Confusions.of(PREDICTED, LABELS, SUBJECT, SUBJECTS, 3)
        # Ann: of class 1 two of three are right and three predicted, class 2 is right.
        # Bob: class 1 is right, class 2 is only predicted.
        np.testing.assert_allclose(found.dice()[:, 1:], [[4 / 6, 1.0], [1.0, 0.0]])
        np.testing.assert_allclose(found.foreground_dice(), [5 / 6, 0.5])
        np.testing.assert_allclose(found.balanced_accuracy(), [(1 / 2 + 2 / 3 + 1) / 3, (1 / 2 + 1) / 2])
        assert found.per_class()[1] == {"dice": 8 / 10, "precision": 4 / 5, "recall": 4 / 5}

    def test_voxels_count_as_many_as_they_stand_for(self) -> None:
        weights = torch.arange(1.0, 11.0)
        found = Confusions.of(PREDICTED, LABELS, SUBJECT, SUBJECTS, 3, weights)
        assert found.counts[0, 1].tolist() == [5.0, 7.0, 0.0]
        assert found.counts.sum() == 55.0

    @given(seed=st.integers(0, 999))
    def test_dice_is_that_of_the_tables_of_metrics(self, seed) -> None:
        rng = np.random.default_rng(seed)
        labels, predicted = torch.from_numpy(rng.integers(0, 4, (2, 30)))
        counts = confusion_counts(predicted, labels, 4)
        found = Confusions.of(predicted, labels, torch.zeros(30, dtype=torch.int64), ["one"], 4)
        expected = mean_foreground_dice(metrics_rows("one", counts, 1.0))
        assert found.foreground_dice()[0] == pytest.approx(expected, nan_ok=True)

    def test_a_subject_without_foreground_has_no_dice(self) -> None:
        zeros = torch.zeros(4, dtype=torch.int64)
        found = Confusions.of(zeros, zeros, zeros, ["empty"], 3)
        assert np.isnan(found.foreground_dice()).all()
        assert found.balanced_accuracy()[0] == 1.0


class TestInterval:
    def test_few_subjects_give_the_range_of_their_values(self) -> None:
        for values in ([0.2, 0.6], [0.1, 0.4, 0.7]):
            found = interval(np.array(values), seed=0)
            assert (found.low, found.high) == pytest.approx((min(values), max(values)))
            assert found.mean == pytest.approx(np.mean(values))

    def test_one_subject_says_nothing_of_others_and_none_says_nothing(self) -> None:
        assert interval(np.array([0.5, math.nan]), 0).high == math.inf
        assert math.isnan(interval(np.array([math.nan]), 0).mean)

    def test_is_as_long_as_that_of_student_for_normal_values(self) -> None:
        values = np.random.default_rng(0).normal(size=40)
        found = interval(values, seed=0)
        half = 2.0227 * values.std(ddof=1) / math.sqrt(40)
        assert found.high - found.low == pytest.approx(2 * half, rel=0.1)

    def test_holds_the_truth_about_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(1)
        held = 0
        for seed in range(200):
            found = interval(rng.normal(0.3, 0.1, size=8), seed)
            held += found.low <= 0.3 <= found.high
        assert 180 <= held <= 199

    def test_depends_on_the_seed_alone(self) -> None:
        values = np.random.default_rng(0).random(12)
        assert interval(values, 3) == interval(values, 3)
        assert interval(values, 3) != interval(values, 4)
