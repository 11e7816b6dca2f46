"""`outputLayout = "bids"`: a session's results as a folder of derivatives, kept and replaced like any others."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from deepmedic.planning.bids import read_bids


@pytest.fixture
def tree(study):
    """The study's validation case as a BIDS tree."""
    anat = study.folder / "raw" / "sub-7" / "ses-x" / "anat"
    anat.mkdir(parents=True)
    for kind, suffix in (("t1", "T1w"), ("t2", "T2w")):
        shutil.copyfile(study.image(2, kind), anat / f"sub-7_ses-x_{suffix}.nii.gz")
        (study.folder / "lists" / f"val_{kind}.cfg").write_text(
            f"../raw/sub-7/ses-x/anat/sub-7_ses-x_{suffix}.nii.gz\n"
        )
    return study.folder / "raw"


@pytest.fixture
def segment(study, run, source):
    """Segment the validation case; by default as BIDS derivatives."""

    def segment(*words, **changes):
        config = study.test(**{"outputLayout": "bids", "namesForPredictionsPerCase": None, **changes})
        return run("-test", config, "-model", source, *words)

    return segment


@pytest.fixture
def derivatives(study):
    return study.out / "predictions" / "segment" / "bids"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


PREFIX = "sub-7/ses-x/anat/sub-7_ses-x"


def test_the_folder_of_derivatives(study, tree, segment, derivatives):
    outcome = segment()
    assert outcome.code == 0, outcome.err
    labels = ("background", "core", "shell")
    assert files(derivatives) == sorted(
        ["dataset_description.json", *(f"{PREFIX}_dseg{ending}" for ending in (".json", ".nii.gz", ".tsv")),
         *(f"{PREFIX}_label-{label}_probseg{ending}" for label in labels for ending in (".json", ".nii.gz"))]
    )  # fmt: skip
    description = json.loads((derivatives / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert {"Name", "BIDSVersion", "GeneratedBy", "SourceDatasets"} <= set(description)
    assert description["GeneratedBy"][0]["Name"] == "DeepMedic for PyTorch"
    assert description["SourceDatasets"] == [{"URL": tree.as_uri()}]
    assert description["DatasetLinks"] == {"source": tree.as_uri()}
    sidecar = json.loads((derivatives / f"{PREFIX}_dseg.json").read_text())
    assert sidecar == {
        "Manual": False,
        "Sources": [f"bids:source:{PREFIX}_T1w.nii.gz", f"bids:source:{PREFIX}_T2w.nii.gz"],
    }
    assert json.loads((derivatives / f"{PREFIX}_label-core_probseg.json").read_text())["ClassName"] == "core"
    assert (derivatives / f"{PREFIX}_dseg.tsv").read_text() == "index\tname\n0\tbackground\n1\tcore\n2\tshell\n"
    assert f"{PREFIX}_dseg.nii.gz" in outcome.out


def test_the_images_are_those_of_the_other_layout(study, tree, segment, derivatives):
    assert segment().code == 0
    assert segment(sessionName="plain", outputLayout="original").code == 0
    plain = study.out / "predictions" / "plain" / "predictions"
    pairs = {f"{PREFIX}_dseg": "pred_case0_Segm", f"{PREFIX}_label-shell_probseg": "pred_case0_ProbMapClass2"}
    for bids, original in pairs.items():
        one, other = (nib.load(path) for path in (derivatives / f"{bids}.nii.gz", plain / f"{original}.nii.gz"))
        np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
        np.testing.assert_array_equal(one.affine, other.affine)
    assert not (study.out / "predictions" / "segment" / "predictions" / "pred_case0_Segm.nii.gz").exists()


def test_maps_of_uncertainty_are_derivatives_too(study, tree, segment, derivatives):
    maps = {"saveUncertaintyMaps": ["entropy", "variance"], "testTimeMirroring": ["x"]}
    assert segment(**maps).code == 0
    assert segment(sessionName="plain", outputLayout="original", **maps).code == 0
    plain = study.out / "predictions" / "plain" / "predictions"
    for kind in ("entropy", "variance"):
        found = nib.load(derivatives / f"{PREFIX}_stat-{kind}_statmap.nii.gz")
        expected = nib.load(plain / f"pred_case0_{kind.capitalize()}.nii.gz")
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
        sidecar = json.loads((derivatives / f"{PREFIX}_stat-{kind}_statmap.json").read_text())
        assert sidecar["Description"].startswith(f"{kind.capitalize()} of the class probabilities")
        assert sidecar["Sources"] == [f"bids:source:{PREFIX}_T1w.nii.gz", f"bids:source:{PREFIX}_T2w.nii.gz"]
    assert (derivatives / ".bidsignore").read_text() == "*_statmap.*\n"
    assert not list((study.out / "predictions" / "segment" / "predictions").glob("*.nii.gz"))
    assert "0 cases segmented, 1 kept from before" in segment(**maps).out
    assert segment("-overwrite").code == 0
    assert not list(derivatives.rglob("*_statmap*"))


def test_a_repeated_command_keeps_what_is_whole(tree, segment, derivatives):
    assert segment().code == 0
    before = {name: (derivatives / name).stat().st_mtime_ns for name in files(derivatives) if name.startswith("sub-")}
    assert "0 cases segmented, 1 kept from before" in segment().out
    assert {name: (derivatives / name).stat().st_mtime_ns for name in before} == before
    (derivatives / f"{PREFIX}_dseg.tsv").write_text("index\tname\n")
    outcome = segment()
    assert "_dseg.tsv was changed after it was written" in outcome.err
    assert (derivatives / f"{PREFIX}_dseg.tsv").read_text().endswith("2\tshell\n")


def test_another_layout_replaces_the_files(study, tree, segment, derivatives):
    assert segment().code == 0
    assert segment(outputLayout="original").code == 0
    assert files(derivatives) == ["dataset_description.json"]
    assert (study.out / "predictions" / "segment" / "predictions" / "pred_case0_Segm.nii.gz").exists()


def test_cases_that_would_share_files_are_refused_before_anything_is_done(study, tree, segment):
    for kind in ("t1", "t2", "labels", "roi"):
        path = study.folder / "lists" / f"val_{kind}.cfg"
        path.write_text(path.read_text() * 2)
    outcome = segment()
    assert outcome.code == 4
    assert (
        "several cases would have the same files: sub-7/ses-x/anat/sub-7_ses-x_dseg.nii.gz: pred_case0, pred_case1"
        in (outcome.err)
    )
    assert not (study.out / "predictions").exists()


def test_results_within_a_tree_are_not_taken_for_manual_labels(study, tree, segment, derivatives):
    assert segment().code == 0
    shutil.copytree(derivatives, tree / "derivatives" / "net")
    manual = tree / "derivatives" / "manual" / "sub-7" / "ses-x" / "anat"
    manual.mkdir(parents=True)
    shutil.copyfile(study.image(2, "labels"), manual / "sub-7_ses-x_dseg.nii.gz")
    [case] = read_bids(tree).cases
    assert case.labels.path.parent == manual


def test_images_outside_a_tree_have_no_sources(study, segment, derivatives):
    assert segment(namesForPredictionsPerCase="lists/val_names.cfg").code == 0
    assert json.loads((derivatives / "sub-case2/anat/sub-case2_dseg.json").read_text())["Sources"] == []
    assert json.loads((derivatives / "dataset_description.json").read_text())["SourceDatasets"] == []
