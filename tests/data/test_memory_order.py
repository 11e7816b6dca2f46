"""Blocks are copied to another order of memory: the same voxels, whatever the axes of the view."""

import itertools

import numpy as np
import pytest

from deepmedic.data.memory_order import in_c_order, in_file_order

SIZES = [(1, 1, 1), (1, 70, 3), (70, 1, 3), (64, 8, 5), (65, 9, 4), (130, 17, 33), (3, 5, 0)]


def volume(size: tuple[int, int, int], dtype: str = "f4") -> np.ndarray:
    return np.arange(np.prod(size)).reshape(size).astype(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", ">f8", "?"])
def test_voxels_are_the_same(size: tuple[int, int, int], dtype: str) -> None:
    for values in (volume(size, dtype), np.asfortranarray(volume(size, dtype))):
        found, back = in_c_order(values), in_file_order(values)
        assert found.flags.c_contiguous
        assert back.flags.f_contiguous
        assert found.dtype == back.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("steps", list(itertools.product((1, -1), repeat=3)))
def test_views_with_axes_swapped_and_reversed(axes: tuple[int, ...], steps: tuple[int, ...]) -> None:
    view = np.asfortranarray(volume((66, 10, 19))).transpose(axes)[tuple(slice(None, None, step) for step in steps)]
    expected = np.array(view.tolist(), view.dtype)
    np.testing.assert_array_equal(in_c_order(view), expected)
    np.testing.assert_array_equal(in_file_order(view), expected)


def test_nothing_is_copied_without_need() -> None:
    values = volume((4, 5, 6))
    assert in_c_order(values) is values
    ordered = np.asfortranarray(values)
    assert np.shares_memory(in_file_order(ordered), ordered)


def test_an_array_is_filled_in_its_own_type() -> None:
    values, target = np.asfortranarray(volume((65, 9, 4), "i2")), np.zeros((2, 65, 9, 4), np.float32)
    assert in_c_order(values, target[1]).base is target
    np.testing.assert_array_equal(target[1], values)
    assert not target[0].any()
    in_c_order(volume((65, 9, 4)), target[0])
    np.testing.assert_array_equal(target[0], target[1])
