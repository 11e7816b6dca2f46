"""The table of a cross-validation, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deepmedic.sessions.training.fold_table import FoldTable, Score, scores_of_fold


def scores() -> list[Score]:
    return [
        Score(1, "a", "a1", "lesion", 0.5),
        Score(1, "a", "a2", "lesion", 0.7),
        Score(1, "b", "b", "lesion", math.nan),
        Score(2, "c", "c", "lesion", 0.2),
    ]


def test_the_table_by_hand(tmp_path):
    made = FoldTable("study", "final", scores())
    first, second, overall = made.lines()
    assert first == {
        "fold": 1,
        "class_name": "lesion",
        "subjects": 2,
        "undefined": 1,
        "mean": pytest.approx(0.6),
        "sd": pytest.approx(math.nan, nan_ok=True),
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


def test_scores_come_from_the_rows_of_a_session() -> None:
    rows = [{"case": "a1", "class_name": "lesion", "dice": 0.5, "class_index": 1}]
    assert scores_of_fold(1, rows, {"a1": "a"}) == scores()[:1]
