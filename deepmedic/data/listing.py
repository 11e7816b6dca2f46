"""Listing files (one entry per line) and CSV tables (one row per case), as columns of entries with their lines."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepmedic.data.nifti_stream import GZIP_MAGIC, describe, open_image
from deepmedic.errors import DataError

MISSING = "-"
"""Stands for an image that a case does not have."""

_LARGEST_BYTES = 1 << 26
_KNOWN_COLUMNS = ("ground_truth", "roi_mask", "prediction_filename", "subject")
_CHANNEL, _WEIGHTS = "channel_", "weight_map_"
_CATEGORY_ORDER = {"foreground": 0, "background": 1}


@dataclass(frozen=True)
class Entry:
    """What stands in one line or cell."""

    text: str
    line: int
    """Counted from 1."""


@dataclass(frozen=True)
class Column:
    """One kind of image (or the names of results), one entry per case."""

    title: str
    """For messages: "channel 1", "labels", ..."""
    source: Path
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def place(self, index: int) -> str:
        """File and line of an entry."""
        return f"{self.source}:{self.entries[index].line}"

    def only(self, indices: Sequence[int]) -> Column:
        """The same column for some of the cases."""
        return replace(self, entries=tuple(self.entries[index] for index in indices))


@dataclass(frozen=True)
class Columns:
    """All that is listed for a set of cases."""

    channels: tuple[Column, ...]
    labels: Column | None = None
    roi: Column | None = None
    weight_maps: tuple[Column, ...] = ()
    names: Column | None = None
    subjects: Column | None = None
    channel_names: tuple[str, ...] | None = None
    """Of the channels, where a table has them in the names of its columns."""

    def all(self) -> list[Column]:
        others = (self.labels, self.roi, *self.weight_maps, self.names, self.subjects)
        return [*self.channels, *(column for column in others if column is not None)]

    def only(self, indices: Sequence[int]) -> Columns:
        """All that is listed for some of the cases."""

        def some(column: Column | None) -> Column | None:
            return None if column is None else column.only(indices)

        return Columns(
            channels=tuple(column.only(indices) for column in self.channels),
            labels=some(self.labels),
            roi=some(self.roi),
            weight_maps=tuple(column.only(indices) for column in self.weight_maps),
            names=some(self.names),
            subjects=some(self.subjects),
        )


def read_listing(path: Path, title: str) -> Column:
    """Read a listing file: one entry per line; blank lines and lines that begin with # are left out.

    Raises:
        DataError: it cannot be read, is no UTF-8 text, or lists nothing.
    """
    lines = ((number, line.strip()) for number, line in enumerate(io.StringIO(_text(path), newline=None), 1))
    entries = tuple(Entry(line, number) for number, line in lines if line and not line.startswith("#"))
    if not entries:
        raise DataError(f"{path}: the listing of {title} is empty; it needs one line per case.")
    return Column(title, path, entries)


def read_table(path: Path) -> Columns:
    """Read a CSV table: one row per case.

    Columns are channel_<name>, ground_truth, roi_mask, prediction_filename, subject and weight_map_<category>. Channels
    are used in the alphabetical order of their columns' names, as in the original. Empty cells stand for missing
    images. Weight maps are named by class number, or "foreground" and "background".

    Raises:
        DataError: it cannot be read, has unknown, repeated or missing columns, or rows of other lengths.
    """
    header, rows = _rows(path)
    cells = {name: tuple(Entry(row[i] or MISSING, line) for line, row in rows) for i, name in enumerate(header) if name}
    channels = sorted(name for name in cells if name.startswith(_CHANNEL))
    if not channels:
        raise DataError(f"{path}:1: the table has no column of images; name at least one {_CHANNEL}<name>.")

    def column(name: str, title: str) -> Column | None:
        if name not in cells or all(entry.text == MISSING for entry in cells[name]):
            return None
        return Column(title, path, cells[name])

    weights = _in_order_of_categories(path, [name for name in cells if name.startswith(_WEIGHTS)])
    return Columns(
        channels=tuple(Column(f"channel {n} ({name})", path, cells[name]) for n, name in enumerate(channels, 1)),
        labels=column("ground_truth", "labels"),
        roi=column("roi_mask", "ROI masks"),
        weight_maps=tuple(Column(f"weight map {name[len(_WEIGHTS) :]!r}", path, cells[name]) for name in weights),
        names=column("prediction_filename", "names of results"),
        subjects=column("subject", "subjects"),
        channel_names=tuple(name.removeprefix(_CHANNEL) for name in channels),
    )


def _text(path: Path) -> str:
    try:
        with open_image(path) as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if len(content) > _LARGEST_BYTES:
        raise DataError(f"{path}: too large for a listing file ({_LARGEST_BYTES} bytes are allowed).")
    if b"\0" in content or content.startswith(GZIP_MAGIC):
        looks = "a gzip file" if content.startswith(GZIP_MAGIC) else describe(content)
        raise DataError(
            f"{path}: this is {looks}, not a listing. Name a text file that lists one image per line, "
            "also for a single case."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8 text. Save the file in UTF-8."
        ) from error


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and line number and cells of each row."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), skipinitialspace=True, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped) and not stripped[0].startswith("#"):
                rows.append((reader.line_num, stripped))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a readable CSV row ({error}).") from error
    if len(rows) < 2:
        raise DataError(f"{path}: the table is empty; it needs a row of column names and one row per case.")
    line, header = rows[0]
    _check_names(path, line, header)
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            raise DataError(f"{path}:{number}: this row has {len(cells)} cells, and there are {len(header)} columns.")
    return header, rows[1:]


def _check_names(path: Path, line: int, header: list[str]) -> None:
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise DataError(f"{path}:{line}: columns must be separated by commas, found {header[0]!r}.")
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise DataError(f"{path}:{line}: the column {', '.join(repeated)} stands there more than once.")
    unknown = [name for name in header if name and not _is_known(name)]
    if unknown:
        raise DataError(f"{path}:{line}: " + "; ".join(map(_unknown_column, unknown)))


def _is_known(name: str) -> bool:
    return name in _KNOWN_COLUMNS or any(
        len(name) > len(start) and name.startswith(start) for start in (_CHANNEL, _WEIGHTS)
    )


def _unknown_column(name: str) -> str:
    allowed = (*_KNOWN_COLUMNS, f"{_CHANNEL}<name>", f"{_WEIGHTS}<category>")
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    suggestion = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(allowed)}."
    return f"unknown column {name!r}; {suggestion}"


def _in_order_of_categories(path: Path, names: list[str]) -> list[str]:
    """Order weight map columns as sampling counts its categories: by class number, or foreground first."""
    categories = {name: name[len(_WEIGHTS) :].lower() for name in names}
    if all(category in _CATEGORY_ORDER for category in categories.values()):
        return sorted(names, key=lambda name: _CATEGORY_ORDER[categories[name]])
    numbers = {name: int(category) for name, category in categories.items() if re.fullmatch("[0-9]{1,4}", category)}
    if sorted(numbers.values()) != list(range(len(names))):
        raise DataError(
            f"{path}:1: weight map columns are named {', '.join(names)}; name them {_WEIGHTS}0, {_WEIGHTS}1, ... by "
            f"class, or {_WEIGHTS}foreground and {_WEIGHTS}background."
        )
    return sorted(names, key=lambda name: numbers[name])
