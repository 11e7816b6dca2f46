"""Tiles chosen for speed: they cover the ROI, keep one low-resolution grid and fit into memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.errors import ResourceError
from deepmedic.inference import auto_tiling
from deepmedic.inference.auto_tiling import auto_tiles, common_multiples, padded_context
from deepmedic.inference.forward_cost import forward_cost
from deepmedic.inference.tiling import Tiling, tiling_by_segments

PLENTY = 2**40


def architecture(factors=((3, 3, 1),), fc_kernel=(3, 2, 1), fc_padding="mirror") -> Architecture:
    kernels = ((3, 3, 3), (3, 3, 1))
    valid = ("valid",) * 2
    normal = Pathway("normal", (4, 5), kernels, valid, (0.0,) * 2)
    subsampled = tuple(
        Pathway(f"subsampled{number}", (4, 3), kernels, valid, (0.0,) * 2, factor=factor)
        for number, factor in enumerate(factors, 1)
    )
    fc = Pathway("fc", (6, 2), (fc_kernel, (1, 1, 1)), (fc_padding, "valid"), (0.0, 0.5))
    return Architecture(2, 2, normal, subsampled, fc)


def written(tiling: Tiling, volume) -> torch.Tensor:
    covered = torch.zeros(volume, dtype=torch.bool)
    for box, _ in tiling.written_boxes(0, len(tiling)):
        covered[box] = True
    return covered


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_tiles_that_touch_blocks_are_counted_as_by_looking_at_each(data) -> None:
    size = data.draw(st.tuples(*[st.integers(5, 30)] * 3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    blocks = auto_tiling._coarse(torch.rand(size, generator=generator) < data.draw(st.sampled_from([0.0, 0.001, 0.1])))
    ends = [sorted(data.draw(st.lists(st.integers(0, length), min_size=2, max_size=6, unique=True))) for length in size]
    axes = tuple(auto_tiling._AxisLayout(1, (), tuple(itertools.pairwise(cuts))) for cuts in ends)
    expected = sum(
        bool(blocks[tuple(slice(low // 4, -(-high // 4)) for low, high in tile)].any())
        for tile in itertools.product(*(axis.written for axis in axes))
    )
    sums = auto_tiling._BlockSums(blocks)
    assert sums.touched(auto_tiling._Layout(axes, 1)) == expected
    assert sums.total == int(blocks.sum())


@settings(max_examples=40, deadline=None)
@given(
    volume=st.tuples(*[st.integers(12, 40)] * 3),
    factors=st.lists(st.tuples(*[st.integers(1, 4)] * 3), max_size=2).map(tuple),
    memory=st.sampled_from([100_000, 400_000, 2_000_000, PLENTY]),
    box=st.none() | st.tuples(*[st.tuples(st.integers(0, 39), st.integers(0, 39))] * 3),
)
def test_tiles_cover_the_roi_with_full_context_on_one_grid(volume, factors, memory, box) -> None:
    net = architecture(factors)
    roi = None
    if box is not None:
        roi = torch.zeros(volume, dtype=torch.bool)
        roi[tuple(slice(min(ends), max(ends) + 1) for ends in box)] = True
    try:
        tiling = auto_tiles(net, volume, memory, roi)
    except ResourceError:
        assert memory < PLENTY
        return

    margins, context, multiples = net.margins(volume), padded_context(net), common_multiples(net)
    predicted = torch.zeros(volume, dtype=torch.bool)
    predicted[tuple(slice(low, size - high) for (low, high), size in zip(margins, volume, strict=True))] = True
    covered = written(tiling, volume)
    assert not (covered & ~predicted).any()
    assert not (predicted & ~covered & (True if roi is None else roi)).any()
    for start, lower, upper in zip(tiling.starts.tolist(), tiling.lower.tolist(), tiling.upper.tolist(), strict=True):
        for axis in range(3):
            end = start[axis] + tiling.segment[axis]
            assert start[axis] % multiples[axis] == 0
            assert start[axis] >= 0
            assert end <= volume[axis]
            assert lower[axis] == start[axis] + margins[axis][0] + (context[axis][0] if start[axis] else 0)
            assert upper[axis] == end - margins[axis][1] - (context[axis][1] if end < volume[axis] else 0)
    assert len(tiling) == 0 or forward_cost(net, tiling.segment).memory <= memory


def test_enough_memory_gives_one_tile() -> None:
    tiling = auto_tiles(architecture(), (30, 32, 20), PLENTY)
    assert tiling.segment == (30, 32, 20)
    assert tiling.starts.tolist() == [[0, 0, 0]]
    assert tiling.lower.tolist() == [[2, 2, 1]]
    assert tiling.upper.tolist() == [[28, 30, 19]]


def test_less_memory_gives_smaller_tiles() -> None:
    sizes = [auto_tiles(architecture(), (60, 60, 60), memory).segment for memory in (4_000_000, 16_000_000, PLENTY)]
    voxels = [x * y * z for x, y, z in sizes]
    assert voxels[0] < voxels[1] < voxels[2] == 60**3


def test_auto_computes_less_than_small_segments() -> None:
    net, volume = architecture(), (90, 90, 60)
    auto = auto_tiles(net, volume, 40_000_000)
    segments = tiling_by_segments(net, volume, (13, 13, 11))
    work = [len(tiling) * int(forward_cost(net, tiling.segment).multiplications) for tiling in (auto, segments)]
    assert work[0] < 0.75 * work[1]


def test_tiles_follow_the_roi() -> None:
    roi = torch.zeros(64, 64, 64, dtype=torch.bool)
    roi[40:52, 8:20, 30:36] = True
    tiling = auto_tiles(architecture(), (64, 64, 64), PLENTY, roi)
    assert len(tiling) == 1
    assert max(tiling.segment) < 24


def test_tiles_beside_the_roi_are_dropped() -> None:
    roi = torch.zeros(64, 64, 64, dtype=torch.bool)
    roi[:20, :20, :20] = roi[-20:, -20:, -20:] = True
    tiling = auto_tiles(architecture(), (64, 64, 64), 5_000_000, roi)
    touching = [bool(roi[box].any()) for box, _ in tiling.written_boxes(0, len(tiling))]
    columns = itertools.product(*({start[axis] for start in tiling.starts.tolist()} for axis in range(3)))
    assert all(touching)
    assert len(tiling) < len(list(columns))


@pytest.mark.parametrize("voxel", [None, (0, 0, 0)], ids=["empty", "only in the margin"])
def test_nothing_to_predict_needs_no_tiles(voxel) -> None:
    roi = torch.zeros(20, 20, 20, dtype=torch.bool)
    if voxel:
        roi[voxel] = True
    assert len(auto_tiles(architecture(), (20, 20, 20), PLENTY, roi)) == 0


def test_too_little_memory_says_what_to_do() -> None:
    with pytest.raises(
        ResourceError, match=r"volume of 40x40x40 voxels needs more than the 0 MiB .* allow more memory"
    ):
        auto_tiles(architecture(), (40, 40, 40), 1000)


def test_common_multiple_of_all_pathways() -> None:
    assert common_multiples(architecture(((3, 2, 1), (5, 4, 1)))) == (15, 4, 1)
    assert common_multiples(architecture(())) == (1, 1, 1)


def test_context_of_padded_convolutions() -> None:
    assert padded_context(architecture(fc_kernel=(3, 2, 5))) == ((1, 1), (0, 1), (2, 2))
    assert padded_context(architecture(fc_padding="valid")) == ((0, 0),) * 3
