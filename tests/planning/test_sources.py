"""Which kind of data set a path names, and names of cases that are all different."""

from __future__ import annotations

import json
import re

import pytest

from deepmedic.errors import DataError
from deepmedic.planning.sources import read_source


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def test_the_kind_is_told_by_content(tmp_path):
    cases = touch(tmp_path / "cases", "a/t1.nii", "a/seg.nii")
    bids = touch(tmp_path / "bids", "sub-1/anat/sub-1_T1w.nii", "derivatives/m/sub-1/anat/sub-1_dseg.nii")
    nnunet = touch(tmp_path / "nnunet", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (nnunet / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": {"x": 1}}))
    kinds = [read_source(path).kind for path in (cases, bids, nnunet, nnunet / "dataset.json")]
    assert kinds == ["a folder per case", "a BIDS tree", "a dataset.json", "a dataset.json"]


def test_a_table_keeps_its_channels_and_subjects(tmp_path):
    touch(tmp_path, "a.nii", "b.nii", "c.nii")
    header = "channel_T2,channel_CT,ground_truth,prediction_filename,subject"
    (tmp_path / "t.csv").write_text(f"{header}\na.nii,b.nii,c.nii,one,P1\nb.nii,,c.nii,two,P1\n")
    found = read_source(tmp_path / "t.csv")
    assert found.channel_names == ("CT", "T2")
    assert [(case.name, case.subject, case.channels[0] is None) for case in found.cases] == [
        ("one", "P1", False), ("two", "P1", True)
    ]  # fmt: skip


def test_a_name_in_two_parts_gets_that_of_the_part_and_stays_one_subject(tmp_path):
    touch(tmp_path, *(f"{part}/{name}/{kind}.nii" for part, name in [("train", "P1"), ("train", "P2"), ("test", "P1")]
                      for kind in ("t1", "seg")))  # fmt: skip
    cases = {case.name: case.belongs_to for case in read_source(tmp_path).cases}
    assert cases == {"training_P1": "P1", "P2": "P2", "test_P1": "P1"}


def test_a_name_twice_in_one_part_is_refused(tmp_path):
    touch(tmp_path, *(f"{part}/P1/{kind}.nii" for part in ("train", "training") for kind in ("t1", "seg")))
    with pytest.raises(
        DataError, match=re.escape(f"{tmp_path}: several cases have one name: training_P1. Rename them.")
    ):
        read_source(tmp_path)
