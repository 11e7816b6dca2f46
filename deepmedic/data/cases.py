"""Cases (subjects) of a data set, from listing files or a CSV table."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.inference import TestConfig
from deepmedic.config.options import Option, Section, declaration
from deepmedic.config.sections import DataConfig
from deepmedic.config.training import TrainConfig
from deepmedic.data.listing import MISSING, Column, Columns, read_listing, read_table
from deepmedic.data.nifti_stream import why_unreadable
from deepmedic.data.output_names import output_names, without_extension
from deepmedic.errors import ConfigError, DataError, ModelError, ProblemList

_ONE_VOLUME = re.compile(r"(?P<path>.+\.nii(?:\.gz)?)\[(?P<volume>\d{1,6})\]", re.IGNORECASE | re.DOTALL)
_ROLES: dict[str, tuple[Any, str]] = {
    "training": (TrainConfig, "data"),
    "validation": (TrainConfig, "validation_data"),
    "inference": (TestConfig, "data"),
    "target": (AnalysisConfig, "data"),
    "source": (AnalysisConfig, "source_data"),
}
_MOST_SHOWN = 200


@dataclass(frozen=True)
class ImageRef:
    """One image as it is listed: `path`, or `path[volume]` for one volume of a 4D file."""

    path: Path
    """Absolute."""
    volume: int | None = None
    listed_at: str = ""
    """Where the user wrote it, "listing.cfg:12", for messages."""

    def __str__(self) -> str:
        return str(self.path) if self.volume is None else f"{self.path}[{self.volume}]"


@dataclass(frozen=True)
class Case:
    """The files of one subject."""

    name: str
    """For messages and tables: the output name without extension, else the folder or file that tells cases apart."""
    channels: tuple[ImageRef | None, ...]
    """One per input channel; None: missing, filled with zeros that stay zero after normalisation."""
    labels: ImageRef | None = None
    roi: ImageRef | None = None
    weight_maps: tuple[ImageRef | None, ...] = ()
    """One per sampling category, or empty."""
    output_name: str | None = None
    """Relative name for result files, without `.nii` or `.nii.gz`; checked to stay inside the output folder."""
    subject: str | None = None
    """Whose scan it is, where the lists say so; splits keep all cases of a subject together."""


@dataclass(frozen=True)
class _Needs:
    """What a session asks of its cases beyond images."""

    labels: bool
    names: bool
    categories: int | None
    channels: int | None
    channel_names: Sequence[str] | None


def read_cases(
    config: DataConfig,
    role: str,
    problems: ProblemList,
    notes: list[str] | None = None,
    *,
    needs_labels: bool = False,
    needs_names: bool = False,
    categories: int | None = None,
    channels: int | None = None,
    channel_names: Sequence[str] | None = None,
    keep: Collection[str] | None = None,
) -> list[Case]:
    """Return the cases of a data set; nothing is raised, everything wrong is added to `problems`.

    Cases with files that cannot be read are left out of the list, so that the others can be checked further.

    Args:
        config: where the cases are listed.
        role: "training", "validation" or "inference" (also "test"), for messages and the names of keys.
        problems: gets ConfigError for missing keys, ModelError for a number or order of channels that the model does
            not have, DataError for everything in listing files.
        notes: gets what the user should know: images listed twice, missing channels.
        needs_labels: every case must have labels.
        needs_names: every case must have a name for its results; those of an inference are numbered by default.
        categories: number of sampling categories that weight maps must match, when given.
        channels: input channels of the model, when known.
        channel_names: their names, when the model has any.
        keep: names of the cases that are wanted; the others are not looked at any further. None: all.
    """
    role = {"test": "inference"}.get(role, role)
    keys = _keys(role)
    notes = [] if notes is None else notes
    columns = _read_columns(config, role, keys, problems, notes)
    if columns is None:
        return []
    needs = _Needs(needs_labels, needs_names, categories, channels, channel_names)
    _check_columns(columns, role, keys, problems, needs)
    _check_order_of_channels(columns, role, problems, needs.channel_names)
    cases = _build(columns, role, problems)
    if cases and keep is not None:
        kept = [index for index, case in enumerate(cases) if case.name in keep]
        columns, cases = columns.only(kept), [cases[index] for index in kept]
    unusable = _unreadable(columns, problems)
    if not cases:
        return []
    unusable |= _without_images(columns, problems, needs_labels=needs_labels)
    cases = [case for index, case in enumerate(cases) if index not in unusable]
    _note_repeated(columns, cases, role, notes)
    return cases


def list_cases(config: DataConfig, role: str, problems: ProblemList) -> list[Case]:
    """Return the cases of a data set as they are listed; whether their files can be read is not looked at.

    Args:
        config: where the cases are listed.
        role: as for `read_cases`.
        problems: gets what is wrong with the listing files; the list of cases is empty then.
    """
    columns = _read_columns(config, role, _keys(role), problems, [])
    return [] if columns is None else _build(columns, role, problems)


def image_ref(text: str, folder: Path, listed_at: str = "") -> ImageRef:
    """Return the image that a user names by `path` or `path[volume]`, relative to a folder."""
    match = _ONE_VOLUME.fullmatch(text)
    path, volume = (match["path"], int(match["volume"])) if match else (text, None)
    return ImageRef(Path(os.path.abspath(folder / path)), volume, listed_at)


def duplicates_between(training: Sequence[Case], others: Sequence[Case], role: str = "validation") -> list[str]:
    """Say which images serve both training and validation (or another role), also where links rename them."""
    used = {_identity(ref): (case, ref) for case in training for ref in (*case.channels, case.labels) if ref}
    found = []
    for case in others:
        for ref in (*case.channels, case.labels):
            if ref is None or _identity(ref) not in used:
                continue
            other, other_ref = used[_identity(ref)]
            found.append(
                f"{_real(ref)} is used in training (case {other.name}, {other_ref.listed_at}) and in {role} "
                f"(case {case.name}, {ref.listed_at}); scores on it say nothing about new cases"
            )
    return found


def _keys(role: str) -> dict[str, str]:
    """Names of the data keys in the config of a role, by attribute of `DataConfig`."""
    own = {field.name: declaration(field) for field in fields(DataConfig)}
    keys = {name: declared.key for name, declared in own.items() if isinstance(declared, Option)}
    if role in _ROLES:
        config, attribute = _ROLES[role]
        section = next(declaration(field) for field in fields(config) if field.name == attribute)
        renamed = section.keys if isinstance(section, Section) else {}
        keys.update({name: key for name, key in renamed.items() if key is not None})
    return keys


def _read_columns(
    config: DataConfig, role: str, keys: dict[str, str], problems: ProblemList, notes: list[str]
) -> Columns | None:
    if config.table is not None:
        if config.channels:
            notes.append(f"{role}: {keys['table']} is given, so {keys['channels']} and the other lists are not used")
        with problems.gather():
            return read_table(config.table)
        return None
    if not config.channels:
        problems.add(ConfigError(f"{role}: no images are listed; give {keys['channels']} or {keys['table']}."))
        return None

    def listing(path: Path | None, title: str) -> Column | None:
        with problems.gather():
            return None if path is None else read_listing(path, title)
        return None

    before = len(problems.problems)
    channels = [listing(path, f"channel {number}") for number, path in enumerate(config.channels, 1)]
    weights = [listing(path, f"weight map {number}") for number, path in enumerate(config.weight_maps or (), 1)]
    columns = Columns(
        channels=tuple(column for column in channels if column),
        labels=listing(config.labels, "labels"),
        roi=listing(config.roi_masks, "ROI masks"),
        weight_maps=tuple(column for column in weights if column),
        names=listing(config.names, "names of results"),
        subjects=listing(config.subjects, "subjects"),
    )
    if len(problems.problems) == before:
        return columns
    _unreadable(
        columns, problems
    )  # the other listings may have problems too, which the user should see in the same run
    if columns.names:
        output_names(columns.names, problems)
    return None


def _check_columns(columns: Columns, role: str, keys: dict[str, str], problems: ProblemList, needs: _Needs) -> None:
    if needs.labels and columns.labels is None:
        problems.add(ConfigError(f"{role} needs labels: give {keys['labels']}, or a column ground_truth in the table."))
    if needs.names and columns.names is None and role != "inference":
        problems.add(
            ConfigError(f"{role}: results are to be saved: give {keys['names']}, or a column prediction_filename.")
        )
    if needs.categories is not None and columns.weight_maps and len(columns.weight_maps) != needs.categories:
        problems.add(
            ConfigError(
                f"{role}: {len(columns.weight_maps)} weight maps are listed ({keys['weight_maps']}), and the type of "
                f"sampling has {needs.categories} categories; give one per category."
            )
        )
    if needs.channels is not None and len(columns.channels) != needs.channels:
        listed = ", ".join(f"{column.title}: {column.source}" for column in columns.channels)
        problems.add(
            ModelError(
                f"{role}: {len(columns.channels)} channels are listed ({listed}), and the model has {needs.channels} "
                "input channels. List one file per channel, in the order the model was trained with."
            )
        )


def _check_order_of_channels(
    columns: Columns, role: str, problems: ProblemList, channel_names: Sequence[str] | None
) -> None:
    """Refuse a table whose columns have the names of the model's channels in another order than these."""
    if columns.channel_names is None or channel_names is None:
        return
    listed, wanted = ([name.casefold() for name in names] for names in (columns.channel_names, channel_names))
    if any(name in wanted and name != own for name, own in zip(listed, wanted, strict=False)):
        digits = len(str(len(wanted)))
        renamed = (f"channel_{number:0{digits}d}_{name}" for number, name in enumerate(channel_names, 1))
        problems.add(
            ModelError(
                f"{role}: {columns.channels[0].source}: channels are used in the alphabetical order of their columns' "
                f"names, {', '.join(columns.channel_names)}, and those of the model are {', '.join(channel_names)}. "
                f"Rename the columns so that both orders are the same, for instance {', '.join(renamed)}."
            )
        )


