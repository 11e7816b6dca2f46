"""Names of BIDS derivatives against the rules of the specification, checked by a checker of its own."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.data.bids_names import BidsCase, bids_cases, entities_in, label_of_class
from deepmedic.errors import DataError

# Order of entities: "Entity table" of the specification 1.10 (schema/rules/entities.yaml).
ORDER = (
    *(
        "sub",
        "ses",
        "sample",
        "task",
        "tracksys",
        "acq",
        "nuc",
        "voi",
        "ce",
        "trc",
        "stain",
        "rec",
        "dir",
        "run",
        "mod",
    ),
    *(
        "echo",
        "flip",
        "inv",
        "mt",
        "part",
        "proc",
        "hemi",
        "space",
        "split",
        "recording",
        "chunk",
        "seg",
        "scale",
        "res",
    ),
    *("den", "label", "desc"),
)
OF_SEGMENTATIONS = {"sub", "ses", "run", "space", "res", "den", "seg", "desc", "acq"}
ALLOWED = {  # Imaging derivative data: discrete and probabilistic segmentations
    "dseg": ({".nii.gz", ".nii", ".json", ".tsv"}, OF_SEGMENTATIONS),
    "probseg": ({".nii.gz", ".nii", ".json"}, {*OF_SEGMENTATIONS, "label"}),
}  # fmt: skip


def violations(path: str) -> list[str]:
    """What of a path below a derivatives folder breaks the rules for names."""
    *folders, name = PurePosixPath(path).parts
    stem, dot, ending = name.partition(".")
    *pairs, suffix = stem.split("_")
    if suffix not in ALLOWED or not all(re.fullmatch(r"[a-z]+-[A-Za-z0-9+]+", pair) for pair in pairs):
        return [f"{name}: not made of entities and a known suffix"]
    endings, keys_allowed = ALLOWED[suffix]
    keys = [pair.split("-")[0] for pair in pairs]
    values = dict(pair.split("-") for pair in pairs)
    expected = [f"sub-{values.get('sub')}", *([f"ses-{values['ses']}"] if "ses" in values else []), "anat"]
    rules = {
        "ending": dot + ending in endings,
        "allowed entities": set(keys) <= keys_allowed,
        "each entity once": len(set(keys)) == len(keys),
        "order": keys == sorted(keys, key=ORDER.index),
        "subject first": keys[:1] == ["sub"],
        "folders": folders == expected,
    }
    return [f"{path}: {rule}" for rule, kept in rules.items() if not kept]


@pytest.mark.parametrize(
    "path",
    ["sub-1/anat/sub-1_label-a_space-b_probseg.nii.gz", "sub-1/anat/ses-1_sub-1_dseg.nii.gz", "anat/sub-1_dseg.nii.gz",
     "sub-1/anat/sub-1_dseg.txt", "sub-1/anat/sub-1_sub-1_dseg.tsv", "sub-1/anat/sub-1_Segm.nii.gz",
     "sub-1/anat/sub-1_label-x_dseg.nii.gz", "sub-a_b/anat/sub-a_b_dseg.nii.gz"],
)  # fmt: skip
def test_the_checker_finds_what_is_wrong(path):
    assert violations(path)


names = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=30)
images = st.sampled_from(
    ["sub-1_T1w", "sub-1_space-MNI_run-2_ses-b_acq-x_T1w", "t1", "sub-_T1w", "sub-é_T1w", "ses-1_sub-2_x", "sub-a-b_x"]
)


@given(names, images, st.sampled_from([None, ("none", "white matter"), ("a", "a"), ("", "ü")]), st.integers(0, 1))
@settings(max_examples=80, deadline=None)
def test_whatever_a_case_is_called_its_files_keep_the_rules(name, image, class_names, number):
    [case] = bids_cases([name], [Path(f"/data/{image}.nii.gz")])
    label = label_of_class(number, class_names)
    paths = [case.file("dseg", ending) for ending in (".nii.gz", ".json", ".tsv")]
    paths += [case.file("probseg", ending, label) for ending in (".nii.gz", ".json")]
    assert [problem for path in paths for problem in violations(path)] == []


@pytest.mark.parametrize(
    ("name", "image", "path"),
    [
        ("sub-01_ses-a", "x.nii.gz", "sub-01/ses-a/anat/sub-01_ses-a_dseg.nii.gz"),
        ("results/sub-01", "x.nii.gz", "sub-01/anat/sub-01_dseg.nii.gz"),
        ("pred_case0", "sub-02_ses-b_acq-hi_run-3_T1w.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_run-3_dseg.nii.gz"),
        ("pred_case0", "sub-02_space-MNI_desc-preproc_T1w.nii", "sub-02/anat/sub-02_space-MNI_dseg.nii.gz"),
        ("siteA/patient 7", "t1.nii.gz", "sub-siteApatient7/anat/sub-siteApatient7_dseg.nii.gz"),
    ],
)
def test_where_entities_come_from(name, image, path):
    [case] = bids_cases([name], [Path("/d") / image])
    assert case.file("dseg", ".nii.gz") == path


def test_cases_that_would_share_files_are_refused():
    with pytest.raises(
        DataError, match=r"sub-1/anat/sub-1_dseg.nii.gz: a, b. Name the results of each case differently"
    ):
        bids_cases(["a", "b"], [Path("/x/sub-1_T1w.nii.gz"), Path("/y/sub-1_FLAIR.nii.gz")])


def test_classes_are_named_as_labels_may_be():
    assert label_of_class(1, ("background", "white matter")) == "whitematter"
    assert label_of_class(1, None) == label_of_class(1, ("x", "-")) == label_of_class(1, ("a b", "ab")) == "class1"


def test_entities_are_read_from_names_with_a_subject_only():
    assert entities_in("sub-1_ses-a_T1w.nii.gz") == {"sub": "1", "ses": "a"}
    assert entities_in("T1w_sub-1.nii.gz") == {}


def test_a_label_stands_after_the_entities_of_the_case():
    case = BidsCase((("sub", "1"), ("space", "MNI")))
    assert case.file("probseg", ".json", "GM") == "sub-1/anat/sub-1_space-MNI_label-GM_probseg.json"
