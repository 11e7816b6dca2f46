"""What a set of cases looks like, on cases small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.fingerprint import Fingerprint, repeated_voxels, summarise
from deepmedic.data.nifti import array_header
from deepmedic.data.volumes import LoadedCase

SHAPE = (2, 2, 1)


def loaded(name: str, *channels: list[float] | None, labels=None, roi=None, spacing=(1.0, 1.0, 1.0)) -> LoadedCase:
    def voxels(values, kind):
        return None if values is None else np.array(values, kind).reshape(SHAPE)

    refs = tuple(None if values is None else ImageRef(Path(f"/{name}_{n}.nii")) for n, values in enumerate(channels))
    case = Case(name, refs, labels=None if labels is None else ImageRef(Path(f"/{name}_labels.nii")))
    images = np.stack([np.zeros(SHAPE, np.float32) if c is None else voxels(c, np.float32) for c in channels])
    header = replace(array_header(SHAPE), spacing=spacing)
    return LoadedCase(case, header, images, voxels(labels, np.uint8), voxels(roi, bool), None)


def fingerprint(*cases: LoadedCase, role: str = "training", classes: int = 3) -> Fingerprint:
    found = Fingerprint(role, len(cases[0].channels), classes)
    for case in cases:
        found.add(summarise(case, classes))
    return found


class TestOneSet:
    FOUND = fingerprint(
        loaded("a", [1, 2, 3, 4], [5, 5, 5, 9], labels=[0, 1, 1, 2], roi=[1, 1, 1, 0], spacing=(1.0, 2.0, 500.0)),
        loaded("b", [0, 0, 6, 0], None, labels=[0, 0, 1, 0]),
    )

    def test_intensities_are_those_within_the_roi(self):
        first, second = self.FOUND.channels
        assert (first.within.count, first.within.mean) == (7, pytest.approx(12 / 7))
        assert (second.within.count, second.within.maximum) == (3, 5.0)

    def test_intensities_of_the_foreground_are_those_with_a_label(self):
        first, second = self.FOUND.channels
        assert (first.foreground.count, first.foreground.mean) == (4, pytest.approx((2 + 3 + 4 + 6) / 4))
        assert second.foreground.count == 3

    def test_labels_are_counted_in_voxels_millilitres_and_within_the_roi(self):
        plain = self.FOUND.to_plain(["T1", "T2"], ["none", "core", "rim"])
        assert plain["labels"]["core"] == {
            "voxels": 3, "share": 3 / 8, "casesWithIt": 2, "medianMillilitres": pytest.approx((2 * 1.0 + 0.001) / 2)
        }  # fmt: skip
        assert plain["perCase"][0]["labelMillilitres"] == [1.0, 2.0, 1.0]
        assert self.FOUND.label_shares == pytest.approx((4 / 7, 3 / 7, 0))

    def test_foreground_outside_the_roi_is_counted(self):
        plain = self.FOUND.to_plain(["T1", "T2"], ["none", "core", "rim"])
        assert plain["foregroundOutsideRoi"] == {"voxels": 1, "share": 1 / 4, "in": ["a"]}

    def test_constant_and_missing_channels_are_named(self):
        intensities = self.FOUND.to_plain(["T1", "T2"], ["none", "core", "rim"])["intensities"]
        assert intensities["T2"]["constantIn"] == ["a"]
        assert intensities["T2"]["missingIn"] == ["b"]
        assert intensities["T1"]["constantIn"] == intensities["T1"]["missingIn"] == []

    def test_geometry_is_grouped(self):
        plain = self.FOUND.to_plain(["T1", "T2"], ["none", "core", "rim"])
        assert plain["shapes"] == {"2 x 2 x 1": 2}
        assert plain["spacings"] == {"1 x 1 x 1 mm": 1, "1 x 2 x 500 mm": 1}
        assert self.FOUND.median_spacing == (1.0, 1.5, 250.5)


class TestRepeatedVoxels:
    def test_between_sets_it_spoils_the_scores(self):
        training = fingerprint(loaded("a", [1, 2, 3, 4]), loaded("b", [4, 3, 2, 1]))
        validation = fingerprint(loaded("c", [1, 2, 3, 4]), role="validation")
        assert repeated_voxels([training, validation]) == [
            "the same voxels serve training and validation, so that scores say nothing about new cases: training case "
            "a, channel 1: /a_0.nii; validation case c, channel 1: /c_0.nii"
        ]

    def test_within_a_set_and_a_case_too(self):
        found = repeated_voxels([fingerprint(loaded("a", [1, 2, 3, 4], [1, 2, 3, 4]))])
        assert found == [
            "the same voxels under several names: training case a, channel 1: /a_0.nii; training case a, channel 2: "
            "/a_1.nii"
        ]

    def test_constant_images_and_a_file_listed_twice_are_no_news(self):
        constant = fingerprint(loaded("a", [1, 1, 1, 1]), loaded("b", [1, 1, 1, 1]))
        twice = fingerprint(loaded("a", [1, 2, 3, 4]), loaded("a", [1, 2, 3, 4]))
        assert repeated_voxels([constant]) == repeated_voxels([twice]) == []

    def test_labels_are_not_taken_for_images(self):
        assert repeated_voxels([fingerprint(loaded("a", [0, 1, 2, 0], labels=[0, 1, 2, 0]))]) == []
