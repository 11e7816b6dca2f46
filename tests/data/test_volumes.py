"""One case from its files: headers compared, voxels checked, axes turned."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deepmedic.config.sections import PreprocessingConfig
from deepmedic.data.case_headers import check_case, check_cases
from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.nifti import to_native
from deepmedic.data.volumes import LoadedCase, load_case
from deepmedic.errors import DataError, ProblemList

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
AS_STORED = PreprocessingConfig()
SHAPE = (3, 4, 5)
COUNTING = np.arange(60, dtype="f4").reshape(SHAPE)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> ImageRef:
    nib.save(nib.Nifti1Image(array, affine), path)
    return ImageRef(path, None, "list.cfg:1")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Two channels, the first of them missing; labels, mask and two weight maps, the second of them missing."""
    return Case(
        "p1",
        (None, save(tmp_path / "t2.nii.gz", COUNTING)),
        save(tmp_path / "labels.nii.gz", (COUNTING % 3).astype("u1")),
        save(tmp_path / "roi.nii.gz", (COUNTING > 20).astype("i2") * 7),
        (save(tmp_path / "w.nii.gz", COUNTING / 2), None),
    )


def load(case: Case, preprocessing: PreprocessingConfig = AS_STORED, classes: int = 3) -> LoadedCase:
    problems = ProblemList()
    headers = check_case(case, preprocessing, problems, [])
    problems.raise_if_any()
    assert headers is not None
    return load_case(case, headers, preprocessing, classes)


def refusals(*cases: Case, preprocessing: PreprocessingConfig = AS_STORED) -> tuple[list[str], list[str]]:
    problems = ProblemList()
    notes: list[str] = []
    check_cases(cases, preprocessing, problems, notes)
    return [str(problem) for problem in problems.problems], notes


def test_a_case_is_brought_together(case: Case) -> None:
    loaded = load(case)
    assert not loaded.channels[0].any()
    np.testing.assert_array_equal(loaded.channels[1], COUNTING)
    np.testing.assert_array_equal(loaded.labels, COUNTING % 3)
    np.testing.assert_array_equal(loaded.roi, COUNTING > 20)
    np.testing.assert_array_equal(loaded.weight_maps, [COUNTING / 2, np.zeros(SHAPE)])
    assert (loaded.channels.dtype, loaded.labels.dtype, loaded.roi.dtype) == (np.float32, np.uint8, np.bool_)
    assert (loaded.notes, loaded.roi.any()) == ([], True)
    assert loaded.header.path.name == "t2.nii.gz"
    assert all(array.flags.c_contiguous for array in (loaded.channels, loaded.labels, loaded.roi))


def test_memory_is_estimated_from_headers(case: Case) -> None:
    headers = check_case(case, AS_STORED, ProblemList(), [])
    assert headers.shape == SHAPE
    loaded = load(case)
    arrays = (loaded.channels, loaded.labels, loaded.roi, loaded.weight_maps)
    assert headers.loaded_bytes == sum(array.nbytes for array in arrays)
    assert headers.reading_bytes == 60 * (4 + 8)  # float32 as stored, and in float64 if it were scaled


def test_problems_of_all_files_of_all_cases_are_gathered(tmp_path: Path, case: Case) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"")
    (tmp_path / "html.nii").write_bytes(b"<html>")
    empty = replace(case, name="p2", channels=(ImageRef(tmp_path / "bad.nii.gz"), ImageRef(tmp_path / "html.nii")))
    small = replace(case, name="p3", labels=save(tmp_path / "small.nii", COUNTING[:, :, :4]))
    found, _ = refusals(case, empty, small)
    assert len(found) == 3
    assert found[0].startswith("case p2, channel 1: ")
    assert "the file is empty (0 bytes)" in found[0]
    assert found[1].startswith("case p2, channel 2: ")
    assert "an HTML page" in found[1]
    assert found[2].startswith("case p3: its images have different shapes")


def test_a_label_map_that_lies_elsewhere_is_refused_unless_the_tolerance_allows_it(tmp_path: Path, case: Case) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 3
    away = replace(case, labels=save(tmp_path / "moved.nii", COUNTING % 3, moved))
    (problem,), _ = refusals(away)
    assert "up to 3 mm away" in problem
    assert refusals(away, preprocessing=PreprocessingConfig(affine_tolerance=3.1)) == ([], [])
    mirrored = replace(case, labels=save(tmp_path / "mirrored.nii", COUNTING % 3, AFFINE * [[-1], [1], [1], [1]]))
    (problem,), _ = refusals(mirrored, preprocessing=PreprocessingConfig(affine_tolerance=1e6))
    assert "never tolerated" in problem


