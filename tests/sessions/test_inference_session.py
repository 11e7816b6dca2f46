"""What an inference session writes and keeps, and how it deals with cases, signals and results of other runs."""

from __future__ import annotations

import json
import os
import signal

import nibabel as nib
import numpy as np
import pytest
from study import Study, table_of

from deepmedic import checkpoints, cli
from deepmedic.files import sha256_of
from deepmedic.inference import case_prediction
from deepmedic.inference.surfaces import surface_scores
from deepmedic.model.network import DeepMedicNet


@pytest.fixture(scope="session")
def _trained_once(written_once, tmp_path_factory):
    """A model trained for a moment on the study's cases."""
    study, out = Study(written_once), tmp_path_factory.mktemp("trained")
    config = study.train("once", folderForOutput=out, numberOfEpochs=1)
    assert cli.main(["-newModel", str(study.folder / "model.cfg"), "-train", str(config), "-dev", "cpu"]) == 0
    config.unlink()
    [model] = (out / "cnnModels" / "first").glob("*final*.save")
    return model.read_bytes()


@pytest.fixture
def model(study, _trained_once):
    path = study.folder / "trained.save"
    path.write_bytes(_trained_once)
    return path


@pytest.fixture
def predictions(study):
    return study.out / "predictions" / "segment" / "predictions"


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_have_the_promised_names_types_and_geometry(study, run, model, predictions):
    outcome = run("-test", study.folder / "test.cfg", "-model", model)
    assert outcome.code == 0
    names = {path.name for path in predictions.iterdir()}
    assert names == {"case2.json", "case2_Segm.nii.gz", *(f"case2_ProbMapClass{c}.nii.gz" for c in range(3))}
    scan = nib.load(study.image(2, "t1"))
    segmentation, probability = (nib.load(predictions / f"case2_{kind}.nii.gz") for kind in ("Segm", "ProbMapClass1"))
    assert (segmentation.get_data_dtype(), probability.get_data_dtype()) == (np.uint8, np.float32)
    assert np.array_equal(segmentation.affine, scan.affine)
    roi = np.asarray(nib.load(study.image(2, "roi")).dataobj) > 0
    assert not np.asarray(segmentation.dataobj)[~roi].any()
    [row] = [row for row in table_of(predictions.parent / "metrics.csv") if row["class_index"] == "1"]
    assert (row["case"], row["class_name"]) == ("case2", "core")
    assert f"Results: {predictions.parent}" in outcome.out
    assert f"itksnap -g {study.image(2, 't1')} -s {predictions / 'case2_Segm.nii.gz'}" in outcome.out


@pytest.mark.parametrize(
    "dialect", ["-model X.save", "-model FOLDER", "-load X.save", "-model M.cfg -load X.save", "key"]
)
def test_model_is_found_in_every_dialect(study, run, model, predictions, dialect):
    (study.folder / "models").mkdir()
    (study.folder / "models" / model.name).write_bytes(model.read_bytes())
    words = {"X.save": model, "FOLDER": study.folder / "models", "M.cfg": study.folder / "model.cfg"}
    if dialect == "key":
        study.test(cnnModelFilePath=model.name)
        dialect = ""
    assert run("-test", study.folder / "test.cfg", *(words.get(word, word) for word in dialect.split())).code == 0
    record = json.loads((predictions / "case2.json").read_text())
    assert record["model"] == sha256_of(model)


def test_config_beside_the_weights_gives_the_size_of_tiles(study, run, model):
    larger = study.model("larger", segmentsDimInference=[15, 15, 15])
    outcome = run("-test", study.folder / "test.cfg", "-model", larger, "-load", model, "-check")
    assert (outcome.code, outcome.err) == (0, "")
    assert run("-test", study.folder / "test.cfg", "-model", larger, "-load", model).code == 0
    record = json.loads((study.out / "predictions" / "segment" / "predictions" / "case2.json").read_text())
    assert record["settings"]["segment"] == [15, 15, 15]


@pytest.mark.parametrize(("deterministic", "passes"), [(True, 2), (False, 1)])
def test_small_cases_share_a_batch_unless_bytes_are_to_be_repeated(
    study, run, model, monkeypatch, deterministic, passes
):
    study.list_cases("val", [1, 2])
    study.test(batchsize=1000, deterministic=deterministic)
    sizes, real = [], DeepMedicNet.forward_features

    def counted(this, *inputs, wanted):
        sizes.append(len(inputs[0]))
        return real(this, *inputs, wanted=wanted)

    monkeypatch.setattr(DeepMedicNet, "forward_features", counted)
    assert run("-test", study.folder / "test.cfg", "-model", model).code == 0
    assert len(sizes) == passes


