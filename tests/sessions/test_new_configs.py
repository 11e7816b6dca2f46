"""`-newConfigs` on every kind of data set: the configs it writes pass `-check`, train and segment."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from study import ROOT, SIZE

from deepmedic.config.load import load_model_config, load_test_config, load_train_config
from deepmedic.config.plain import to_plain
from deepmedic.data.cases import read_cases
from deepmedic.errors import ProblemList, ResourceError
from deepmedic.sessions.checking import new_configs

CASES = range(3)
FIVE = ("-crossValidate", "5")


def copy(study, case: int, kind: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(study.image(case, kind), target)


def folders(study, data: Path) -> Path:
    """A folder per case, named as BraTS names its files."""
    for case in CASES:
        for kind, name in {"t1": "t1", "t2": "t2", "labels": "seg", "roi": "brainmask"}.items():
            copy(study, case, kind, data / f"P{case}" / f"P{case}_{name}.nii.gz")
    return data


def table(study, data: Path) -> Path:
    rows = [[str(study.image(case, kind)) for kind in ("t1", "t2", "labels", "roi")] for case in CASES]
    data.mkdir()
    (data / "cases.csv").write_text("channel_t1,channel_t2,ground_truth,roi_mask\n" + "\n".join(map(",".join, rows)))
    return data / "cases.csv"


def nnunet(study, data: Path) -> Path:
    """nnU-Net's second version; the last case is for testing."""
    for case in CASES:
        part = "Tr" if case < 2 else "Ts"
        for number, kind in enumerate(("t1", "t2")):
            copy(study, case, kind, data / f"images{part}" / f"brain_{case:03d}_{number:04d}.nii.gz")
        if case < 2:
            copy(study, case, "labels", data / "labelsTr" / f"brain_{case:03d}.nii.gz")
    labels = {"background": 0, "core": 1, "shell": 2}
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    (data / "dataset.json").write_text(json.dumps(content))
    return data


def decathlon(study, data: Path) -> Path:
    """4D images with a volume per channel."""
    for case in CASES:
        volumes = [nib.load(study.image(case, kind)) for kind in ("t1", "t2")]
        together = np.stack([np.asarray(volume.dataobj) for volume in volumes], axis=3)
        (data / "imagesTr").mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(together, volumes[0].affine), data / "imagesTr" / f"BRATS_{case}.nii.gz")
        copy(study, case, "labels", data / "labelsTr" / f"BRATS_{case}.nii.gz")
    training = [{"image": f"./imagesTr/BRATS_{n}.nii.gz", "label": f"./labelsTr/BRATS_{n}.nii.gz"} for n in CASES]
    labels = {"0": "background", "1": "core", "2": "shell"}
    content = {"modality": {"0": "T1w", "1": "T2w"}, "labels": labels, "training": training, "test": []}
    (data / "dataset.json").write_text(json.dumps(content))
    return data / "dataset.json"


