"""Which files of cases were changed in place since a session last looked at them, told without reading them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepmedic.data.case_headers import CaseHeaders, images_of
from deepmedic.data.cases import Case

Marks = Mapping[str, Mapping[str, str]]
"""By name of the case and by what a file is to it ("labels"): its `VolumeHeader.mark`."""


@dataclass(frozen=True)
class ChangedFile:
    """A file whose mark is not the recorded one."""

    case: str
    title: str
    """What it is to the case: "labels", "channel 1"."""
    path: Path
    difference: str
    """What differs, in words."""


def marks_of(cases: Sequence[tuple[Case, CaseHeaders]]) -> dict[str, dict[str, str]]:
    """Return the marks of all files of checked cases."""
    return {case.name: {title: mark for title, _, mark in _files(case, headers)} for case, headers in cases}


def changed_since(recorded: Marks, cases: Sequence[tuple[Case, CaseHeaders]]) -> list[ChangedFile]:
    """Return the files of checked cases that have another mark than was recorded; what was not recorded is left out."""
    found = []
    for case, headers in cases:
        known = recorded.get(case.name, {})
        for title, path, mark in _files(case, headers):
            if title in known and known[title] != mark:
                found.append(ChangedFile(case.name, title, path, _difference(known[title], mark)))
    return found


def _files(case: Case, headers: CaseHeaders) -> Iterator[tuple[str, Path, str]]:
    """What each file of a case is to it, where it lies, and its mark."""
    for (title, _), header in zip(images_of(case), headers.images, strict=True):
        if header is not None:
            yield title, header.path, header.mark


def _difference(earlier: str, now: str) -> str:
    (kind, size, *_), (kind_now, size_now, *_) = earlier.split(), now.split()
    if kind == kind_now == "stat" and size == size_now:
        return "modified since"
    return "other contents"
