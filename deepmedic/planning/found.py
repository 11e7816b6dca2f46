"""Cases found in a data set that was made for another program, and what the ways of finding them share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti_stream import open_image
from deepmedic.data.output_names import without_extension
from deepmedic.errors import DataError

NIFTI = (".nii.gz", ".nii")
MOST_UNUSED = 4
"""Numbers below the largest label that no class needs to have."""

_LARGEST_JSON = 1 << 26
_MOST_ENTRIES = 500_000
_LONGEST_NAME = 80
_MOST_SHOWN = 20


@dataclass(frozen=True)
class FoundCase:
    """The images of one case; every path is absolute."""

    name: str
    channels: tuple[ImageRef | None, ...]
    """None: missing."""
    labels: ImageRef | None = None
    roi: ImageRef | None = None
    part: str | None = None
    """"training", "validation" or "test", where the source says so."""
    subject: str | None = None
    """Whose scan it is; None: the case stands for itself."""

    @property
    def belongs_to(self) -> str:
        return self.subject or self.name


@dataclass(frozen=True)
class FoundData:
    """A data set as its source describes it."""

    kind: str
    """For people: "a BIDS tree", ..."""
    channel_names: tuple[str, ...]
    cases: tuple[FoundCase, ...]
    class_names: tuple[str, ...] | None = None
    """By label value; None: the source gives no names."""
    notes: tuple[str, ...] = ()


def is_nifti(name: str) -> bool:
    """Whether a file is named as a NIfTI image; hidden files are none."""
    return name.lower().endswith(NIFTI) and not name.startswith(".")


def nifti_files(folder: Path, depth: int, skip: Sequence[str] = ()) -> list[Path]:
    """Return the NIfTI files in a folder and so many levels below it, sorted; links are followed, never in circles.

    Raises:
        DataError: the folder cannot be read, or holds more files than any data set does.
    """
    found: list[Path] = []
    for count, path in enumerate(_walk(folder, depth, skip), 1):
        if count > _MOST_ENTRIES:
            raise DataError(f"{folder}: more than {_MOST_ENTRIES} files; name the folder of the data set itself.")
        if is_nifti(path.name):
            found.append(path)
    return found


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name as people do (case2 before case10); hidden ones are left out."""
    return sorted((entry for entry in entries_of(folder) if entry.is_dir()), key=lambda path: natural_order(path.name))


def entries_of(folder: Path) -> list[Path]:
    """Return what a folder holds, hidden entries left out, sorted.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as problem:
        raise DataError(
            f"{folder}: the folder cannot be read ({problem.strerror}). Correct the path or its rights."
        ) from problem


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A key by which numbers within names are ordered as numbers."""
    parts = re.split(r"(\d+)", name.lower())
    return [(1, int(part), "") if part.isdecimal() and part.isascii() else (0, 0, part) for part in parts]


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: it cannot be read, is too large, no JSON, or something else than an object.
    """
    with open_image(path) as file:
        content = file.read(_LARGEST_JSON + 1)
    if len(content) > _LARGEST_JSON:
        raise DataError(f"{path}: too large for a description of a data set ({_LARGEST_JSON} bytes are allowed).")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{path}: this is no JSON ({str(problem)[:200]}). Correct the file.") from problem
    if not isinstance(found, dict):
        raise DataError(f"{path}: found {type(found).__name__}, needed a JSON object ({{...}}).")
    return found


def checked_name(name: object, where: str) -> str:
    """Return the name of a channel or class, as it may stand in a config.

    Raises:
        DataError: it is no text, empty, too long or has characters that cannot be printed.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise DataError(
            f"{where}: found {_short(name)} as a name; allowed is a text of 1 to {_LONGEST_NAME} characters."
        )
    return name.strip()


def listable(path: Path, source: Path) -> Path:
    """Return a path that can stand in a listing file.

    Raises:
        DataError: it has characters that a listing file cannot hold.
    """
    text = str(path)
    if not text.isprintable() or text != text.strip():
        raise DataError(
            f"{source}: the file {text!r} has a character that cannot be printed, or a space at its end, and cannot be "
            "listed. Rename it."
        )
    return path


def several(items: Sequence[str], indent: str = "\n    ") -> str:
    """Items as lines of a message, not more than a screen holds."""
    more = f"{indent}... and {len(items) - _MOST_SHOWN} more" if len(items) > _MOST_SHOWN else ""
    return "".join(indent + item for item in items[:_MOST_SHOWN]) + more


def stem_of(path: Path) -> str:
    """The name of an image without folder and extension."""
    return without_extension(path.name)


def common_ends(names: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many leading and trailing tokens all names share, so that every name keeps one; (0, 0) for a single name."""
    if len(names) < 2:
        return 0, 0
    shortest = min(map(len, names))
    first = names[0]
    lead = 0
    while lead < shortest - 1 and all(name[lead] == first[lead] for name in names):
        lead += 1
    trail = 0
    while trail < shortest - 1 - lead and all(name[-1 - trail] == first[-1 - trail] for name in names):
        trail += 1
    return lead, trail


def class_names_of(values: Mapping[int, str], highest: int) -> tuple[str, ...]:
    """Names by label value up to the highest; values without a name are called by their number."""
    return tuple(values.get(value, "background" if value == 0 else f"label {value}") for value in range(highest + 1))


def _walk(folder: Path, depth: int, skip: Sequence[str]) -> Iterator[Path]:
    for entry in entries_of(folder):
        if entry.is_dir():
            if depth > 0 and entry.name not in skip:
                yield from _walk(entry, depth - 1, skip)
        else:
            yield entry


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