def _build(columns: Columns, role: str, problems: ProblemList) -> list[Case]:
    """Make a case of each line of columns of equal length; none, if something is wrong with these."""
    names = output_names(columns.names, problems) if columns.names else None
    lengths = {len(column) for column in columns.all()}
    if len(lengths) > 1:
        counts = "".join(f"\n    {len(column):6d}  {column.title}: {column.source}" for column in columns.all())
        problems.add(
            DataError(
                f"{role}: the listing files differ in their number of cases; each needs one line per case:{counts}"
            )
        )
        return []
    count = lengths.pop()
    channels = list(zip(*(_refs(column) for column in columns.channels), strict=True))
    labels = _refs(columns.labels) if columns.labels else [None] * count
    roi = _refs(columns.roi) if columns.roi else [None] * count
    weights = list(zip(*(_refs(column) for column in columns.weight_maps), strict=True)) or [()] * count
    titles = names or _names_of_files(channels)
    if names is None and role == "inference":
        names = [f"pred_case{index}" for index in range(count)]
    subjects = _subjects(columns.subjects, problems) if columns.subjects else [None] * count
    return [
        Case(titles[i], channels[i], labels[i], roi[i], weights[i], names[i] if names else None, subjects[i])
        for i in range(count)
    ]


def _subjects(column: Column, problems: ProblemList) -> list[str | None]:
    """The subject of each case; all must have one, since a split would take those without one for persons of their own.

    Anything may name a subject, as long as it can be printed.
    """
    for index, entry in enumerate(column.entries):
        if entry.text == MISSING or not entry.text.isprintable():
            problems.add(
                DataError(
                    f"{column.place(index)}: found {entry.text!r} as the subject of this case; give each case the name "
                    "of its subject, or leave the whole list out."
                )
            )
    return [entry.text for entry in column.entries]


