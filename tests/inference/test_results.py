"""Records beside results: whose they are, and whether they are whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from deepmedic.config.sections import OutputConfig, PreprocessingConfig
from deepmedic.data.cases import Case, ImageRef
from deepmedic.errors import DataError
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.results import (
    Record,
    ResultFiles,
    RunIdentity,
    case_fingerprint,
    existing_results,
    labels_fingerprint,
    remove_other_results,
    write_record,
)

RUN = RunIdentity("a" * 64, {"tiling": "segments", "segment": (25, 25, 25)})
OUTPUT = OutputConfig(save_probability_maps=(False, True, False))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    for name in ("flair.nii", "t1.nii", "labels.nii", "roi.nii"):
        (tmp_path / name).write_bytes(name.encode())
    images = [ImageRef(tmp_path / name, listed_at="list.cfg:1") for name in ("flair.nii", "t1.nii")]
    return Case("a", (*images, None), ImageRef(tmp_path / "labels.nii"), ImageRef(tmp_path / "roi.nii"), (), "site/a")


@pytest.fixture
def files(tmp_path: Path) -> ResultFiles:
    return ResultFiles(tmp_path / "predictions" / "session", OUTPUT, classes=3)


def write_all(case: Case, files: ResultFiles, run: RunIdentity = RUN, evaluation=None) -> None:
    paths = files.all_of("site/a")
    record = Record(case_fingerprint(case, run), labels_fingerprint(case), evaluation)
    write_record("site/a", files, record)
    for path in paths:
        path.write_bytes(b"voxels of " + path.name.encode())
    write_record("site/a", files, record, paths)


def status(case: Case, files: ResultFiles, run: RunIdentity = RUN, scoring=None):
    return existing_results(case, "site/a", files, case_fingerprint(case, run), scoring)


def test_names_of_all_files(tmp_path) -> None:
    files = ResultFiles(
        tmp_path,
        OutputConfig(suffixes={"segm": "Labels", "prob": "P"}, save_probability_maps=None),
        classes=2,
        feature_maps={3: {1: (0, 2)}},
    )
    relative = [path.relative_to(tmp_path).as_posix() for path in files.all_of("s/x")]
    assert relative == [
        "predictions/s/x_Labels.nii.gz",
        "predictions/s/x_P0.nii.gz",
        "predictions/s/x_P1.nii.gz",
        "features/s/x_pathway3_layer1_fm0.nii.gz",
        "features/s/x_pathway3_layer1_fm1.nii.gz",
    ]
    assert files.record("s/x") == tmp_path / "predictions" / "s" / "x.json"


def test_default_suffixes_and_chosen_classes(files) -> None:
    assert [path.name for path in files.all_of("a")] == ["a_Segm.nii.gz", "a_ProbMapClass1.nii.gz"]


def test_nothing_there_is_absent(case, files) -> None:
    assert status(case, files).status == "absent"


def test_complete_results_of_this_run_match(case, files) -> None:
    write_all(case, files, evaluation={"rows": [1.5]})
    found = status(case, files)
    assert found.status == "match"
    assert found.evaluation == {"rows": [1.5]}


def test_results_that_were_scored_otherwise_are_computed_again(case, files) -> None:
    write_all(case, files)
    found = status(case, files, scoring={"surfaceDistances": True})
    assert (found.status, found.reason) == (
        "damaged",
        "they were scored otherwise: surfaceDistances was None, now True",
    )
    paths = files.all_of("site/a")
    labelled = replace(case, labels=case.channels[0])
    scoring = {"regions": {"core": (1, 3)}}
    record = Record(case_fingerprint(case, RUN), labels_fingerprint(labelled), scoring=scoring)
    write_record("site/a", files, record, paths)
    assert status(labelled, files, scoring=scoring).status == "match"
    assert "regions was {'core': [1, 3]}, now {}" in status(labelled, files, scoring={"regions": {}}).reason


def test_moved_inputs_still_match(case, files, tmp_path) -> None:
    write_all(case, files)
    moved = tmp_path / "elsewhere.nii"
    case.channels[0].path.rename(moved)
    assert status(replace(case, channels=(ImageRef(moved), *case.channels[1:])), files).status == "match"


def test_record_names_model_settings_inputs_and_results(case, files) -> None:
    write_all(case, files)
    record = json.loads(files.record("site/a").read_text())
    assert record["model"] == "a" * 64
    assert record["settings"] == {"tiling": "segments", "segment": [25, 25, 25]}
    assert record["inputs"]["channel 1"]["bytes"] == len("flair.nii")
    assert record["inputs"]["channel 3"] is None
    assert sorted(record["results"]) == ["predictions/site/a_ProbMapClass1.nii.gz", "predictions/site/a_Segm.nii.gz"]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (
            RunIdentity("b" * 64, RUN.settings),
            r"made by another model \(SHA-256 aaaaaaaaaaaa..., now bbbbbbbbbbbb...\)",
        ),
        (
            RunIdentity("a" * 64, {**RUN.settings, "tiling": "auto"}),
            "made with other settings: tiling was segments, now auto",
        ),
    ],
)
def test_results_of_another_run_say_what_differs(case, files, run, reason) -> None:
    write_all(case, files)
    found = status(case, files, run)
    assert found.status == "other run"
    assert re.fullmatch(reason, found.reason)


def test_changed_input_is_another_run(case, files) -> None:
    write_all(case, files)
    case.channels[1].path.write_bytes(b"edited")
    found = status(case, files)
    assert (found.status, found.reason) == ("other run", "made from other images: channel 2")


def test_files_without_a_record_are_of_another_run(case, files) -> None:
    write_all(case, files)
    files.record("site/a").unlink()
    found = status(case, files)
    assert (found.status, found.reason) == ("other run", "a_Segm.nii.gz has no record of what it was made from")


def test_record_of_another_run_without_files_is_absent(case, files) -> None:
    write_all(case, files, RunIdentity("b" * 64, {}))
    for path in files.all_of("site/a"):
        path.unlink()
    assert status(case, files).status == "absent"


def test_changed_result_is_damaged(case, files) -> None:
    write_all(case, files)
    files.segmentation("site/a").write_bytes(b"edited by hand")
    found = status(case, files)
    assert (found.status, found.reason) == ("damaged", "a_Segm.nii.gz was changed after it was written")


def test_missing_result_is_damaged(case, files) -> None:
    write_all(case, files)
    files.probability("site/a", 1).unlink()
    assert status(case, files).reason == "a_ProbMapClass1.nii.gz is missing"


def test_interrupted_writing_is_damaged(case, files) -> None:
    write_record("site/a", files, Record(case_fingerprint(case, RUN)))
    files.segmentation("site/a").write_bytes(b"some voxels")
    found = status(case, files)
    assert (found.status, found.reason) == ("damaged", "a_Segm.nii.gz was not finished")


def test_further_files_asked_for_are_computed_again(case, files) -> None:
    write_all(case, files)
    more = replace(files, output=replace(OUTPUT, save_probability_maps=(True, True, False)))
    assert status(case, more).reason == "a_ProbMapClass0.nii.gz is missing"


def test_other_labels_ask_for_another_evaluation(case, files) -> None:
    write_all(case, files)
    case.labels.path.write_bytes(b"corrected labels")
    found = status(case, files)
    assert (found.status, found.reason) == ("damaged", "they were evaluated on other labels")


def test_torn_record_does_not_count(case, files) -> None:
    write_all(case, files)
    files.record("site/a").write_text('{"format": 1, "model"')
    assert status(case, files).status == "other run"


def test_unreadable_input_names_the_listing(case) -> None:
    case.channels[0].path.unlink()
    with pytest.raises(DataError, match=r"flair\.nii: the file cannot be read .* listed at list\.cfg:1"):
        case_fingerprint(case, RUN)


def test_one_volume_of_a_4d_file_differs_from_another(case) -> None:
    def of_volume(number):
        return case_fingerprint(replace(case, channels=(ImageRef(case.channels[0].path, number),)), RUN)

    assert of_volume(0)["inputs"] != of_volume(1)["inputs"]


def test_overwriting_removes_images_that_are_not_written_again(case, files, tmp_path) -> None:
    write_all(case, files)
    fewer = replace(files, output=replace(OUTPUT, save_probability_maps=(False,) * 3))
    record = json.loads(files.record("site/a").read_text())
    outside = tmp_path / "precious.nii.gz"
    outside.write_bytes(b"not ours")
    record["results"]["../../precious.nii.gz"] = "0"
    record["results"]["predictions/site/a.json"] = "0"
    files.record("site/a").write_text(json.dumps(record))

    remove_other_results("site/a", fewer)

    assert files.segmentation("site/a").exists()
    assert not files.probability("site/a", 1).exists()
    assert outside.exists()
    assert files.record("site/a").exists()


def test_identity_holds_what_decides_the_numbers() -> None:
    settings = InferenceSettings(segment=(9, 9, 9))
    first = RunIdentity.of("a", settings, PreprocessingConfig())
    assert first == RunIdentity.of("a", replace(settings, batch_size=3), PreprocessingConfig(norm_verbosity=2))
    assert first != RunIdentity.of("a", replace(settings, precision="bf16"), PreprocessingConfig())
    assert first != RunIdentity.of("a", settings, PreprocessingConfig(pad_images=False))
