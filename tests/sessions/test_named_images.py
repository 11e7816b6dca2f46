"""Which image is which channel."""

from __future__ import annotations

from pathlib import Path

import pytest

import deepmedic
from deepmedic.errors import CommandLineError, DataError, SeveralProblems
from deepmedic.sessions.inference.named_images import Channels, cases_in, named_case

TWO = Channels(2, ("FLAIR", "T1 post"))
UNNAMED = Channels(2, None)


def test_names_decide_whatever_their_order():
    case = named_case(["T1 post=b/t1c.nii.gz", "FLAIR=a/f.nii[3]"], "m.nii", TWO)
    assert [str(ref) for ref in case.channels] == [str(Path.cwd() / "a/f.nii[3]"), str(Path.cwd() / "b/t1c.nii.gz")]
    assert str(case.roi) == str(Path.cwd() / "m.nii")
    assert case.name == "f"
    assert TWO.described(case) == "FLAIR = f.nii, T1 post = t1c.nii.gz, ROI = m.nii"


@pytest.mark.parametrize(
    ("words", "contradicted"),
    [
        (["FLAIR=a/sub1_flair.nii", "T1 post=a/t1_post.nii"], []),
        (["FLAIR=a/x.nii", "T1 post=flair/t1.nii"], []),
        (["FLAIR=a/t1_post.nii", "T1 post=a/x.nii"], ["t1_post.nii is given as FLAIR, and its name says T1 post"]),
        (["FLAIR=-", "T1 post=a/FLAIRw.nii"], ["FLAIRw.nii is given as T1 post, and its name says FLAIR"]),
        (["FLAIR=flair_T1_post.nii", "T1 post=x.nii"], []),
    ],
    ids=["right", "no-names", "other-word", "other-part", "both"],
)
def test_names_of_files_that_say_another_channel_are_noted(words, contradicted):
    notes = TWO.contradictions(named_case(words, None, TWO))
    assert len(notes) == len(contradicted)
    assert all(text in note for text, note in zip(contradicted, notes, strict=True))


def test_a_dash_is_a_missing_channel():
    assert named_case(["FLAIR=-", "T1 post=t.nii"], None, TWO).channels[0] is None
    case = named_case(["a.nii", "-"], None, UNNAMED)
    assert case.channels[1] is None
    assert UNNAMED.described(case) == "channel 1 = a.nii, channel 2 = -"


@pytest.mark.parametrize(
    ("words", "channels", "message"),
    [
        (["f.nii", "t.nii"], TWO, "-images f.nii: which channel is this?"),
        (["FLAIR=f.nii", "T2=t.nii"], TWO, "there is no channel T2 and nothing is given for T1 post. The model has"),
        (["flair=f.nii", "T1 post=t.nii"], TWO, "there is no channel flair and nothing is given for FLAIR"),
        (
            ["FLAIR=f.nii"],
            TWO,
            "nothing is given for T1 post. The model has the channels FLAIR, T1 post; give -images ",
        ),
        (["FLAIR=f.nii", "FLAIR=g.nii"], TWO, "FLAIR is given twice."),
        (["FLAIR=-", "T1 post=-"], TWO, "all channels are missing (-)"),
        (["FLAIR=f.nii", "T1=t.nii"], UNNAMED, "-images FLAIR=f.nii: the model has 2 channels without names; give the"),
        (["f.nii"], UNNAMED, "1 is given, the model has 2 channels without names."),
        (["f", "g", "h"], UNNAMED, "3 are given, the model has 2 channels without names."),
    ],
    ids=["unnamed", "unknown", "lower-case", "missing", "twice", "all-missing", "named", "too-few", "too-many"],
)
def test_wrong_images_are_refused(words, channels, message):
    with pytest.raises(CommandLineError) as refused:
        named_case(words, None, channels)
    assert message in str(refused.value)
    assert "FLAIR=flair.nii.gz T1 post=t1_post.nii.gz" in TWO.example()


def folder_of(folder: Path, **cases: str) -> Path:
    for case, names in cases.items():
        (folder / case).mkdir(parents=True)
        for name in names.split():
            (folder / case / name).touch()
    return folder


def matched(folder: Path, names: str, roi: str | None = None) -> dict[str, list[str]]:
    channels = Channels(len(names.split()), tuple(name.replace("_", " ") for name in names.split()))
    return {
        case.name: [ref.path.name for ref in (*case.channels, case.roi) if ref]
        for case in cases_in(folder, roi, channels)
    }


