"""`-segment`: scans segmented with nothing but a model."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import deepmedic
from deepmedic import cli
from deepmedic.config.sections import DataConfig
from deepmedic.data.dataset import read_data_set
from deepmedic.errors import ProblemList
from deepmedic.sessions.inference.ensemble import needs_of
from deepmedic.sessions.inference.single_case import trained_preprocessing
from deepmedic.sessions.models.data_description import describe_data

SIZE = (14, 13, 12)
AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])
MODEL = """\
modelName = "tiny"
numberOfOutputClasses = 3
classNames = ["background", "core", "rim"]
numberOfInputChannels = 2
channelNames = ["T1", "FLAIR"]
numberFMsPerLayerNormal = [3]
kernelDimPerLayerNormal = [[3, 3, 3]]
numberFMsPerLayerFC = []
segmentsDimTrain = [9, 9, 9]
"""


def write_case(folder: Path, seed: int) -> Path:
    """A T1 scan with two tissues, a FLAIR scan with a bright tail, and a mask."""
    rng = np.random.default_rng(seed)
    images = {
        "T1": 100 + 20 * rng.normal(size=SIZE) + 150 * (rng.random(SIZE) < 0.5),
        "FLAIR": 50 * rng.exponential(size=SIZE) ** 1.6,
    }
    folder.mkdir(parents=True)
    for name, voxels in images.items():
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), AFFINE), folder / f"{name.lower()}.nii.gz")
    mask = np.zeros(SIZE, np.uint8)
    mask[2:12, 2:11, 1:11] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "mask.nii.gz")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two cases, and a model that knows what such cases look like."""
    folder = tmp_path_factory.mktemp("place")
    for number in (1, 2, 3):
        write_case(folder / "scans" / f"case{number}", number)
    for name in ("t1", "flair", "mask"):
        (folder / f"{name}.cfg").write_text(f"scans/case3/{name}.nii.gz\n")
    (folder / "scans" / "case3").rename(folder / "trained")
    (folder / "scans" / "case3").symlink_to(folder / "trained")
    (folder / "model.cfg").write_text(MODEL)
    model = deepmedic.new_model(folder / "model.cfg", seed=3)
    model.data.zscore, model.data.orientation, model.data.pad_images = {"all_channels": True}, "asStored", True
    lists = DataConfig(channels=(folder / "t1.cfg", folder / "flair.cfg"), roi_masks=folder / "mask.cfg")
    problems = ProblemList()
    data = read_data_set(lists, "training", trained_preprocessing(model), needs_of(model), problems, needs_labels=False)
    problems.raise_if_any()
    model.data = describe_data(data)
    model.start_parameters = dict(model.parameters)
    deepmedic.save_model(model, folder / "tiny.save")
    (folder / "scans" / "case3").unlink()
    return folder


