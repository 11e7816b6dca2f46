from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from deepmedic.config.augmentation import Gaussian, SegmentAugmentation
from deepmedic.data.augmentation import (
    SegmentDraws,
    check_rotation,
    compose,
    draw_segment_augmentation,
    turned,
    with_intensities,
)
from deepmedic.data.nifti import array_header
from deepmedic.data.pool import VolumePool
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.randomness import stream
from deepmedic.data.segments import SegmentBatch, SegmentGeometry, cut, places_at
from deepmedic.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "augmentation" / "augmentation.npz"
PLANES = {"xy": (0, 1), "yz": (1, 2), "xz": (0, 2)}
NOTHING = SegmentDraws(None, None, None, None)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return {
            name: arrays[name]
            for name in arrays.files
            if name.split(".")[1][:4] in ("seg0", "seg1", "segl", "flip", "rot9", "hist")
        }


def batch_of(golden, device="cpu"):
    inputs = tuple(torch.tensor(golden[f"aug.seg{k}"], dtype=torch.float64, device=device)[None] for k in range(2))
    return SegmentBatch(inputs, torch.tensor(golden["aug.seglab"], device=device).long()[None])


def drawn(flips=(False,) * 3, turns=(0, 0, 0), device="cpu"):
    axes, backwards = compose(np.array([flips]), np.array([turns]))
    return SegmentDraws(None, None, torch.from_numpy(axes), torch.from_numpy(backwards)).to(device)


def apply(batch, draws):
    """Segments that lie in volumes, with what was drawn done to them, as if these volumes were the given segments."""
    inputs = tuple(_apply_to(values, draws) for values in with_intensities(batch, draws).inputs)
    labels = None if batch.labels is None else _apply_to(batch.labels[:, None], draws)[:, 0]
    return SegmentBatch(inputs, labels)


