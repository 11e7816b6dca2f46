from __future__ import annotations

import pytest

from deepmedic.words import channels_by_number, classes_by_number, counted


@pytest.mark.parametrize(("number", "expected"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases"), (-1, "-1 cases")])
def test_nouns_with_an_s(number, expected):
    assert counted(number, "case") == expected


def test_other_plurals():
    assert [counted(number, "class", "classes") for number in (1, 3)] == ["1 class", "3 classes"]


def test_classes_without_names():
    assert classes_by_number(3) == ("background", "class 1", "class 2")


def test_channels_without_names():
    assert channels_by_number(2) == ("channel 1", "channel 2")
