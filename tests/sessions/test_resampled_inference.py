"""Cases of other spacings and axis orders than those of training, by the real command line."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from study import table_of

import deepmedic
from deepmedic import checkpoints
from deepmedic.data.case_headers import resampled_header
from deepmedic.data.nifti import array_header

TRAINED = (1.0, 1.0, 1.2)
COARSE = nib.affines.from_matvec(np.diag([-2.0, 2.0, 2.0]) @ nib.eulerangles.euler2mat(0.1, 0.0, 0.05), [30, -11, 4])


def predictions(study, session="segment"):
    return study.out / "predictions" / session / "predictions"


def load(path):
    return np.asarray(nib.load(path).dataobj)


def write_coarse_case(study, number=7, affine=COARSE, size=(14, 13, 12)):
    """A case of 2 mm voxels, oblique."""
    rng = np.random.default_rng(number)
    labels = np.zeros(size, np.uint8)
    labels[4:10, 4:10, 3:9] = 2
    labels[6:9, 6:8, 5:7] = 1
    roi = np.zeros(size, np.uint8)
    roi[2:12, 2:11, 2:10] = 1
    for kind in ("t1", "t2"):
        smooth = np.array([0.0, 3.0, 1.5])[labels] + rng.normal(size=size)
        study.write_image(number, kind, (50 + 10 * smooth).astype(np.float32), affine)
    study.write_image(number, "labels", labels, affine)
    study.write_image(number, "roi", roi, affine)
    study.list_cases("val", [number])
    return labels, roi


def test_another_spacing_is_refused_unless_something_was_chosen(study, run, source):
    write_coarse_case(study)
    outcome = run("-test", study.test(), "-model", variant(source, "LAS"))
    assert outcome.code == 4
    assert "1 of 1 cases have another voxel spacing than in training, 1 x 1 x 1.2 mm: case7 2 x 2 x 2 mm" in outcome.err
    assert 'Set resampleTo = "model"' in outcome.err
    assert "spacingTolerance (now 0.05)" in outcome.err
    assert not study.out.exists()
    for changes in ({"spacingTolerance": 1.0}, {"resampleTo": "model"}, {"resampleTo": [1, 1, 1.2]}):
        outcome = run("-test", study.test(**changes), "-model", source.parent / "LAS.save", "-check")
        assert outcome.code == 0
    assert "resampleTo: [1.0, 1.0, 1.2]" in outcome.out


def variant(source, axes, **changes):
    """The same model, for images along other axes."""
    content = checkpoints.load(source)
    content["data"] |= {"axis_order": axes, **changes}
    path = source.parent / f"{axes}.save"
    checkpoints.save(path, content)
    return path


def test_a_config_of_the_original_goes_on_with_a_warning(study, run, source):
    write_coarse_case(study)
    path = study.folder / "python.cfg"
    lines = (
        study.test()
        .read_text()
        .replace("= true", "= True")
        .replace("= false", "= False")
        .replace("{", "{'")
        .replace(" = True}", "': True}")
    )
    path.write_text(lines + "saveSegmentation = True\n")
    outcome = run("-test", path, "-model", variant(source, "LAS"), "-check")
    assert outcome.code == 0
    assert "another voxel spacing than in training" in outcome.out


def test_models_from_before_the_range_was_stored_are_compared_with_their_median(study, run, source):
    write_coarse_case(study)
    old = variant(source, "LAS", spacing_range=None)
    assert run("-test", study.test(), "-model", old).code == 4
    mixed = variant(source, "LAS", spacing_range=((1.0, 1.0, 1.0), (2.0, 3.0, 2.0)))
    assert run("-test", study.test(), "-model", mixed, "-check").code == 0


def test_a_spacing_that_the_model_does_not_know(study, run):
    assert run("-newModel", study.folder / "model.cfg").code == 0
    [initial] = (study.out / "cnnModels").glob("*.save")
    outcome = run("-test", study.test(resampleTo="model"), "-model", initial)
    assert outcome.code == 3
    assert 'resampleTo: found "model", but the model does not know with which spacing it was trained' in outcome.err
    assert "test.cfg:9" in outcome.err


@pytest.mark.parametrize("roi", [True, False], ids=["roi", "whole"])
@pytest.mark.parametrize("tiling", ["segments", "auto"])
def test_a_case_is_resampled_and_its_results_return(study, run, source, roi, tiling):
    """The oracle resamples the files with nibabel, segments those, and resamples the probabilities back."""
    labels, mask = write_coarse_case(study)
    model = variant(source, "LAS")
    header = resampled_header(array_header(labels.shape, COARSE), TRAINED)  # its geometry has tests of its own
    grid = (header.shape, header.affine)
    for kind in ("t1", "t2"):
        image = resample_from_to(nib.load(study.image(7, kind)), grid, order=1, mode="nearest")
        study.write_image(8, kind, np.asarray(image.dataobj, np.float32), header.affine)
    masks = None
    if roi:
        inside = resample_from_to(nib.Nifti1Image(mask.astype(float), COARSE), grid, order=1, mode="nearest")
        study.write_image(8, "roi", (np.asarray(inside.dataobj) >= 0.5).astype(np.uint8), header.affine)
        masks = "lists/val_roi.cfg"
    study.list_cases("val", [8])
    config = study.test("fine", sessionName="fine", gtLabels=None, roiMasks=masks, tiling=tiling)
    assert run("-test", config, "-model", model).code == 0
    maps = [load(predictions(study, "fine") / f"case8_ProbMapClass{c}.nii.gz") for c in range(3)]
    study.list_cases("val", [7])
    assert run("-test", study.test(resampleTo="model", tiling=tiling, roiMasks=masks), "-model", model).code == 0
    found = np.stack([load(predictions(study) / f"case7_ProbMapClass{c}.nii.gz") for c in range(3)])
    back = np.stack(
        [
            np.asarray(
                resample_from_to(
                    nib.Nifti1Image(one.astype(float), header.affine), (labels.shape, COARSE), order=1, mode="nearest"
                ).dataobj
            )
            for one in maps
        ]
    )
    # Where the oracle's ROI ends its probabilities are 0, which does not count.
    compared = back.sum(axis=0) > 0.999
    if roi:
        compared &= mask > 0
    assert compared.sum() > 0.4 * (mask > 0).sum()
    np.testing.assert_allclose(found[:, compared], back[:, compared], atol=2e-4)
    segmentation = nib.load(predictions(study) / "case7_Segm.nii.gz")
    np.testing.assert_allclose(segmentation.affine, COARSE, atol=1e-5)
    assert segmentation.shape == labels.shape
    inside = mask > 0 if roi else np.ones(labels.shape, bool)
    assert np.array_equal(np.asarray(segmentation.dataobj), found.argmax(axis=0) * inside)
    np.testing.assert_allclose(found.sum(axis=0), inside, atol=1e-4)
    rows = table_of(predictions(study).parent / "metrics.csv")
    assert {row["class_index"]: int(row["voxels_truth"]) for row in rows}["2"] == (labels == 2).sum()
    settings = json.loads((predictions(study) / "case7.json").read_text())["settings"]
    np.testing.assert_allclose(settings["resample_to"], TRAINED)


def test_every_refinement_goes_together_with_resampling(study, run, source):
    labels, _ = write_coarse_case(study)
    config = study.test(
        resampleTo="model",
        testTimeMirroring=["x"],
        tileBlending="gaussian",
        saveUncertaintyMaps=["entropy", "variance"],
        keepLargestComponent=[False, True, True],
        saveIndividualFms=True,
        minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway=[[], [1, 2]],
    )
    assert run("-test", config, "-model", variant(source, "LAS")).code == 0
    images = [*predictions(study).glob("*.nii.gz"), *(predictions(study).parent / "features").glob("*.nii.gz")]
    assert len(images) == 7
    for path in images:
        assert nib.load(path).shape == labels.shape
        np.testing.assert_allclose(nib.load(path).affine, COARSE, atol=1e-5)


def reoriented(image, codes):
    """The same image with its voxels stored along other axes."""
    old = nib.io_orientation(image.affine)
    new = nib.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nib.orientations.ornt_transform(old, new))


@pytest.mark.parametrize("resample", [None, [1.0, 1.0, 1.2], [1.5, 1.5, 3.0]], ids=["as it is", "finer", "coarser"])
def test_a_case_stored_along_other_axes_gets_the_same_result_in_its_own_space(study, run, source, resample):
    write_coarse_case(study)
    for kind in ("t1", "t2", "labels", "roi"):
        nib.save(reoriented(nib.load(study.image(7, kind)), ("P", "S", "R")), study.image(8, kind))
    study.list_cases("val", [7, 8])
    model = variant(source, "RAS", orientation="RAS")
    config = study.test(orientation="RAS", resampleTo=resample, spacingTolerance=9.0, testTimeMirroring=["y"])
    assert run("-test", config, "-model", model).code == 0
    for kind in ("Segm", "ProbMapClass1", "ProbMapClass2"):
        one, other = (nib.load(predictions(study) / f"case{number}_{kind}.nii.gz") for number in (7, 8))
        assert nib.aff2axcodes(other.affine) == ("P", "S", "R")
        np.testing.assert_allclose(other.affine, nib.load(study.image(8, "t1")).affine, atol=1e-5)
        turned = reoriented(other, nib.aff2axcodes(one.affine))
        np.testing.assert_allclose(turned.affine, one.affine, atol=1e-4)
        assert np.array_equal(np.asarray(turned.dataobj), np.asarray(one.dataobj))
    rows = table_of(predictions(study).parent / "metrics.csv")
    first, second = ([row for row in rows if row["case"] == f"case{number}"] for number in (7, 8))
    for here, there in zip(first, second, strict=True):
        assert (here["dice"], here["voxels_predicted"]) == (there["dice"], there["voxels_predicted"])


def test_training_and_validation_on_resampled_cases(study, run):
    """Training cases of two spacings become one; the model knows it, and validation is scored on the stored grid."""
    labels, _ = write_coarse_case(study, affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    study.list_cases("train", [0, 7])
    study.list_cases("val", [7])
    config = study.train(validate=True, resampleTo=[1.0, 1.0, 1.2], numberOfEpochs=1, orientation="RAS")
    outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
    assert outcome.code == 0
    assert "different voxel spacings" not in outcome.err
    data = study.content()["data"]
    np.testing.assert_allclose(data["spacing"], (1.0, 1.0, 1.2))
    np.testing.assert_allclose(data["spacing_range"], [(1.0, 1.0, 1.2)] * 2)
    [saved] = (study.out / "predictions" / "first").rglob("case7_Segm.nii.gz")
    assert nib.load(saved).shape == labels.shape
    final = study.saved("net.first.final.*.save")[0]
    outcome = run("-test", study.test(orientation="RAS"), "-model", final)
    assert outcome.code == 4
    again = run("-test", study.test(orientation="RAS", resampleTo="model"), "-model", final)
    assert again.code == 0


def test_normalisation_is_taken_from_the_model_unless_the_config_says_otherwise(study, run, source):
    model = source
    assert run("-test", study.test("given", sessionName="given"), "-model", model).code == 0
    outcome = run("-test", study.test(norm_zscore_prms=None), "-model", model)
    assert outcome.code == 0
    assert "norm_zscore_prms is not given: intensities are normalised as in training" in outcome.err
    one, other = (load(predictions(study, name) / "case2_ProbMapClass1.nii.gz") for name in ("given", "segment"))
    assert np.array_equal(one, other)
    off = study.test("off", sessionName="off", norm_zscore_prms={"apply_to_all_channels": False})
    outcome = run("-test", off, "-model", model)
    assert outcome.code == 0
    assert "norm_zscore_prms differ from training" in outcome.err


def test_from_python(study, source):
    write_coarse_case(study)
    model = deepmedic.load_model(variant(source, "LAS"))
    images = [study.image(7, kind) for kind in ("t1", "t2")]
    with pytest.raises(deepmedic.DeepMedicError, match="another voxel spacing than in training"):
        deepmedic.segment(model, images, device="cpu")
    found = deepmedic.segment(model, images, resample_to="model", device="cpu")
    assert found.segmentation.shape == (14, 13, 12)
    np.testing.assert_allclose(found.affine, COARSE, atol=1e-5)
    with pytest.raises(deepmedic.DeepMedicError, match="arrays have no voxel spacing"):
        deepmedic.segment(model, np.zeros((2, 20, 20, 20), np.float32), resample_to=(1, 1, 1), device="cpu")
    with pytest.raises(deepmedic.DeepMedicError, match="and 3 numbers above 0, in millimetres"):
        deepmedic.segment(model, images, resample_to=(1, 1), device="cpu")


def test_refinements_from_python(study, run, source):
    """The same numbers as the command line's."""
    keys = {
        "testTimeMirroring": ["x"],
        "keepLargestComponent": [False, True, True],
        "saveUncertaintyMaps": ["variance"],
    }
    second = variant(source, "RAS")
    content = checkpoints.load(second)
    content["parameters"] = {name: tensor * 1.1 for name, tensor in content["parameters"].items()}
    checkpoints.save(second, content)
    assert run("-test", study.test(**keys), "-model", source, second).code == 0
    images, roi = [study.image(2, kind) for kind in ("t1", "t2")], study.image(2, "roi")
    found = deepmedic.segment([deepmedic.load_model(source), second], images, roi, prediction=keys, device="cpu")
    assert np.array_equal(found.segmentation, load(predictions(study) / "case2_Segm.nii.gz"))
    assert np.array_equal(found.probabilities[1], load(predictions(study) / "case2_ProbMapClass1.nii.gz"))
    assert np.array_equal(found.uncertainty["variance"], load(predictions(study) / "case2_Variance.nii.gz"))
    with pytest.raises(deepmedic.DeepMedicError, match="with a single prediction of each case"):
        deepmedic.segment(source, images, roi, prediction={"saveUncertaintyMaps": ["variance"]}, device="cpu")
    with pytest.raises(deepmedic.DeepMedicError, match="are the same model"):
        deepmedic.segment([source, source], images, roi, device="cpu")


def test_segment_resamples_cases_of_another_spacing_by_itself(study, run, source):
    """There is no config in which to choose it."""
    write_coarse_case(study)
    model, output = variant(source, "LAS"), study.folder / "seg.nii.gz"
    outcome = run("-segment", model, "-images", study.image(7, "t1"), study.image(7, "t2"), "-output", output)
    assert outcome.code == 0
    assert "1 of 1 cases have another voxel spacing than in training" in outcome.err
    assert "results return to each case's own grid" in outcome.err
    expected = deepmedic.segment(model, [study.image(7, "t1"), study.image(7, "t2")], resample_to="model", device="cpu")
    assert np.array_equal(load(output), expected.segmentation)
    np.testing.assert_allclose(nib.load(output).affine, COARSE, atol=1e-5)
