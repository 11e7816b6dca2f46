import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.data import segments as segments_module
from deepmedic.data.augmentation import SegmentDraws, turned
from deepmedic.data.pool import PoolLayout, VolumePool
from deepmedic.data.segments import SegmentGeometry, cut, gather, gather_at, places_at

GOLDEN = Path(__file__).parents[1] / "golden" / "geometry"
LOWRES = json.loads((GOLDEN / "lowres.json").read_text())
TRAINING = json.loads((GOLDEN / "train_segments.json").read_text())


@pytest.fixture(scope="module")
def lowres_arrays():
    with np.load(GOLDEN / "lowres.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def training_arrays():
    with np.load(GOLDEN / "train_segments.npz") as arrays:
        return dict(arrays)


def geometry_of(segment, receptive_field, factors):
    output = tuple(segment[a] - receptive_field[a] + 1 for a in range(3))
    sizes = [tuple(-(-output[a] // f[a]) + receptive_field[a] - 1 for a in range(3)) for f in factors]
    return SegmentGeometry((segment, *sizes), ((1, 1, 1), *factors), receptive_field, output)


def points(*rows):
    return torch.tensor(rows, dtype=torch.int64)


def slow_position(start, receptive_field, factor, slot):
    """Voxel of the image along one axis, or None outside its lower end: odd receptive fields only.

    Behaviours 24 and 25: slot i sits at p + factor*(i - (rf-1)/2) from the first predicted voxel p, and a segment that
    reaches m voxels below the image puts voxel 0 into slot m // factor.
    """
    half = (receptive_field - 1) // 2
    lowest = start + half - factor * half
    if lowest >= 0:
        return lowest + factor * slot
    return factor * (slot - (-lowest) // factor)


def slow_segment(case, start, size, receptive_field, factor):
    """One segment, voxel by voxel."""
    segment = np.empty((case.channels.shape[0], *size), np.float32)
    for slot in product(*(range(n) for n in size)):
        voxel = [slow_position(start[a], receptive_field[a], factor[a], slot[a]) for a in range(3)]
        inside = all(0 <= voxel[a] < case.size[a] for a in range(3))
        segment[:, *slot] = case.channels[:, *voxel].numpy() if inside else case.border_values.numpy()
    return segment


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("record", LOWRES, ids=lambda record: f"case{record['case']}")
    def test_low_resolution_segments(self, record, lowres_arrays, make_case, make_pool, device):
        case = make_case(channels=lowres_arrays[record["volume"]], labels=None)
        geometry = geometry_of(
            tuple(record["segment_dims"]), tuple(record["rec_field_hr_path"]), (tuple(record["subsample_factor"]),)
        )
        assert geometry.input_sizes[1] == tuple(record["dims_lr_segment"])
        start = points([low for low, _ in record["hr_slice_coords_inclusive"]])

        batch = gather_at(make_pool([case], device), geometry, points(0), start)

        np.testing.assert_allclose(batch.inputs[1][0].cpu(), lowres_arrays[record["array"]], rtol=1e-6, atol=1e-7)
        assert batch.labels is None

    @pytest.mark.parametrize("record", TRAINING, ids=lambda record: f"case{record['case']}")
    def test_training_segments_of_all_pathways(self, record, training_arrays, make_case, make_pool, device):
        arrays, number = training_arrays, record["case"]
        labels = arrays[record["gt"]].astype(np.uint8)
        case = make_case(channels=arrays[record["volume"]], labels=labels)
        geometry = SegmentGeometry.from_architecture(architecture_of(record["model_cfg"]), input_size(record))
        assert [list(size) for size in geometry.input_sizes] == record["input_dims_per_path"]
        assert list(geometry.output_size) == record["output_dims"]

        batch = gather(make_pool([case], device), geometry, points(0), points(record["centre"]))

        np.testing.assert_array_equal(batch.inputs[0][0].cpu(), arrays[f"case{number}.path0"])
        for pathway in range(1, len(batch.inputs)):
            expected = arrays[f"case{number}.path{pathway}"]
            np.testing.assert_allclose(batch.inputs[pathway][0].cpu(), expected, rtol=1e-6, atol=1e-7)
        assert batch.labels.dtype == torch.int64
        np.testing.assert_array_equal(batch.labels[0].cpu(), arrays[f"case{number}.labels"])


def architecture_of(config):
    kernels = tuple(tuple(kernel) for kernel in config["kernelDimPerLayerNormal"])
    layers = {
        "feature_maps": tuple(config["numberFMsPerLayerNormal"]),
        "kernels": kernels,
        "paddings": ("valid",) * len(kernels),
        "dropout_rates": (0.0,) * len(kernels),
    }
    factors = [tuple(factor) for factor in config["subsampleFactor"]]
    classifier = Pathway("fc", (3,), ((1, 1, 1),), ("valid",), (0.5,))
    low = tuple(Pathway(f"subsampled{i}", **layers, factor=factor) for i, factor in enumerate(factors, 1))
    return Architecture(2, 3, Pathway("normal", **layers), low, classifier)


def input_size(record):
    return tuple(record["input_dims_per_path"][0])


class TestAgainstSlowSlicing:
    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_equals_a_loop_over_voxels(self, data, make_case, make_pool):
        """Several cases of different sizes, starts inside, outside and across the border, any factors."""
        size = st.tuples(*[st.integers(1, 9)] * 3)
        cases = [make_case(data.draw(size), seed) for seed in range(data.draw(st.integers(1, 3)))]
        receptive_field = data.draw(st.tuples(*[st.sampled_from([1, 3, 5])] * 3))
        segment = tuple(field + data.draw(st.integers(0, 4)) for field in receptive_field)
        factors = tuple(data.draw(st.lists(st.tuples(*[st.integers(1, 5)] * 3), max_size=2)))
        geometry = geometry_of(segment, receptive_field, factors)
        n = data.draw(st.integers(1, 4))
        rows = [data.draw(st.integers(0, len(cases) - 1)) for _ in range(n)]
        starts = [data.draw(st.tuples(*[st.integers(-8, 10)] * 3)) for _ in range(n)]

        batch = gather_at(make_pool(cases), geometry, points(*rows), points(*starts))

        for values, shape, factor in zip(batch.inputs, geometry.input_sizes, geometry.factors, strict=True):
            assert values.shape == (n, 2, *shape)
            assert values.is_contiguous()
            for k in range(n):
                expected = slow_segment(cases[rows[k]], starts[k], shape, receptive_field, factor)
                np.testing.assert_array_equal(values[k], expected)

    @settings(max_examples=30, deadline=None)
    @given(segment=st.tuples(*[st.integers(4, 9)] * 3), lost=st.tuples(*[st.integers(0, 3)] * 3), data=st.data())
    def test_segments_around_centres_are_slices(self, segment, lost, data, make_case, make_pool):
        """Behaviour 33: input from c-(in-1)//2, labels from c-(out-1)//2."""
        case = make_case((12, 11, 10))
        output = tuple(segment[a] - lost[a] for a in range(3))
        geometry = SegmentGeometry((segment,), ((1, 1, 1),), tuple(n + 1 for n in lost), output)
        centre = [
            data.draw(st.integers((segment[a] - 1) // 2, case.size[a] - segment[a] // 2 - 1), label="centre")
            for a in range(3)
        ]
        batch = gather(make_pool([case]), geometry, points(0), points(centre))

        box = tuple(slice(c - (n - 1) // 2, c - (n - 1) // 2 + n) for c, n in zip(centre, segment, strict=True))
        inner = tuple(slice(c - (n - 1) // 2, c - (n - 1) // 2 + n) for c, n in zip(centre, output, strict=True))
        np.testing.assert_array_equal(batch.inputs[0][0], case.channels[:, *box])
        np.testing.assert_array_equal(batch.labels[0], case.labels[inner])


class TestRowsOfVoxels:
    """Segments inside their volumes are copied row by row on a CPU, others voxel by voxel."""

    GEOMETRY = geometry_of((5, 5, 5), (3, 3, 3), ((1, 1, 1),))

    @pytest.fixture
    def ways(self, monkeypatch):
        """Cuts the same segments in both ways; also returns which inputs and labels could be copied by rows."""

        def cut_in_both(pool, places):
            found = []
            usual = segments_module._are_rows
            monkeypatch.setattr(segments_module, "_are_rows", lambda lines: found.append(usual(lines)) or found[-1])
            by_rows = cut(pool, places)
            monkeypatch.setattr(segments_module, "_are_rows", lambda lines: False)
            by_voxels = cut(pool, places)
            monkeypatch.setattr(segments_module, "_are_rows", usual)
            for one, other in zip(
                (*by_rows.inputs, by_rows.labels), (*by_voxels.inputs, by_voxels.labels), strict=True
            ):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)
            return found

        return cut_in_both

    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_both_ways_give_the_same(self, data, make_case, make_pool):
        sizes = data.draw(st.lists(st.tuples(*[st.integers(5, 9)] * 3), min_size=1, max_size=3))
        pool = make_pool([make_case(size, seed=number) for number, size in enumerate(sizes)])
        some = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=4))
        inside = [[data.draw(st.integers(0, length - 5)) for length in sizes[row]] for row in some]
        lines = places_at(pool, self.GEOMETRY, torch.tensor(some), torch.tensor(inside), with_labels=True)
        starts = pool.table.starts[lines.rows][:, None]
        assert all(segments_module._are_rows(one) for one in (*lines.inputs, lines.labels))
        for one in lines.inputs:
            by_rows = segments_module._values_of_rows(pool.channels, one, starts)
            elements = segments_module._elements(one, starts)
            assert torch.equal(by_rows, pool.channels[:, elements].movedim(0, 1))

    def test_where_they_are_rows(self, make_case, make_pool, ways):
        pool = make_pool([make_case((8, 9, 7)), make_case((6, 5, 9), seed=1)])
        inside = places_at(pool, self.GEOMETRY, torch.tensor([0, 1]), points((3, 4, 2), (1, 0, 4)), with_labels=True)
        assert ways(pool, inside) == [True, True, True]
        for beyond in ((-1, 0, 0), (4, 0, 0), (0, -1, 0), (0, 5, 0), (0, 0, -1), (0, 0, 3)):
            outside = places_at(pool, self.GEOMETRY, torch.tensor([1, 0]), points((1, 0, 4), beyond), with_labels=True)
            assert ways(pool, outside)[0] is False

    @pytest.mark.parametrize(("axes", "backwards"), [((2, 1, 0), (0, 0, 0)), ((0, 1, 2), (0, 0, 1))])
    def test_turned_segments_are_none(self, make_case, make_pool, ways, axes, backwards):
        pool = make_pool([make_case((8, 9, 7))])
        places = places_at(pool, self.GEOMETRY, torch.tensor([0, 0]), points((3, 4, 2), (0, 0, 0)), with_labels=True)
        draws = SegmentDraws(None, None, torch.tensor([(0, 1, 2), axes]), torch.tensor([(0, 0, 0), backwards]) > 0)
        assert ways(pool, turned(places, draws)) == [False, False, False]


class TestBorders:
    def test_phase_is_lost_where_the_reach_leaves_the_image(self, make_case, make_pool):
        """Behaviour 25 by hand: one axis, receptive field 5, factor 3, a segment that starts at voxel 0 or 1.

        Voxel i of the low-resolution segment should be s + 2 + 3*(i - 2) = s - 4 + 3*i. For s = 0, m = 4: slots from
        4 // 3 = 1 on hold voxels 0, 3, 6, ... instead of -1, 2, 5.
        """
        ramp = np.arange(1, 31, dtype=np.float32).reshape(1, 30, 1, 1)
        case = make_case(channels=ramp, labels=None)
        geometry = geometry_of((7, 1, 1), (5, 1, 1), ((3, 1, 1),))
        batch = gather_at(make_pool([case]), geometry, points(0, 0, 0), points([0, 0, 0], [4, 0, 0], [9, 0, 0]))

        border = (1 + 30) / 2
        low = batch.inputs[1][:, 0, :, 0, 0].tolist()
        assert low[0] == [border, 1, 4, 7, 10]  # voxel k holds k + 1
        assert low[1] == [1, 4, 7, 10, 13]
        assert low[2] == [6, 9, 12, 15, 18]

    def test_segment_larger_than_the_volume(self, make_case, make_pool):
        case = make_case((2, 3, 2), channels=np.ones((1, 2, 3, 2), np.float32) * 5, labels=None)
        case.border_values[:] = -1
        geometry = geometry_of((4, 4, 4), (1, 1, 1), ())
        segment = gather_at(make_pool([case]), geometry, points(0), points([-1, 0, -1])).inputs[0][0, 0]
        assert (segment == 5).sum() == 2 * 3 * 2
        assert (segment[1:3, 0:3, 1:3] == 5).all()
        assert (segment == -1).sum() == 64 - 12

    def test_outside_counts_as_background(self, make_case, make_pool):
        case = make_case((3, 3, 3), labels=np.full((3, 3, 3), 2, np.uint8))
        geometry = geometry_of((3, 3, 3), (1, 1, 1), ())
        labels = gather_at(make_pool([case]), geometry, points(0), points([2, 0, 0]), with_labels=True).labels
        assert labels[0, 0].unique().tolist() == [2]
        assert labels[0, 1:].unique().tolist() == [0]


@pytest.mark.parametrize(
    ("receptive_field", "factor", "first_voxel"),
    [(4, 1, 20), (4, 2, 18), (4, 3, 17), (4, 4, 15), (4, 5, 14), (6, 2, 17), (6, 3, 15), (6, 4, 12)],
)
def test_even_receptive_fields_are_rounded_as_in_the_original(
    receptive_field, factor, first_voxel, make_case, make_pool
):
    """First voxel of the low-resolution segment of a segment at 20; numbers from running the original."""
    case = make_case(channels=np.arange(40, dtype=np.float32).reshape(1, 40, 1, 1), labels=None)
    geometry = geometry_of((8, 1, 1), (receptive_field, 1, 1), ((factor, 1, 1),))
    segment = gather_at(make_pool([case]), geometry, points(0), points([20, 0, 0])).inputs[1]
    assert segment[0, 0, :2, 0, 0].tolist() == [first_voxel, first_voxel + factor]


def test_labels_asked_for_but_not_kept(make_case, make_pool):
    pool = make_pool([make_case(labels=None)])
    with pytest.raises(ValueError, match="the pool keeps no labels"):
        gather(pool, geometry_of((1, 1, 1), (1, 1, 1), ()), points(0), points([0, 0, 0]))


def test_one_case_without_a_pool_of_many(make_case, make_pool):
    case = make_case()
    geometry = geometry_of((5, 5, 5), (3, 3, 3), ((3, 3, 3),))
    alone = gather_at(VolumePool.of_cases([case], "cpu"), geometry, points(0), points([1, 2, 1]))
    among_others = gather_at(make_pool([make_case((5, 5, 5), 1), case]), geometry, points(1), points([1, 2, 1]))
    for one, other in zip(alone.inputs, among_others.inputs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_geometry_of_a_network():
    config = TRAINING[-1]["model_cfg"]
    geometry = SegmentGeometry.from_architecture(architecture_of(config), (14, 15, 16))
    assert geometry.segment == (14, 15, 16)
    assert geometry.receptive_field == (9, 9, 9)
    assert geometry.output_size == (6, 7, 8)
    assert geometry.centre == (6, 7, 7)
    # (in-1)//2 - (out-1)//2
    assert geometry.label_offset == (6 - 2, 7 - 3, 7 - 3)


def test_layout_of_a_case_says_what_is_kept(make_case):
    layout = PoolLayout.of(make_case(with_roi=True, n_weight_maps=2))
    assert layout == PoolLayout(channels=2, label_dtype=torch.uint8, roi=True, weight_maps=2)
    assert layout.bytes_per_voxel == 2 * 4 + 1 + 1 + 2 * 4


def test_places_stay_valid_while_cases_move_in_the_pool(make_case, make_pool):
    """Found once for many batches, they say where voxels are in a case, not which elements that case occupies."""
    cases = [make_case((6, 5, 4), seed) for seed in range(3)]
    pool = make_pool(cases)
    geometry = geometry_of((3, 3, 3), (3, 3, 3), ((3, 3, 3),))
    pool.require([2, 1], lambda number: cases[number])
    places = places_at(pool, geometry, points(0, 1, 0, 1), points([0, 0, 0], [1, 2, 1], [3, 2, 1], [-1, 0, 2]), True)
    before, starts = cut(pool, places), pool.table.starts.tolist()
    assert pool.shrink(0)
    assert pool.table.starts.tolist() != starts
    after = cut(pool, places)
    for one, other in zip((*before.inputs, before.labels), (*after.inputs, after.labels), strict=True):
        assert torch.equal(one, other)
    part = cut(pool, places[1:3])
    assert torch.equal(part.inputs[1], before.inputs[1][1:3])
    assert torch.equal(part.labels, before.labels[1:3])
