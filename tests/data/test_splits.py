"""Splits by subject: pure, complete, stored, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.splits import (
    TEST,
    TRAINING,
    VALIDATION,
    draw_parts,
    fold_shares,
    group_by_subject,
    read_split,
    split_cases,
    subject_of,
)
from deepmedic.errors import DataError

THREE = {TRAINING: 0.8, VALIDATION: 0.1, TEST: 0.1}
NAMES = st.sets(st.text(min_size=1, max_size=8), min_size=3, max_size=40)


def case(name: str, path: str = "", subject: str | None = None) -> Case:
    image = ImageRef(Path(path or f"/data/{name}/t1.nii.gz"), None, f"list.cfg:{name}")
    return Case(name, (None, image), subject=subject)


def cases(count: int = 10) -> list[Case]:
    return [case(f"p{number}") for number in range(count)]


def test_a_split_stays_the_same_for_ever() -> None:
    drawn = draw_parts([f"p{number}" for number in range(10)], THREE, seed=0)
    assert drawn == {
        TRAINING: ["p0", "p2", "p3", "p5", "p6", "p7", "p8", "p9"],
        VALIDATION: ["p4"],
        TEST: ["p1"],
    }


@settings(max_examples=40)
@given(NAMES, st.integers(0, 2**63 - 1), st.randoms())
def test_a_split_depends_on_names_and_seed_not_on_their_order(names, seed, random) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    assert draw_parts(names, THREE, seed) == draw_parts(shuffled, THREE, seed)


@settings(max_examples=60)
@given(NAMES, st.lists(st.integers(1, 20), min_size=1, max_size=3))
def test_each_subject_is_in_exactly_one_part_and_sizes_follow_the_shares(names, weights) -> None:
    shares = {f"part{number}": weight / sum(weights) for number, weight in enumerate(weights)}
    drawn = draw_parts(names, shares, 5)
    assert sorted(name for part in drawn.values() for name in part) == sorted(names)
    for part, share in shares.items():
        wanted = share * len(names)
        assert len(drawn[part]) >= 1
        if min(shares.values()) * len(names) >= 1:
            assert abs(len(drawn[part]) - wanted) < 1 + 1e-6


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (10, (0.8, 0.1, 0.1), [8, 1, 1]),
        (100, (0.29, 0.71), [29, 71]),
        (5, (0.8, 0.1, 0.1), [3, 1, 1]),
        (3, (0.98, 0.01, 0.01), [1, 1, 1]),
        (7, (1 / 3, 1 / 3, 1 / 3), [3, 2, 2]),
    ],
    ids=["whole", "rounding", "none_empty", "fewest", "rest_first"],
)
def test_sizes_of_parts(count, shares, sizes) -> None:
    drawn = draw_parts(map(str, range(count)), dict(zip("abc", shares, strict=False)), 1)
    assert [len(part) for part in drawn.values()] == sizes


def test_folds_have_equal_sizes_and_each_subject_is_held_out_once() -> None:
    split = split_cases(cases(11), fold_shares(3), seed=2)
    assert sorted(len(split.cases_of(part)) for part in split.parts) == [3, 4, 4]
    held_out = [split.fold(part).cases_of(VALIDATION) for part in split.parts]
    assert frozenset().union(*held_out) == {f"p{number}" for number in range(11)}
    for part in split.parts:
        fold = split.fold(part)
        assert not fold.cases_of(TRAINING) & fold.cases_of(VALIDATION)
        assert len(fold.cases_of(TRAINING)) + len(fold.cases_of(VALIDATION)) == 11
        assert fold.cases_of(TEST) == frozenset()


def test_another_seed_gives_another_split() -> None:
    assert split_cases(cases(), THREE, 0).digest != split_cases(cases(), THREE, 1).digest


def test_too_few_subjects_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 subjects \(a, b\) cannot be split into 3 parts"):
        draw_parts(["b", "a"], THREE, 0)


@pytest.mark.parametrize(
    ("path", "given_subject", "subject"),
    [
        ("/data/sub-07/ses-1/anat/sub-07_ses-1_T1w.nii.gz", None, "sub-07"),
        ("/data/sub-07/anat/t1.nii.gz", None, "sub-07"),
        ("/data/sub-01/derived/sub-02_T1w.nii.gz", None, "sub-02"),
        ("/data/sub-07/anat/t1.nii.gz", "anna", "anna"),
        ("/data/subject-07/t1.nii.gz", None, "scan"),
        ("/data/x/subsub-07.nii.gz", None, "scan"),
    ],
    ids=["bids", "folder", "file_before_folder", "listed", "no_label", "no_prefix"],
)
def test_whose_scan_a_case_is(path, given_subject, subject) -> None:
    assert subject_of(case("scan", path, given_subject)) == subject


def test_all_scans_of_a_subject_come_into_one_part() -> None:
    scans = [case(f"p{person}_{visit}", subject=f"p{person}") for person in range(6) for visit in range(3)]
    split = split_cases(scans, {TRAINING: 0.5, VALIDATION: 0.5}, 3)
    for part in split.parts:
        assert len(split.cases_of(part)) == 9
        assert len({name.split("_")[0] for name in split.cases_of(part)}) == 3


def test_a_stored_split_is_read_as_it_was_written(tmp_path) -> None:
    split = split_cases(cases(), THREE, 4)
    split.write(tmp_path / "split.json")
    read = read_split(tmp_path / "split.json")
    assert read == split
    assert read.digest == split.digest
    read.check(cases(), tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    assert (content["seed"], content["version"], content["proportions"]) == (4, 1, THREE)
    entry = content["parts"][TEST][0]
    assert entry["listed"] == [f"list.cfg:{entry['subject']}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed: listed[1:], r"the lists do not have p0, which the split has"),
        (lambda listed: [*listed, case("new")], r"the split does not have new \(list.cfg:new\), which the lists have"),
        (
            lambda listed: [*listed, case("p0_again", subject="p0")],
            r"p0 has the cases p0 in the split and p0, p0_again in the lists",
        ),
    ],
    ids=["unknown", "missing", "other_cases"],
)
def test_a_split_of_other_subjects_is_refused_by_name(tmp_path, change, message) -> None:
    split = split_cases(cases(), THREE, 4)
    with pytest.raises(DataError, match=rf"split.json: this split is not one of the listed subjects: {message}"):
        split.check(change(cases()), tmp_path / "split.json")


def _stored(tmp_path: Path) -> tuple[Path, dict]:
    path = tmp_path / "split.json"
    split_cases(cases(4), {TRAINING: 0.5, VALIDATION: 0.5}, 0).write(path)
    return path, json.loads(path.read_text())


def test_a_subject_or_case_in_two_parts_is_refused_by_name(tmp_path) -> None:
    path, content = _stored(tmp_path)
    first = content["parts"][TRAINING][0]
    content["parts"][VALIDATION].append(first)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"the subject {first['subject']} stands there 2 times \(training, validation"):
        read_split(path)
    first = {**first, "subject": "other"}
    content["parts"][VALIDATION][-1] = first
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"the case {first['cases'][0]} stands there 2 times"):
        read_split(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "something"}, r'this is no split of subjects; one has "kind": "split of subjects"'),
        ({"version": 2}, r"found version 2 of a split; this program reads version 1"),
        ({"seed": None}, r"this split is not complete \(TypeError"),
        ({"parts": {"training": [{"subject": "a"}]}}, r"not complete \(KeyError: 'cases'\)"),
        ({"parts": {"training": [{"subject": "a", "cases": "a"}]}}, r"found 'a', needed a list"),
        ({"proportions": {"training": 1}}, r"proportions are of training, and the parts are training, validation"),
        ({"parts": {"training": [], "validation": []}}, r"the part training, validation has no cases"),
    ],
    ids=["kind", "version", "seed", "no_cases", "text", "parts", "empty"],
)
def test_what_is_no_split_is_refused(tmp_path, change, message) -> None:
    path, content = _stored(tmp_path)
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(DataError, match=message):
        read_split(path)


def test_a_file_that_is_no_json_or_not_there_is_refused(tmp_path) -> None:
    path = tmp_path / "split.json"
    with pytest.raises(DataError, match=r"the split cannot be read \(No such file"):
        read_split(path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"this is no split of subjects: not JSON"):
        read_split(path)


def test_subjects_are_in_the_order_of_their_names() -> None:
    listed = [case("b2", subject="b"), case("a1", subject="a"), case("b1", subject="b")]
    first, second = group_by_subject(listed)
    assert (first.name, first.cases) == ("a", ("a1",))
    assert (second.name, second.cases, second.listed) == ("b", ("b2", "b1"), ("list.cfg:b2", "list.cfg:b1"))
