"""The data's part of `-check`: what cases look like, repeated voxels, and suggestions that change nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deepmedic import checkpoints
from deepmedic.data.cases import Case, ImageRef
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.inference.overlap import shared_with_training


@pytest.fixture
def checked(study, run, tmp_path):
    """Run `-check` for a training and return outcome and JSON."""

    def check(**changes):
        command = ["-newModel", study.folder / "model.cfg", "-train", study.train(validate=True, **changes)]
        outcome = run(*command, "-check", "-output", tmp_path / "found.json")
        return outcome, json.loads((tmp_path / "found.json").read_text()) if outcome.code == 0 else None

    return check


def test_each_case_is_described(study, checked):
    outcome, found = checked()
    assert outcome.code == 0
    training = found["data"]["training"]
    assert training["shapes"] == {"20 x 18 x 16": 2}
    assert training["spacings"] == {"1 x 1 x 1.2 mm": 2}
    labels = np.asarray(nib.load(study.image(1, "labels")).dataobj)
    counts = np.bincount(labels.ravel(), minlength=3)
    case = training["perCase"][1]
    assert case["labelVoxels"] == counts.tolist()
    assert case["labelMillilitres"] == pytest.approx((counts * 1.2 / 1000).tolist())
    inside = np.asarray(nib.load(study.image(1, "roi")).dataobj) > 0
    t2 = np.asarray(nib.load(study.image(1, "t2")).dataobj)[inside]
    assert case["channels"][1]["mean"] == pytest.approx(t2.mean(dtype=np.float64), rel=1e-6)
    assert case["channels"][1]["std"] == pytest.approx(t2.std(dtype=np.float64), rel=1e-6)
    assert found["data"]["validation"]["cases"] == 1


def test_the_console_shows_tables_and_suggestions(checked):
    out = checked()[0].out
    for text in (
        "    shapes: 20 x 18 x 16 (2 cases)",
        "    intensities (ROI)",
        "    labels (whole image)",
        "suggestions (they change nothing; set what convinces you):",
        "  - batchsize_train = 10 (now 4): a step takes about ",
        '  - norm_zscore_prms = {"apply_to_all_channels": true} (as it is): ',
        "of the voxels in the ROI: background ",
    ):
        assert text in out


def test_foreground_outside_the_roi_is_said(study, checked):
    roi = np.asarray(nib.load(study.image(1, "roi")).dataobj).copy()
    labels = np.asarray(nib.load(study.image(1, "labels")).dataobj)
    roi[:8] = 0
    study.write_image(1, "roi", roi)
    outside = np.count_nonzero(labels[:8])
    share = outside / sum(np.count_nonzero(nib.load(study.image(case, "labels")).dataobj) for case in (0, 1))
    assert (
        f"{share:.2%} of the foreground ({outside} voxels) lies outside the ROI and is never predicted, in 1 case"
        in (checked()[0].out)
    )


def test_suggestions_change_nothing(checked):
    found = checked()[1]
    assert {suggestion["key"] for suggestion in found["suggestions"]} >= {"segmentsDimTrain", "batchsize_train"}
    assert found["settings"]["batchsize_train"] == 4


def test_the_same_voxels_in_training_and_validation_are_named(study, checked):
    content = nib.load(study.image(0, "t1"))
    study.write_image(2, "t1", np.asarray(content.dataobj).astype(np.float64), content.affine)
    outcome, found = checked()
    assert outcome.code == 0
    [note] = [note for note in found["notes"] if "same voxels" in note and "channel 1" in note]
    assert note.startswith("the same voxels serve training and validation, so that scores say nothing about new cases")
    assert "case0_t1.nii.gz" in note
    assert "case2_t1.nii.gz" in note


class TestWhatAModelWasTrainedOn:
    @pytest.fixture
    def trained_images(self, source):
        """Where the images lie that the model was trained on."""
        [listing, _] = checkpoints.load(source)["training"]["settings"]["channelsTraining"]
        return Path(listing).parent.parent / "images"

    @pytest.fixture
    def notes(self, study, run, tmp_path, source):
        def notes(**changes):
            outcome = run(
                "-test", study.test(**changes), "-model", source, "-check", "-output", tmp_path / "found.json"
            )
            assert outcome.code == 0, outcome.err
            return [
                note for note in json.loads((tmp_path / "found.json").read_text())["notes"] if "was trained on" in note
            ]

        return notes

    def test_new_images(self, notes):
        assert notes() == []

    def test_a_copy_under_another_path(self, study, notes, trained_images, source):
        study.list_cases("val", [1])
        assert notes() == [
            f"{source} was trained on 1 of 1 case to segment: case1 (copied from {trained_images}/"
            "case1_t1.nii.gz); scores on them say nothing about new cases"
        ]

    @pytest.mark.parametrize("place", [0, 20_000, 39_999, None], ids=str)
    def test_a_file_of_equal_size_is_a_copy_only_if_no_byte_differs(self, source, tmp_path, place):
        known, other, listing = tmp_path / "known.nii", tmp_path / "other.nii", tmp_path / "train.cfg"
        content = bytearray(range(250)) * 160
        known.write_bytes(content)
        if place is not None:
            content[place] ^= 1
        other.write_bytes(content)
        listing.write_text("known.nii\n")
        model = SavedModel.from_content(checkpoints.load(source), str(source))
        model = replace(model, training={**model.training, "settings": {"channelsTraining": [str(listing)]}})
        found = shared_with_training(model, [Case("a", (ImageRef(other),))], "M.save")
        copied = f"M.save was trained on 1 of 1 case to segment: a (copied from {known}); scores on them say"
        assert [line.startswith(copied) for line in found] == ([True] if place is None else [])

    @pytest.mark.parametrize("problem", [PermissionError(13, "denied"), OSError(116, "Stale file handle")], ids=repr)
    @pytest.mark.parametrize("unreadable", ["known.nii", "other.nii"])
    def test_a_file_that_cannot_be_looked_at_is_passed_over(self, source, tmp_path, monkeypatch, problem, unreadable):
        for name in ("known.nii", "second.nii", "other.nii", "copy.nii"):
            (tmp_path / name).write_bytes(bytes(100))
        (tmp_path / "train.cfg").write_text("known.nii\nsecond.nii\n")
        model = SavedModel.from_content(checkpoints.load(source), str(source))
        settings = {"channelsTraining": [str(tmp_path / "train.cfg")]}
        model = replace(model, training={**model.training, "settings": settings})
        original = Path.stat

        def closed(path, **options):
            if path.name == unreadable:
                raise problem
            return original(path, **options)

        monkeypatch.setattr(Path, "stat", closed)
        cases = [Case(name, (ImageRef(tmp_path / f"{name}.nii"),)) for name in ("other", "copy")]
        [found] = shared_with_training(model, cases, "M.save")
        named = [f"{case.name} (copied from {tmp_path}/" for case in cases]
        assert [name in found for name in named] == ([True, True] if unreadable == "known.nii" else [False, True])
        assert ("second.nii" in found) == (unreadable == "known.nii")

    def test_a_folder_is_no_copy(self, source, tmp_path):
        for name in ("known.nii", "other.nii"):
            (tmp_path / name).mkdir()
        (tmp_path / "train.cfg").write_text("known.nii\n")
        model = SavedModel.from_content(checkpoints.load(source), str(source))
        settings = {"channelsTraining": [str(tmp_path / "train.cfg")]}
        model = replace(model, training={**model.training, "settings": settings})
        assert shared_with_training(model, [Case("a", (ImageRef(tmp_path / "other.nii"),))]) == []

    def test_the_same_file(self, study, notes, trained_images, source):
        (study.folder / "lists" / "val_t1.cfg").write_text(f"{trained_images / 'case0_t1.nii.gz'}\n")
        [note] = notes()
        assert note.startswith(f"{source} was trained on 1 of 1 case to segment: case2;")

    def test_a_run_says_it_in_its_log_and_its_report_and_goes_on(self, study, run, source):
        study.list_cases("val", [1])
        outcome = run("-test", study.test(report=True), "-model", source)
        assert outcome.code == 0, outcome.err
        said = f"{source} was trained on 1 of 1 case to segment: case1 (copied from"
        assert said in (study.out / "logs" / "segment.txt").read_text()
        page = (study.out / "reports" / "segment.html").read_text()
        assert "was trained on 1 of 1 case to segment: case1 (copied from" in page

    def test_nothing_is_said_where_the_lists_of_training_or_the_split_are_gone(self, source, study):
        model, [case] = SavedModel.from_content(checkpoints.load(source), source), [Case("a", (None,))]
        gone = {**model.training, "settings": {"channelsTraining": ["nowhere.cfg"]}}
        split = {**model.training, "origin": {"split": {"asked": "-split 0.5 0.5", "sha256": "x"}}}
        for training in (gone, split, None):
            assert shared_with_training(replace(model, training=training), [case]) == []


def test_cases_that_are_left_out_are_not_described(study, checked):
    study.write_image(1, "roi", np.zeros((20, 18, 16), np.uint8))
    command_outcome, _ = checked(allowSkippedCases=True)
    assert command_outcome.code == 9
    assert "    shapes: 20 x 18 x 16 (1 case)" in command_outcome.out
