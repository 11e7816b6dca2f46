"""Random splits of a data set by subject, for training, validation and test or for cross-validation; stored as JSON.

A split is a pure function of the seed, the shares and the names of the subjects: neither the order of the lists nor
the machine changes it. All cases of a subject come into one part, for a network that saw one scan of a person is not
tested by another.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic.data.cases import Case
from deepmedic.errors import DataError
from deepmedic.files import write_json_atomically

TRAINING, VALIDATION, TEST = "training", "validation", "test"
PARTS = (TRAINING, VALIDATION, TEST)

_KIND, _VERSION = "split of subjects", 1
_BIDS_SUBJECT = re.compile(r"(?:^|_)(sub-[0-9A-Za-z]+)(?=_|\.|$)")
_MOST_NAMED = 20


@dataclass(frozen=True)
class Subject:
    """A person (or animal, or phantom) with all scans of it."""

    name: str
    cases: tuple[str, ...]
    """Names of its cases, in the order they are listed."""
    listed: tuple[str, ...] = ()
    """File and line of the first image of each case; for people who read the file."""


@dataclass(frozen=True)
class Split:
    """Which subjects belong to which part."""

    seed: int
    shares: Mapping[str, float]
    """Part -> the share of subjects that was asked for; the shares sum to 1."""
    parts: Mapping[str, tuple[Subject, ...]]
    """Part -> its subjects, in the order of their names."""

    @property
    def digest(self) -> str:
        """SHA-256 of which case is where."""
        plain = {part: sorted(case for subject in self.parts[part] for case in subject.cases) for part in self.parts}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def fold(self, held_out: str) -> Split:
        """For cross-validation: one part becomes the validation part, all others together the training part."""
        others = [subject for part, subjects in self.parts.items() if part != held_out for subject in subjects]
        parts = {TRAINING: _by_name(others), VALIDATION: self.parts[held_out]}
        share = self.shares[held_out]
        return Split(self.seed, {TRAINING: 1 - share, VALIDATION: share}, parts)

    def cases_of(self, part: str) -> frozenset[str]:
        """Names of the cases of a part; none for a part that the split does not have."""
        return frozenset(case for subject in self.parts.get(part, ()) for case in subject.cases)

    def write(self, path: Path) -> None:
        """Store the split as JSON; equal splits give equal bytes.

        Raises:
            ResourceError: the file cannot be written.
        """
        parts = {
            part: [
                {"subject": subject.name, "cases": list(subject.cases), "listed": list(subject.listed)}
                for subject in subjects
            ]
            for part, subjects in self.parts.items()
        }
        content = {"kind": _KIND, "version": _VERSION, "seed": self.seed, "proportions": dict(self.shares)}
        write_json_atomically(path, {**content, "parts": parts})

    def check(self, cases: Sequence[Case], stored_at: Path) -> None:
        """See that the split is one of exactly these cases.

        Raises:
            DataError: names subjects that are not listed (any more), that the split lacks, or whose cases differ.
        """
        listed = {subject.name: subject for subject in group_by_subject(cases)}
        stored = {subject.name: subject for subjects in self.parts.values() for subject in subjects}
        differences = []
        unknown = [name for name in stored if name not in listed]
        if unknown:
            differences.append(f"the lists do not have {_named(unknown)}, which the split has")
        missing = [f"{name} ({subject.listed[0]})" for name, subject in listed.items() if name not in stored]
        if missing:
            differences.append(f"the split does not have {_named(missing)}, which the lists have")
        differences += [
            f"{name} has the cases {', '.join(stored[name].cases)} in the split and {', '.join(subject.cases)} in the "
            "lists"
            for name, subject in listed.items()
            if name in stored and sorted(stored[name].cases) != sorted(subject.cases)
        ]
        if differences:
            raise DataError(
                f"{stored_at}: this split is not one of the listed subjects: {'; '.join(differences)}. List the same "
                "subjects again, enter or remove them in that file by hand, or choose another sessionName for a new "
                "split."
            )


def subject_of(case: Case) -> str:
    """Whose scan a case is: what the lists say, else the BIDS label sub-... in its paths, else the case's own name."""
    if case.subject is not None:
        return case.subject
    first = next((image for image in case.channels if image is not None), None)
    for part in reversed(first.path.parts if first is not None else ()):
        found = _BIDS_SUBJECT.search(part)
        if found:
            return found[1]
    return case.name


