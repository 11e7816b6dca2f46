"""Tables and curves of a report, from files whose columns may grow."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from deepmedic.plots.histories import HistoryRow, SessionHistory
from deepmedic.sessions.reports.report_tables import charts_of, read_metrics, read_summary

METRICS = """case,class_index,class_name,classes,dice,voxels_truth,hd95_mm
007,0,whole foreground,1+2,0.9,10,1.5
007,1,core,1,0.5,4,inf
007,2,shell,2,nan,0,
007,,a region,1,0.1,4,1.0
b,1,core,1,0.7,3,2.0
"""


def test_metrics_are_read_whatever_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)

    metrics = read_metrics(path)

    assert metrics is not None
    table = metrics.table
    assert table.columns == ("case", "class", "dice", "hd95_mm", "voxels_truth")
    assert table.rows[0] == ("007", "whole foreground", 0.9, 1.5, 10)
    assert table.rows[1][3] == math.inf
    assert math.isnan(table.rows[2][3])
    assert metrics.scores == {"007": pytest.approx(0.5), "b": pytest.approx(0.7)}


def test_a_missing_or_other_table_is_none(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")

    assert read_metrics(tmp_path / "gone.csv") is None
    assert read_metrics(tmp_path / "other.csv") is None


def test_the_summary_has_a_row_per_class_and_statistic(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    line = {
        "class_index": 1,
        "class_name": "core",
        "cases": 3,
        "mean": {"dice": 0.5},
        "median": {"dice": 0.6, "hd95": 2.0},
        "ci95": {"dice": [0.25, 0.75]},
        "std": {"dice": math.nan},
        "undefined": {"dice": 1},
        "infinite": {"dice": 0},
    }
    path.write_text(json.dumps({"mean_foreground_dice": 0.5, "summary": [line], "rows": []}))

    table, mean = read_summary(path)

    assert mean == 0.5
    assert table is not None
    assert table.columns == ("class", "cases", "over cases", "dice", "hd95")
    interval = ("95 % interval of the mean", [0.25, 0.75])
    assert [row[2:4] for row in table.rows] == [("mean", 0.5), ("median", 0.6), interval, ("undefined", 1)]
    path.write_text("[]")
    assert read_summary(path) == (None, None)


def test_curves_of_one_class_have_one_colour() -> None:
    rows = [
        HistoryRow(epoch, subepoch, role, label, {"dice": 0.1 * epoch, "accuracy": 0.5})
        for epoch in range(2)
        for subepoch in range(2)
        for role in ("training", "validation")
        for label in ("all", "foreground", "1", "2")
    ]

    charts = {chart.title: chart for chart in charts_of(SessionHistory("s", Path("s.csv"), tuple(rows)))}

    assert set(charts) == {"Accuracy on samples", "Dice on samples"}
    lines = charts["Dice on samples"].lines
    assert [(line.name, line.colour, line.dashed) for line in lines] == [
        ("whole foreground, training", 0, True),
        ("class 1, training", 1, True),
        ("class 2, training", 2, True),
        ("whole foreground, validation", 0, False),
        ("class 1, validation", 1, False),
        ("class 2, validation", 2, False),
    ]