@pytest.fixture
def segment(place, capsys, monkeypatch, tmp_path):
    """Run `-segment` with the model in a folder of its own; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main(["-segment", str(place / "tiny.save"), "-dev", "cpu", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def images(place: Path, case: int = 1) -> list[str]:
    return [f"FLAIR={place}/scans/case{case}/flair.nii.gz", f"T1={place}/scans/case{case}/t1.nii.gz"]


def test_one_case_gives_what_python_gives(place, segment, tmp_path):
    mask = place / "scans/case1/mask.nii.gz"
    code, out, err = segment("-images", *images(place), "-roi", mask, "-output", "new/seg.nii.gz", "-probabilities")
    assert (code, err) == (0, "")
    expected = deepmedic.segment(
        place / "tiny.save", [place / "scans/case1/t1.nii.gz", place / "scans/case1/flair.nii.gz"], mask, device="cpu"
    )
    saved = nib.load(tmp_path / "new/seg.nii.gz")
    assert np.array_equal(np.asarray(saved.dataobj), expected.segmentation)
    assert np.array_equal(saved.affine, AFFINE)
    probability = nib.load(tmp_path / "new/seg_ProbMapClass2.nii.gz")
    assert np.array_equal(np.asarray(probability.dataobj), expected.probabilities[2])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *("seg.nii.gz", "seg.json", "seg_labels_itksnap.txt", "seg_labels_fsleyes.lut"),
        *(f"seg_ProbMapClass{number}.nii.gz" for number in range(3)),
    }
    assert "T1 = t1.nii.gz, FLAIR = flair.nii.gz, ROI = mask.nii.gz" in out
    assert "Results: new/seg.nii.gz" in out
    assert f"itksnap -g {place}/scans/case1/t1.nii.gz -s new/seg.nii.gz -l new/seg_labels_itksnap.txt" in out


def test_an_uncompressed_image_stays_one(place, segment, tmp_path):
    assert segment("-images", *images(place), "-output", "seg.nii")[0] == 0
    assert (tmp_path / "seg.nii").read_bytes()[344:347] == b"n+1"
    assert not (tmp_path / "seg.nii.gz").exists()


def test_repeated_it_keeps_what_is_there(place, segment, tmp_path):
    command = ["-images", *images(place), "-output", "seg.nii.gz"]
    segment(*command)
    before = (tmp_path / "seg.nii.gz").stat().st_mtime_ns
    code, out, _ = segment(*command)
    assert (code, "kept from an earlier run" in out) == (0, True)
    assert (tmp_path / "seg.nii.gz").stat().st_mtime_ns == before
    code, _, err = segment("-images", *images(place, 2), "-output", "seg.nii.gz")
    assert (code, "made from other images: channel 1, channel 2" in err) == (8, True)
    code, out, _ = segment("-images", *images(place, 2), "-output", "seg.nii.gz", "-overwrite")
    assert (code, "1 case segmented" in out) == (0, True)


def test_a_missing_channel_is_zero(place, segment):
    code, out, _ = segment("-images", images(place)[0], "T1=-", "-output", "seg.nii.gz")
    assert (code, "T1 = -, FLAIR = flair.nii.gz" in out) == (0, True)


def test_a_folder_of_cases(place, segment, tmp_path):
    code, out, err = segment("-images", place / "scans", "-roi", "mask", "-output", "results")
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        *("case1_Segm.nii.gz", "case2_Segm.nii.gz", "case1.json", "case2.json", "logs", "reports"),
        *("labels_itksnap.txt", "labels_fsleyes.lut"),
    }
    assert "case2: T1 = t1.nii.gz, FLAIR = flair.nii.gz, ROI = mask.nii.gz" in out
    report = (tmp_path / "results/reports/segment.html").read_text()
    assert report.count('"prediction":"') == 2
    log = (tmp_path / "results/logs/segment.txt").read_text()
    assert "2 cases segmented, 0 kept from before" in log
    (tmp_path / "results/case1_Segm.nii.gz").unlink()
    code, out, _ = segment("-images", place / "scans", "-roi", "mask", "-output", "results")
    assert (code, "1 case segmented, 1 kept from before" in out) == (0, True)
    code, _, err = segment("-images", place / "scans", "-output", "results")
    assert (code, "made from other images: roi" in err) == (8, True)
    assert "made from other images: roi" in (tmp_path / "results/logs/segment.txt").read_text()


def test_a_model_that_gives_no_numbers_is_refused_before_anything_is_written(place, capsys, tmp_path):
    damaged = deepmedic.load_model(place / "tiny.save")
    damaged.parameters["normal/1/weight"] = damaged.parameters["normal/1/weight"] * float("nan")
    deepmedic.save_model(damaged, tmp_path / "damaged.save")
    words = ["-segment", str(tmp_path / "damaged.save"), "-images", *images(place)]
    assert cli.main([*words, "-output", str(tmp_path / "out/seg.nii.gz"), "-dev", "cpu"]) == 5
    assert "seg: the model gives values that are not finite for 2184 voxels" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("seg*"))


def test_a_link_to_a_case_that_is_not_there_is_told(place, segment, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "case1").symlink_to(place / "scans/case1")
    (folder / "case9").symlink_to(tmp_path / "unmounted/case9")
    code, _, err = segment("-images", folder, "-output", "results")
    assert (code, "linked: case9: a link to what does not exist, so a case may be missing" in err) == (4, True)
    assert not (tmp_path / "results").exists()
    (folder / "case9").unlink()
    assert segment("-images", folder, "-output", "results")[0] == 0


def test_a_spacing_that_would_fill_memory_is_refused(place, segment, tmp_path):
    """Voxels of metres: each case has a few thousand, and resampled to those of training a thousand million times."""
    for name in ("t1", "flair"):
        image = nib.load(place / f"scans/case1/{name}.nii.gz")
        image.header.set_xyzt_units("meter")
        nib.save(image, tmp_path / f"{name}.nii.gz")
    code, _, err = segment("-images", "T1=t1.nii.gz", "FLAIR=flair.nii.gz", "-output", "seg.nii.gz")
    assert code == 6
    assert "case seg: resampled from 1000 x 1000 x 1500 to 1 x 1 x 1.5 mm it has 14000 x 13000 x 12000 voxels" in err
    assert "Correct the voxel sizes and their unit in the headers" in err


def test_several_models_are_averaged(place, capsys, tmp_path):
    second = deepmedic.load_model(place / "tiny.save")
    second.parameters["normal/1/weight"] = -second.parameters["normal/1/weight"]
    deepmedic.save_model(second, place / "second.save")
    names = ["tiny.save", "second.save"]
    command = ["-images", *images(place), "-output", str(tmp_path / "seg.nii.gz"), "-probabilities", "-dev", "cpu"]
    assert cli.main(["-segment", *(str(place / name) for name in names), *command]) == 0
    assert "Each case is predicted 2 times; probabilities are averaged." in capsys.readouterr().out
    found = np.asarray(nib.load(tmp_path / "seg_ProbMapClass1.nii.gz").dataobj)
    scans = [place / "scans/case1/t1.nii.gz", place / "scans/case1/flair.nii.gz"]
    each = [deepmedic.segment(place / name, scans, device="cpu").probabilities[1] for name in names]
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)


def test_exchanged_channels_are_told(place, segment):
    one, other = (f"{place}/scans/case1/{name}.nii.gz" for name in ("t1", "flair"))
    mask = place / "scans/case1/mask.nii.gz"
    code, _, err = segment("-images", f"T1={other}", f"FLAIR={one}", "-roi", mask, "-output", "seg.nii.gz")
    assert code == 0
    assert "WARNING: THE CHANNELS OF seg MAY BE IN THE WRONG ORDER" in err
    assert "T1: flair.nii.gz is given, t1.nii.gz fits" in err
    assert "FLAIR: t1.nii.gz is given, flair.nii.gz fits" in err
    assert "WARNING: seg: flair.nii.gz is given as T1, and its name says FLAIR: check which image is which." in err


def test_exchanged_arrays_are_told_in_python(place, caplog):
    arrays = [np.asarray(nib.load(place / f"scans/case1/{name}.nii.gz").dataobj) for name in ("t1", "flair")]
    mask = np.asarray(nib.load(place / "scans/case1/mask.nii.gz").dataobj)
    deepmedic.segment(place / "tiny.save", arrays, mask, device="cpu")
    assert caplog.text == ""
    deepmedic.segment(place / "tiny.save", arrays[::-1], mask, device="cpu")
    assert "T1: array 1 is given, array 2 fits" in caplog.text


def test_intensities_unlike_training_are_told_once(place, segment, tmp_path):
    for number in (1, 2):
        folder = tmp_path / "odd" / f"case{number}"
        write_case(folder, number)
        for name in ("t1", "flair"):
            image = nib.load(folder / f"{name}.nii.gz")
            voxels = np.asarray(image.dataobj) * 0
            voxels[7, 6, 5] = 1000.0
            nib.save(nib.Nifti1Image(voxels, AFFINE), folder / f"{name}.nii.gz")
    code, _, err = segment("-images", tmp_path / "odd", "-output", "results")
    assert code == 0
    assert err.count("are unlike those of training (T1, FLAIR): the result may be poor") == 1
    assert "Was there an ROI mask (such as a brain mask) in training? Give one." in err


def test_checking_writes_nothing(place, segment, tmp_path):
    code, out, _ = segment("-images", *images(place), "-output", "seg.nii.gz", "-check")
    assert (code, out.splitlines()[1]) == (0, "OK")
    assert "tiling: auto" in out
    assert list(tmp_path.iterdir()) == []
    voxels = np.full(SIZE, np.nan, np.float32)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "bad.nii.gz")
    code, _, err = segment("-images", images(place)[0], "T1=bad.nii.gz", "-output", "seg.nii.gz", "-check")
    assert (code, "bad.nii.gz" in err) == (4, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-images", "T1=a.nii", "FLAIR=b.nii", "-output", "seg.nii.gz"], 4, "a.nii: no such file"),
        (
            ["-images", "a.nii", "b.nii", "-output", "seg.nii.gz"],
            2,
            "which channel is this? The model has the channels",
        ),
        (["-images", "T1=a.nii", "FLAIR=b.nii", "-output", "seg"], 2, "needs a name ending in .nii.gz or .nii"),
        (["-images", "SCANS", "-output", "seg.nii.gz"], 2, "a folder of cases needs a folder for the results"),
        (["-images", "SCANS", "-output", "SCANS/new"], 2, "lies in the folder of cases"),
        (["-images", "SCANS", "SCANS", "-output", "new"], 2, "is a folder; give one folder of cases, or the images of"),
        (["-images", "SCANS"], 2, "-segment needs -output too: -segment MODEL -images NAME=scan.nii.gz ... -output"),
        (["-output", "seg.nii"], 2, "-segment needs -images too"),
        (["-images", "SCANS", "-output", "new", "-model", "x"], 2, "-model only has a meaning with -train, -test"),
    ],
    ids=["no-file", "positional", "no-image", "image-for-folder", "inside", "two-folders", "output", "images", "model"],
)
def test_what_cannot_be_done_is_refused(place, segment, tmp_path, words, code, message):
    found, _, err = segment(*(word.replace("SCANS", str(place / "scans")) for word in words))
    assert (found, message in err) == (code, True), err
    assert list(tmp_path.iterdir()) == []


def test_images_are_never_replaced(place, segment, tmp_path):
    write_case(tmp_path / "mine", 5)
    mine = [f"T1={tmp_path}/mine/t1.nii.gz", f"FLAIR={tmp_path}/mine/flair.nii.gz"]
    before = (tmp_path / "mine/t1.nii.gz").read_bytes()
    code, _, err = segment("-images", *mine, "-output", tmp_path / "mine" / "t1.nii.gz", "-overwrite")
    assert (code, "t1.nii.gz is one of the images; choose another name" in err) == (2, True)
    assert (tmp_path / "mine/t1.nii.gz").read_bytes() == before


def test_other_files_beside_the_result_stay(place, segment, tmp_path):
    """A table of scores of the user's own, and a sidecar that has the name of the record."""
    (tmp_path / "metrics.csv").write_text("mine")
    assert segment("-images", *images(place), "-output", "seg.nii.gz")[0] == 0
    assert (tmp_path / "metrics.csv").read_text() == "mine"
    (tmp_path / "sub1.json").write_text(json.dumps({"EchoTime": 0.1}))
    code, _, err = segment("-images", *images(place), "-output", "sub1.nii.gz", "-overwrite")
    assert (code, "sub1.json: is in the way: it is not a record of this program" in err) == (8, True)
    assert json.loads((tmp_path / "sub1.json").read_text()) == {"EchoTime": 0.1}
    assert not (tmp_path / "sub1.nii.gz").exists()