class TestRepeated:
    @pytest.fixture(autouse=True)
    def segmented(self, study, run, model):
        study.list_cases("val", [1, 2])
        self.command = ["-test", study.folder / "test.cfg", "-model", model]
        assert run(*self.command).code == 0
        self.folder = study.out / "predictions" / "segment"
        self.before = contents(self.folder)

    def test_results_are_kept(self, study, run):
        outcome = run(*self.command)
        assert (outcome.code, "0 cases segmented, 2 kept from before" in outcome.out) == (0, True)
        assert contents(self.folder) == self.before

    def test_another_run_gives_the_same_bytes(self, study, run):
        study.test(folderForOutput="elsewhere")
        assert run(*self.command).code == 0
        assert contents(study.folder / "elsewhere" / "predictions" / "segment") == self.before

    def test_overwritten_results_are_the_same_bytes(self, study, run):
        outcome = run(*self.command, "-overwrite")
        assert "2 cases segmented, 0 kept" in outcome.out
        assert contents(self.folder) == self.before

    @pytest.mark.parametrize("check", [[], ["-check"]])
    def test_results_of_another_model_are_not_mixed(self, study, run, model, check):
        checkpoints.save(model, {**checkpoints.load(model), "counter": 99})
        before = study.files()
        outcome = run(*self.command, *check)
        assert outcome.code == 8
        assert f"{self.folder} holds results of another run for 2 of 2 cases" in outcome.err
        assert "case1: made by another model" in outcome.err
        assert contents(self.folder) == self.before
        assert study.files() == before
        assert run(*self.command, "-overwrite").code == 0

    def test_damaged_result_is_computed_again(self, study, run):
        (self.folder / "predictions" / "case1_Segm.nii.gz").write_bytes(b"cut")
        outcome = run(*self.command)
        assert (outcome.code, "1 case segmented, 1 kept" in outcome.out) == (0, True)
        assert contents(self.folder) == self.before

    def test_interrupted_run_keeps_what_is_finished(self, study, run, monkeypatch):
        config = study.test(folderForOutput="again")
        original, calls = case_prediction.predict_case, []

        def interrupted(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr("deepmedic.inference.segment_cases.predict_case", interrupted)
            outcome = run("-test", config, *self.command[2:])
        assert outcome.code == 143
        assert "finished cases are kept. Repeat the same command" in outcome.err
        outcome = run("-test", config, *self.command[2:])
        assert (outcome.code, "1 case segmented, 1 kept" in outcome.out) == (0, True)
        assert contents(study.folder / "again" / "predictions" / "segment") == self.before


def test_empty_roi_gives_background_and_a_warning(study, run, model, predictions):
    study.write_image(2, "roi", np.zeros((20, 18, 16), np.uint8))
    outcome = run("-test", study.folder / "test.cfg", "-model", model)
    assert outcome.code == 0
    assert "case2: the ROI mask is empty, so the result is background everywhere" in outcome.err
    for name in ("case2_Segm", "case2_ProbMapClass0", "case2_ProbMapClass1"):
        assert not np.asarray(nib.load(predictions / f"{name}.nii.gz").dataobj).any()


def test_image_smaller_than_the_tile_gets_a_result_of_its_size(study, run, model, predictions):
    for kind in ("t1", "t2", "labels", "roi"):
        voxels = np.random.default_rng(0).integers(0, 2, (7, 9, 4)).astype(np.uint8)
        study.write_image(2, kind, voxels if kind != "roi" else np.ones_like(voxels))
    assert run("-test", study.folder / "test.cfg", "-model", model).code == 0
    assert nib.load(predictions / "case2_Segm.nii.gz").shape == (7, 9, 4)


class TestUnusableCase:
    @pytest.fixture(autouse=True)
    def damaged(self, study):
        study.list_cases("val", [1, 2])
        path = study.image(1, "t1")
        path.write_bytes(path.read_bytes()[:-300])

    def test_it_stops_the_run(self, study, run, model):
        outcome = run("-test", study.folder / "test.cfg", "-model", model)
        assert outcome.code == 4
        assert f"case case1, channel 1: {study.image(1, 't1')}" in outcome.err

    @pytest.mark.parametrize("check", [[], ["-check"]])
    def test_it_is_skipped_where_that_is_allowed(self, study, run, model, predictions, check):
        config = study.test(allowSkippedCases=True)
        outcome = run("-test", config, "-model", model, *check)
        assert outcome.code == 9
        assert str(study.image(1, "t1")) in outcome.out + outcome.err
        if not check:
            assert "1 case segmented, 0 kept from before, 1 skipped" in outcome.out
            assert {path.name.split("_")[0].split(".")[0] for path in predictions.iterdir()} == {"case2"}


def test_metrics_of_classes_that_are_nowhere(study, run, model, predictions):
    labels = np.zeros((20, 18, 16), np.uint8)
    study.write_image(2, "labels", labels)
    assert run("-test", study.folder / "test.cfg", "-model", model).code == 0
    rows = {row["class_index"]: row for row in table_of(predictions.parent / "metrics.csv")}
    predicted = np.asarray(nib.load(predictions / "case2_Segm.nii.gz").dataobj)
    for number in ("1", "2"):
        assert float(rows[number]["dice"]) == 0.0 if (predicted == int(number)).any() else rows[number]["dice"] == "nan"


def test_tables_of_classes_and_regions(study, run, model, predictions):
    study.list_cases("val", [1, 2])
    study.test(regions={"both": [1, 2]}, surfaceDistances=True)
    outcome = run("-test", study.folder / "test.cfg", "-model", model)
    assert outcome.code == 0
    assert "Scores over 2 cases, mean [95 % confidence interval]:\nclass " in outcome.out
    assert f"A table for a paper (Markdown, LaTeX): {predictions.parent / 'metrics.md'}" in outcome.out
    rows = table_of(predictions.parent / "metrics.csv")
    assert [row["class_name"] for row in rows[:4]] == ["whole foreground", "core", "shell", "both"]
    for row, region in zip(rows[0::4], rows[3::4], strict=True):
        different = ("class_index", "class_name")
        assert {key: row[key] for key in row if key not in different} == {
            key: region[key] for key in region if key not in different
        }
    truth = np.asarray(nib.load(study.image(2, "labels")).dataobj) == 2
    predicted = np.asarray(nib.load(predictions / "case2_Segm.nii.gz").dataobj) == 2
    expected = surface_scores(predicted, truth, (1.0, 1.0, 1.2))
    assert float(rows[6]["hd95_mm"]) == pytest.approx(expected.hd95, rel=1e-6)
    content = json.loads((predictions.parent / "metrics.json").read_text())
    assert [line["class_name"] for line in content["summary"]] == ["whole foreground", "core", "shell", "both"]
    assert content["summary"][3]["classes"] == [1, 2]
    assert (predictions.parent / "metrics_summary.csv").is_file()


def test_other_scores_are_a_reason_to_compute_again(study, run, model, predictions):
    command = ["-test", study.test(surfaceDistances=False), "-model", model]
    assert run(*command).code == 0
    assert "hd95_mm" not in (predictions.parent / "metrics.csv").read_text()
    study.test(surfaceDistances=True)
    outcome = run(*command)
    assert "case2 is computed again: they were scored otherwise: surfaceDistances was False, now True" in outcome.err
    assert "hd95_mm" in (predictions.parent / "metrics.csv").read_text()


def test_model_that_was_never_trained_is_told(study, run):
    assert run("-newModel", study.folder / "model.cfg").code == 0
    [initial] = (study.out / "cnnModels").glob("*.save")
    outcome = run("-test", study.folder / "test.cfg", "-model", initial)
    assert (outcome.code, "This model was never trained" in outcome.err) == (0, True)


def test_other_spacing_and_normalisation_than_in_training_are_told(study, run, model):
    for kind in ("t1", "t2", "labels", "roi"):
        image = nib.load(study.image(2, kind))
        study.write_image(2, kind, np.asarray(image.dataobj), np.diag([2, 2, 2, 1]))
    other = {"apply_to_all_channels": True, "cutoff_below_mean": True}
    study.test(norm_zscore_prms=other, spacingTolerance=1.2)
    outcome = run("-test", study.folder / "test.cfg", "-model", model)
    assert outcome.code == 0
    assert "1 of 1 cases have another voxel spacing than in training, 1 x 1 x 1.2 mm: case2 2 x 2 x 2 mm" in outcome.err
    assert "norm_zscore_prms differ from training" in outcome.err


def test_feature_maps_are_saved(study, run, model):
    study.test(
        saveIndividualFms=True,
        minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway=[[], [1, 3]],
        saveSegmentation=False,
    )
    assert run("-test", study.folder / "test.cfg", "-model", model).code == 0
    names = {path.name for path in (study.out / "predictions" / "segment" / "features").iterdir()}
    assert names == {f"case2_pathway0_layer1_fm{number}.nii.gz" for number in (1, 2)}