@pytest.mark.parametrize(
    ("files", "names", "roi", "expected"),
    [
        ("t1.nii.gz FLAIR.nii", "T1 FLAIR", None, ["t1.nii.gz", "FLAIR.nii"]),
        ("sub-1_T1w.nii.gz sub-1_FLAIR.nii.gz", "T1 FLAIR", None, ["sub-1_T1w.nii.gz", "sub-1_FLAIR.nii.gz"]),
        ("a_t1.nii.gz a_t1ce.nii.gz", "T1 T1ce", None, ["a_t1.nii.gz", "a_t1ce.nii.gz"]),
        ("a_t1w.nii.gz a_t1cew.nii.gz", "T1 T1ce", None, ["a_t1w.nii.gz", "a_t1cew.nii.gz"]),
        ("x-T1-post.nii x-T1.nii", "T1 T1_post", None, ["x-T1.nii", "x-T1-post.nii"]),
        ("T1.nii T1_mask.nii.gz notes.txt T1.json", "T1", "mask", ["T1.nii", "T1_mask.nii.gz"]),
        ("T1.nii brainmask.nii.gz", "T1", "mask", ["T1.nii", "brainmask.nii.gz"]),
        ("T1.nii T1_old.nii.bak", "T1", None, ["T1.nii"]),
    ],
    ids=["words", "bids", "longer-word", "longer-part", "several-words", "mask-first", "part-of-mask", "other-endings"],
)
def test_files_are_matched_by_their_names(tmp_path, files, names, roi, expected):
    assert matched(folder_of(tmp_path, case1=files), names, roi) == {"case1": expected}


def test_each_subfolder_is_a_case(tmp_path):
    folder = folder_of(tmp_path, b="T1.nii", a="my_T1.nii.gz", **{".hidden": "T1.nii"})
    (folder / "readme.nii").touch()
    [first, second] = cases_in(folder, None, Channels(1, ("T1",)))
    assert [(case.name, case.output_name, case.channels[0].path.name) for case in (first, second)] == [
        ("a", "a", "my_T1.nii.gz"),
        ("b", "b", "T1.nii"),
    ]


def test_one_nameless_channel_is_the_only_image(tmp_path):
    folder = folder_of(tmp_path, a="scan.nii.gz mask.nii.gz")
    [case] = cases_in(folder, "mask", Channels(1, None))
    assert case.channels[0].path.name == "scan.nii.gz"
    with pytest.raises(DataError, match=r"a: 2 files that can be the image: mask.nii.gz, scan.nii.gz; only one"):
        cases_in(folder, None, Channels(1, None))


def test_all_that_is_ambiguous_or_missing_is_listed(tmp_path):
    folder = folder_of(tmp_path, a="T1_left.nii T1_right.nii", b="T2.nii", c="T1.nii", d="")
    with pytest.raises(SeveralProblems) as refused:
        matched(folder, "T1")
    message = str(refused.value)
    assert "a: 2 files for T1: T1_left.nii, T1_right.nii; only one may have that in its name" in message
    assert "b: there is no file for T1; a name with T1 is needed, found T2.nii" in message
    assert "d: there is no file for T1; a name with T1 is needed, found no images" in message
    assert "/c:" not in message


def test_a_mask_is_needed_in_every_case(tmp_path):
    folder = folder_of(tmp_path, a="T1.nii mask.nii", b="T1.nii")
    with pytest.raises(DataError, match=r"b: there is no file for mask; a name with mask is needed, found T1\.nii"):
        matched(folder, "T1", "mask")


def test_folders_that_are_none_of_cases_are_refused(tmp_path):
    (tmp_path / "T1.nii").touch()
    with pytest.raises(
        CommandLineError, match="there is no folder in it; a folder of cases has one subfolder per case"
    ):
        matched(tmp_path, "T1")
    with pytest.raises(
        CommandLineError, match="the model has 2 channels without names, so files in a folder cannot be"
    ):
        cases_in(tmp_path, None, UNNAMED)


def test_a_table_in_another_order_than_the_channels_of_the_model(study, run):
    table = study.folder / "cases.csv"
    rows = [[*(str(study.image(case, kind)) for kind in ("t2", "t1", "labels")), f"case{case}"] for case in (0, 1, 2)]
    header = ["channel_T2", "channel_T1", "ground_truth", "prediction_filename"]
    table.write_text("".join(",".join(row) + "\n" for row in [header, *rows]))
    swapped = study.model("swapped", channelNames=["T2", "T1"])
    lists = {
        "channelsTraining": None,
        "gtLabelsTraining": None,
        "roiMasksTraining": None,
        "dataframe_train": table.name,
    }
    for words in ([], ["-split", "0.34", "0.33", "0.33"], ["-crossValidate", "3"]):
        outcome = run("-newModel", swapped, "-train", study.train(**lists), *words)
        assert outcome.code == 5
        assert "alphabetical order of their columns' names, T1, T2, and those of the model are T2, T1." in outcome.err
    assert not study.out.exists()
    deepmedic.save_model(deepmedic.new_model(swapped), study.folder / "swapped.save")
    lists = {"channels": None, "gtLabels": None, "roiMasks": None, "namesForPredictionsPerCase": None}
    command = ["-test", study.test(dataframe=table.name, **lists), "-model", study.folder / "swapped.save", "-check"]
    outcome = run(*command)
    assert outcome.code == 5
    assert "inference: " in outcome.err
    assert "those of the model are T2, T1." in outcome.err
    deepmedic.save_model(
        deepmedic.new_model(study.model("swapped", channelNames=["T1", "T2"])), study.folder / "swapped.save"
    )
    assert run(*command).code == 0
