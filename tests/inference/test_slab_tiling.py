"""Slabs of an ROI: they cover it with full context, begin where tiles may, and take less than tiles of one size."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.inference.auto_tiling import auto_tiles, common_multiples, padded_context
from deepmedic.inference.forward_cost import forward_cost
from deepmedic.inference.slab_tiling import slab_tiles
from deepmedic.inference.tiling import Tiling

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


def ball(size: int, radius: float) -> torch.Tensor:
    along = torch.arange(size) - (size - 1) / 2
    return along[:, None, None].square() + along[:, None].square() + along.square() <= radius**2


def written(tilings: tuple[Tiling, ...], volume) -> torch.Tensor:
    covered = torch.zeros(volume, dtype=torch.bool)
    for tiling in tilings:
        for box, _ in tiling.written_boxes(0, len(tiling)):
            covered[box] = True
    return covered


def multiplications(net: Architecture, tilings: tuple[Tiling, ...]) -> int:
    """What the forward passes of all tiles take."""
    return sum(len(tiling) * int(forward_cost(net, tiling.segment).multiplications) for tiling in tilings)


@settings(max_examples=40, deadline=None)
@given(
    volume=st.tuples(*[st.integers(12, 60)] * 3),
    factors=st.lists(st.tuples(*[st.integers(1, 4)] * 3), max_size=2).map(tuple),
    voxels=st.lists(st.tuples(*[st.integers(0, 59)] * 3), min_size=1, max_size=6),
    padding=st.sampled_from(["valid", "mirror"]),
)
def test_slabs_cover_the_roi_with_full_context_on_one_grid(volume, factors, voxels, padding) -> None:
    net = architecture(factors, fc_padding=padding)
    roi = torch.zeros(volume, dtype=torch.bool)
    for voxel in voxels:
        roi[tuple(min(index, size - 1) for index, size in zip(voxel, volume, strict=True))] = True
    tilings = slab_tiles(net, volume, PLENTY, roi)

    margins, context, multiples = net.margins(volume), padded_context(net), common_multiples(net)
    predictable = torch.zeros(volume, dtype=torch.bool)
    predictable[tuple(slice(low, size - high) for (low, high), size in zip(margins, volume, strict=True))] = True
    covered = written(tilings, volume)
    assert not (covered & ~predictable).any()
    assert not (roi & predictable & ~covered).any()
    for tiling, axis in itertools.product(tilings, range(3)):
        start, lower, upper = (int(table[0, axis]) for table in (tiling.starts, tiling.lower, tiling.upper))
        end = start + tiling.segment[axis]
        assert start % multiples[axis] == 0
        assert start >= 0
        assert end <= volume[axis]
        assert lower == start + margins[axis][0] + (context[axis][0] if start else 0)
        assert upper == end - margins[axis][1] - (context[axis][1] if end < volume[axis] else 0)


def test_slabs_of_a_ball_take_less_than_tiles_of_one_size() -> None:
    net, volume, roi = architecture(), (150, 150, 150), ball(150, 70)
    slabs, uniform = slab_tiles(net, volume, PLENTY, roi), auto_tiles(net, volume, PLENTY, roi)
    assert len({tiling.segment for tiling in slabs}) > 1
    assert multiplications(net, slabs) < 0.85 * multiplications(net, (uniform,))


def test_slabs_begin_without_a_gap_or_an_overlap_where_they_can() -> None:
    """Thickness 18 for a factor of 3, and a voxel of padded context, which the first slab need not leave to another."""
    roi = torch.ones(80, 30, 30, dtype=torch.bool)
    roi[:, :, 20:] = torch.arange(80)[:, None, None] < 40  # so that cutting along x pays
    tilings = slab_tiles(architecture(), (80, 30, 30), PLENTY, roi)
    along_x = [(int(tiling.lower[0, 0]), int(tiling.upper[0, 0])) for tiling in tilings]
    assert all(after[0] == before[1] for before, after in itertools.pairwise(along_x))


def test_no_slabs_when_one_does_not_fit_into_memory() -> None:
    net, volume, roi = architecture(), (60, 60, 60), ball(60, 25)
    largest = max(int(forward_cost(net, tiling.segment).memory) for tiling in slab_tiles(net, volume, PLENTY, roi))
    assert slab_tiles(net, volume, 1000, roi) == ()
    smaller = slab_tiles(net, volume, largest - 1, roi)
    assert all(int(forward_cost(net, tiling.segment).memory) < largest for tiling in smaller)


@pytest.mark.parametrize("voxel", [None, (0, 0, 0)], ids=["empty", "only in the margin"])
def test_nothing_to_predict_needs_no_slabs(voxel) -> None:
    roi = torch.zeros(20, 20, 20, dtype=torch.bool)
    if voxel:
        roi[voxel] = True
    assert slab_tiles(architecture(), (20, 20, 20), PLENTY, roi) == ()
