"""BIDS trees: entities, sessions, runs, spaces, derivatives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deepmedic.errors import DataError
from deepmedic.planning.bids import is_bids, read_bids
from deepmedic.versions import PROGRAM_NAME

MANUAL = "derivatives/manual"


def tree(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def found(folder: Path) -> dict[str, tuple]:
    """Per case its channels, labels and ROI by file name."""
    data = read_bids(folder)

    def name(ref):
        return None if ref is None else ref.path.name.removesuffix(".nii.gz")

    return {case.name: (*map(name, case.channels), name(case.labels), name(case.roi)) for case in data.cases}


def test_subjects_with_labels_and_brain_masks(tmp_path):
    tree(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_FLAIR.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz",
         f"{MANUAL}/sub-01/anat/sub-01_label-lesion_mask.nii.gz", f"{MANUAL}/sub-02/anat/sub-02_dseg.nii.gz",
         f"{MANUAL}/sub-01/anat/sub-01_desc-brain_mask.nii.gz", "sub-01/func/sub-01_task-rest_bold.nii.gz",
         "sub-01/dwi/sub-01_dwi.nii.gz", "sourcedata/sub-01/anat/sub-01_T1w.nii.gz")  # fmt: skip
    assert read_bids(tmp_path).channel_names == ("FLAIR", "T1w")
    assert found(tmp_path) == {
        "sub-01": ("sub-01_FLAIR", "sub-01_T1w", "sub-01_label-lesion_mask", "sub-01_desc-brain_mask"),
        "sub-02": (None, "sub-02_T1w", "sub-02_dseg", None),
    }


def test_sessions_are_cases_of_one_subject(tmp_path):
    tree(tmp_path, *(f"sub-1/ses-{s}/anat/sub-1_ses-{s}_T1w.nii.gz" for s in "ab"),
         *(f"{MANUAL}/sub-1/ses-{s}/anat/sub-1_ses-{s}_dseg.nii.gz" for s in "ab"))  # fmt: skip
    data = read_bids(tmp_path)
    assert [(case.name, case.subject) for case in data.cases] == [("sub-1_ses-a", "sub-1"), ("sub-1_ses-b", "sub-1")]


def test_labels_without_a_session_belong_to_the_only_one(tmp_path):
    tree(tmp_path, "sub-1/ses-x/anat/sub-1_ses-x_T1w.nii.gz", f"{MANUAL}/sub-1/sub-1_dseg.nii.gz")
    assert found(tmp_path) == {"sub-1_ses-x": ("sub-1_ses-x_T1w", "sub-1_dseg", None)}


def test_runs_that_labels_name_are_cases(tmp_path):
    tree(tmp_path, *(f"sub-1/anat/sub-1_run-{r}_T1w.nii.gz" for r in (1, 2)), "sub-1/anat/sub-1_FLAIR.nii.gz",
         *(f"{MANUAL}/sub-1/anat/sub-1_run-{r}_dseg.nii.gz" for r in (1, 2)))  # fmt: skip
    assert found(tmp_path)["sub-1_run-2"] == ("sub-1_FLAIR", "sub-1_run-2_T1w", "sub-1_run-2_dseg", None)


def test_the_space_of_the_labels_chooses_the_images(tmp_path):
    derived = "derivatives/prep/sub-1/anat/sub-1_space-MNI"
    tree(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", f"{derived}_desc-preproc_T1w.nii.gz", f"{derived}_dseg.nii.gz",
         f"{derived}_desc-brain_mask.nii.gz", "derivatives/prep/sub-1/anat/sub-1_desc-brain_mask.nii.gz",
         "sub-2/anat/sub-2_T1w.nii.gz",
         "derivatives/prep/sub-2/anat/sub-2_space-MNI_desc-preproc_T1w.nii.gz")  # fmt: skip
    assert found(tmp_path) == {
        "sub-1": ("sub-1_space-MNI_desc-preproc_T1w", "sub-1_space-MNI_dseg", "sub-1_space-MNI_desc-brain_mask"),
        "sub-2": ("sub-2_space-MNI_desc-preproc_T1w", None, None),
    }


def test_other_entities_tell_channels_apart_where_a_suffix_occurs_twice(tmp_path):
    tree(tmp_path, *(f"sub-{s}/anat/sub-{s}_{v}T1w.nii.gz" for s in (1, 2) for v in ("", "ce-gd_")),
         *(f"sub-{s}/anat/sub-{s}_acq-3d_FLAIR.nii.gz" for s in (1, 2)),
         *(f"{MANUAL}/sub-{s}/anat/sub-{s}_dseg.nii.gz" for s in (1, 2)))  # fmt: skip
    assert read_bids(tmp_path).channel_names == ("FLAIR", "T1w", "ce-gd T1w")


def test_rare_channels_subjects_and_own_results_are_left_out_and_noted(tmp_path):
    tree(tmp_path, *(f"sub-{s}/anat/sub-{s}_T1w.nii.gz" for s in (1, 2, 3)), "sub-1/anat/sub-1_PDw.nii.gz",
         *(f"{MANUAL}/sub-{s}/anat/sub-{s}_dseg.nii.gz" for s in (1, 2, 3)),
         "derivatives/net/sub-1/anat/sub-1_dseg.nii.gz")  # fmt: skip
    (tmp_path / "derivatives/net/dataset_description.json").write_text(
        json.dumps({"Name": "x", "GeneratedBy": [{"Name": PROGRAM_NAME}]})
    )
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-1\nsub-9\n")
    data = read_bids(tmp_path)
    assert data.channel_names == ("T1w",)
    assert data.notes == (
        f"left out, since this program wrote it: {tmp_path / 'derivatives/net'}",
        "left out, since less than half of the cases with labels have them: PDw",
        "participants.tsv lists 1 subjects without usable images: sub-9",
    )


def test_labels_without_images_are_noted(tmp_path):
    tree(tmp_path, *(f"sub-1/ses-{s}/anat/sub-1_ses-{s}_T1w.nii.gz" for s in "ab"), "sub-2/anat/sub-2_T1w.nii.gz",
         f"{MANUAL}/sub-1/anat/sub-1_dseg.nii.gz", f"{MANUAL}/sub-2/anat/sub-2_dseg.nii.gz")  # fmt: skip
    data = read_bids(tmp_path)
    assert [case.name for case in data.cases if case.labels] == ["sub-2"]
    assert data.notes == ("left out, since there are labels but no images in their space or session: sub-1",)


def test_names_of_classes_come_from_the_table_of_the_labels(tmp_path):
    tree(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", f"{MANUAL}/sub-1/anat/sub-1_dseg.nii.gz")
    (tmp_path / MANUAL / "sub-1/anat/sub-1_dseg.tsv").write_text(
        "index\tname\tcolor\n2\tlesion\t#ff0000\n0\tnothing\t\n"
    )
    assert read_bids(tmp_path).class_names == ("nothing", "label 1", "lesion")
    (tmp_path / MANUAL / "sub-1/anat/sub-1_dseg.tsv").write_text("index\tname\n1000\tctx\n")
    assert read_bids(tmp_path).class_names is None


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["sub-1/anat/sub-1_T1w.nii.gz"], "found no labels in this BIDS tree"),
        ([f"{MANUAL}/sub-1/anat/sub-1_dseg.nii.gz"], "found no anatomical images in the space of the labels"),
        (["sub-1/anat/sub-1_T1w.nii.gz", *(f"derivatives/{m}/sub-1/anat/sub-1_dseg.nii.gz" for m in "ab")],
         "several files could be the labels of sub-1:\n    "),
        ([*(f"sub-1/anat/sub-1_run-{r}_T1w.nii.gz" for r in (1, 2)), f"{MANUAL}/sub-1/anat/sub-1_dseg.nii.gz"],
         "sub-1 has several images for the channel T1w:\n    "),
        (["sub-1/anat/sub-1_T1w.nii.gz", f"{MANUAL}/sub-1/anat/sub-1_dseg.nii.gz",
          *(f"derivatives/{m}/sub-1/anat/sub-1_desc-brain_mask.nii.gz" for m in "ab")], "several brain masks of sub-1"),
    ],
    ids=["no-labels", "no-images", "two-labels", "two-runs", "two-masks"],
)  # fmt: skip
def test_ambiguity_is_refused_with_the_list(tmp_path, paths, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_bids(tree(tmp_path, *paths))


def test_only_trees_with_subjects_are_bids(tmp_path):
    assert not is_bids(tree(tmp_path, "subject1/t1.nii.gz"))
    assert is_bids(tree(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz"))