def _refs(column: Column) -> list[ImageRef | None]:
    """The images of a column, paths relative to the folder of the file that lists them."""
    refs: list[ImageRef | None] = []
    for index, entry in enumerate(column.entries):
        if entry.text == MISSING:
            refs.append(None)
            continue
        refs.append(image_ref(entry.text, column.source.parent, column.place(index)))
    return refs


def _unreadable(columns: Columns, problems: ProblemList) -> set[int]:
    """Return which cases have files that cannot be read: one problem per listing, with a line for each of its files."""
    unusable: set[int] = set()
    for column in columns.all():
        if column is columns.names or column is columns.subjects:
            continue
        bad = {i: (ref, why) for i, ref in enumerate(_refs(column)) if ref and (why := why_unreadable(ref.path))}
        if not bad:
            continue
        unusable.update(bad)
        lines = [f"\n    {ref.listed_at}: {ref.path}: {why}" for ref, why in list(bad.values())[:_MOST_SHOWN]]
        more = f"\n    ... and {len(bad) - _MOST_SHOWN} more" if len(bad) > _MOST_SHOWN else ""
        problems.add(
            DataError(f"{len(bad)} of {len(column)} files of {column.title} cannot be read:{''.join(lines)}{more}")
        )
    return unusable


def _without_images(columns: Columns, problems: ProblemList, *, needs_labels: bool) -> set[int]:
    """Return which cases have no channel at all, or lack labels that are needed."""
    entries = zip(*(column.entries for column in columns.channels), strict=True)
    unusable = {index for index, images in enumerate(entries) if all(entry.text == MISSING for entry in images)}
    for index in sorted(unusable):
        places = ", ".join(dict.fromkeys(column.place(index) for column in columns.channels))
        problems.add(DataError(f"{places}: all channels of this case are missing ('-'); at least one is needed."))
    if columns.labels and needs_labels:
        unlabelled = {i for i, entry in enumerate(columns.labels.entries) if entry.text == MISSING}
        for index in sorted(unlabelled):
            problems.add(DataError(f"{columns.labels.place(index)}: labels are needed here, '-' is not allowed."))
        unusable |= unlabelled
    return unusable