@pytest.mark.parametrize("codes", ["LAS", "PIR"])
def test_images_along_other_axes_than_in_training_get_the_same_result_in_their_own(place, segment, tmp_path, codes):
    """Turning loses nothing, so it is done unasked; the result lies on the images."""
    assert segment("-images", *images(place), "-output", "plain.nii.gz")[0] == 0
    plain = nib.load(tmp_path / "plain.nii.gz")
    assert nib.aff2axcodes(plain.affine) == ("R", "A", "S")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(plain.affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    for name in ("t1", "flair"):
        image = nib.load(place / "scans/case1" / f"{name}.nii.gz")
        nib.save(image.as_reoriented(turn), tmp_path / f"{name}.nii.gz")
    assert segment("-images", "T1=t1.nii.gz", "FLAIR=flair.nii.gz", "-output", "seg.nii.gz")[0] == 0
    found, expected = nib.load(tmp_path / "seg.nii.gz"), plain.as_reoriented(turn)
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    assert len(np.unique(expected.dataobj)) > 1
    np.testing.assert_allclose(found.affine, nib.load(tmp_path / "t1.nii.gz").affine, atol=1e-5)


def test_images_beside_the_cases_are_named(place, segment, tmp_path):
    scans = tmp_path / "scans"
    for case in (1, 2):
        (scans / f"case{case}").parent.mkdir(exist_ok=True)
        (scans / f"case{case}").symlink_to(place / "scans" / f"case{case}")
    for name in ("sub9_T1.nii.gz", "atlas.NII", "notes.txt", ".hidden.nii"):
        (scans / name).write_bytes((place / "scans/case1/t1.nii.gz").read_bytes())
    said = "scans: left out, since they belong to no case: atlas.NII, sub9_T1.nii.gz. Each subfolder is a case"
    for words in (["-check"], []):
        code, out, err = segment("-images", "scans", "-output", "results", *words)
        assert (code, said in out + err) == (0, True)
    assert said in (tmp_path / "results/logs/segment.txt").read_text()
    assert "2 cases segmented" in out
    assert said not in "".join(segment("-images", place / "scans", "-output", "others")[1:])


def test_a_folder_of_cases_may_mix_axes(place, segment, tmp_path):
    for case, turn in ((1, [[0, 1], [1, 1], [2, 1]]), (2, [[2, -1], [0, 1], [1, -1]])):
        (tmp_path / f"scans/case{case}").mkdir(parents=True)
        for name in ("t1", "flair"):
            image = nib.load(place / "scans" / f"case{case}" / f"{name}.nii.gz")
            nib.save(image.as_reoriented(turn), tmp_path / f"scans/case{case}/{name}.nii.gz")
    assert segment("-images", "scans", "-output", "turned")[0] == 0
    assert segment("-images", place / "scans", "-output", "stored")[0] == 0
    for case in (1, 2):
        found, expected = (nib.load(tmp_path / f"{folder}/case{case}_Segm.nii.gz") for folder in ("turned", "stored"))
        canonical = nib.as_closest_canonical(found)
        assert np.array_equal(np.asarray(canonical.dataobj), np.asarray(expected.dataobj))
        np.testing.assert_allclose(canonical.affine, expected.affine, atol=1e-5)
