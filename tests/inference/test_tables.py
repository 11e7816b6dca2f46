"""Tables of scores over cases."""

from __future__ import annotations

import csv
import json
import math
import statistics
from pathlib import Path

import pytest
import torch

from deepmedic.inference import tables
from deepmedic.inference.tables import summary, write_metrics_csv, write_metrics_json, write_tables
from deepmedic.metrics import MetricsRow, confusion_matrix, merged_counts, metrics_row, scored_classes


def rows_of(predicted: list[int], labels: list[int], case: str = "a", hd95: float = 3.0, **regions) -> list[MetricsRow]:
    matrix = confusion_matrix(torch.tensor(predicted), torch.tensor(labels), 3)
    return [
        metrics_row(case, one, merged_counts(matrix, one.classes), 2.5, {"hd95_mm": hd95, "lesions_truth": 2})
        for one in scored_classes(3, None, regions)
    ]


THREE = [
    *rows_of([0, 1, 2], [0, 1, 2], "a", core=(1, 2)),
    *rows_of([0, 1, 0], [0, 1, 0], "b", core=(1, 2)),
    *rows_of([0, 0, 2], [0, 1, 2], "c", math.inf, core=(1, 2)),
]


def test_summary_counts_what_is_undefined_and_keeps_infinity():
    foreground, first, second, core = summary(THREE)
    assert (foreground["class_name"], first["class_name"], first["cases"]) == ("whole foreground", "class 1", 3)
    assert first["mean"]["dice"] == pytest.approx(2 / 3)
    assert first["median"]["dice"] == 1
    assert first["std"]["dice"] == pytest.approx(statistics.stdev([1, 1, 0]))
    assert first["ci95"]["dice"] == [0, 1]
    assert first["undefined"] == dict.fromkeys(first["mean"], 0) | {"precision": 1}
    assert second["mean"]["dice"] == 1
    assert second["undefined"]["dice"] == 1
    assert second["mean"]["hd95_mm"] == math.inf
    assert second["median"]["hd95_mm"] == 3
    assert math.isnan(second["std"]["hd95_mm"])
    assert second["infinite"]["hd95_mm"] == 1
    assert (core["class_index"], core["classes"]) == (None, [1, 2])
    assert core["mean"] == foreground["mean"]


def test_counts_are_summed_up_too_and_names_are_not():
    line = summary(THREE)[0]
    assert line["mean"]["lesions_truth"] == 2
    assert line["mean"]["voxels_truth"] == pytest.approx(5 / 3)
    assert not {"case", "class_index", "class_name", "classes"} & set(line["mean"])


def test_one_case_has_neither_interval_nor_deviation():
    line = summary(rows_of([0, 1, 2], [0, 1, 2]))[0]
    assert line["mean"]["dice"] == line["median"]["dice"] == 1
    assert all(math.isnan(number) for number in (line["std"]["dice"], *line["ci95"]["dice"]))


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_every_row_and_number_in_full(tmp_path):
    rows = [*rows_of([0, 1, 1, 2], [0, 1, 1, 1], 'case "1", left', 0.1), *rows_of([0], [0], "b", math.nan, core=(2, 1))]
    path = tmp_path / "metrics.csv"
    write_metrics_csv(path, rows)
    first = path.read_bytes()
    write_metrics_csv(path, rows)
    assert path.read_bytes() == first
    assert b"\r" not in first
    lines = read_csv(path)
    assert [lines[0]["hd95_mm"], lines[3]["hd95_mm"]] == ["0.1", "nan"]
    assert lines[1]["case"] == 'case "1", left'
    assert [line["classes"] for line in lines] == ["1+2", "1", "2", "1+2", "1", "2", "1+2"]
    assert [lines[0]["class_index"], lines[-1]["class_index"]] == ["0", ""]
    for line, row in zip(lines, rows, strict=True):
        assert float(line["dice"]) == pytest.approx(row.dice, abs=0, nan_ok=True)
        assert int(line["voxels_truth"]) == row.voxels_truth


def test_csv_without_cases_has_its_heading(tmp_path):
    write_metrics_csv(tmp_path / "metrics.csv", [])
    assert (tmp_path / "metrics.csv").read_text().startswith("case,class_index,class_name,classes,dice,")


def test_json_has_rows_summary_and_mean(tmp_path):
    rows = [*rows_of([0, 1], [0, 1], "a"), *rows_of([0, 2], [0, 1], "b")]
    path = tmp_path / "metrics.json"
    write_metrics_json(path, rows)
    content = json.loads(path.read_text())
    assert content["mean_foreground_dice"] == pytest.approx((0.5 + 0) / 2)
    assert [row["case"] for row in content["rows"]] == ["a"] * 3 + ["b"] * 3
    assert math.isnan(content["rows"][2]["dice"])
    assert content["summary"][2]["undefined"]["dice"] == 1
    assert content["ci95"] == tables.BOOTSTRAP.to_plain()


def test_the_summary_as_csv_says_the_same(tmp_path):
    assert [path.name for path in write_tables(tmp_path, THREE)] == [
        "metrics.csv",
        "metrics_summary.csv",
        "metrics.json",
        "metrics.md",
    ]
    lines = {(line["class_name"], line["metric"]): line for line in read_csv(tmp_path / "metrics_summary.csv")}
    assert float(lines["class 1", "dice"]["mean"]) == pytest.approx(2 / 3)
    assert lines["class 2", "hd95_mm"] == {
        "class_index": "2",
        "class_name": "class 2",
        "classes": "2",
        "metric": "hd95_mm",
        "cases": "3",
        "mean": "inf",
        "ci95_low": "3.0",
        "ci95_high": "inf",
        "median": "3.0",
        "std": "nan",
        "undefined": "0",
        "infinite": "1",
    }


def test_tables_of_an_earlier_run_go_when_nothing_is_scored(tmp_path):
    write_tables(tmp_path, THREE)
    (tmp_path / "kept.txt").write_text("of the user")
    assert write_tables(tmp_path, []) == []
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