def _names_of_files(channels: Sequence[tuple[ImageRef | None, ...]]) -> list[str]:
    """Name cases by the folder of their first image, else its file, else both, else by number."""
    first = [next((ref for ref in images if ref), None) for images in channels]
    ways: tuple[Callable[[Path], str], ...] = (
        lambda path: path.parent.name,
        lambda path: without_extension(path.name),
        lambda path: f"{path.parent.name}/{without_extension(path.name)}",
    )
    for way in ways:
        names = ["" if ref is None else way(ref.path) for ref in first]
        if len(set(names)) == len(names) and all(names) and len(names) > 1:
            return names
    if len(first) == 1 and first[0] is not None:
        return [without_extension(first[0].path.name)]
    return [f"case{index}" for index in range(len(first))]


def _note_repeated(columns: Columns, cases: Sequence[Case], role: str, notes: list[str]) -> None:
    """Tell of images that stand twice in one listing or twice in one case, and of missing channels."""
    for column in (*columns.channels, columns.labels):
        places: dict[tuple[str, int], list[ImageRef]] = defaultdict(list)
        for ref in _refs(column) if column else ():
            if ref:
                places[_identity(ref)].append(ref)
        for refs in places.values():
            if column and len(refs) > 1:
                where = ", ".join(ref.listed_at for ref in refs)
                notes.append(f"{role}: {refs[0]} is listed {len(refs)} times as {column.title}: {where}")
    for case in cases:
        images = [ref for ref in (*case.channels, case.labels) if ref]
        if len({_identity(ref) for ref in images}) < len(images):
            where = ", ".join(ref.listed_at for ref in images)
            notes.append(f"{role}, case {case.name}: one file serves as two of its images ({where})")
    for column in columns.channels:
        missing = sum(entry.text == MISSING for entry in column.entries)
        if missing:
            notes.append(
                f"{role}: {column.title} is missing in {missing} of {len(column)} cases and is set to zero there"
            )


def _real(ref: ImageRef) -> str:
    return os.path.realpath(ref.path)


def _identity(ref: ImageRef) -> tuple[str, int]:
    return _real(ref), ref.volume or 0
