"""`-split`: sessions on a part of the listed cases, the same part when they go on, and the rest for a test."""

from __future__ import annotations

import json
import shutil

import pytest
from study import Study

from deepmedic.data.splits import PARTS, draw_parts

CASES = 6
NEW = ("-newModel", "model.cfg", "-train", "train.cfg")


@pytest.fixture(scope="session")
def six_cases(all_in_training) -> Study:
    return all_in_training(CASES)


@pytest.fixture
def study(six_cases, tmp_path, monkeypatch) -> Study:
    """Six cases, all of them listed for training; the working folder is the study's."""
    study = six_cases.copied_to(tmp_path / "study")
    monkeypatch.chdir(study.folder)
    study.train(numberOfEpochs=1, numberOfSubepochs=1, **VALIDATES)
    return study


VALIDATES = {
    "performFullInferenceOnValidationImagesEveryFewEpochs": True,
    "performValidationOnSamplesThroughoutTraining": True,
    "numberValidationSegmentsLoadedOnGpuPerSubep": 4,
    "batchsize_val_samples": 4,
    "saveProbMapsForEachClassVal": [False, False, False],
}


def parts(study: Study, session: str = "first") -> dict[str, list[str]]:
    content = json.loads((study.out / "splits" / session / "split.json").read_text())
    return {part: [case for entry in entries for case in entry["cases"]] for part, entries in content["parts"].items()}


def test_a_split_trains_validates_and_leaves_the_rest_for_a_test(study, run):
    outcome = run(*NEW, "-split", "0.5", "0.25", "0.25")
    assert outcome.code == 0, outcome.err
    found = parts(study)
    assert sorted(map(len, found.values())) == [1, 2, 3]
    assert sorted(case for cases in found.values() for case in cases) == [f"case{case}_t1" for case in range(CASES)]
    segmented = {path.name for path in (study.out / "predictions" / "first" / "predictions").glob("*_Segm.nii.gz")}
    assert segmented == {f"{case}_Segm.nii.gz" for case in found["validation"]}

    test_config = study.out / "splits" / "first" / "test.cfg"
    assert f"deepmedic -test {test_config} -model {study.checkpoints}" in outcome.out
    assert "Split:" in outcome.out
    outcome = run("-test", test_config, "-model", study.checkpoints)
    assert outcome.code == 0, outcome.err
    rows = json.loads((study.out / "predictions" / "first_test" / "metrics.json").read_text())["rows"]
    assert {row["case"] for row in rows} == set(found["test"])
    assert "report = false" in test_config.read_text()  # as the training's config says


def test_an_inference_is_told_which_of_its_cases_the_split_trained_on(study, run):
    assert run(*NEW, "-split", "0.5", "0.25", "0.25").code == 0
    names = (study.out / "splits" / "first" / "training" / "names.cfg").read_text().split()
    study.list_cases("val", range(CASES))
    outcome = run("-test", study.test(), "-model", study.newest(), "-check")
    assert outcome.code == 0, outcome.err
    known = ", ".join(name.removesuffix("_t1") for name in sorted(names))
    assert f"{study.newest()} was trained on {len(names)} of {CASES} cases to segment: {known};" in outcome.out


def test_the_listing_files_of_a_part_name_the_images_of_its_cases(study, run):
    assert run(*NEW, "-split", "0.5", "0.5").code == 0
    for part, cases in parts(study).items():
        folder = study.out / "splits" / "first" / part
        numbers = [case[len("case")] for case in cases]
        for name, kind in (("channel_1", "t1"), ("channel_2", "t2"), ("labels", "labels"), ("roi", "roi")):
            lines = (folder / f"{name}.cfg").read_text().splitlines()
            assert lines == [str(study.image(int(number), kind)) for number in numbers]
        assert (folder / "names.cfg").read_text().splitlines() == cases
        assert (folder / "subjects.cfg").read_text().splitlines() == cases
    assert not (study.out / "splits" / "first" / "test.cfg").exists()


