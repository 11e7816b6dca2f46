"""Parts: those of the source, else drawn by subject."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepmedic.data.cases import ImageRef
from deepmedic.errors import DataError
from deepmedic.planning.found import FoundCase
from deepmedic.planning.parts import choose_parts

IMAGE = ImageRef(Path("/x.nii"))


def case(name: str, part: str | None = None, *, labels: bool = True, subject: str | None = None) -> FoundCase:
    return FoundCase(name, (IMAGE,), IMAGE if labels else None, None, part, subject)


def names(cases, **options) -> dict[str, list[str]]:
    chosen = choose_parts(cases, options.get("digests", {}), options.get("seed", 0))
    return {part: [found.name for found in found_cases] for part, found_cases in chosen.parts.items()}


def test_one_fifth_of_the_subjects_validates_with_all_their_scans():
    cases = [case(f"s{n}_{scan}", subject=f"s{n}") for n in range(10) for scan in "ab"]
    parts = names(cases)
    assert (len(parts["training"]), len(parts["validation"])) == (16, 4)
    assert {name[:-2] for name in parts["training"]}.isdisjoint(name[:-2] for name in parts["validation"])
    assert parts["test"] == parts["validation"]
    assert names(cases[::-1])["validation"] == parts["validation"][::-1]
    assert any(names(cases, seed=seed)["validation"] != parts["validation"] for seed in range(1, 4))


def test_cases_that_share_voxels_stay_together_also_over_several_steps():
    cases = [case(name) for name in "abcde"]
    digests = {"a": ["1"], "b": ["1", "2"], "c": ["2", "3"], "d": ["3"], "e": ["9"]}
    for seed in range(4):
        parts = names(cases, digests=digests, seed=seed)
        assert sorted([parts["training"], parts["validation"]]) == [["a", "b", "c", "d"], ["e"]]


def test_subjects_are_told_of_all_cases_with_labels():
    cases = [case("a1", subject="a"), case("a2", subject="a"), case("b"), case("c"), case("d", "test")]
    chosen = choose_parts(cases, {"b": ["1"], "c": ["1"]}, 0)
    of = chosen.subjects
    assert list(of) == ["a1", "a2", "b", "c"]
    assert (of["a1"] == of["a2"], of["b"] == of["c"], len(set(of.values()))) == (True, True, 2)


def test_parts_of_the_source_are_kept():
    cases = [case("a", "training"), case("b", "validation"), case("c", "test"), case("d", "training", labels=False)]
    assert names(cases) == {"training": ["a"], "validation": ["b"], "test": ["c", "d"]}
    assert choose_parts(cases, {}, 0).notes == ("1 case without labels, listed for testing only: d",)


def test_a_single_subject_cannot_be_held_out():
    chosen = choose_parts([case("a"), case("b", subject="a")], {}, 0)
    assert (len(chosen.parts["training"]), len(chosen.parts["validation"])) == (2, 0)
    assert chosen.split == "there is only one subject with labels, and none can be held out"


def test_without_labels_there_is_nothing_to_train_on():
    with pytest.raises(DataError, match="no case has labels, so there is nothing to train on"):
        choose_parts([case("a", labels=False)], {}, 0)
