"""A folder per case: which images are the same channel, which are labels or masks, told by their names alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepmedic.errors import DataError
from deepmedic.planning.case_folders import read_case_folders


def tree(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def found(folder: Path):
    """Channel names, and per case the names of channels, labels and ROI."""
    data = read_case_folders(folder)

    def name(ref):
        return None if ref is None else ref.path.name.partition(".nii")[0]

    cases = {
        case.name: ([name(ref) for ref in case.channels], name(case.labels), name(case.roi)) for case in data.cases
    }
    return data.channel_names, cases


@pytest.mark.parametrize(
    ("names", "channels", "labels", "roi"),
    [
        (("t1", "flair", "seg"), ("flair", "t1"), "seg", None),
        (("T1", "labels", "mask"), ("T1",), "labels", "mask"),
        (("t1", "mask"), ("t1",), "mask", None),
        (("t1", "lesion_mask", "brain_mask"), ("t1",), "lesion_mask", "brain_mask"),
        (("dwi", "GT", "ROI"), ("dwi",), "GT", "ROI"),
        (("ct", "groundTruth"), ("ct",), "groundTruth", None),
        (("Flair_norm", "T1c_norm", "OTMultiClass", "brainmask"), ("Flair", "T1c"), "OTMultiClass", "brainmask"),
        (("t2", "t10", "t1", "manualLabel"), ("t1", "t2", "t10"), "manualLabel", None),
    ],
    ids=[
        "seg",
        "mask-beside-labels",
        "mask-alone",
        "two-masks",
        "upper-case",
        "compound",
        "brats-2013",
        "natural-order",
    ],
)
def test_roles_by_name(tmp_path, names, channels, labels, roi):
    tree(tmp_path, *(f"s{case}/{name}.nii.gz" for case in (1, 2) for name in names))
    data = read_case_folders(tmp_path)
    assert data.channel_names == channels
    for case in data.cases:
        assert case.labels.path.name == f"{labels}.nii.gz"
        assert (case.roi and case.roi.path.name) == (f"{roi}.nii.gz" if roi else None)


def test_the_name_of_the_case_does_not_count(tmp_path):
    tree(tmp_path, *(f"BraTS_{n}/BraTS_{n}_{kind}.nii.gz" for n in (1, 2, 10) for kind in ("flair", "seg")))
    channels, cases = found(tmp_path)
    assert channels == ("flair",)
    assert list(cases) == ["BraTS_1", "BraTS_2", "BraTS_10"]
    assert cases["BraTS_10"] == (["BraTS_10_flair"], "BraTS_10_seg", None)


def test_another_name_that_all_images_of_a_case_share_does_not_count_either(tmp_path):
    tree(tmp_path, *(f"p{n}/scan{7 * n}-{kind}.nii" for n in (1, 2, 3) for kind in ("t1", "t2", "seg")))
    assert found(tmp_path)[0] == ("t1", "t2")


def test_a_missing_channel_or_missing_labels(tmp_path):
    tree(tmp_path, "a/t1.nii", "a/t2.nii", "a/seg.nii", "b/t1.nii", "b/seg.nii", "c/t1.nii", "c/t2.nii")
    _, cases = found(tmp_path)
    assert cases["b"] == (["t1", None], "seg", None)
    assert cases["c"] == (["t1", "t2"], None, None)


def test_parts_that_folders_name(tmp_path):
    tree(
        tmp_path,
        *(
            f"{part}/{part}{n}/{kind}.nii"
            for part in ("train", "Val", "test")
            for n in (1, 2)
            for kind in ("t1", "seg")
        ),
    )
    parts = {case.name: case.part for case in read_case_folders(tmp_path).cases}
    assert parts == {
        "train1": "training", "train2": "training", "Val1": "validation", "Val2": "validation", "test1": "test",
        "test2": "test",
    }  # fmt: skip


def test_deeper_folders_links_and_hidden_files(tmp_path):
    tree(tmp_path / "data", "a/anat/t1.nii.gz", "a/seg.nii.gz", "a/._t1.nii.gz", ".trash/x/t1.nii.gz")
    tree(tmp_path / "elsewhere", "t1.nii.gz", "seg.nii.gz")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    channels, cases = found(tmp_path / "data")
    assert (channels, list(cases)) == (("t1",), ["a", "b"])


def test_what_is_left_out_is_said(tmp_path):
    tree(tmp_path, "a/t1.nii", "a/seg.nii", "b/t1.nii", "b/seg.nii", "atlas.nii.gz", "docs/readme.txt")
    notes = read_case_folders(tmp_path).notes
    assert notes[:2] == (
        "left out, since they belong to no case: atlas.nii.gz",
        "left out, since they hold no image: docs",
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a/t1.nii", "a/seg.nii", "a/seg_old.nii", "b/t1.nii", "b/seg.nii", "b/seg_old.nii"],
         "several files of a case could be labels: seg, seg_old. Move those"),
        (["a/t1.nii", "b/t1.nii"], "found no labels (no name with seg, label, truth, gt, ...) among the images: t1"),
        (["a/seg.nii", "b/seg.nii"], "found no channels among the images: seg"),
        (["a/x.nii", "a/seg.nii", "b/y.nii", "b/seg.nii", "c/z.nii", "c/seg.nii"],
         "    3 of 3 cases: seg\n        1 of 3 cases: x"),
        (["a/anat/t1.nii", "a/t1.nii", "a/seg.nii"], "have the same name apart from folder and case"),
        (["a/t1.nii", "a/seg.nii", "a/brain_mask.nii", "a/head_mask.nii"],
         "several files of a case could be the region of interest: brain_mask, head_mask"),
        (["a/t1\n.nii", "a/seg.nii"], "has a character that cannot be printed"),
        ([], "found no folders with NIfTI images"),
    ],
    ids=["two-labels", "no-labels", "no-channels", "no-common-names", "same-name", "two-masks", "line-end", "empty"],
)  # fmt: skip
def test_ambiguity_is_refused_with_the_list(tmp_path, paths, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_case_folders(tree(tmp_path, *paths))
