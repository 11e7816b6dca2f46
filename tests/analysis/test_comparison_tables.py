"""Tables of a comparison: what is not compared is empty, what cannot be divided is undefined."""

from __future__ import annotations

import csv

import pytest

from deepmedic.analysis.comparison import RunScores, compare
from deepmedic.analysis.comparison_tables import comparison_csv, comparison_text, runs_csv


def runs(**dice):
    """Each initialisation with two seeds, and two subjects that score alike."""
    return [
        RunScores("net", None if name == "RI" else "A", name, 1, seed, {"anna": value, "bert": value})
        for name, value in dice.items()
        for seed in (0, 1)
    ]


def lines(**dice):
    return list(csv.DictReader(comparison_csv(compare(runs(**dice), 0.02)).splitlines()))


def test_a_line_per_initialisation() -> None:
    wt, ri = lines(WT=0.6, RI=0.3)
    assert [float(wt[name]) for name in ("dice", "over_random", "gain", "relative_gain")] == pytest.approx(
        [0.6, 0.3, 0.3, 2.0]
    )
    assert (wt["seeds"], wt["subjects"], wt["training_cases"], wt["verdict"]) == ("2", "2", "1", "helps")
    assert (ri["initialisation"], ri["over_random"], ri["feature_reuse"]) == ("RI", "", "")


def test_what_cannot_be_divided_is_undefined() -> None:
    found = lines(WT=0.04, ST=0.03, RI=0.0)
    assert {line["relative_gain"] for line in found} == {"undefined"}
    assert {line["feature_reuse_low"] for line in found} == {"undefined"}
    text = comparison_text(compare(runs(WT=0.04, ST=0.03, RI=0.0), 0.02))
    assert "relative gain WT / RI: undefined, RI is below 0.05" in text
    assert "feature reuse (WT - ST) / WT: undefined, WT is below 0.05" in text


def test_the_text_shows_every_setting_with_its_verdict() -> None:
    text = comparison_text(compare(runs(WT=0.6, RI=0.3), 0.02))
    assert text.startswith("net from A, trained on 1 subject, 2 seeds, scored on 2 subjects\n")
    assert "  WT  0.600 [0.600, 0.600]  0.300 [0.300, 0.300]\n" in text
    assert "feature reuse" not in text
    assert "verdict: HELPS: weights of the source give 0.300 [0.300, 0.300] more Dice" in text


def test_runs_are_listed_subject_by_subject() -> None:
    rows = list(csv.DictReader(runs_csv(runs(WT=0.6, RI=0.3)).splitlines()))
    assert len(rows) == 8
    assert (rows[0]["source"], rows[-1]["source"]) == ("A", "")
    assert [rows[-1][name] for name in ("initialisation", "seed", "subject", "dice")] == ["RI", "1", "bert", "0.3"]
