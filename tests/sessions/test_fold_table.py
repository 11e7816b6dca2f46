"""The table of a cross-validation, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deepmedic.sessions.common.fold_table import FoldTable, Score, scores_of_fold

HELD_OUT = {1: ["a", "b"], 2: ["c"]}


def scores() -> list[Score]:
    return [
        Score(1, "a", "a1", "lesion", 0.5),
        Score(1, "a", "a2", "lesion", 0.7),
        Score(1, "b", "b", "lesion", math.nan),
        Score(2, "c", "c", "lesion", 0.2),
    ]


def test_the_table_by_hand(tmp_path):
    made = FoldTable("study", "final", HELD_OUT, scores())
    first, second, overall = made.lines()
    assert first == {
        "fold": 1,
        "class_name": "lesion",
        "subjects": 2,
        "undefined": 1,
        "mean": pytest.approx(0.6),
        "sd": pytest.approx(math.nan, nan_ok=True),
        "ci_low": pytest.approx(math.nan, nan_ok=True),  # one defined subject has no interval
        "ci_high": pytest.approx(math.nan, nan_ok=True),
    }
    assert (second["mean"], second["undefined"]) == (0.2, 0)
    assert (overall["fold"], overall["subjects"], overall["undefined"]) == ("all", 3, 1)
    assert overall["mean"] == pytest.approx(0.4)
    assert overall["sd"] == pytest.approx(math.sqrt(0.08))
    assert (overall["ci_low"], overall["ci_high"]) == (pytest.approx(0.2), pytest.approx(0.6))
    lines = made.to_text().splitlines()
    assert [line.split() for line in lines[1:3]] == [["fold", "1", "2", "0.6000"], ["fold", "2", "1", "0.2000"]]
    assert lines[-1].split() == ["95", "%", "CI", "3", "0.2000", "to", "0.6000"]
    paths = made.write(tmp_path)
    assert paths == [tmp_path / "cross_validation.csv", tmp_path / "cross_validation.json"]
    assert Path(paths[0]).read_text().splitlines()[1].startswith("1,lesion,2,1,0.6")


def test_subjects_and_folds_without_scores_are_named():
    made = FoldTable("study", "final", {1: ["a", "b", "x"], 2: ["c"], 3: ["y", "z"]}, scores())
    assert made.not_scored == {1: ["x"], 3: ["y", "z"]}
    assert (made.to_plain()["folds"], made.to_plain()["notScored"]) == (3, {"1": ["x"], "3": ["y", "z"]})
    assert made.to_text().splitlines()[3].split()[:3] == ["fold", "3", "0"]
    assert FoldTable("study", "final", HELD_OUT, scores()).not_scored == {}


def test_a_fold_has_an_interval_of_its_own():
    three = [Score(1, name, name, "lesion", dice) for name, dice in (("a", 0.2), ("b", 0.4), ("c", 0.6))]
    fold, overall = FoldTable("study", "final", {1: ["a", "b", "c"]}, three).lines()
    assert (fold["ci_low"], fold["ci_high"]) == (overall["ci_low"], overall["ci_high"])
    assert 0.2 <= fold["ci_low"] < 0.4 < fold["ci_high"] <= 0.6


def test_scores_come_from_the_rows_of_a_session() -> None:
    rows = [{"case": "a1", "class_name": "lesion", "dice": 0.5, "class_index": 1}]
    assert scores_of_fold(1, rows, {"a1": "a"}) == scores()[:1]
