"""`-crossValidate`: a session per fold, each subject held out once, killed and resumed, and one table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from study import CLASSES, Study, table_of

CASES = 4
NEW = ("-newModel", "model.cfg", "-train", "train.cfg")
TWO = (*NEW, "-crossValidate", "2")
SAVES = {"saveProbMapsForEachClassVal": [False] * CLASSES}


@pytest.fixture(scope="session")
def four_cases(all_in_training) -> Study:
    study = all_in_training(CASES)
    study.train(numberOfEpochs=1, numberOfSubepochs=1, **SAVES)
    return study


@pytest.fixture
def study(four_cases, tmp_path, monkeypatch) -> Study:
    """Four cases, all listed for training; the working folder is the study's."""
    study = four_cases.copied_to(tmp_path / "study")
    monkeypatch.chdir(study.folder)
    return study


def table(study: Study) -> dict:
    return json.loads((study.out / "predictions" / "first" / "cross_validation.json").read_text())


def fold_models(study: Study) -> list[Path]:
    """Of two folds."""
    return [study.out / "cnnModels" / f"first_fold{fold}" / f"net.first_fold{fold}.latest.save" for fold in (1, 2)]


def test_every_subject_is_held_out_once_and_one_table_sums_up(study, run):
    outcome = run(*TWO)
    assert outcome.code == 0, outcome.err
    found = table(study)
    names = [f"case{case}_t1" for case in range(CASES)]
    assert sorted({score["case"] for score in found["scores"]}) == names
    assert len(found["scores"]) == CASES * CLASSES  # the whole foreground takes the place of the background
    for fold in (1, 2):
        folder = study.out / "splits" / "first" / f"fold{fold}"
        trained, held_out = ((folder / part / "names.cfg").read_text().split() for part in ("training", "validation"))
        assert sorted(trained + held_out) == names
        assert {score["case"] for score in found["scores"] if score["fold"] == fold} == set(held_out)
        assert (
            study.trained(study.out / "cnnModels" / f"first_fold{fold}" / f"net.first_fold{fold}.latest.save")[
                "origin"
            ]["split"]["asked"]
            == f"fold {fold} of -crossValidate 2"
        )
    rows = table_of(study.out / "predictions" / "first" / "cross_validation.csv")
    overall = [row for row in rows if row["fold"] == "all"]
    for row in overall:
        dices = [score["dice"] for score in found["scores"] if score["class_name"] == row["class_name"]]
        assert float(row["mean"]) == pytest.approx(np.nanmean(dices))
        assert float(row["sd"]) == pytest.approx(np.nanstd(dices, ddof=1))
        assert min(dices) <= float(row["ci_low"]) <= float(row["mean"]) <= float(row["ci_high"]) <= max(dices)
    assert "Cross-validation of first: Dice of the held-out subjects, final model of each fold" in outcome.out
    assert "95 % CI" in outcome.out


def test_an_ensemble_of_the_folds_is_told_which_model_knows_which_case(study, run):
    assert run(*TWO).code == 0
    study.list_cases("val", range(CASES))
    words = ("-test", study.test(saveProbMapsForEachClass=[False] * CLASSES), "-model", *fold_models(study))
    outcome = run(*words)
    assert outcome.code == 0, outcome.err
    held_out = [(study.out / f"splits/first/fold{fold}/validation/names.cfg").read_text().split() for fold in (1, 2)]
    for model, known in zip(fold_models(study), reversed(held_out), strict=True):
        names = ", ".join(name.removesuffix("_t1") for name in sorted(known))
        assert f"{model} was trained on 2 of 4 cases to segment: {names}; scores on them say" in outcome.err
    assert outcome.err.count("was trained on") == 2


def test_an_ensemble_is_told_nothing_of_a_split_that_was_replaced(study, run):
    assert run(*TWO).code == 0
    path = study.out / "splits" / "first" / "folds.json"
    content = json.loads(path.read_text())
    content["parts"] = {"fold1": content["parts"]["fold2"], "fold2": content["parts"]["fold1"]}
    path.write_text(json.dumps(content))
    study.list_cases("val", range(CASES))
    outcome = run("-test", study.test(), "-model", *fold_models(study), "-check")
    assert (outcome.code, "was trained on" in outcome.out) == (0, False)


