"""Overlapping tiles against a slow weighted average, MONAI's weights, and what must not depend on overlap."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.inference import predictor
from deepmedic.inference.blending import Blending, blended, importance
from deepmedic.inference.execution import Attempt, InferenceSettings, attempts
from deepmedic.inference.predictor import predict_volume
from deepmedic.inference.tiling import tiling_by_segments

SEGMENT = (11, 12, 11)
HALF = Blending(overlap=0.5, sigma=0.125)
_KERNELS, _VALID, _NONE = ((3, 3, 3), (3, 3, 3)), ("valid",) * 2, (0.0,) * 2
ARCHITECTURE = Architecture(
    2,
    3,
    Pathway("normal", (4, 5), _KERNELS, _VALID, _NONE),
    (Pathway("subsampled1", (4, 3), _KERNELS, _VALID, _NONE, factor=(3, 3, 2)),),
    Pathway("fc", (6, 3), ((3, 3, 3), (1, 1, 1)), ("mirror", "valid"), _NONE),
    batch_norm_window=3,
)


def overlapping(tiling="segments", blending=HALF, **changes) -> InferenceSettings:
    return InferenceSettings(segment=SEGMENT, tiling=tiling, blending=blending, **changes)


@pytest.mark.parametrize(("size", "sigma"), [((7, 8, 5), 0.125), ((9, 9, 9), 0.25), ((4, 1, 6), 0.05)])
def test_weights_are_those_of_monai(size, sigma) -> None:
    monai = compute_importance_map(size, mode="gaussian", sigma_scale=sigma, device="cpu")
    found = importance(size, sigma)
    torch.testing.assert_close(found / found.max(), monai / monai.max(), atol=2e-6, rtol=1e-4)
    assert found.min() >= 1e-3


def slow_average(net, case, segment, stride, sigma) -> np.ndarray:
    """Every tile by itself: sum of weight x probability over sum of weights."""
    alone = InferenceSettings(segment=segment)
    predicted, margins = net.architecture.output_size(segment), net.architecture.margins(segment)
    starts = [
        sorted({*range(0, size - length, step), size - length})
        for size, length, step in zip(case.size, segment, stride, strict=True)
    ]
    total, weights = np.zeros((net.architecture.classes, *case.size)), np.zeros(case.size)
    curves = [np.exp(-(((np.arange(n) - (n - 1) / 2) / (sigma * n)) ** 2) / 2) for n in predicted]
    weight = np.maximum(np.einsum("x,y,z->xyz", *curves), 1e-3)
    with torch.inference_mode():
        for start in itertools.product(*starts):
            tile = one_tile(net, case, start, alone)
            box = tuple(slice(s + m[0], s + m[0] + n) for s, m, n in zip(start, margins, predicted, strict=True))
            total[(slice(None), *box)] += weight * tile
            weights[box] += weight
    return total / np.maximum(weights, 1e-30)


def one_tile(net, case, start, settings) -> np.ndarray:
    """The probabilities of one tile, by way of the plain predictor on a tiling of that tile alone."""
    tiling = tiling_by_segments(net.architecture, case.size, settings.segment)
    offset = torch.tensor([start])
    lower = offset + torch.tensor(tiling.margin)
    upper = lower + torch.tensor(net.architecture.output_size(settings.segment))
    single = replace(tiling, starts=offset, lower=lower, upper=upper)
    attempt = Attempt((single,), 1, torch.device("cpu"), torch.device("cpu"))
    [stitched] = predictor._predict(net, [(case, attempt)], settings, {}, None)
    box = tuple(slice(low, high) for low, high in zip(lower[0].tolist(), upper[0].tolist(), strict=True))
    return stitched.probabilities[(slice(None), *box)].numpy().astype(np.float64)


@pytest.mark.parametrize("factors", [(), ((3, 3, 2),)], ids=["one resolution", "two resolutions"])
def test_blended_tiles_are_a_weighted_average(make_net, make_case, factors) -> None:
    net, case = make_net(factors), make_case((13, 14, 12))
    predicted = net.architecture.output_size(SEGMENT)  # 7, 8, 7
    stride = [max(1, length // 2) for length in predicted]
    expected = slow_average(net, case, SEGMENT, stride, 0.125)
    found = predict_volume(net, case, overlapping(batch_size=3))
    np.testing.assert_allclose(found.probabilities.numpy(), expected, atol=2e-6)


def test_blending_smooths_what_segments_leave_at_tile_borders(make_net, make_case) -> None:
    """With a low-resolution pathway the plain tiles disagree; the weighted mean differs from them."""
    net, case = make_net(((3, 3, 3),)), make_case((18, 18, 18))
    plain = predict_volume(net, case, InferenceSettings(segment=SEGMENT)).probabilities
    blurred = predict_volume(net, case, overlapping()).probabilities
    assert 1e-4 < (plain - blurred).abs().max() < 0.5
    reached = plain.sum(dim=0) > 0
    torch.testing.assert_close(blurred.sum(dim=0), reached.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", ["mirror", "zero", "valid"])
def test_auto_tiles_agree_wherever_they_overlap(make_net, make_case, padding) -> None:
    net, case = make_net(((3, 3, 2),), fc_kernel=(3, 3, 3), fc_padding=padding), make_case((20, 19, 18))
    plain = predict_volume(net, case, InferenceSettings(segment=SEGMENT, tiling="auto", tile_memory=150_000))
    found = predict_volume(net, case, overlapping("auto", tile_memory=150_000))
    torch.testing.assert_close(found.probabilities, plain.probabilities, atol=2e-6, rtol=0)
    assert torch.equal(found.segmentation, plain.segmentation)


@pytest.mark.parametrize("tiling", ["segments", "auto"])
def test_roi_chooses_tiles_and_changes_nothing_inside(make_net, make_case, tiling) -> None:
    net, roi = make_net(((3, 3, 3),)), torch.zeros(20, 20, 20, dtype=torch.bool)
    roi[11:14, 9:12, 12:15] = True
    chosen = overlapping(tiling, tile_memory=100_000)
    everywhere = predict_volume(net, make_case((20, 20, 20)), chosen).probabilities
    counts: list[int] = []
    inside = predict_volume(
        net, make_case((20, 20, 20), roi=roi), chosen, progress=lambda _, total: counts.append(total)
    )
    torch.testing.assert_close(inside.probabilities, everywhere * roi, atol=2e-6, rtol=0)
    plan = next(attempts(net.architecture, (20, 20, 20), None, chosen))
    assert counts[0] < plan.tile_count


@pytest.mark.parametrize("place", [(2, 2, 2), (2, 9, 16), (19, 2, 4)])
def test_roi_of_one_voxel_beside_the_border(make_net, make_case, place) -> None:
    """The tile that is enough for it is shorter than the context that a tile in the middle must leave out."""
    net, size = make_net(((3, 3, 2),), (5, 5, 5)), (22, 20, 19)
    roi = torch.zeros(size, dtype=torch.bool)
    roi[place] = True
    case = make_case(size, roi)
    expected = predict_volume(net, case, InferenceSettings(segment=SEGMENT, tiling="auto"))
    found = predict_volume(net, case, overlapping("auto"))
    assert expected.probabilities.sum().item() == pytest.approx(1)
    torch.testing.assert_close(found.probabilities, expected.probabilities, atol=1e-5, rtol=0)


def test_empty_roi_needs_no_tiles(make_net, make_case) -> None:
    case = make_case((14, 14, 14), roi=torch.zeros(14, 14, 14, dtype=torch.bool))
    for tiling in ("segments", "auto"):
        assert not predict_volume(make_net(), case, overlapping(tiling)).probabilities.any()


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(*[st.integers(12, 26)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    shared=st.booleans(),
)
def test_every_predictable_voxel_is_given(size, overlap, shared) -> None:
    settings = InferenceSettings(segment=SEGMENT, tiling="auto" if shared else "segments", tile_memory=120_000)
    plain = next(attempts(ARCHITECTURE, size, None, settings))
    found = blended(ARCHITECTURE, plain.tilings[0], size, Blending(overlap, 0.125), None, shared_grid=shared)
    covered = [np.zeros(size, bool) for _ in range(2)]
    for mask, tiling in zip(covered, (plain.tilings[0], found), strict=True):
        for target, source in tiling.written_boxes(0, len(tiling)):
            mask[target] = True
            assert all(part.start >= 0 for part in source)
    assert np.array_equal(*covered)
    assert (found.starts >= 0).all()
    assert (found.starts + torch.tensor(found.segment) <= torch.tensor(size)).all()
