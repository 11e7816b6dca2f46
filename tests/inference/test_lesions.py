"""Counts of lesions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from deepmedic.inference.lesions import count_lesions


def test_lesions_by_hand():
    true, predicted = np.zeros((2, 12, 12, 3), bool)
    true[0:2, 0:2] = True  # detected by one voxel
    true[5:7, 5:7] = True  # missed
    true[10, 10, 0] = true[11, 11, 1] = True  # joined at a corner; detected
    predicted[1, 1, 0] = True
    predicted[9:12, 9:12, 0] = True
    predicted[0, 9] = predicted[0, 11, 2] = True  # two false ones
    found = count_lesions(predicted, true)
    assert (found.true, found.predicted, found.detected, found.missed, found.false) == (3, 4, 2, 1, 2)
    assert found.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))


def test_one_prediction_may_detect_several_lesions():
    true = np.zeros((9, 3, 3), bool)
    true[1, 1, 1] = true[4, 1, 1] = true[7, 1, 1] = True
    found = count_lesions(np.ones_like(true), true)
    assert (found.true, found.predicted, found.detected, found.false, found.f1) == (3, 1, 3, 0, 1.0)


def test_empty_masks():
    empty, full = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    assert (count_lesions(empty, full).missed, count_lesions(empty, full).f1) == (1, 0)
    assert (count_lesions(full, empty).false, count_lesions(full, empty).f1) == (1, 0)
    assert math.isnan(count_lesions(empty, empty).f1)


def test_counts_equal_those_of_scipy():
    rng = np.random.default_rng(4)
    true, predicted = rng.random((2, 20, 18, 9)) < 0.05
    cube = np.ones((3, 3, 3))
    (lesions, count), (found, predicted_count) = ndimage.label(true, cube), ndimage.label(predicted, cube)
    result = count_lesions(predicted, true)
    assert (result.true, result.predicted) == (count, predicted_count)
    assert result.detected == sum(bool(predicted[lesions == number].any()) for number in range(1, count + 1))
    assert result.false == sum(not true[found == number].any() for number in range(1, predicted_count + 1))
