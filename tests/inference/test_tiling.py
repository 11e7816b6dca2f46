"""Tiles of the original: golden numbers, and a plain loop as an oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.inference.tiling import axis_starts, boxes_touching, filled_count, segment_tiles, tiling_by_segments

GEOMETRY = Path(__file__).parents[1] / "golden" / "geometry"
CASES = [case for case in json.loads((GEOMETRY / "tiles.json").read_text()) if not case["image_smaller_than_segment"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['case']}-{case['roi']}")
def test_same_tiles_in_the_same_order_as_the_original(case: dict) -> None:
    with np.load(GEOMETRY / "tiles.npz") as arrays:
        expected = arrays[case["tiles_array"]]
        roi = torch.from_numpy(arrays[case["roi_array"]]).bool() if "roi_array" in case else None
    segment = tuple(case["segment_dims"])

    starts = segment_tiles(tuple(case["image_dims"]), segment, tuple(case["stride"]), roi)

    filled = filled_count(len(starts), case["batch_size"])
    assert filled == case["n_tiles"] == len(expected)
    padded = torch.cat([starts, starts[-1:].expand(filled - len(starts), 3)])
    assert np.array_equal(padded.numpy(), expected[:, :, 0])
    assert np.array_equal(padded.numpy() + np.array(segment) - 1, expected[:, :, 1])


def test_order_on_a_grid_that_fits_by_hand() -> None:
    starts = segment_tiles((6, 4, 5), (4, 4, 3), (2, 2, 1))
    assert starts.tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 1], [2, 0, 1], [0, 0, 2], [2, 0, 2]]


def test_last_tile_is_pushed_back_inside() -> None:
    assert axis_starts(45, 25, 9) == [0, 9, 18, 20]
    assert axis_starts(25, 25, 9) == [0]


def test_a_volume_shorter_than_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="a volume of 20 voxels cannot hold a tile of 24; pad it to 24 first"):
        axis_starts(20, 24, 8)


def test_an_empty_roi_needs_no_tiles() -> None:
    assert segment_tiles((9, 9, 9), (5, 5, 5), (3, 3, 3), torch.zeros(9, 9, 9, dtype=torch.bool)).shape == (0, 3)
    assert filled_count(0, 10) == 0


@settings(max_examples=30, deadline=None)
@given(
    volume=st.tuples(*[st.integers(6, 14)] * 3),
    segment=st.tuples(*[st.integers(3, 6)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    seed=st.integers(0, 1000),
)
def test_a_tile_is_kept_if_the_roi_touches_its_input(volume, segment, stride, seed) -> None:
    roi = torch.rand(volume, generator=torch.Generator().manual_seed(seed)) > 0.99

    starts = segment_tiles(volume, segment, stride, roi).tolist()

    every_tile = segment_tiles(volume, segment, stride).tolist()
    touching = [
        [x, y, z] for x, y, z in every_tile if roi[x : x + segment[0], y : y + segment[1], z : z + segment[2]].sum() > 0
    ]
    assert starts == touching


def test_boxes_touching_looks_only_inside_each_box() -> None:
    mask = torch.zeros(4, 3, 2, dtype=torch.bool)
    mask[2, 0, 1] = True
    found = boxes_touching(mask, [[(0, 2), (2, 4)], [(0, 1), (1, 3)], [(0, 1), (1, 2)]])
    assert found.nonzero().tolist() == [[1, 0, 1]]


def test_written_boxes_are_the_predicted_ones() -> None:
    kernels = ((3, 3, 2),)
    normal = Pathway("normal", (2,), kernels, ("valid",), (0.0,))
    fc = Pathway("fc", (2,), ((1, 1, 1),), ("valid",), (0.0,))
    tiling = tiling_by_segments(Architecture(1, 2, normal, (), fc), (7, 5, 6), (5, 5, 5))

    assert tiling.starts.tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 1], [2, 0, 1]]
    everything = (slice(0, 3), slice(0, 3), slice(0, 4))
    assert tiling.written_boxes(1, 3) == [
        ((slice(3, 6), slice(1, 4), slice(0, 4)), everything),
        ((slice(1, 4), slice(1, 4), slice(1, 5)), everything),
    ]