def group_by_subject(cases: Iterable[Case]) -> list[Subject]:
    """The subjects of a data set, in the order of their names."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(subject_of(case), []).append(case)
    subjects = [
        Subject(name, tuple(case.name for case in group), tuple(_listed_at(case) for case in group))
        for name, group in groups.items()
    ]
    return list(_by_name(subjects))


def split_cases(cases: Sequence[Case], shares: Mapping[str, float], seed: int) -> Split:
    """Split a data set by subject.

    Args:
        cases: all cases.
        shares: part -> share of the subjects; they sum to 1.
        seed: with which the subjects are drawn.

    Raises:
        DataError: there are fewer subjects than parts.
    """
    subjects = {subject.name: subject for subject in group_by_subject(cases)}
    drawn = draw_parts(subjects, shares, seed)
    return Split(seed, dict(shares), {part: tuple(subjects[name] for name in names) for part, names in drawn.items()})


def draw_parts(subjects: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Draw the subjects of each part: a pure function of the set of names, the shares and the seed.

    The subjects are ordered by a hash of seed and name and cut into parts. Sizes are the shares rounded by largest
    remainders, and no part is empty.

    Args:
        subjects: their names, in any order; a repeated one counts once.
        shares: part -> share above 0; they sum to 1.
        seed: another one gives another split.

    Returns:
        Part -> names, sorted.

    Raises:
        DataError: there are fewer subjects than parts.
    """
    names = sorted(set(subjects))
    if len(names) < len(shares):
        raise DataError(
            f"{len(names)} subjects ({_named(names)}) cannot be split into {len(shares)} parts; list more subjects or "
            "ask for fewer parts."
        )
    shuffled = sorted(names, key=lambda name: hashlib.sha256(json.dumps([seed, "split", name]).encode()).digest())
    drawn, start = {}, 0
    for part, size in zip(shares, _sizes(len(names), list(shares.values())), strict=True):
        drawn[part] = sorted(shuffled[start : start + size])
        start += size
    return drawn


def fold_shares(folds: int) -> dict[str, float]:
    """Equal shares for the parts "fold1", "fold2", ... of a cross-validation."""
    return {f"fold{number}": 1 / folds for number in range(1, folds + 1)}


def read_split(path: Path) -> Split:
    """Read a stored split.

    Raises:
        DataError: the file cannot be read, is no split, comes from a newer version, has a subject or a case twice, or a
            part without subjects.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as problem:
        raise DataError(f"{path}: the split cannot be read ({problem.strerror}).") from problem
    except ValueError as problem:
        raise DataError(f"{path}: this is no split of subjects: not JSON ({problem}).") from problem
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise DataError(f'{path}: this is no split of subjects; one has "kind": "{_KIND}".')
    if content.get("version") != _VERSION:
        raise DataError(
            f"{path}: found version {content.get('version')!r} of a split; this program reads version {_VERSION}."
        )
    split = _split_from(content, path)
    _refuse_repeated(split, path)
    return split


def _split_from(content: Mapping[str, Any], path: Path) -> Split:
    try:
        parts = {
            str(part): tuple(
                Subject(str(entry["subject"]), _texts(entry["cases"]), _texts(entry.get("listed", ())))
                for entry in entries
            )
            for part, entries in content["parts"].items()
        }
        shares = {str(part): float(share) for part, share in content["proportions"].items()}
        split = Split(int(content["seed"]), shares, {part: _by_name(subjects) for part, subjects in parts.items()})
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataError(
            f"{path}: this split is not complete ({type(problem).__name__}: {problem}); it needs seed, proportions, "
            "and parts with a subject and its cases in each entry."
        ) from problem
    if set(split.shares) != set(split.parts) or not split.parts:
        raise DataError(f"{path}: proportions are of {_named(split.shares)}, and the parts are {_named(split.parts)}.")
    empty = [part for part, subjects in split.parts.items() if not any(subject.cases for subject in subjects)]
    if empty:
        raise DataError(f"{path}: the part {_named(empty)} has no cases.")
    return split


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"found {values!r}, needed a list")
    return tuple(str(value) for value in values)


def _refuse_repeated(split: Split, path: Path) -> None:
    places = [(subject, part) for part, subjects in split.parts.items() for subject in subjects]
    for kind, names in (
        ("subject", [(subject.name, part) for subject, part in places]),
        ("case", [(case, part) for subject, part in places for case in subject.cases]),
    ):
        for name, count in Counter(name for name, _ in names).items():
            if count > 1:
                where = ", ".join(part for other, part in names if other == name)
                raise DataError(f"{path}: the {kind} {name} stands there {count} times ({where}); keep one of them.")


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Round `count` times each share to whole numbers of at least 1 that sum to `count`, by largest remainders."""
    exact = [count * share for share in shares]
    sizes = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda part: (round(sizes[part] - exact[part], 9), part))
    for part in by_remainder[: count - sum(sizes)]:
        sizes[part] += 1
    while min(sizes) == 0:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    return sizes


def _listed_at(case: Case) -> str:
    return next((image.listed_at for image in case.channels if image is not None), "")


def _by_name(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    return tuple(sorted(subjects, key=lambda subject: subject.name))


def _named(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
