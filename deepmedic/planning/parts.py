"""Which cases are for training, for validation and for the test config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepmedic.data.splits import draw_parts
from deepmedic.errors import DataError
from deepmedic.planning.found import FoundCase
from deepmedic.words import counted

_VALIDATION = 0.2
_MOST_NAMED = 10


@dataclass(frozen=True)
class ChosenParts:
    """Cases by part, and in words how they were chosen."""

    parts: Mapping[str, Sequence[FoundCase]]
    split: str
    test_is: str
    subjects: Mapping[str, str]
    """By name of the case, for those with labels: its subject, or one name for all that share voxels with it."""
    notes: tuple[str, ...] = ()


def choose_parts(cases: Sequence[FoundCase], digests: Mapping[str, Sequence[str]], seed: int) -> ChosenParts:
    """Take the parts that the source gives; without a validation part, draw one fifth of the subjects.

    All scans of a subject, and cases that share voxels with one another, come into one part.

    Args:
        cases: all that were found, with different names; those without labels are for the test config.
        digests: by name of the case, digests of the voxels of its channels.
        seed: of the draw.

    Raises:
        DataError: no case has labels.
    """
    labelled = [case for case in cases if case.labels is not None and case.part != "test"]
    others = [case for case in cases if case.labels is None or case.part == "test"]
    unlabelled = [case.name for case in others if case.part in ("training", "validation")]
    notes = []
    if unlabelled:
        named = ", ".join(unlabelled[:_MOST_NAMED])
        notes.append(f"{counted(len(unlabelled), 'case')} without labels, listed for testing only: {named}")
    if not labelled:
        raise DataError("no case has labels, so there is nothing to train on.")
    subjects = _groups(labelled, digests)
    training, validation, split = _split(labelled, subjects, seed)
    test, test_is = others, "cases that are for testing or have no labels"
    if not test and validation:
        test, test_is = validation, "the validation cases, until you list new ones"
    elif not test:
        test, test_is = training, "the training cases, until you list new ones"
    parts = {"training": training, "validation": validation, "test": test}
    return ChosenParts(parts, split, test_is, subjects, tuple(notes))


def _split(
    labelled: Sequence[FoundCase], groups: Mapping[str, str], seed: int
) -> tuple[list[FoundCase], list[FoundCase], str]:
    given = [case for case in labelled if case.part == "validation"]
    if given and len(given) < len(labelled):
        return [case for case in labelled if case.part != "validation"], given, "as the source says"
    names = sorted(set(groups.values()))
    if len(names) < 2:
        return list(labelled), [], "there is only one subject with labels, and none can be held out"
    drawn = draw_parts(names, {"training": 1 - _VALIDATION, "validation": _VALIDATION}, seed)
    held_out = set(drawn["validation"])
    training = [case for case in labelled if groups[case.name] not in held_out]
    validation = [case for case in labelled if groups[case.name] in held_out]
    return training, validation, f"drawn by subject with seed {seed} ({len(held_out)} of {len(names)} subjects)"


def _groups(cases: Sequence[FoundCase], digests: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The group of each case: that of its subject, and of every case with which it shares an image's voxels."""
    group = {case.name: case.belongs_to for case in cases}
    first_with: dict[str, str] = {}
    for case in cases:
        for mark in digests.get(case.name, ()):
            other = group[first_with.setdefault(mark, case.name)]
            mine = group[case.name]
            if other != mine:
                group = {name: other if found == mine else found for name, found in group.items()}
    return group