def test_equal_notes_on_many_headers_become_one(tmp_path: Path) -> None:
    cases = []
    for number in range(4):
        ref = save(tmp_path / f"{number}.nii.gz", COUNTING[..., None])
        cases.append(Case(f"p{number}", (ref,)))
    found, notes = refusals(*cases)
    assert found == []
    assert notes == [
        f"case p0, channel 1: {tmp_path / '0.nii.gz'} and 3 further images: size 3 x 4 x 5 x 1 is taken as 3 x 4 x 5: "
        "trailing axes of 1 are left out"
    ]
    check_case(cases[1], AS_STORED, ProblemList(), notes)
    assert notes[1].startswith(f"case p1, channel 1: {tmp_path / '1.nii.gz'}: size 3 x 4 x 5 x 1")


def test_mixed_axis_orders_need_ras_and_then_arrays_agree(tmp_path: Path) -> None:
    turn = np.array([[1, 1], [0, -1], [2, -1]])
    turned = np.ascontiguousarray(nib.apply_orientation(COUNTING, turn))
    affine = AFFINE @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    straight = Case("p1", (save(tmp_path / "a.nii", COUNTING),))
    other = Case("p2", (save(tmp_path / "b.nii", turned, affine),), save(tmp_path / "c.nii", turned % 3, affine))
    (problem,), _ = refusals(straight, other)
    assert "the cases are stored with different axis orders" in problem
    ras = PreprocessingConfig(orientation="RAS")
    assert refusals(straight, other, preprocessing=ras)[0] == []

    loaded = load(other, ras)

    np.testing.assert_array_equal(loaded.channels[0], COUNTING)
    np.testing.assert_array_equal(loaded.labels, COUNTING % 3)
    assert (loaded.header.axis_codes, loaded.header.shape) == ("RAS", SHAPE)
    np.testing.assert_allclose(loaded.header.affine, AFFINE)
    np.testing.assert_array_equal(to_native(loaded.labels, loaded.header), turned % 3)
    np.testing.assert_array_equal(load(straight, ras).channels, loaded.channels)


def test_different_spacings_are_noted_and_not_refused(tmp_path: Path, case: Case) -> None:
    coarse = Case("p2", (save(tmp_path / "coarse.nii", COUNTING, np.diag([2.0, 2, 2, 1])),))
    found, notes = refusals(case, coarse)
    assert found == []
    assert "1 x 1 x 2 mm  1 case  p1" in notes[0]


def test_errors_in_voxels_name_case_image_and_file(tmp_path: Path, case: Case) -> None:
    with pytest.raises(DataError, match=r"case p1, labels: .*labels.nii.gz: labels out of range: 2 \(20 voxels\)"):
        load(case, classes=2)
    broken = COUNTING.copy()
    broken[0, 0, 1] = np.nan
    bad = replace(case, channels=(save(tmp_path / "nan.nii", broken),))
    with pytest.raises(DataError, match=r"case p1, channel 1: .*nan.nii: 1 of 60 voxels \(the first at \(0, 0, 1\)"):
        load(bad)
    loaded = load(bad, PreprocessingConfig(non_finite_voxels="zero"))
    assert loaded.channels[0, 0, 0, 1] == 0
    assert loaded.notes[0].startswith("channel 1: 1 of 60 voxels")
    content = (tmp_path / "roi.nii.gz").read_bytes()
    (tmp_path / "roi.nii.gz").write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"case p1, ROI mask: .*roi.nii.gz: .*cut short.*\(listed at list.cfg:1\)"):
        load(case)


def test_labels_are_checked_even_when_input_checks_are_off(case: Case) -> None:
    with pytest.raises(DataError, match="labels out of range"):
        load(case, PreprocessingConfig(check_inputs=False), classes=2)


def test_empty_masks_and_weights_are_flagged(tmp_path: Path, case: Case) -> None:
    nothing = save(tmp_path / "nothing.nii", np.zeros(SHAPE, "u1"))
    loaded = load(replace(case, roi=nothing))
    assert loaded.roi is not None
    assert not loaded.roi.any()
    assert loaded.notes == ["ROI mask: the mask is empty: no voxel of this case is in the region of interest"]
    assert load(replace(case, labels=nothing)).notes == ["the ROI holds no voxel of a foreground class"]
    with pytest.raises(DataError, match="case p1: all weight maps are zero everywhere"):
        load(replace(case, weight_maps=(nothing, None)))
    assert load(replace(case, roi=None)).roi is None