def test_the_same_command_goes_on_with_the_same_split(study, run):
    assert run(*NEW, "-split", "0.5", "0.5").code == 0
    before = (study.out / "splits" / "first" / "split.json").read_bytes()
    study.train(numberOfEpochs=2, numberOfSubepochs=1, **VALIDATES)
    outcome = run(*NEW, "-split", "0.5", "0.5")
    assert outcome.code == 0, outcome.err
    assert "Going on from" in outcome.out
    assert (study.out / "splits" / "first" / "split.json").read_bytes() == before
    assert study.trained()["origin"]["split"]["proportions"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-split", "0.6", "0.4"), r"the split of -split 0.5 0.5, seed 0 (SHA-256"),
        (("-split", "0.5", "0.5", "-seed", "1"), r"but the command has the split of -split 0.5 0.5, seed 1 ("),
        ((), "but the command has no split. Repeat the first command"),
    ],
    ids=["proportions", "seed", "no_split"],
)
def test_another_split_is_refused_and_named(study, run, words, message):
    assert run(*NEW, "-split", "0.5", "0.5").code == 0
    before = study.files()
    if not words:
        study.train(validate=True)
    outcome = run(*NEW, *words)
    assert outcome.code == 5
    assert message in outcome.err
    assert study.files() == before
    if words:
        assert run(*NEW, *words, "-overwrite").code == 0
        stored = json.loads((study.out / "splits" / "first" / "split.json").read_text())
        assert (stored["seed"], len(parts(study)["training"])) == ((1, 3) if "-seed" in words else (0, 4))


def test_a_session_without_split_does_not_go_on_with_one(study, run):
    study.train(numberOfEpochs=1, numberOfSubepochs=1)
    assert run(*NEW).code == 0
    study.train(numberOfEpochs=2, numberOfSubepochs=1)
    outcome = run(*NEW, "-split", "0.5", "0.5")
    assert outcome.code == 5
    assert "this session was started with no split, but the command has the split of -split 0.5 0.5" in outcome.err


def test_listed_subjects_that_the_stored_split_does_not_know_are_refused_by_name(study, run):
    assert run(*NEW, "-split", "0.5", "0.5").code == 0
    study.list_cases("train", range(1, CASES))
    study.train(numberOfEpochs=2, numberOfSubepochs=1)
    outcome = run("-train", "train.cfg", "-split", "0.5", "0.5")
    assert outcome.code == 4
    assert "split.json: this split is not one of the listed subjects: the lists do not have case0_t1" in outcome.err


def test_a_stored_split_serves_another_session(study, run):
    assert run(*NEW, "-split", "0.5", "0.25", "0.25").code == 0
    study.train("second", sessionName="second", numberOfEpochs=1, numberOfSubepochs=1)
    stored = study.out / "splits" / "first" / "split.json"
    outcome = run("-newModel", "model.cfg", "-train", "second.cfg", "-split", stored, "-seed", "7")
    assert outcome.code == 0, outcome.err
    assert parts(study, "second") == parts(study)
    assert (study.out / "splits" / "second" / "split.json").read_bytes() == stored.read_bytes()


def test_scans_of_one_subject_stay_together(study, run):
    (study.folder / "lists" / "subjects.cfg").write_text("anna\nben\nanna\ncarl\nben\ncarl\n")
    study.train(numberOfEpochs=1, numberOfSubepochs=1, subjectsTraining="lists/subjects.cfg")
    outcome = run(*NEW, "-split", "0.4", "0.3", "0.3")
    assert outcome.code == 0, outcome.err
    pairs = [{"case0_t1", "case2_t1"}, {"case1_t1", "case4_t1"}, {"case3_t1", "case5_t1"}]
    assert all(set(cases) in pairs for cases in parts(study).values())