def test_folds_start_from_the_same_new_model(study, run):
    assert run(*TWO).code == 0
    starts = [
        study.content(study.out / "cnnModels" / f"first_fold{fold}" / f"net.first_fold{fold}.latest.save")[
            "start_parameters"
        ]
        for fold in (1, 2)
    ]
    assert all((starts[0][name] == starts[1][name]).all() for name in starts[0])


def test_folds_can_be_run_one_by_one(study, run):
    for fold in (2, 1):
        outcome = run(*TWO, "-fold", fold)
        assert outcome.code == 0, outcome.err
        assert f"Fold {fold} is finished. Next: when all folds are, the same command without -fold" in outcome.out
        assert not (study.out / "predictions" / "first").exists()
    outcome = run(*TWO)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("is finished: its model was trained for 1 epoch") == 2
    assert outcome.out.count("0 cases segmented, 2 kept from before, 0 skipped.") == 2
    assert table(study)["folds"] == 2


def test_training_on_replaces_the_results_of_the_shorter_training(study, run):
    assert run(*TWO).code == 0
    before = table(study)
    study.train(numberOfEpochs=2, numberOfSubepochs=1, **SAVES)
    outcome = run(*TWO)
    assert outcome.code == 0, outcome.err
    assert "The results of fold 1 were made by an earlier model and are replaced" in outcome.out
    assert table(study)["scores"] != before["scores"]


def test_check_shows_all_folds_and_writes_nothing(study, run):
    outcome = run(*TWO, "-check", "-output", "check.json")
    assert outcome.code == 0, outcome.err
    found = json.loads((study.folder / "check.json").read_text())
    assert list(found["folds"]) == ["first_fold1", "first_fold2"]
    for fold in found["folds"].values():
        assert fold["begins"] == "starts with a new model"
        assert sorted(fold["trains on"] + fold["held out"]) == [f"case{case}_t1" for case in range(CASES)]
    assert "4 steps" in found["estimated"]["time"]
    assert not study.out.exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ("-crossValidate", "5"),
            4,
            "4 subjects (case0_t1, case1_t1, case2_t1, case3_t1) cannot be split into 5 parts",
        ),
        (("-crossValidate", "3"), 5, "was started with the split of fold 1 of -crossValidate 2, seed 0"),
        (
            ("-crossValidate", "2", "-seed", "1"),
            5,
            "but the command has the split of fold 1 of -crossValidate 2, seed 1",
        ),
    ],
    ids=["too_many", "other_number", "other_seed"],
)
def test_other_folds_are_refused(study, run, words, code, message):
    assert run(*TWO, "-fold", "1").code == 0
    outcome = run(*NEW, *words)
    assert outcome.code == code
    assert message in outcome.err


def test_validation_data_and_a_best_model_that_nothing_chooses_are_refused(study, run):
    study.train(
        validate=True,
        crossValidationModel="best",
        performValidationOnSamplesThroughoutTraining=False,
        performFullInferenceOnValidationImagesEveryFewEpochs=False,
    )
    outcome = run(*TWO)
    assert outcome.code == 3
    assert "channelsValidation: stands there, but -crossValidate takes the validation cases" in outcome.err
    assert 'crossValidationModel: found "best"; allowed: "final", unless' in outcome.err
    assert not study.out.exists()


def test_the_best_model_is_scored_when_it_is_asked_for(study, run):
    study.train(
        numberOfEpochs=2,
        numberOfSubepochs=1,
        crossValidationModel="best",
        performFullInferenceOnValidationImagesEveryFewEpochs=True,
        **SAVES,
    )
    outcome = run(*TWO)
    assert outcome.code == 0, outcome.err
    assert table(study)["model"] == "best"
    (best,) = study.saved("net.first_fold1.best.*.save", "first_fold1")
    assert str(best) in (study.out / "splits" / "first" / "fold1" / "heldOut.cfg").read_text()


def test_all_problems_of_the_data_are_told_once(study, run):
    study.image(1, "t1").unlink()
    study.image(3, "labels").unlink()
    outcome = run(*TWO)
    assert outcome.code == 4
    assert outcome.err.count("case1_t1.nii.gz:") == outcome.err.count("case3_labels.nii.gz:") == 1
    (study.folder / "lists" / "train_roi.cfg").write_text("")
    outcome = run(*TWO)
    assert outcome.code == 4
    assert "train_roi.cfg: the listing of ROI masks is empty" in outcome.err
