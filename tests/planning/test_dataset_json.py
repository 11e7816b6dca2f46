"""`dataset.json` in the dialects of nnU-Net, the decathlon and MONAI, and hostile ones."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepmedic.errors import DataError, DeepMedicError, SeveralProblems
from deepmedic.planning.dataset_json import read_dataset_json

LABELS = {"background": 0, "tumour": 1}


def image(path: Path, volumes: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, volumes)[: 3 + (volumes > 1)], np.uint8), np.eye(4)), path)


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def read(folder: Path, **content: Any):
    content = {"labels": LABELS, **content}
    (folder / "dataset.json").write_text(
        json.dumps({key: value for key, value in content.items() if value is not None})
    )
    return read_dataset_json(folder / "dataset.json")


class TestNnUNet:
    def test_second_version(self, tmp_path):
        names = [f"imagesTr/c_{n:03d}_000{m}.nii.gz" for n in (1, 2) for m in (0, 1)]
        touch(tmp_path, *names, "labelsTr/c_001.nii.gz", "labelsTr/c_002.nii.gz", "imagesTs/c_003_0001.nii.gz")
        data = read(tmp_path, channel_names={"0": "T1", "1": "CT"}, numTraining=2, file_ending=".nii.gz")
        assert (data.channel_names, data.class_names, data.notes) == (("T1", "CT"), ("background", "tumour"), ())
        first, _, last = data.cases
        assert (first.name, first.part) == ("c_001", "training")
        assert [str(ref) for ref in first.channels] == [str(tmp_path / name) for name in names[:2]]
        assert str(first.labels) == str(tmp_path / "labelsTr/c_001.nii.gz")
        assert (last.part, last.labels, last.channels[0]) == ("test", None, None)

    def test_first_version_lists_cases_without_their_channels(self, tmp_path):
        touch(tmp_path, "imagesTr/la_7_0000.nii.gz", "imagesTr/la_7_0001.nii.gz", "labelsTr/la_7.nii.gz")
        training = [{"image": "./imagesTr/la_7.nii.gz", "label": "./labelsTr/la_7.nii.gz"}]
        data = read(tmp_path, modality={"0": "T1", "1": "T2"}, labels={"0": "background", "1": "x"}, training=training)
        [case] = data.cases
        assert [ref.path.name for ref in case.channels] == ["la_7_0000.nii.gz", "la_7_0001.nii.gz"]
        assert data.class_names == ("background", "x")

    def test_its_table_of_files(self, tmp_path):
        touch(tmp_path, "a/t1.nii", "a/seg.nii")
        table = {"a": {"images": ["a/t1.nii", "a/t2.nii"], "label": "a/seg.nii"}}
        [case] = read(tmp_path, channel_names=["T1", "T2"], dataset=table, file_ending=".nii").cases
        assert (case.channels[0].path.name, case.channels[1]) == ("t1.nii", None)

    def test_regions_name_only_single_labels(self, tmp_path):
        touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
        labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
        data = read(tmp_path, channel_names={"0": "T1"}, labels=labels)
        assert data.class_names == ("background", "label 1", "label 2", "enhancing")

    def test_another_number_of_cases_than_declared_is_noted(self, tmp_path):
        touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
        assert "numTraining says 9, and 1 training cases were found" in read(
            tmp_path, channel_names={"0": "T1"}, numTraining=9
        ).notes[0]  # fmt: skip


class TestDecathlon:
    def test_volumes_of_4d_images_are_channels(self, tmp_path):
        image(tmp_path / "imagesTr/B_1.nii.gz", 3)
        image(tmp_path / "imagesTs/B_2.nii.gz", 3)
        training = [{"image": "./imagesTr/B_1.nii.gz", "label": "./labelsTr/B_1.nii.gz"}]
        content = {"modality": {"0": "FLAIR", "1": "T1w", "2": "T1gd"}, "training": training}
        first, second = read(tmp_path, **content, test=["./imagesTs/B_2.nii.gz"]).cases
        assert [str(ref) for ref in first.channels] == [f"{tmp_path}/imagesTr/B_1.nii.gz[{n}]" for n in range(3)]
        assert (second.part, second.labels) == ("test", None)

    def test_a_3d_image_is_one_channel(self, tmp_path):
        image(tmp_path / "imagesTr/a.nii.gz")
        training = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]
        [case] = read(tmp_path, modality={"0": "CT"}, training=training).cases
        assert [str(ref) for ref in case.channels] == [f"{tmp_path}/imagesTr/a.nii.gz"]

    def test_lists_of_files_and_a_validation_part_as_in_monai(self, tmp_path):
        touch(tmp_path, "t1.nii", "t2.nii", "seg.nii")
        entry = {"image": ["t1.nii", "t2.nii"], "label": "seg.nii"}
        data = read(tmp_path, modality=["T1", "T2"], training=[entry], validation=[entry])
        assert [case.part for case in data.cases] == ["training", "validation"]

    def test_another_number_of_volumes_is_refused(self, tmp_path):
        image(tmp_path / "a.nii.gz", 3)
        with pytest.raises(DataError, match=r"found 3 volumes, and .* declares 2 channels \(A, B\)"):
            read(tmp_path, modality=["A", "B"], training=[{"image": "a.nii.gz", "label": "b.nii.gz"}])


ONE = {"channel_names": {"0": "T1"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "neither channel_names nor modality is there"),
        ({"channel_names": {"1": "T1"}}, 'must number its channels "0", "1", ...'),
        ({"channel_names": {"0": ["T1"]}}, "found ['T1'] as a name"),
        ({"channel_names": {"0": "T1\n[x]"}}, "as a name; allowed is a text of 1 to 80 characters"),
        ({"channel_names": {"0": "T" * 10**6}}, "as a name; allowed is a text"),
        ({**ONE, "labels": None}, "labels is missing or empty"),
        ({**ONE, "labels": {"a": -1}}, "labels: found 'a': -1; allowed are names with whole numbers"),
        ({**ONE, "labels": {"a": True}}, "labels: found 'a': True"),
        ({**ONE, "labels": {"a": 10**9}}, "whole numbers from 0 to 999"),
        ({**ONE, "labels": {"a": 0, "b": 900}}, "2 labels up to 900 are declared. Labels must be numbered 0"),
        ({"channel_names": [f"c{n}" for n in range(101)]}, "channel_names names 101 channels; allowed are 100"),
        ({**ONE, "labels": {"a": 0, "ignore": 3}}, "this program has no such label"),
        ({**ONE, "file_ending": ".png"}, "file_ending is '.png'; this program reads .nii.gz and .nii"),
        ({**ONE, "training": 5}, "training must be a list of cases; found 5"),
        ({**ONE, "training": [5]}, "found '5' as the path of an image"),
        ({**ONE, "training": [{"image": "nowhere.nii.gz", "label": "l.nii.gz"}]}, "Correct the path"),
        ({**ONE, "training": [{"image": "../x.nii.gz"}]}, "the path '../x.nii.gz' leads outside the folder"),
        ({**ONE, "training": [{"image": "/etc/passwd"}]}, "the path '/etc/passwd' leads outside the folder"),
        ({**ONE, "training": [{"image": "a\0b.nii.gz"}]}, "leads outside the folder"),
        ({**ONE, "training": [{"image": "a\nb.nii.gz"}]}, "has a character that cannot be printed"),
        ({**ONE, "training": [{"image": []}]}, "lists 0 images, and there are 1 channels (T1)"),
        ({**ONE, "dataset": [1]}, "dataset must name its cases; found [1]"),
        ({**ONE, "dataset": {"a": 1}}, "case 'a': needed are images (a list) and label"),
        ({**ONE, "dataset": {"a": {"images": ["../../b.nii.gz"]}}}, "leads outside the folder"),
        ({**ONE}, "no case with labels was found"),
    ],
)  # fmt: skip
def test_hostile_or_mistaken_descriptions_are_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=re.escape(message)) as refusal:
        read(tmp_path, **content)
    assert len(str(refusal.value)) < 1000


entries = st.sampled_from(["0", "1", "image", "label", "images"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(entries, inner),
    max_leaves=6,
)
keys = st.sampled_from(
    ["channel_names", "modality", "labels", "file_ending", "training", "test", "dataset", "validation", "numTraining"]
)


@given(st.dictionaries(keys, anything), st.sampled_from([{}, {"labels": LABELS}, {**ONE, "labels": LABELS}]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_there_is_read_or_refused(tmp_path, content, sound):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    try:
        result = str(read(tmp_path, **{"labels": None, **content, **sound}).cases[0].labels)
    except DeepMedicError as refusal:
        result = str(refusal)
    assert str(tmp_path) in result


def test_channels_and_classes_that_are_missing_are_told_together(tmp_path):
    with pytest.raises(SeveralProblems) as refusal:
        read(tmp_path, labels=None, training=[])
    assert [type(problem) for problem in refusal.value.problems] == [DataError, DataError]
    assert "neither channel_names nor modality is there" in str(refusal.value.problems[0])
    assert "labels is missing or empty" in str(refusal.value.problems[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "found list, needed a JSON object"),
        ("{", "this is no JSON"),
        ("[" * 200_000, "this is no JSON"),
        ("\0\xff", "this is no JSON"),
    ],
    ids=["list", "cut", "deep", "binary"],
)
def test_what_is_no_description(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        read_dataset_json(tmp_path / "dataset.json")


def test_a_description_without_end_is_not_read_to_its_end(tmp_path):
    with open(tmp_path / "dataset.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="too large for a description"):
        read_dataset_json(tmp_path / "dataset.json")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "dataset.json")
    with pytest.raises(DataError):
        read_dataset_json(tmp_path / "dataset.json")


@pytest.mark.parametrize("linked", ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz"])
def test_links_that_lead_outside_are_refused(tmp_path, linked):
    data = tmp_path / "data"
    touch(data, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz")
    touch(tmp_path, "secret.nii.gz")
    (data / linked).unlink()
    (data / linked).symlink_to(tmp_path / "secret.nii.gz")
    with pytest.raises(DataError, match="is a link that leads outside the folder of the data set"):
        read(data, **ONE)


def test_links_within_the_data_set_are_followed(tmp_path):
    touch(tmp_path, "store/x.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr/a_0000.nii.gz").symlink_to("../store/x.nii.gz")
    assert len(read(tmp_path, **ONE).cases) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a_0000.nii.gz", "b.nii.gz"], r"not named as nnU-Net does, <case>_0000.nii.gz:\n    b.nii.gz"),
        (["a_0000.nii.gz", "a_0001.nii.gz"], r"case a has the channel 0001, and .* declares 1 channels \(T1\)"),
    ],
)
def test_files_that_do_not_fit_the_convention(tmp_path, names, message):
    touch(tmp_path, *(f"imagesTr/{name}" for name in names), "labelsTr/a.nii.gz")
    with pytest.raises(DataError, match=message):
        read(tmp_path, **ONE)