def bids(study, data: Path) -> Path:
    """Two sessions of one subject and one of another, which lacks the second image."""
    for case, (subject, session) in enumerate([("01", "a"), ("01", "b"), ("02", "a")]):
        anat, name = f"sub-{subject}/ses-{session}/anat", f"sub-{subject}_ses-{session}"
        copy(study, case, "t1", data / anat / f"{name}_T1w.nii.gz")
        if case < 2:
            copy(study, case, "t2", data / anat / f"{name}_T2w.nii.gz")
        copy(study, case, "labels", data / "derivatives" / "manual" / anat / f"{name}_dseg.nii.gz")
        copy(study, case, "roi", data / "derivatives" / "masks" / anat / f"{name}_desc-brain_mask.nii.gz")
    (data / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t40\nsub-03\t50\n")
    table = data / "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_dseg.tsv"
    table.write_text("index\tname\n0\tbackground\n1\tcore\n2\tshell\n")
    return data


SOURCES = {"folders": folders, "table": table, "nnunet": nnunet, "decathlon": decathlon, "bids": bids}


@pytest.fixture
def written(study, run, tmp_path):
    """Write configs for a data set and return outcome and folder."""

    def write(source: Path, *words, folder: str = "configs"):
        return run("-newConfigs", source, "-output", tmp_path / folder, *words), tmp_path / folder

    return write


def shorten(path: Path) -> None:
    """Train for one epoch of one step."""
    text = path.read_text()
    for key, value in {
        "numberOfEpochs": 1,
        "numberOfSubepochs": 1,
        "numberTrainingSegmentsLoadedOnGpuPerSubep": 2,
        "batchsize_train": 2,
        "numberValidationSegmentsLoadedOnGpuPerSubep": 2,
        "batchsize_val_samples": 2,
    }.items():
        text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert count == 1
    path.write_text(text)


def listed(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("kind", SOURCES)
def test_the_configs_pass_the_check_train_and_segment(study, run, written, tmp_path, kind):
    outcome, configs = written(SOURCES[kind](study, tmp_path / "data"))
    assert outcome.code == 0, outcome.err
    shorten(configs / "train.cfg")
    train = ["-newModel", configs / "model.cfg", "-train", configs / "train.cfg"]
    checked = run(*train, "-check")
    assert (checked.code, checked.out[:3]) == (0, "OK\n"), checked.err
    assert run(*train).code == 0
    [models] = (configs / "output" / "cnnModels").glob("train_*")
    assert run("-test", configs / "test.cfg", "-model", models).code == 0
    assert list((configs / "output" / "predictions").rglob("*_Segm.nii.gz"))


@pytest.mark.parametrize(
    ("kind", "subjects"),
    [
        ("nnunet", [["brain_000"], ["brain_001"]]),
        ("decathlon", [["BRATS_0"], ["BRATS_1"], ["BRATS_2"]]),
        ("bids", [["sub-01_ses-a", "sub-01_ses-b"], ["sub-02_ses-a"]]),
    ],
)
def test_the_printed_command_cross_validates_over_all_subjects_with_labels(
    study, run, written, tmp_path, kind, subjects
):
    outcome, configs = written(SOURCES[kind](study, tmp_path / "data"))
    folds = len(subjects)
    model, train = configs / "model.cfg", configs / "cross_validation.cfg"
    assert f"Or cross-validate, with each of the {folds} subjects with labels held out once:\n" in outcome.out
    assert outcome.out.endswith(f"  deepmedic -newModel {model} -train {train} -crossValidate {folds}\n")
    shorten(train)
    outcome = run("-newModel", model, "-train", train, "-crossValidate", folds)
    assert outcome.code == 0, outcome.err
    [table] = (configs / "output" / "predictions").glob("cv_*/cross_validation.json")
    by_fold: dict[int, set[str]] = {}
    for score in json.loads(table.read_text())["scores"]:
        by_fold.setdefault(score["fold"], set()).add(score["case"])
    assert sorted(map(sorted, by_fold.values())) == subjects


def test_five_folds_of_a_larger_data_set_and_a_table_that_any_config_can_name(study, run, written, tmp_path):
    study.write_cases(7)
    for case in range(7):
        for kind in ("t1", "t2", "labels"):
            copy(study, case, kind, tmp_path / "data" / f"P{case}" / f"{kind}.nii.gz")
    outcome, configs = written(tmp_path / "data")
    assert outcome.out.endswith("/cross_validation.cfg -crossValidate 5\n")
    train = load_train_config(configs / "train.cfg")
    folds = load_train_config(configs / "cross_validation.cfg", split_by="-crossValidate")
    one, other = to_plain(train), to_plain(folds)
    differing = {key for key in one if one[key] != other[key]}
    validation = {
        "channelsValidation", "gtLabelsValidation", "namesForPredictionsPerCaseVal", "strictSplits",
        "performFullInferenceOnValidationImagesEveryFewEpochs", "numberOfEpochsBetweenFullInferenceOnValImages",
    }  # fmt: skip
    assert differing == {"sessionName", "channelsTraining", "gtLabelsTraining", "dataframe_train", *validation}
    cases = read_cases(folds.data, "training", ProblemList(), needs_labels=True, channels=2)
    assert sorted(case.output_name for case in cases) == [f"P{case}" for case in range(7)]
    for case in cases:
        name = case.subject
        assert [image.path.name for image in (*case.channels, case.labels)] == [
            "t1.nii.gz", "t2.nii.gz", "labels.nii.gz"
        ]  # fmt: skip
        assert {image.path.parent.name for image in (*case.channels, case.labels)} == {name}
    checked = run("-newModel", configs / "model.cfg", "-train", configs / "cross_validation.cfg", *FIVE, "-check")
    assert (checked.code, checked.out[:3]) == (0, "OK\n"), checked.err


def test_a_single_subject_has_no_cross_validation(study, written, tmp_path):
    for kind in ("t1", "labels"):
        copy(study, 0, kind, tmp_path / "data" / "P0" / f"{kind}.nii.gz")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cross_validation.cfg").write_text("of other data")
    assert written(tmp_path / "data")[0].code == 8
    outcome, configs = written(tmp_path / "data", "-overwrite")
    assert outcome.code == 0, outcome.err
    assert "cross" not in outcome.out
    assert not (configs / "cross_validation.cfg").exists()


class TestWhatIsWritten:
    def test_folders(self, study, written, tmp_path):
        outcome, configs = written(folders(study, tmp_path / "data"))
        model = load_model_config(configs / "model.cfg")
        assert (model.channel_names, model.class_names, model.architecture.classes) == (("t1", "t2"), None, 3)
        train, test = load_train_config(configs / "train.cfg", model=model), load_test_config(configs / "test.cfg")
        assert train.preprocessing == test.preprocessing
        assert train.preprocessing.zscore.all_channels
        assert train.strict_splits
        training, validation = listed(configs / "lists/train_t1.cfg"), listed(configs / "lists/validation_t1.cfg")
        assert (len(training), len(validation)) == (2, 1)
        assert sorted([*training, *validation]) == [f"../../data/P{case}/P{case}_t1.nii.gz" for case in CASES]
        assert "brainmask for the region of interest" in outcome.err
        train_command = f"deepmedic -newModel {configs}/model.cfg -train {configs}/train.cfg"
        assert f"  {train_command} -check\n  {train_command}\n  deepmedic -test {configs}/test.cfg" in outcome.out

    def test_nnunet(self, study, written, tmp_path):
        _, configs = written(nnunet(study, tmp_path / "data"))
        assert load_model_config(configs / "model.cfg").class_names == ("background", "core", "shell")
        assert listed(configs / "lists/test_T2.cfg") == ["../../data/imagesTs/brain_002_0001.nii.gz"]
        assert not (configs / "lists/test_labels.cfg").exists()
        assert "roiMasks" not in (configs / "train.cfg").read_text()

    def test_decathlon_images_are_listed_by_volume(self, study, written, tmp_path):
        _, configs = written(decathlon(study, tmp_path / "data"))
        volumes = [listed(configs / f"lists/validation_{name}.cfg")[0][-10:] for name in ("T1w", "T2w")]
        assert [volume.partition(".nii.gz")[2] for volume in volumes] == ["[0]", "[1]"]

    def test_bids(self, study, written, tmp_path):
        outcome, configs = written(bids(study, tmp_path / "data"))
        assert load_model_config(configs / "model.cfg").class_names == ("background", "core", "shell")
        names = {part: listed(configs / f"lists/{part}_names.cfg") for part in ("train", "validation")}
        together = ["sub-01_ses-a", "sub-01_ses-b"]
        assert sorted(names.values()) == [together, ["sub-02_ses-a"]]
        part = "train" if names["train"] == ["sub-02_ses-a"] else "validation"
        assert listed(configs / f"lists/{part}_T2w.cfg") == ["-"]
        assert "participants.tsv lists 1 subjects without usable images: sub-03" in outcome.err

    def test_the_shipped_scans(self, written):
        outcome, configs = written(ROOT / "examples" / "data")
        assert outcome.code == 0, outcome.err
        model = load_model_config(configs / "model.cfg")
        assert (model.channel_names, model.architecture.classes) == (("T1",), 4)
        train = load_train_config(configs / "train.cfg", model=model)
        assert train.sampling.proportions[0] == 0  # the masks hold no background
        assert "shapes: 91 x 109 x 91 (3 cases)" in outcome.out
        assert "test: 1 case (the validation cases, until you list new ones)" in outcome.out
        assert "they belong to no case: atlas_priors.nii.gz" in outcome.err

    def test_every_key_has_a_comment(self, study, written, tmp_path):
        _, configs = written(folders(study, tmp_path / "data"))
        for name in ("model.cfg", "train.cfg", "test.cfg", "cross_validation.cfg"):
            lines = (configs / name).read_text().splitlines()
            keys = [number for number, line in enumerate(lines) if re.match(r"[\w.]+ = ", line)]
            assert keys
            assert all(lines[number - 1].startswith("# ") for number in keys)
            assert max(map(len, (line for line in lines if line.startswith("#")))) <= 120

    def test_another_seed_holds_out_another_subject(self, study, written, tmp_path):
        source = folders(study, tmp_path / "data")
        held_out = {
            tuple(listed(written(source, "-seed", seed, folder=f"c{seed}")[1] / "lists/validation_names.cfg"))
            for seed in range(4)
        }
        assert len(held_out) > 1

    def test_mixed_axis_orders_are_turned(self, study, written, run, tmp_path):
        study.write_image(
            1, "t1", np.ones(SIZE, np.float32) + np.arange(SIZE[0])[:, None, None], np.diag([-1, 1, 1.2, 1])
        )
        for kind in ("t2", "labels", "roi"):
            voxels = np.asarray(nib.load(study.image(1, kind)).dataobj)
            study.write_image(1, kind, voxels, np.diag([-1, 1, 1.2, 1]))
        outcome, configs = written(folders(study, tmp_path / "data"))
        assert outcome.code == 0
        for name in ("train.cfg", "test.cfg"):
            assert 'orientation = "RAS"' in (configs / name).read_text()

    def test_a_channel_without_content_is_listed_as_missing(self, study, written, tmp_path):
        study.write_image(1, "t2", np.full(SIZE, 7, np.float32))
        outcome, configs = written(folders(study, tmp_path / "data"))
        lists = [listed(configs / f"lists/{part}_t2.cfg") for part in ("train", "validation")]
        assert sum(entries.count("-") for entries in lists) == 1
        assert "P1_t2.nii.gz) has one value throughout the region of interest; it is listed as missing" in outcome.err

    def test_cases_with_the_same_voxels_come_into_one_part(self, study, written, tmp_path):
        shutil.copyfile(study.image(0, "t1"), study.image(1, "t1"))
        outcome, configs = written(folders(study, tmp_path / "data"))
        assert set(listed(configs / "lists/train_names.cfg")) | set(listed(configs / "lists/validation_names.cfg")) == {
            "P0", "P1", "P2"
        }  # fmt: skip
        assert ["P2"] in [listed(configs / f"lists/{part}_names.cfg") for part in ("train", "validation")]
        assert outcome.out.endswith("-crossValidate 2\n")  # the two are never in different folds
        assert "the same voxels under several names" in outcome.err


class TestRefusals:
    def test_existing_configs_are_kept(self, study, written, tmp_path):
        source = folders(study, tmp_path / "data")
        assert written(source)[0].code == 0
        before = {path: path.read_bytes() for path in (tmp_path / "configs").rglob("*.cfg")}
        (tmp_path / "configs" / "train.cfg").write_text("mine")
        outcome, configs = written(source)
        assert outcome.code == 8
        assert f"{configs} holds model.cfg, train.cfg, test.cfg, cross_validation.cfg, lists already" in outcome.err
        assert (configs / "train.cfg").read_text() == "mine"
        assert written(source, "-overwrite")[0].code == 0
        assert {path: path.read_bytes() for path in configs.rglob("*.cfg")} == before

    def test_nothing_is_left_when_images_are_refused(self, study, written, tmp_path):
        source = folders(study, tmp_path / "data")
        study.write_image(0, "labels", np.full((3, 3, 3), 1, np.uint8))
        copy(study, 0, "labels", source / "P0" / "P0_seg.nii.gz")
        outcome, configs = written(source)
        assert outcome.code == 4
        assert "case P0: its images have different shapes" in outcome.err
        assert not configs.exists()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    @pytest.mark.parametrize("number", [0, 3, 6])
    def test_a_full_disk_leaves_nothing_half_written(self, study, written, tmp_path, monkeypatch, number):
        left = iter([*[False] * number, True])

        def write(path, text):
            if next(left):
                raise ResourceError(f"{path}: no space")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

        monkeypatch.setattr(new_configs, "write_text_atomically", write)
        outcome, configs = written(folders(study, tmp_path / "data"))
        assert (outcome.code, outcome.err.endswith("no space\n")) == (6, True)
        assert not configs.exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "study"]

    def test_what_a_killed_run_left_is_removed(self, study, written, tmp_path):
        (tmp_path / ".configs.4194304999.partial").mkdir()
        (tmp_path / ".configs.1.partial").mkdir()  # of a process that lives
        assert written(folders(study, tmp_path / "data"))[0].code == 0
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [".configs.1.partial"]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.zeros(SIZE, np.uint8), "the labels of all cases are 0 everywhere; there is nothing to learn"),
            (np.where(np.arange(SIZE[2]) < 5, 0, 255).astype(np.uint8) + np.zeros(SIZE, np.uint8), "renumber them"),
        ],
        ids=["empty", "255"],
    )
    def test_labels_that_make_no_classes(self, study, written, tmp_path, labels, message):
        for case in CASES:
            study.write_image(case, "labels", labels)
        outcome, _ = written(folders(study, tmp_path / "data"))
        assert outcome.code == 4
        assert message in outcome.err

    def test_labels_outside_the_declared_classes(self, study, written, tmp_path):
        source = nnunet(study, tmp_path / "data")
        content = json.loads((source / "dataset.json").read_text())
        (source / "dataset.json").write_text(json.dumps({**content, "labels": {"background": 0, "core": 1}}))
        outcome, _ = written(source)
        assert outcome.code == 4
        assert (
            "2 cases have labels outside the 2 declared classes (0 to 1: background, core):\n    case brain_000: 2"
            in (outcome.err)
        )

    def test_a_folder_for_the_output_is_needed(self, run, tmp_path):
        outcome = run("-newConfigs", tmp_path)
        assert (outcome.code, outcome.err) == (
            2,
            "deepmedic: -newConfigs needs to know where to write: add -output FOLDER.\n",
        )

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nothing", "no such file or folder"),
            ("data.txt", "this is no data set"),
            ("empty", "found no folders with NIfTI"),
        ],
    )
    def test_what_is_no_data_set(self, written, tmp_path, name, message):
        (tmp_path / "data.txt").write_text("")
        (tmp_path / "empty").mkdir()
        outcome, configs = written(tmp_path / name)
        assert outcome.code == 4
        assert message in outcome.err
        assert not configs.exists()
