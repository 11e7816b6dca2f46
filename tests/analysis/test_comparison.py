"""Gains, feature reuse, intervals and verdicts of a comparison, against arithmetic by hand and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.analysis.comparison import Draws, RunScores, compare, judge, largest_gain
from deepmedic.analysis.scores import Interval
from deepmedic.sessions.reports.findings_of_transfer import comparison_findings

SUBJECTS = ("anna", "bert", "cleo")


def runs(name, by_seed, source="A", cases=4, model="net"):
    return [
        RunScores(model, None if name == "RI" else source, name, cases, seed, dict(zip(SUBJECTS, row, strict=False)))
        for seed, row in enumerate(by_seed)
    ]


WT = [(0.8, 0.7, 0.9), (0.7, 0.6, 0.8)]
ST = [(0.6, 0.6, 0.6), (0.6, 0.5, 0.7)]
RI = [(0.4, 0.3, 0.5), (0.5, 0.4, 0.6)]


class TestByHand:
    def test_the_means_of_a_setting(self) -> None:
        [setting] = compare([*runs("WT", WT), *runs("ST", ST), *runs("RI", RI)], 0.02)
        assert (setting.model, setting.source, setting.cases, setting.seeds) == ("net", "A", 4, (0, 1))
        assert setting.subjects == SUBJECTS
        assert [arm.dice.mean for arm in setting.arms] == pytest.approx([0.75, 0.6, 0.45])
        assert setting.gain.mean == pytest.approx(0.3)
        assert setting.relative_gain.mean == pytest.approx(0.75 / 0.45)
        assert setting.reuse.mean == pytest.approx((0.75 - 0.6) / 0.75)
        assert setting.verdict == "helps"
        # Seed by seed the difference is 0.4 and 0.2, of all subjects alike: the interval is their range.
        assert (setting.gain.low, setting.gain.high) == pytest.approx((0.2, 0.4))

    def test_a_gain_the_other_way_hurts(self) -> None:
        [setting] = compare([*runs("WT", RI), *runs("RI", WT)], 0.02)
        assert setting.verdict == "hurts"
        assert setting.reuse is None

    def test_a_ratio_to_next_to_nothing_is_undefined(self) -> None:
        low = [(0.01, 0.02, 0.03)] * 2
        [setting] = compare([*runs("WT", low), *runs("ST", ST), *runs("RI", low)], 0.02)
        assert setting.relative_gain is None
        assert setting.reuse is None
        assert setting.verdict == "no evidence"
        assert "smaller than 0.02 for certain" in setting.reason

    def test_a_subject_without_any_class_counts_for_no_arm(self) -> None:
        holes = [(0.8, math.nan, 0.9), (0.7, 0.6, 0.8)]
        [setting] = compare([*runs("WT", holes), *runs("RI", RI)], 0.02)
        assert setting.gain.mean == pytest.approx(np.mean([0.4, 0.4, 0.2, 0.2, 0.2]))
        assert setting.arms[1].dice.mean == pytest.approx(np.mean([0.4, 0.5, 0.5, 0.4, 0.6]))

    def test_only_seeds_and_subjects_that_all_arms_have_count(self) -> None:
        [setting] = compare([*runs("WT", [*WT, (0, 0, 0)]), *runs("RI", [row[:2] for row in RI])], 0.02)
        assert (setting.seeds, setting.subjects) == ((0, 1), ("anna", "bert"))

    def test_sources_sizes_and_architectures_are_compared_one_by_one(self) -> None:
        both = [*runs("WT", WT), *runs("WT", RI, source="B"), *runs("RI", RI)]
        more = [*runs("WT", ST, cases=8), *runs("RI", WT, cases=8), *runs("WT", WT, model="wide")]
        found = compare([*both, *more], 0.02)
        assert [(one.model, one.source, one.cases, one.verdict) for one in found] == [
            ("net", "A", 4, "helps"),
            ("net", "B", 4, "no evidence"),
            ("net", "A", 8, "hurts"),
            ("wide", "A", 4, "no evidence"),
        ]
        assert found[3].gain is None
        assert found[3].reason == "WT and RI were not both trained"


class TestJudgement:
    @pytest.mark.parametrize(
        ("low", "mean", "high", "verdict", "words"),
        [
            (0.01, 0.05, 0.09, "helps", "more Dice than random ones"),
            (0.001, 0.01, 0.03, "no evidence", "certain, but smaller than 0.02"),
            (-0.01, 0.05, 0.09, "no evidence", "neither shown nor ruled out"),
            (-0.01, 0.0, 0.01, "no evidence", "smaller than 0.02 for certain"),
            (-0.09, -0.05, -0.01, "hurts", "change the Dice of random ones by -0.050"),
            (-0.03, -0.01, -0.001, "no evidence", "certain, but smaller than 0.02"),
        ],
    )
    def test_words_follow_from_the_interval(self, low, mean, high, verdict, words) -> None:
        found, reason = judge(Interval(mean, low, high), 0.02, 5, 5)
        assert found == verdict
        assert words in reason

    @pytest.mark.parametrize(
        ("seeds", "subjects", "found"),
        [(1, 5, "1 seed and 5 scored subjects"), (5, 1, "5 seeds and 1 scored subject")],
    )
    def test_one_seed_or_one_subject_is_no_evidence(self, seeds, subjects, found) -> None:
        one = [RunScores("net", source, name, 4, seed, dict.fromkeys(map(str, range(subjects)), dice))
               for name, source, dice in (("WT", "A", 0.9), ("RI", None, 0.1)) for seed in range(seeds)]  # fmt: skip
        [setting] = compare(one, 0.02)
        assert setting.verdict == "no evidence"
        assert setting.reason == f"{found}; at least two of each are needed"
        assert (setting.gain.low, setting.gain.high) == (-math.inf, math.inf)


class TestDraws:
    def test_means_of_draws_are_those_of_the_drawn_seeds_and_subjects(self) -> None:
        values = np.random.default_rng(1).uniform(size=(3, 4))
        values[1, 2] = math.nan
        draws = Draws.of([values])
        _, found = draws._means(values)
        for draw in range(0, 2000, 400):
            chosen = [
                values[seed, subject]
                for seed in range(3)
                for _ in range(int(draws.seeds[draw, seed]))
                for subject in range(4)
                for _ in range(int(draws.subjects[draw, subject]))
            ]
            assert found[draw] == pytest.approx(np.nanmean(chosen))

    @settings(max_examples=20, deadline=None)
    @given(st.integers(2, 5), st.integers(2, 5), st.floats(-0.5, 0.5))
    def test_a_constant_difference_is_certain_however_the_arms_scatter(self, seeds, subjects, difference) -> None:
        values = np.random.default_rng(seeds * subjects).uniform(size=(seeds, subjects))
        found = Draws.of([values]).difference(values + difference, values)
        assert (found.mean, found.low, found.high) == pytest.approx((difference,) * 3, abs=1e-12)

    def test_intervals_hold_the_truth_about_as_often_as_they_say(self) -> None:
        """Effects of seed and subject, both normal; 95 % is asked for, and with five of each a little less is usual."""
        generator, held = np.random.default_rng(0), 0
        for _ in range(200):
            effects = generator.normal(size=(5, 1)) + generator.normal(size=(1, 5))
            found = Draws.of([effects]).mean(effects + 0.1 * generator.normal(size=(5, 5)))
            held += found.low <= 0 <= found.high
        assert held >= 0.88 * 200


def test_a_setting_without_seeds_in_common_is_not_that_of_the_largest_gain(tmp_path) -> None:
    apart = [*runs("WT", WT[:1], cases=2), RunScores("net", None, "RI", 2, 7, dict(zip(SUBJECTS, RI[0], strict=True)))]
    results = compare([*apart, *runs("WT", WT), *runs("RI", RI)], 0.02)
    assert [math.isnan(one.gain.mean) for one in results] == [True, False]
    assert largest_gain(results) is largest_gain(results[::-1]) is results[1]
    assert largest_gain(results[:1]) is results[0]
    content = {
        "settings": [one.to_plain() for one in results],
        "domainDistances": {},
        "runs": [],
        "forecasts": {"pairs": 0},
        "program": "",
        "begun": "",
    }
    [findings] = comparison_findings(content, tmp_path)
    assert findings.headline["Verdict"] == "helps"
    assert findings.headline["Gain in Dice"].startswith("0.300")
