"""Forecasts are appended, never changed: every change is noticed."""

from __future__ import annotations

import json
import math

import pytest

from deepmedic.analysis.forecasts import append_forecast, forecasts_file, read_forecasts
from deepmedic.analysis.record_chain import FIRST
from deepmedic.errors import DataError


@pytest.fixture
def three(tmp_path):
    path = forecasts_file(tmp_path)
    for number in range(3):
        append_forecast(path, {"date": f"day {number}", "gain": 0.1 * number})
    return path


def test_records_are_chained_by_digests(three) -> None:
    records = read_forecasts(three)
    assert [record["number"] for record in records] == [1, 2, 3]
    assert [record["before"] for record in records] == [FIRST, records[0]["sha256"], records[1]["sha256"]]
    assert [record["forecast"]["gain"] for record in records] == pytest.approx([0.0, 0.1, 0.2])


def test_the_same_forecast_on_another_day_is_not_a_new_one(three) -> None:
    before = three.read_bytes()
    assert append_forecast(three, {"date": "day 9", "gain": 0.0})["number"] == 1
    assert three.read_bytes() == before


def test_earlier_lines_stay_as_they_are(three) -> None:
    before = three.read_bytes()
    append_forecast(three, {"date": "day 9", "gain": 7.0})
    assert three.read_bytes().startswith(before)
    assert len(read_forecasts(three)) == 4


@pytest.mark.parametrize("change", ["value", "removed", "swapped"])
def test_a_change_is_noticed_and_nothing_is_appended(three, change) -> None:
    lines = three.read_text().splitlines()
    if change == "value":
        record = json.loads(lines[1])
        record["forecast"]["gain"] = 0.9
        lines[1] = json.dumps(record, sort_keys=True)
    elif change == "removed":
        del lines[1]
    else:
        lines[0], lines[1] = lines[1], lines[0]
    three.write_text("\n".join(lines) + "\n")
    before = three.read_bytes()
    with pytest.raises(DataError, match=r"forecasts.jsonl:\d: this record of a forecast is not as it was written"):
        read_forecasts(three)
    with pytest.raises(DataError, match="forecasts are never changed"):
        append_forecast(three, {"gain": 1.0})
    assert three.read_bytes() == before


def test_a_line_that_a_crash_cut_short_is_passed_over(three) -> None:
    text = three.read_text()
    three.write_text(text + '{"format": 1, "num')
    assert len(read_forecasts(three)) == 3
    assert append_forecast(three, {"gain": 5.0})["number"] == 4
    assert len(read_forecasts(three)) == 4


def test_numbers_that_json_lacks_become_null(tmp_path) -> None:
    path = forecasts_file(tmp_path)
    append_forecast(path, {"gain": math.nan, "limits": [-math.inf, 0.5]})
    assert read_forecasts(path)[0]["forecast"] == {"gain": None, "limits": [None, 0.5]}
    assert "NaN" not in path.read_text()


def test_there_are_none_without_a_file(tmp_path) -> None:
    assert read_forecasts(tmp_path / "none.jsonl") == []
