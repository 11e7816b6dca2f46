"""Values as people read them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deepmedic.report.page_values import UNDEFINED, cell, shown, words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, UNDEFINED),
        (math.nan, UNDEFINED),
        (math.inf, "∞"),
        (True, "yes"),
        (0.002, "0.002"),
        ([], "none"),
        ([1, (2.5, None)], f"1, 2.5, {UNDEFINED}"),
        ({"a": {"b": 1}}, "a: b: 1"),
        ("<b>", "<b>"),
    ],
    ids=["none", "nan", "inf", "flag", "small", "empty", "list", "table", "text"],
)
def test_values_in_words(value: Any, expected: str) -> None:
    assert shown(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, "0.5000"),
        (12.345, "12.35"),
        (1834.42, "1834.42"),
        (1e6, "1000000"),
        (1e-5, "1e-05"),
        (7, "7"),
        ([0.25, 1.0], "0.2500 to 1.0000"),
        ([math.nan, math.nan], UNDEFINED),
    ],
    ids=["ratio", "tens", "thousands", "millions", "tiny", "count", "interval", "undefined"],
)
def test_numbers_of_a_column_have_equal_decimals(value: Any, expected: str) -> None:
    assert cell(value) == expected


def test_names_of_columns_become_words() -> None:
    assert words("volume_truth_ml") == "volume truth ml"