def _apply_to(values, draws):
    """Cut from a volume that holds the numbers of its voxels, and look these up: so no type is lost."""
    segments, channels, *size = values.shape
    case = PreparedCase(
        name="numbers",
        header=array_header(tuple(size), np.eye(4)),
        channels=torch.arange(float(np.prod(size))).view(1, *size),
        labels=None,
        roi=None,
        weight_maps=None,
        padding=((0, 0),) * 3,
        border_values=torch.full((1,), -1.0),
    )
    pool = VolumePool.of_cases([case], values.device)
    geometry = SegmentGeometry((tuple(size),), ((1, 1, 1),), (1, 1, 1), tuple(size))
    places = places_at(pool, geometry, torch.zeros(segments).long(), torch.zeros(segments, 3).long())
    numbers = cut(pool, turned(places, draws)).inputs[0].view(segments, 1, -1).long()
    return values.reshape(segments, channels, -1).gather(2, numbers.expand(-1, channels, -1)).view(values.shape)


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("flips", ["100", "010", "001", "110", "111"])
    def test_reflection(self, flips, golden, device):
        batch = apply(batch_of(golden, device), drawn(tuple(flip == "1" for flip in flips), device=device))
        self.assert_equal(batch, golden, f"aug.flip_{flips}")

    @pytest.mark.parametrize("degrees", [0, 90, 180, 270])
    @pytest.mark.parametrize("plane", list(PLANES))
    def test_rotation(self, plane, degrees, golden, device):
        turns = tuple(degrees // 90 if name == plane else 0 for name in PLANES)
        batch = apply(batch_of(golden, device), drawn(turns=turns, device=device))
        self.assert_equal(batch, golden, f"aug.rot90_{plane}_{degrees}")

    def test_histogram(self, golden):
        draws = SegmentDraws(torch.full((1, 2), 0.3), torch.full((1, 2), 1.2), None, None)
        batch = apply(batch_of(golden), draws)
        for k in range(2):
            np.testing.assert_allclose(batch.inputs[k][0], golden[f"aug.hist_shift0.3_scale1.2.seg{k}"], rtol=1e-6)

    @staticmethod
    def assert_equal(batch, golden, name):
        for k in range(2):
            np.testing.assert_array_equal(batch.inputs[k][0].cpu(), golden[f"{name}.seg{k}"])
        np.testing.assert_array_equal(batch.labels[0].cpu(), golden[f"{name}.lab"])


@settings(max_examples=60, deadline=None)
@given(
    choices=st.lists(st.tuples(*[st.booleans()] * 3, *[st.integers(0, 3)] * 3), min_size=1, max_size=5),
    size=st.integers(1, 5),
)
def test_reflections_and_rotations_in_turn_for_each_segment(choices, size):
    """One index does what numpy does in six steps, a different thing for each segment."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(choices), 2, size, size, size)).astype(np.float32)
    labels = rng.integers(0, 9, size=(len(choices), size, size, size))
    axes, backwards = compose(np.array([c[:3] for c in choices]), np.array([c[3:] for c in choices]))
    draws = SegmentDraws(None, None, torch.from_numpy(axes), torch.from_numpy(backwards))

    batch = apply(SegmentBatch((torch.from_numpy(values),), torch.from_numpy(labels)), draws)

    for k, choice in enumerate(choices):
        expected, expected_labels = values[k], labels[k]
        for axis in range(3):
            if choice[axis]:
                expected, expected_labels = np.flip(expected, axis + 1), np.flip(expected_labels, axis)
        for turns, (first, second) in zip(choice[3:], PLANES.values(), strict=True):
            expected = np.rot90(expected, turns, (first + 1, second + 1))
            expected_labels = np.rot90(expected_labels, turns, (first, second))
        np.testing.assert_array_equal(batch.inputs[0][k], expected)
        np.testing.assert_array_equal(batch.labels[k], expected_labels)


def test_sizes_may_differ_where_only_half_turns_are_made():
    values = torch.arange(2 * 3 * 4.0).view(1, 1, 2, 3, 4)
    result = apply(SegmentBatch((values,), None), drawn((True, False, False), (2, 0, 0)))
    # reversed along x twice, along y once
    assert torch.equal(result.inputs[0], values.flip(3))
    assert result.labels is None


def test_shift_comes_before_scale_and_differs_between_channels():
    values = torch.ones(2, 2, 1, 1, 1)
    draws = SegmentDraws(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 1.0], [2.0, 0.0]]), None, None)
    result = apply(SegmentBatch((values, values + 1), None), draws)
    assert result.inputs[0].flatten().tolist() == [20, 3, 8, 0]
    assert result.inputs[1].flatten().tolist() == [30, 4, 10, 0]


def test_nothing_drawn_changes_nothing(golden):
    batch = batch_of(golden)
    result = apply(batch, NOTHING)
    assert all(torch.equal(one, other) for one, other in zip(result.inputs, batch.inputs, strict=True))
    assert torch.equal(result.labels, batch.labels)


FULL = SegmentAugmentation(
    shift=Gaussian(mean=0.1, std=0.2),
    scale=Gaussian(mean=1.0, std=0.3),
    reflect=(0.5, 0.2, 0.0),
    rotate90={"xy": (1, 2, 3, 4), "yz": (0, 0, 0, 0), "xz": (0.5, 0.0, 0.5, 0.0)},
)


class TestDraws:
    def test_the_same_again(self):
        one, other = (draw_segment_augmentation(stream(1, "x"), 20, 2, FULL) for _ in range(2))
        assert torch.equal(one.shift, other.shift)
        assert torch.equal(one.scale, other.scale)
        assert torch.equal(one.axes, other.axes)
        assert torch.equal(one.reversed, other.reversed)
        assert not torch.equal(one.shift, draw_segment_augmentation(stream(2, "x"), 20, 2, FULL).shift)

    def test_intensities_are_normal(self):
        draws = draw_segment_augmentation(stream(1), 1000, 2, FULL)
        assert draws.shift.shape == draws.scale.shape == (1000, 2)
        assert draws.shift.dtype == torch.float32
        assert kstest(draws.shift.flatten(), "norm", (0.1, 0.2)).pvalue > 0.001
        assert kstest(draws.scale.flatten(), "norm", (1.0, 0.3)).pvalue > 0.001

    def test_no_deviation_gives_a_constant(self):
        config = SegmentAugmentation(shift=Gaussian(mean=0.25, std=0.0))
        draws = draw_segment_augmentation(stream(1), 3, 2, config)
        assert draws.shift.tolist() == [[0.25, 0.25]] * 3
        assert draws.scale is None
        assert draws.axes is None

    def test_reflections_have_their_probabilities(self):
        config = SegmentAugmentation(reflect=(0.5, 0.2, 0.0))
        draws = draw_segment_augmentation(stream(3), 4000, 1, config)
        for axis, probability in enumerate((0.5, 0.2)):
            count = int(draws.reversed[:, axis].sum())
            assert chisquare([count, 4000 - count], [4000 * probability, 4000 * (1 - probability)]).pvalue > 0.001
        assert not draws.reversed[:, 2].any()
        assert (draws.axes == torch.arange(3)).all()

    def test_rotations_have_their_probabilities_after_normalisation(self):
        """A turned marker shows the rotation: which voxel of a 2x2x1 segment comes to (0, 0)."""
        config = SegmentAugmentation(rotate90={"xy": (1, 2, 3, 4), "yz": (0, 0, 0, 0)})
        draws = draw_segment_augmentation(stream(4), 4000, 1, config)
        values = torch.arange(4.0).view(1, 1, 2, 2, 1).expand(4000, -1, -1, -1, -1)
        seen = apply(SegmentBatch((values,), None), draws).inputs[0][:, 0, 0, 0, 0].long()
        corner = [int(np.rot90(np.arange(4).reshape(2, 2), turns)[0, 0]) for turns in range(4)]
        observed = torch.bincount(seen, minlength=4)[corner]
        assert chisquare(observed, [400, 800, 1200, 1600]).pvalue > 0.001

    @pytest.mark.parametrize(
        "config",
        [SegmentAugmentation(), SegmentAugmentation(reflect=(0, 0, 0)), SegmentAugmentation(rotate90={"xy": (0,) * 4})],
    )
    def test_off(self, config):
        assert draw_segment_augmentation(stream(1), 5, 2, config) == NOTHING

    def test_slices_are_applied_as_the_whole(self):
        draws = draw_segment_augmentation(stream(1), 6, 2, FULL)
        values = torch.randn(6, 2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        whole = apply(SegmentBatch((values,), values[:, 0]), draws)
        parts = [apply(SegmentBatch((values[s],), values[s, 0]), draws[s]) for s in (slice(0, 4), slice(4, 6))]
        assert torch.equal(whole.inputs[0], torch.cat([part.inputs[0] for part in parts]))
        assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))

    def test_all_values_of_a_segment_stay_together(self):
        """The labels of a pathway that sees the labels' voxels turn in the same way."""
        draws = draw_segment_augmentation(
            stream(2), 10, 1, SegmentAugmentation(reflect=FULL.reflect, rotate90=FULL.rotate90)
        )
        values = torch.randn(10, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        result = apply(SegmentBatch((values,), (values[:, 0] * 1000).long()), draws)
        assert torch.equal((result.inputs[0][:, 0] * 1000).long(), result.labels)


class TestRotationCheck:
    geometry = SegmentGeometry(((25, 25, 19), (19, 19, 17)), ((1, 1, 1), (3, 3, 3)), (17, 17, 17), (9, 9, 3))

    def test_square_planes_pass(self):
        config = SegmentAugmentation(rotate90={"xy": (1, 1, 1, 1), "xz": (1, 0, 1, 0), "yz": (0, 0, 0, 0)})
        assert check_rotation(self.geometry, config) is None
        assert check_rotation(self.geometry, SegmentAugmentation()) is None

    @pytest.mark.parametrize("probabilities", [(1, 1, 0, 0), (1, 0, 0, 1)])
    def test_another_plane_is_refused(self, probabilities):
        with pytest.raises(ConfigError) as refusal:
            check_rotation(self.geometry, SegmentAugmentation(rotate90={"yz": probabilities}))
        message = str(refusal.value)
        assert "rotates by 90 or 270 degrees in the plane yz, but a segment of (25, 25, 19) voxels" in message
        assert "whose sizes along y and z differ" in message
        assert "segmentsDimTrain" in message

    def test_low_resolution_input_of_another_shape_is_refused(self):
        geometry = SegmentGeometry(((25, 25, 25), (19, 19, 25)), ((1, 1, 1), (3, 3, 1)), (17, 17, 17), (9, 9, 9))
        with pytest.raises(ConfigError, match=r"gives a box of \(19, 19, 25\) voxels"):
            check_rotation(geometry, SegmentAugmentation(rotate90={"xz": (1, 1, 1, 1)}))