def test_validation_data_beside_a_split_are_refused(study, run):
    study.train(validate=True)
    outcome = run(*NEW, "-split", "0.5", "0.5")
    assert outcome.code == 3
    for key in ("channelsValidation", "gtLabelsValidation", "roiMasksValidation", "namesForPredictionsPerCaseVal"):
        assert f"{key}: stands there, but -split takes the validation cases from the training cases" in outcome.err
    assert not study.out.exists()


def test_more_parts_than_subjects_are_refused(study, run):
    study.list_cases("train", range(2))
    outcome = run(*NEW, "-split", "0.5", "0.25", "0.25")
    assert outcome.code == 4
    assert "2 subjects (case0_t1, case1_t1) cannot be split into 3 parts" in outcome.err


def test_unreadable_files_are_told_as_without_a_split(study, run):
    study.image(3, "t2").unlink()
    study.train(numberOfEpochs=1, validate=False, performFullInferenceOnValidationImagesEveryFewEpochs=True)
    outcome = run(*NEW, "-split", "0.5", "0.5")
    assert outcome.code == 4
    assert outcome.err.count("case3_t2.nii.gz") == 1
    study.list_cases("train", range(CASES))
    (study.folder / "lists" / "train_roi.cfg").write_text("")
    outcome = run(*NEW, "-split", "0.5", "0.5")
    assert outcome.code == 4
    assert "train_roi.cfg: the listing of ROI masks is empty" in outcome.err
    assert "validation" not in outcome.err


def test_an_image_in_two_parts_is_named_or_refused(study, run):
    shutil.copy(study.image(0, "t1"), study.image(7, "t1"))
    study.image(7, "t1").unlink()
    study.image(7, "t1").symlink_to(study.image(0, "t1"))
    lines = "".join(f"../images/case{case}_t1.nii.gz\n" for case in (0, 1, 2, 3, 4, 7))
    (study.folder / "lists" / "train_t1.cfg").write_text(lines)
    shares = ("0.34", "0.33", "0.33")
    names = [f"case{case}_t1" for case in (0, 1, 2, 3, 4, 7)]
    drawn = ((seed, draw_parts(names, dict(zip(PARTS, map(float, shares), strict=True)), seed)) for seed in range(99))
    seed = next(seed for seed, parts in drawn if "case0_t1" in parts["training"] and "case7_t1" in parts["test"])
    outcome = run(*NEW, "-split", *shares, "-seed", seed, "-check")
    assert outcome.code == 0, outcome.err
    assert f"{study.image(0, 't1')} is used in training (case case0_t1, " in outcome.out
    assert "and in test (case case7_t1, " in outcome.out
    study.train(strictSplits=True, **VALIDATES)
    outcome = run(*NEW, "-split", *shares, "-seed", seed, "-check")
    assert outcome.code == 4
    assert "take it out of one of the sets, or set strictSplits = false" in outcome.err


def test_check_shows_the_parts_and_writes_nothing(study, run):
    outcome = run(*NEW, "-split", "0.5", "0.25", "0.25", "-check", "-output", "check.json")
    assert outcome.code == 0, outcome.err
    found = json.loads((study.folder / "check.json").read_text())["split"]
    assert [len(found[part]) for part in ("training", "validation", "test")] == [3, 2, 1]
    assert not study.out.exists()


def test_a_split_that_cannot_be_used_in_a_session_is_refused(study, run):
    assert run(*NEW, "-split", "0.5", "0.5").code == 0
    stored = study.out / "splits" / "first" / "split.json"
    content = json.loads(stored.read_text())
    content["parts"] = {"a": content["parts"]["training"], "b": content["parts"]["validation"]}
    content["proportions"] = {"a": 0.5, "b": 0.5}
    (study.folder / "other.json").write_text(json.dumps(content))
    study.train("second", sessionName="second")
    outcome = run("-newModel", "model.cfg", "-train", "second.cfg", "-split", "other.json")
    assert outcome.code == 5
    assert (
        "other.json: this split has the parts a, b; a session needs training, validation and maybe test" in outcome.err
    )
