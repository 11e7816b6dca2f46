"""Reflection without repeating the edge: golden numbers of the original, and NumPy's own padding as oracle."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.data.padding import extended, reflect

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocessing"
GOLDEN_CASES = json.loads((GOLDEN / "padding.json").read_text())["pad_imgs_of_case"]


@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda case: str(case["case"]))
def test_padding_equals_the_original(case: dict) -> None:
    arrays = np.load(GOLDEN / "padding.npz")
    padding = tuple(map(tuple, case["margin_left_right_per_axis"]))
    for name in ("channels", "gt", "roi"):
        found = reflect(arrays[f"{name}{case['case']}"], padding)
        np.testing.assert_array_equal(found, arrays[f"{name}_padded{case['case']}"])


def test_reflection_by_hand() -> None:
    row = np.array([0, 1, 2]).reshape(3, 1, 1)
    padded = reflect(row, ((3, 4), (0, 0), (2, 1)))
    np.testing.assert_array_equal(padded[:, 0, 0], [1, 2, 1, 0, 1, 2, 1, 0, 1, 2])
    assert padded.shape == (10, 1, 4)
    np.testing.assert_array_equal(padded, np.repeat(padded[:, :, :1], 4, axis=2))


amounts = st.tuples(st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(amounts, amounts, amounts),
    leading=st.booleans(),
)
def test_padding_equals_numpy_for_any_amount(shape: tuple, padding: tuple, leading: bool) -> None:
    array = np.arange(np.prod(shape) * (2 if leading else 1)).reshape(((2,) if leading else ()) + shape)
    expected = np.pad(array, (((0, 0),) if leading else ()) + padding, mode="reflect")
    np.testing.assert_array_equal(reflect(array, padding), expected)


def test_small_volumes_get_more_at_the_far_end_only() -> None:
    margins = ((8, 8), (0, 0), (2, 3))
    assert extended((9, 30, 4), margins, (25, 25, 25)) == ((8, 8), (0, 0), (2, 19))
    assert extended((8, 24, 20), margins, (25, 25, 25)) == ((8, 9), (0, 1), (2, 3))
    assert extended((1, 1, 1), margins, None) == margins
