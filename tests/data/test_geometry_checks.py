"""Headers of one case must describe one grid; headers of all cases are compared."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deepmedic.data.geometry_checks import check_axis_orders, check_same_geometry, spacing_table
from deepmedic.data.nifti import VolumeHeader, array_header
from deepmedic.errors import DataError

OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([1.0, 1.0, 3.0]), [-90, -120, -70])
SHAPE = (180, 220, 50)


def image(affine: np.ndarray = OBLIQUE, shape: tuple[int, int, int] = SHAPE, name: str = "a.nii") -> VolumeHeader:
    return replace(array_header(shape, affine), path=Path(name))


def shifted(millimetres: float) -> np.ndarray:
    moved = OBLIQUE.copy()
    moved[1, 3] += millimetres
    return moved


def test_equal_geometry_up_to_the_rounding_of_headers_is_accepted() -> None:
    rounded = OBLIQUE.astype(np.float32).astype(np.float64)
    check_same_geometry("p1", [("channel 1", image()), ("labels", image(rounded))], 1e-3)
    check_same_geometry("p1", [("channel 1", image()), ("labels", image(shifted(2.9)))], 3.0)
    assert not np.array_equal(rounded, OBLIQUE)


def test_other_shapes_are_refused_with_all_of_them() -> None:
    images = [("channel 1", image()), ("labels", image(shape=(180, 220, 49), name="l.nii")), ("ROI mask", image())]
    with pytest.raises(DataError, match="case p1: its images have different shapes") as refusal:
        check_same_geometry("p1", images, 100.0)
    lines = str(refusal.value).splitlines()
    assert lines[1:] == [
        "    channel 1  180 x 220 x 50  a.nii",
        "    labels     180 x 220 x 49  l.nii",
        "    ROI mask   180 x 220 x 50  a.nii",
    ]


def test_a_shift_of_three_millimetres_is_refused_with_its_size() -> None:
    with pytest.raises(
        DataError, match=r"up to 3 mm away from that of channel 1; allowed are 0.001 mm \(affineTol"
    ) as r:
        check_same_geometry("p1", [("channel 1", image()), ("labels", image(shifted(3), name="l.nii"))], 1e-3)
    assert "    labels     3 mm  l.nii" in str(r.value)


def test_a_rotation_shows_at_the_far_corner() -> None:
    turned = OBLIQUE.copy()
    turned[:3, :3] = nib.eulerangles.euler2mat(0.1, 0.2, 0.301) @ np.diag([1.0, 1.0, 3.0])
    with pytest.raises(DataError, match=r"up to 0\.2\d* mm away"):
        check_same_geometry("p1", [("channel 1", image()), ("labels", image(turned))], 0.05)


@pytest.mark.parametrize("axes", [(-1, 1, 1), (1, 1, -1), (-1, -1, 1)])
def test_a_flip_is_refused_whatever_the_tolerance(axes: tuple[int, int, int]) -> None:
    flips = nib.orientations.inv_ornt_aff(np.c_[range(3), axes], SHAPE)
    with pytest.raises(DataError, match=r"case p1: .*\(flipped or swapped\), which is never tolerated") as refusal:
        check_same_geometry("p1", [("channel 1", image()), ("labels", image(OBLIQUE @ flips))], 1e9)
    assert "RAS" in str(refusal.value)


def test_axes_at_45_degrees_are_compared_with_one_another_and_not_with_the_body() -> None:
    first = nib.affines.from_matvec(nib.eulerangles.euler2mat(np.pi / 4 + 1e-7), np.zeros(3))
    second = nib.affines.from_matvec(nib.eulerangles.euler2mat(np.pi / 4 - 1e-7), np.zeros(3))
    images = [("channel 1", image(first)), ("labels", image(second))]
    assert images[0][1].axis_codes != images[1][1].axis_codes
    check_same_geometry("p1", images, 1e-3)


def test_mixed_axis_orders_are_refused_with_the_cases_of_each() -> None:
    flipped = OBLIQUE @ nib.orientations.inv_ornt_aff(np.array([[0, -1], [1, -1], [2, 1]]), SHAPE)
    cases = [("p1", image()), ("p2", image(flipped)), ("p3", image())]
    check_axis_orders(cases[::2])
    with pytest.raises(DataError, match='Set orientation = "RAS" for training and inference') as refusal:
        check_axis_orders(cases)
    assert str(refusal.value).splitlines()[1:] == ["    LPS  1 case   p2", "    RAS  2 cases  p1, p3"]


def test_spacings_that_differ_make_a_table_that_names_the_remedy() -> None:
    one = [(f"p{number}", image(np.diag([1.0, 1, 1, 1]))) for number in range(5)]
    two = [("q", image(np.diag([2.0, 2, 2, 1])))]
    nearly = [("r", image(np.diag([1.005, 1, 1, 1])))]
    assert spacing_table(one + nearly) is None
    table = spacing_table(one + two)
    assert table is not None
    assert "resampleTo = [1.0, 1.0, 1.0]" in table
    assert table.splitlines()[1:] == [
        "    1 x 1 x 1 mm  5 cases  p0, p1, p2 and 2 more",
        "    2 x 2 x 2 mm  1 case   q",
    ]
