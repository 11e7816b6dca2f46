"""Boxes that follow an ROI: they hold all of it, overlap nowhere, and hold little else."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_volume
from deepmedic.inference.roi_boxes import boxes_of_tile, roi_boxes
from deepmedic.inference.tiling import Tiling
from deepmedic.model.network import DeepMedicNet


def slices(box) -> tuple[slice, ...]:
    return tuple(slice(first, end) for first, end in zip(box.start, box.end, strict=True))


@settings(max_examples=60, deadline=None)
@given(mask=hnp.arrays(bool, st.tuples(*[st.integers(1, 40)] * 3), elements=st.booleans()))
def test_boxes_hold_the_roi_once(mask: np.ndarray) -> None:
    counts = np.zeros(mask.shape, int)
    for box in roi_boxes(torch.from_numpy(mask)):
        inside = mask[slices(box)]
        counts[slices(box)] += 1
        # Bounded by the ROI: each of its six faces holds some of it.
        for axis, side in itertools.product(range(3), (0, -1)):
            assert inside.take(side, axis=axis).any()
    assert counts.max(initial=0) <= 1
    assert (counts[mask] == 1).all()


def test_boxes_of_a_ball_hold_little_else() -> None:
    along = torch.arange(90) - 44.5
    ball = along[:, None, None].square() + along[:, None].square() + along.square() <= 44**2
    boxes = roi_boxes(ball)
    assert sum(np.prod(box.size) for box in boxes) < 1.35 * int(ball.sum())
    assert all(sum(length <= 20 for length in box.size) >= 2 for box in boxes)


def test_places_in_the_tile_and_in_the_volume() -> None:
    """The tile begins at 10 and predicts from 13 on, of which it writes 15 to 18 along x."""
    corners = [torch.tensor([corner]) for corner in ([10, 10, 10], [15, 13, 13], [19, 20, 20])]
    roi = torch.zeros(40, 40, 40, dtype=torch.bool)
    roi[14:18, 15, 16:30] = True
    ((in_tile, in_volume),) = boxes_of_tile(Tiling((17, 17, 17), *corners, (3, 3, 3)), roi)
    assert in_volume == (slice(15, 18), slice(15, 16), slice(16, 20))
    assert (in_tile.start, in_tile.size) == ((2, 2, 3), (3, 1, 4))
    ((in_tile, in_volume),) = boxes_of_tile(Tiling((17, 17, 17), *corners, (3, 3, 3)), None)
    assert in_volume == (slice(15, 19), slice(13, 20), slice(13, 20))


def test_a_case_predicted_in_boxes_is_the_case_predicted_tile_by_tile(make_net, make_case, monkeypatch) -> None:
    net = make_net(((3, 3, 3), (2, 5, 1)), (3, 3, 3))
    roi = torch.zeros(70, 50, 40, dtype=torch.bool)
    roi[8:60, 20:40, 8:30] = True
    roi[20:30, 6:45, 10:38] = True
    case, chosen = make_case((70, 50, 40), roi=roi), InferenceSettings(segment=(9, 9, 9), tiling="auto")
    sizes, real = [], DeepMedicNet.forward_boxes

    def counted(this, *inputs, boxes):
        sizes.append(len(boxes))
        return real(this, *inputs, boxes=boxes)

    monkeypatch.setattr(DeepMedicNet, "forward_boxes", counted)
    found = predict_volume(net, case, chosen)
    assert max(sizes) >= 4
    calls = len(sizes)
    tile_by_tile = predict_volume(net, case, chosen, {0: {0: (0, 1)}})  # feature maps are wanted of whole tiles
    assert len(sizes) == calls
    torch.testing.assert_close(found.probabilities, tile_by_tile.probabilities, atol=1e-5, rtol=0)
    assert found.probabilities.count_nonzero() > 0
