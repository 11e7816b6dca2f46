"""Names of result files: inside the output folder, and no two of them equal."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from deepmedic.data.listing import MISSING, Column
from deepmedic.errors import DataError, ProblemList

_LONGEST_PART = 180
"""Bytes; file systems allow 255 and suffixes follow."""


def output_names(column: Column, problems: ProblemList) -> list[str]:
    """Return the names without `.nii` or `.nii.gz`, one per case; adds a problem for each unusable or repeated one."""
    names: list[str] = []
    first_place: dict[str, int] = {}
    for index, entry in enumerate(column.entries):
        name, problem = _checked(entry.text)
        if problem:
            problems.add(DataError(f"{column.place(index)}: the name {entry.text!r} of a result {problem}"))
        elif name in first_place:
            other = column.entries[first_place[name]]
            problems.add(
                DataError(
                    f"{column.place(first_place[name])} and {column.place(index)}: {other.text!r} and {entry.text!r} "
                    "name the same result files; the second would replace the first. Name each case differently."
                )
            )
        else:
            first_place[name] = index
        names.append(name)
    return names


def without_extension(name: str) -> str:
    """Leave out `.nii` or `.nii.gz` at the end, in whatever case of letters."""
    for extension in (".nii.gz", ".nii"):
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return name


def _checked(text: str) -> tuple[str, str | None]:
    """Return the name to use, and what is wrong with it or None."""
    rule = "Give a relative name below the output folder, such as case1 or siteA/case1."
    if text == MISSING:
        return text, f"is missing. {rule}"
    windows = PureWindowsPath(text)
    if text.startswith(("/", "~")) or windows.drive or windows.root:
        return text, f"is an absolute path. {rule}"
    if not text.isprintable() or "\\" in text:
        return text, f"has a backslash or a character that cannot be printed. {rule}"
    name = without_extension(text)
    parts = PurePosixPath(name).parts
    if ".." in parts:
        return text, f"leads out of its folder with '..'. {rule}"
    if not parts or text.endswith("/") or name.endswith("/"):
        return text, f"is empty but for its extension or folder. {rule}"
    if any(part.startswith(".") for part in parts):
        return text, f"has a part that begins with a dot, as hidden and temporary files do. {rule}"
    if any(len(part.encode()) > _LONGEST_PART for part in parts):
        return text, f"has a part of more than {_LONGEST_PART} bytes. Shorten it."
    return "/".join(parts), None
