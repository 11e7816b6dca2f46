"""Ensembles, mirroring, blending, components and uncertainty by the real command line."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from study import table_of

from deepmedic import checkpoints
from deepmedic.files import sha256_of


@pytest.fixture
def second(study, source):
    """Another model of the same kind."""
    return variant(source, study.folder / "B.save", scale=1.3)


def variant(source, path, scale=1.0, **changes):
    """A model like `source` with other weights, or with other things it knows; a key of `data` or of `config`."""
    content = checkpoints.load(source)
    content["parameters"] = {
        name: tensor * scale if name.endswith("/weight") else tensor for name, tensor in content["parameters"].items()
    }
    for key, value in changes.items():
        part = content["data"] if key in content["data"] else content["config"]
        part[key] = value
    content["provenance"] = {"kind": "new", "seed": len(changes)}
    checkpoints.save(path, content)
    return path


def predictions(study, session="segment"):
    return study.out / "predictions" / session / "predictions"


def image(study, kind, session="segment"):
    return np.asarray(nib.load(predictions(study, session) / f"case2_{kind}.nii.gz").dataobj)


def segment_each(study, run, *models, **changes):
    """The probabilities of class 1 by each model alone."""
    found = []
    for number, model in enumerate(models):
        config = study.test(f"alone{number}", sessionName=f"alone{number}", **changes)
        assert run("-test", config, "-model", model).code == 0
        found.append(image(study, "ProbMapClass1", f"alone{number}"))
    return found


def test_several_models_are_averaged_and_recorded(study, run, source, second):
    alone = segment_each(study, run, source, second)
    config = study.test("both", saveUncertaintyMaps=["entropy", "variance"])
    outcome = run("-test", config, "-model", source, second)
    assert outcome.code == 0
    np.testing.assert_allclose(image(study, "ProbMapClass1"), sum(alone) / 2, atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    record = json.loads((predictions(study) / "case2.json").read_text())
    assert record["model"] == sha256_of(source)
    assert record["settings"]["ensemble"] == [sha256_of(source), sha256_of(second)]
    assert set(record["results"]) >= {"predictions/case2_Entropy.nii.gz", "predictions/case2_Variance.nii.gz"}
    assert "Each case is predicted 2 times; probabilities are averaged." in outcome.out
    entropy, probabilities = image(study, "Entropy"), [image(study, f"ProbMapClass{c}") for c in range(3)]
    expected = -sum(p.astype(float) * np.log(np.maximum(p, 1e-30)) for p in probabilities)
    np.testing.assert_allclose(entropy, expected, atol=1e-5)
    header = nib.load(predictions(study) / "case2_Variance.nii.gz")
    assert header.get_data_dtype() == np.float32
    assert np.array_equal(header.affine, nib.load(study.image(2, "t1")).affine)
    assert header.get_fdata().max() > 0
    again = run("-test", config, "-model", source, second)
    assert "0 cases segmented, 1 kept" in again.out
    fewer = run("-test", study.test("fewer"), "-model", source)
    assert fewer.code == 8
    assert "case2: made with other settings: ensemble was ['" in fewer.err


@pytest.mark.parametrize("named", ["key", "pattern on the command line", "folders"])
def test_an_ensemble_is_named_in_several_ways(study, run, source, second, named):
    folders = [study.out / "cnnModels" / f"cv_fold{number}" for number in (1, 2)]
    for folder, model in zip(folders, (source, second), strict=True):
        folder.mkdir(parents=True)
        (folder / "net.cv.final.2026-01-01.save").write_bytes(model.read_bytes())
    models = {"key": ["out/cnnModels/cv_fold*"]}.get(named)
    config = study.test(ensembleOfModels=models)
    words = {"pattern on the command line": [study.out / "cnnModels" / "cv_fold*"], "folders": folders}.get(named)
    outcome = run("-test", config, *(["-model", *words] if words else []))
    assert (outcome.code, outcome.err) == (0, "")
    record = json.loads((predictions(study) / "case2.json").read_text())
    assert record["settings"]["ensemble"] == [sha256_of(source), sha256_of(second)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zscore": {"apply": 1}}, "the normalisations (norm_zscore_prms) in training differ"),
        ({"axis_order": "LPI"}, "the axis orders of the training images differ: RAS in the first, LPI in the second"),
        ({"orientation": "RAS"}, "the orientations in training differ: asStored in the first, RAS in the second"),
        (
            {"class_names": ["background", "a", "b"]},
            "the names of classes differ: background, core, shell",
        ),
        ({"channel_names": ["a", "b"]}, None),
        ({}, "are the same model, which would count twice"),
    ],
    ids=["normalisation", "axes", "orientation", "classes", "names only in one", "the same"],
)
def test_models_that_cannot_be_averaged_are_refused(study, run, source, changes, message):
    other = variant(source, study.folder / "B.save", **changes)
    if not changes:
        other.write_bytes(source.read_bytes())
    outcome = run("-test", study.test(), "-model", source, other, "-check")
    if message is None:
        assert outcome.code == 0
        assert f'models: ["{source}", "{other}"]' in outcome.out
        return
    assert outcome.code == 5
    assert message in outcome.err
    assert str(source) in outcome.err
    assert str(other) in outcome.err
    assert not study.out.exists()


def test_every_pair_of_models_is_compared(study, run, source):
    """The one between the two that differ does not know its normalisation."""
    between = variant(source, study.folder / "B.save", zscore=None)
    other = variant(source, study.folder / "C.save", zscore={"apply": 1}, channel_names=["t1", "t2"])
    outcome = run("-test", study.test(), "-model", source, between, other, "-check")
    assert outcome.code == 5
    assert f"{source} and {other} cannot be averaged: the normalisations" in outcome.err


def test_models_of_other_spacings_are_refused_unless_a_spacing_was_chosen(study, run, source):
    coarse = variant(source, study.folder / "B.save", spacing=(2.0, 2.0, 2.4), spacing_range=None)
    for changes in ({}, {"resampleTo": "model"}):
        outcome = run("-test", study.test(**changes), "-model", source, coarse)
        assert outcome.code == 5
        assert (
            f"{source} and {coarse} were trained with different voxel spacings: 1 x 1 x 1.2 mm the first, 2 x 2 x 2.4"
        )
        assert "the first, 2 x 2 x 2.4 mm the second. A network knows shapes in voxels" in outcome.err
        assert "raise spacingTolerance (now 0.05)" in outcome.err
        assert not study.out.exists()
    for changes in ({"resampleTo": [1.5, 1.5, 1.5]}, {"spacingTolerance": 0.5}):
        outcome = run("-test", study.test(**changes), "-model", source, coarse, "-check")
        assert outcome.code == 0
        assert ("were trained with different voxel spacings" in outcome.out) == ("resampleTo" in changes)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-test", "{test}", "-model", "{A}", "{A}"], 5, "A.save is named twice, and would count twice"),
        (["-test", "{test}", "-model", "nowhere_fold*"], 5, "-model: nothing matches nowhere_fold*"),
        (["-test", "{test}", "-model", "{A}", "{B}", "-load", "{A}"], 2, "stands beside several models"),
        (["-test", "{test}", "-model", "{model}", "{B}"], 2, "is an architecture, and other models follow it"),
        (["-train", "{train}", "-model", "{A}", "{B}"], 2, "several models only have a meaning with -test"),
    ],
    ids=["twice", "no match", "load", "architecture", "train"],
)
def test_models_named_wrongly(study, run, source, second, words, code, message):
    places = {name: study.folder / f"{name}.cfg" for name in ("test", "train", "model")} | {"A": source, "B": second}
    outcome = run(*(word.format(**places) for word in words))
    assert outcome.code == code
    assert message in outcome.err


def test_mirroring_by_the_command_line(study, run, source):
    """The oracle mirrors the files themselves."""
    [plain] = segment_each(study, run, source)
    for kind in ("t1", "t2", "labels", "roi"):
        voxels = np.asarray(nib.load(study.image(2, kind)).dataobj)
        study.write_image(9, kind, np.ascontiguousarray(voxels[:, ::-1]))
    study.list_cases("val", [9])
    config = study.test("turned", sessionName="turned", namesForPredictionsPerCase=None)
    assert run("-test", config, "-model", source).code == 0
    turned = np.asarray(nib.load(predictions(study, "turned") / "pred_case0_ProbMapClass1.nii.gz").dataobj)
    study.list_cases("val", [2])
    outcome = run("-test", study.test(testTimeMirroring=["y"]), "-model", source)
    assert outcome.code == 0
    np.testing.assert_allclose(image(study, "ProbMapClass1"), (plain + turned[:, ::-1]) / 2, atol=2e-6)
    assert np.abs(plain - turned[:, ::-1]).max() > 1e-4


def test_components_are_removed_from_labels_and_scores(study, run, source):
    config = study.test(keepLargestComponent=[False, True, True], minimumComponentSize=[0, 0, 30.0])
    plain = study.test("plain", sessionName="plain")
    assert run("-test", plain, "-model", source).code == 0
    assert run("-test", config, "-model", source).code == 0
    before, after = image(study, "Segm", "plain"), image(study, "Segm")
    assert 0 < (after > 0).sum() < (before > 0).sum()
    assert np.array_equal(image(study, "ProbMapClass1", "plain"), image(study, "ProbMapClass1"))
    truth = np.asarray(nib.load(study.image(2, "labels")).dataobj)
    rows = table_of(predictions(study).parent / "metrics.csv")
    for number in (1, 2):
        [row] = [row for row in rows if row["class_index"] == str(number)]
        both = ((after == number) & (truth == number)).sum()
        dice = 2 * both / ((after == number).sum() + (truth == number).sum())
        assert float(row["dice"]) == pytest.approx(dice)
    log = (study.out / "logs" / "segment.txt").read_text()
    assert f"DICE2=[ {float(rows[0]['dice']):.4f}" in log


def test_blending_is_chosen_by_the_config(study, run, source):
    [plain] = segment_each(study, run, source)
    config = study.test(tileBlending="gaussian", tileOverlap=0.25, tileBlendingSigma=0.2)
    assert run("-test", config, "-model", source).code == 0
    difference = np.abs(image(study, "ProbMapClass1") - plain).max()
    assert 0 < difference < 0.5
    settings = json.loads((predictions(study) / "case2.json").read_text())["settings"]
    assert {key: settings[key] for key in ("blending", "overlap", "sigma")} == {
        "blending": "gaussian",
        "overlap": 0.25,
        "sigma": 0.2,
    }
    auto = study.test(tileBlending="gaussian", tiling="auto")
    outcome = run("-test", auto, "-model", source, "-check")
    assert outcome.code == 8
    assert "blending was" not in outcome.err
    outcome = run("-test", auto, "-model", source, "-check", "-overwrite")
    assert 'tileBlending changes nothing but rounding with tiling = "auto"' in outcome.out


def test_nothing_refined_leaves_the_record_as_it_was(study, run, source):
    assert run("-test", study.test(), "-model", source).code == 0
    settings = json.loads((predictions(study) / "case2.json").read_text())["settings"]
    assert set(settings) == {
        *("tiling", "segment", "precision", "pad_images", "zscore", "non_finite_voxels", "orientation"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"testTimeMirroring": ["x", "x"]}, "testTimeMirroring: found ['x', 'x']; allowed: each name once"),
        ({"testTimeMirroring": ["w"]}, 'found "w"; allowed: "x", "y"'),
        ({"tileOverlap": 0.95}, "found 0.95; allowed: a number from 0 to 0.9"),
        ({"keepLargestComponent": [True]}, "keepLargestComponent: found 1 entries; allowed: one per class, 3"),
        ({"minimumComponentSize": [0, 1]}, "minimumComponentSize: found 2 entries; allowed: one per class, 3"),
        ({"minimumComponentSize": [0, 1, -1]}, "found -1; allowed: a number at least 0"),
        ({"componentConnectivity": 8}, "found 8; allowed: 6, 18"),
        ({"saveUncertaintyMaps": ["variance"]}, 'found "variance" with a single prediction of each case'),
        ({"ensembleOfModels": []}, "found an empty list"),
        ({"ensembleOfModels": ["A.save"], "cnnModelFilePath": "A.save"}, "stands together with cnnModelFilePath"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_are_refused(study, run, source, changes, message):
    outcome = run("-test", study.test(**changes), "-model", source)
    assert outcome.code == 3
    assert message in outcome.err
    assert "test.cfg:" in outcome.err
    assert not study.out.exists()


def test_check_shows_what_is_chosen(study, run, source, second):
    config = study.test(testTimeMirroring=["x", "z"], saveUncertaintyMaps=["variance"], tileOverlap=0.3)
    outcome = run("-test", config, "-model", source, second, "-check")
    assert outcome.code == 0
    assert "predictionsPerCase: 8" in outcome.out
    assert 'testTimeMirroring: ["x", "z"]' in outcome.out
    assert 'tileOverlap not used without tileBlending = "gaussian"' in outcome.out
