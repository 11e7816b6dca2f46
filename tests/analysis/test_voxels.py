"""Which voxels of a case are looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_architectures import architectures, small_architecture

from deepmedic.analysis.voxels import VoxelSettings, sample_voxels
from deepmedic.data.nifti import array_header
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.errors import DataError

ARCHITECTURE = replace(small_architecture(), subsampled=())
SEGMENT = (9, 9, 9)


def noise_labels(size, classes, seed) -> PreparedCase:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, *size, generator=generator)
    labels = torch.randint(classes, size, generator=generator).to(torch.uint8)
    return PreparedCase("noise", array_header(size), images, labels, None, None, ((0, 0),) * 3, torch.zeros(1))


class TestSampledVoxels:
    def test_every_class_has_as_many_voxels_as_asked_for(self, make_case) -> None:
        voxels = sample_voxels(make_case(), ARCHITECTURE, SEGMENT, VoxelSettings(10, 12))
        assert torch.bincount(voxels.labels).tolist() == [10, 10, 10]

    def test_labels_are_those_of_the_positions(self, make_case) -> None:
        case = make_case(padding=((2, 3), (2, 2), (1, 4)))
        voxels = sample_voxels(case, ARCHITECTURE, SEGMENT, VoxelSettings(15, 9))
        x, y, z = (voxels.positions + torch.tensor([2, 2, 1])).T
        assert torch.equal(case.labels[x, y, z].long(), voxels.labels)

    def test_a_voxel_lies_where_its_segment_predicts_it(self, make_case) -> None:
        case = make_case(padding=((2, 3), (2, 2), (1, 4)))
        voxels = sample_voxels(case, ARCHITECTURE, SEGMENT, VoxelSettings(15, 9))
        margins = torch.tensor([before for before, _ in ARCHITECTURE.margins(SEGMENT)])
        places = voxels.starts[voxels.segments] + margins + voxels.offsets
        assert torch.equal(places - torch.tensor([2, 2, 1]), voxels.positions)
        assert (voxels.starts >= 0).all()
        assert (voxels.starts + 9 <= torch.tensor(case.size)).all()

    @pytest.mark.parametrize("segments", [1, 3, 6])
    def test_more_classes_than_segments_leave_no_class_out(self, segments) -> None:
        case = noise_labels((72, 12, 12), 1, 0)
        case.labels[:] = (torch.arange(72) // 12)[:, None, None]  # six slabs, longer than a predicted box
        architecture = replace(ARCHITECTURE, classes=6)
        for seed in range(5):
            voxels = sample_voxels(case, architecture, SEGMENT, VoxelSettings(10, segments, seed))
            assert len(voxels.starts) == 6
            assert torch.bincount(voxels.labels).tolist() == [10] * 6

    def test_no_voxel_is_drawn_from_the_padding_or_outside_the_roi(self, make_case) -> None:
        roi = torch.zeros(22, 20, 18, dtype=torch.bool)
        roi[8:20, 3:18, 6:18] = True
        case = make_case(padding=((2, 3), (2, 2), (1, 4)), roi=roi)
        voxels = sample_voxels(case, ARCHITECTURE, SEGMENT, VoxelSettings(200, 40))
        assert (voxels.positions >= 0).all()
        assert (voxels.positions < torch.tensor([17, 16, 13])).all()
        x, y, z = (voxels.positions + torch.tensor([2, 2, 1])).T
        assert roi[x, y, z].all()

    def test_each_stands_for_its_share_of_the_class(self, make_case) -> None:
        case = make_case()
        voxels = sample_voxels(case, ARCHITECTURE, SEGMENT, VoxelSettings(10, 12))
        x, y, z = (
            slice(before, size - after)
            for size, (before, after) in zip(case.size, ARCHITECTURE.margins(SEGMENT), strict=True)
        )
        reached = np.bincount(case.labels[x, y, z].flatten().numpy())
        for label in range(3):
            assert voxels.stands_for[voxels.labels == label].sum() == pytest.approx(reached[label])

    def test_the_same_seed_and_name_draw_the_same_whatever_else_changes(self, make_case) -> None:
        first = sample_voxels(make_case(seed=1), ARCHITECTURE, SEGMENT, VoxelSettings(10, 12, seed=4))
        again = sample_voxels(make_case(seed=2), ARCHITECTURE, SEGMENT, VoxelSettings(10, 12, seed=4))
        named = sample_voxels(make_case(name="other"), ARCHITECTURE, SEGMENT, VoxelSettings(10, 12, seed=4))
        seeded = sample_voxels(make_case(), ARCHITECTURE, SEGMENT, VoxelSettings(10, 12, seed=5))
        assert torch.equal(first.positions, again.positions)
        assert not torch.equal(first.positions, named.positions)
        assert not torch.equal(first.positions, seeded.positions)

    @settings(max_examples=15)
    @given(architecture=architectures(), seed=st.integers(0, 99))
    def test_no_voxel_is_drawn_twice(self, architecture, seed) -> None:
        segment = tuple(field + 2 for field in architecture.receptive_field)
        size = tuple(length + 4 for length in segment)
        voxels = sample_voxels(noise_labels(size, 2, seed), architecture, segment, VoxelSettings(20, 6, seed))
        assert len({tuple(position) for position in voxels.positions.tolist()}) == len(voxels) > 0


class TestRefusals:
    def test_a_case_without_labels(self, make_case) -> None:
        with pytest.raises(DataError, match="case nothing: it has no labels, which this analysis needs"):
            sample_voxels(replace(make_case(), name="nothing", labels=None), ARCHITECTURE, SEGMENT, VoxelSettings())

    def test_a_case_of_which_nothing_is_predicted(self, make_case) -> None:
        # The ROI is within the border that the network does not predict.
        case = make_case((9, 9, 9), padding=((4, 4), (4, 4), (4, 4)))
        architecture = replace(ARCHITECTURE, fc=replace(ARCHITECTURE.fc, paddings=("valid", "valid")))
        sample_voxels(case, architecture, (9, 9, 9), VoxelSettings())
        with pytest.raises(DataError, match=r"predicts none of its 9x9x9 voxels .* set padInputImagesBool = true"):
            sample_voxels(replace(case, padding=((0, 8), (0, 8), (0, 8))), architecture, (9, 9, 9), VoxelSettings())
