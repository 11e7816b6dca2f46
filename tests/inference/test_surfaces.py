"""Distances between surfaces, against brute force, scipy and MONAI."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

from deepmedic.inference import surfaces
from deepmedic.inference.surfaces import distances_to, surface, surface_scores

SPACINGS = {"isotropic": (1.0, 1.0, 1.0), "anisotropic": (0.7, 1.3, 5.0), "thick-x": (4.0, 0.5, 1.1)}


def brute_force(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """HD95 and ASSD from all pairs of surface voxels, each found by looking at its six neighbours."""

    def surface_points(mask: np.ndarray) -> np.ndarray:
        found = []
        for place in itertools.product(*map(range, mask.shape)):
            neighbours = [tuple(np.add(place, step)) for step in [*np.eye(3, dtype=int), *-np.eye(3, dtype=int)]]
            closed = all(
                all(0 <= index < size for index, size in zip(neighbour, mask.shape, strict=True)) and mask[neighbour]
                for neighbour in neighbours
            )
            if mask[place] and not closed:
                found.append(np.array(place) * spacing)
        return np.array(found)

    points, others = surface_points(first), surface_points(second)
    pairs = np.sqrt(((points[:, np.newaxis] - others) ** 2).sum(axis=2))
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float(np.concatenate([there, back]).mean())


def masks(seed: int, shape=(9, 8, 7)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    blobs = [ndimage.gaussian_filter(rng.random(shape), 1.5) for _ in range(2)]
    first, second = (blob > np.quantile(blob, 0.7) for blob in blobs)
    return first, second


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_brute_force(seed, spacing):
    first, second = masks(seed)
    scores = surface_scores(first, second, spacing)
    assert (scores.hd95, scores.assd) == pytest.approx(brute_force(first, second, spacing), rel=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
def test_scores_equal_monai(spacing):
    first, second = masks(11, (24, 20, 18))
    batches = [torch.from_numpy(mask).float()[None, None] for mask in (first, second)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = compute_hausdorff_distance(*batches, include_background=True, percentile=95, spacing=spacing)
        assd = compute_average_surface_distance(*batches, include_background=True, symmetric=True, spacing=spacing)
    scores = surface_scores(first, second, spacing)
    assert (scores.hd95, scores.assd) == pytest.approx((hd95.item(), assd.item()), rel=1e-5)


def test_masks_at_the_border_of_the_image_are_closed_there():
    """Half of the image, once to its left and once to its right end: 2 voxels of 3 mm apart at the far ends."""
    first, second = np.zeros((2, 6, 3, 3), bool)
    first[:3], second[3:] = True, True
    scores = surface_scores(first, second, (3.0, 1.0, 1.0))
    assert (scores.hd95, scores.assd) == pytest.approx(brute_force(first, second, (3.0, 1.0, 1.0)))
    assert scores.hd95 == 9.0
    wide = [np.pad(mask, 4) for mask in (first, second)]
    assert surface_scores(*wide, (3.0, 1.0, 1.0)) == scores


def test_scores_are_symmetric_and_zero_for_equal_masks():
    first, second = masks(5)
    spacing = (0.9, 0.9, 3.0)
    assert surface_scores(first, second, spacing) == surface_scores(second, first, spacing)
    assert surface_scores(first, first, spacing) == surface_scores(first, first.copy(), spacing)
    assert surface_scores(first, first, spacing).hd95 == 0


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
def test_scores_do_not_depend_on_the_order_of_axes(axes):
    first, second = masks(8)
    spacing = (0.5, 1.0, 2.5)
    turned = surface_scores(first.transpose(axes), second.transpose(axes), [spacing[axis] for axis in axes])
    expected = surface_scores(first, second, spacing)
    assert (turned.hd95, turned.assd) == pytest.approx((expected.hd95, expected.assd), rel=1e-12)


def test_empty_masks_follow_the_rule():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    for masks_ in ((empty, full), (full, empty)):
        scores = surface_scores(*masks_, (1, 1, 1))
        assert (scores.hd95, scores.assd) == (math.inf, math.inf)
    scores = surface_scores(empty, empty, (1, 1, 1))
    assert math.isnan(scores.hd95)
    assert math.isnan(scores.assd)


def test_the_surface_has_a_face_outside():
    mask = np.zeros((7, 7, 7), bool)
    mask[1:6, 1:6, 1:6] = True
    inner = np.zeros_like(mask)
    inner[2:5, 2:5, 2:5] = True
    np.testing.assert_array_equal(surface(mask), mask & ~inner)
    assert surface(np.ones((1, 4, 4), bool)).all()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    count=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_distances_equal_the_exact_transform_of_scipy(shape, spacing, count, seed):
    """Few targets, so that many points are far from all of them."""
    targets = np.zeros(shape, bool)
    targets.ravel()[np.random.default_rng(seed).integers(0, targets.size, count)] = True
    points = np.argwhere(np.ones(shape, bool))
    expected = ndimage.distance_transform_edt(~targets, sampling=spacing)
    np.testing.assert_allclose(distances_to(targets, points, spacing), expected.ravel(), rtol=1e-9, atol=1e-9)


def test_distances_are_exact_far_beyond_the_first_window():
    targets = np.zeros((60, 3, 70), bool)
    targets[0, 1, 2] = targets[59, 0, 69] = True
    points = np.array([[59, 2, 0], [30, 0, 30], [0, 1, 2]])
    expected = ndimage.distance_transform_edt(~targets, sampling=(2.0, 0.3, 1.0))
    found = distances_to(targets, points, (2.0, 0.3, 1.0))
    np.testing.assert_allclose(found, expected[tuple(points.T)], rtol=1e-12)


@pytest.mark.parametrize("at_once", [1, 20, 61])
def test_distances_do_not_depend_on_how_many_are_in_memory(monkeypatch, at_once):
    first, second = masks(3)
    expected = distances_to(first, np.argwhere(second), (0.7, 1.3, 2.0))
    monkeypatch.setattr(surfaces, "_CANDIDATES_AT_ONCE", at_once)
    np.testing.assert_array_equal(distances_to(first, np.argwhere(second), (0.7, 1.3, 2.0)), expected)
