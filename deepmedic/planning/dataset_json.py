"""Data sets described by a `dataset.json`: nnU-Net (versions 1 and 2), Medical Segmentation Decathlon, MONAI lists.

Conventions: nnU-Net's documentation/dataset_format.md (one file per channel, `<case>_0000.nii.gz`, labels in
`labelsTr`), and the decathlon's data sets (Antonelli et al., Nature Communications 13:4128, 2022), whose 4D images hold
the channels as volumes. A 4D image is not taken apart: its volumes are listed as `file.nii.gz[2]`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti import read_header
from deepmedic.errors import DataError, ProblemList
from deepmedic.planning.found import (
    MOST_UNUSED,
    NIFTI,
    FoundCase,
    FoundData,
    checked_name,
    class_names_of,
    entries_of,
    is_nifti,
    listable,
    natural_order,
    read_json_object,
    several,
    stem_of,
)

_LISTS = {"training": "training", "validation": "validation", "test": "test"}
_CHANNEL_OF_FILE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)
_LARGEST_LABEL = 999
_MOST_CHANNELS = 100
_MOST_CASES = 200_000


@dataclass(frozen=True)
class _Description:
    """What the file says, checked, and where its images lie."""

    path: Path
    content: Mapping[str, Any]
    channels: tuple[str, ...]
    ending: str

    @property
    def folder(self) -> Path:
        return self.path.parent

    def image(self, text: object) -> Path:
        """The file that an entry names, below the folder of `dataset.json`.

        Raises:
            DataError: it is no text, leads outside, directly or by a link.
        """
        if not isinstance(text, str) or not text:
            raise DataError(f"{self.path}: found {str(text)[:100]!r} as the path of an image; needed is a text.")
        path = Path(os.path.abspath(self.folder / text)) if "\0" not in text else None
        home = Path(os.path.abspath(self.folder))
        if path is None or os.path.isabs(text) or not path.is_relative_to(home):
            raise DataError(
                f"{self.path}: the path {text[:200]!r} leads outside the folder of the data set. Give paths below "
                f"{home}, or list these images in a CSV table."
            )
        self.refuse_link_outside(path)
        return listable(path, self.path)

    def refuse_link_outside(self, path: Path) -> None:
        """Refuse an image that is a link to a file outside the data set's folder."""
        home = Path(os.path.realpath(self.folder))
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(home):
            raise DataError(
                f"{self.path}: {path} is a link that leads outside the folder of the data set, to {target}. Copy the "
                "image there, or list these images in a CSV table."
            )


def read_dataset_json(path: Path) -> FoundData:
    """Return the data set that a `dataset.json` describes.

    Raises:
        DataError: the file or an image it names is not as the conventions say, or leads outside its folder.
        SeveralProblems: its channels, classes or ending are wrong, and more than one of them.
    """
    content, problems = read_json_object(path), ProblemList()
    channels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    ending = ""
    with problems.gather():
        channels = _channels(path, content)
    with problems.gather():
        classes = _classes(path, content)
    with problems.gather():
        ending = _ending(path, content)
    problems.raise_if_any()
    description = _Description(path, content, channels, ending)
    notes: list[str] = []
    cases = [*_listed(description), *_in_table(description)]
    if not any(case.part != "test" for case in cases):
        cases += _in_folders(description, "imagesTr", "labelsTr", "training")
    if not any(case.part == "test" for case in cases):
        cases += _in_folders(description, "imagesTs", "labelsTs", "test")
    if not any(case.labels is not None for case in cases):
        raise DataError(
            f"{path}: no case with labels was found, neither in its lists (training, dataset) nor as files of "
            f"{path.parent / 'imagesTr'} and {path.parent / 'labelsTr'}."
        )
    declared = content.get("numTraining")
    found = sum(case.part == "training" for case in cases)
    if isinstance(declared, int) and declared != found:
        notes.append(f"{path}: numTraining says {declared}, and {found} training cases were found")
    return FoundData("a dataset.json", description.channels, tuple(cases), classes, tuple(notes))


def _channels(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    key = next((key for key in ("channel_names", "modality") if key in content), None)
    if key is None:
        raise DataError(f'{path}: neither channel_names nor modality is there; give for instance {{"0": "T1"}}.')
    given = content[key]
    if isinstance(given, list):
        given = {str(number): name for number, name in enumerate(given)}
    if not isinstance(given, dict) or not given or sorted(given) != sorted(map(str, range(len(given)))):
        raise DataError(f'{path}: {key} must number its channels "0", "1", ...; found {str(given)[:200]}.')
    if len(given) > _MOST_CHANNELS:
        raise DataError(f"{path}: {key} names {len(given)} channels; allowed are {_MOST_CHANNELS}.")
    names = [checked_name(given[str(number)], f"{path}: {key}") for number in range(len(given))]
    repeated = {name for name in names if names.count(name) > 1}
    return tuple(f"{name} {number}" if name in repeated else name for number, name in enumerate(names))


def _ending(path: Path, content: Mapping[str, Any]) -> str:
    ending = content.get("file_ending", ".nii.gz")
    if ending not in NIFTI:
        raise DataError(
            f"{path}: file_ending is {str(ending)[:50]!r}; this program reads {' and '.join(NIFTI)}. Convert "
            "the images."
        )
    return str(ending)


def _classes(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of classes by label value; `labels` says {name: value}, {value: name} or {name: [values of a region]}."""
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(f'{path}: labels is missing or empty; give for instance {{"background": 0, "lesion": 1}}.')
    values: dict[int, str] = {}
    declared: set[int] = {0}
    for key, value in labels.items():
        number, name = _named_label(path, key, value)
        numbers = number if isinstance(number, list) else [number]
        declared.update(numbers)
        if str(name).lower() == "ignore":
            raise DataError(
                f"{path}: label {numbers} is 'ignore', and this program has no such label. Exclude these voxels with "
                "ROI masks, and give them another label."
            )
        if len(numbers) == 1:
            values.setdefault(numbers[0], checked_name(name, f"{path}: labels"))
    if max(declared) >= len(declared) + MOST_UNUSED:
        raise DataError(
            f"{path}: labels: {len(declared)} labels up to {max(declared)} are declared. Labels must be numbered 0 "
            "(background), 1, 2, ...; renumber them, since every unused number would be a class of the network."
        )
    return class_names_of(values, max(declared))


def _named_label(path: Path, key: str, value: object) -> tuple[int | list[int], object]:
    number: Any = value
    name: object = key
    if isinstance(value, str):
        number, name = (int(key) if key.isascii() and key.isdecimal() and len(key) < 7 else None), value
    numbers: list[int] = number if isinstance(number, list) else [number]
    if not numbers or not all(type(item) is int and 0 <= item <= _LARGEST_LABEL for item in numbers):
        raise DataError(
            f"{path}: labels: found {key!r}: {str(value)[:100]}; allowed are names with whole numbers from 0 to "
            f"{_LARGEST_LABEL}, lists of them, or numbers with names."
        )
    return (numbers if len(numbers) > 1 else numbers[0]), name


def _listed(description: _Description) -> Iterable[FoundCase]:
    """Cases of the lists `training`, `validation` and `test`, as in the decathlon and in nnU-Net's first version."""
    for key, part in _LISTS.items():
        entries = description.content.get(key, [])
        if not isinstance(entries, list) or len(entries) > _MOST_CASES:
            raise DataError(f"{description.path}: {key} must be a list of cases; found {str(entries)[:100]}.")
        for entry in entries:
            yield _listed_case(description, entry, part)


def _listed_case(description: _Description, entry: object, part: str) -> FoundCase:
    image = entry.get("image") if isinstance(entry, dict) else entry
    label = entry.get("label") if isinstance(entry, dict) else None
    labels = ImageRef(description.image(label)) if label is not None else None
    if isinstance(image, list):
        paths = [description.image(text) for text in image]
        return _case(description, stem_of(paths[0]) if paths else "", paths, labels, part)
    path = description.image(image)
    name = stem_of(path)
    if path.exists():
        return FoundCase(name, _channels_of(description, path), labels, part=part)
    singles = [
        path.with_name(f"{name}_{number:04d}{description.ending}") for number in range(len(description.channels))
    ]
    for single in singles:
        description.refuse_link_outside(single)
    if not any(single.exists() for single in singles):
        raise DataError(f"{description.path}: neither {path} nor {singles[0]} exists. Correct the path.")
    return _case(description, name, singles, labels, part)


def _in_table(description: _Description) -> Iterable[FoundCase]:
    """Cases of `dataset`, as nnU-Net's second version has it: images and label by name of case."""
    table = description.content.get("dataset", {})
    if not isinstance(table, dict) or len(table) > _MOST_CASES:
        raise DataError(f"{description.path}: dataset must name its cases; found {str(table)[:100]}.")
    for name, entry in table.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(images, list):
            raise DataError(f"{description.path}: dataset, case {name[:100]!r}: needed are images (a list) and label.")
        labels = ImageRef(description.image(entry["label"])) if entry.get("label") is not None else None
        paths = [description.image(text) for text in images]
        yield _case(description, name, paths, labels, "training")


def _in_folders(description: _Description, images: str, labels: str, part: str) -> list[FoundCase]:
    """Cases by the names of files: `<images>/<case>_0000.nii.gz` and `<labels>/<case>.nii.gz`."""
    folder = description.folder / images
    if not folder.is_dir():
        return []
    by_case: dict[str, dict[int, Path]] = {}
    strangers = []
    for path in entries_of(folder):
        match = _CHANNEL_OF_FILE.fullmatch(stem_of(path))
        if not is_nifti(path.name):
            continue
        if match is None or not path.name.endswith(description.ending):
            strangers.append(path.name)
        else:
            description.image(os.path.relpath(path, description.folder))
            by_case.setdefault(match["case"], {})[int(match["channel"])] = path
    if strangers:
        raise DataError(
            f"{folder}: these files are not named as nnU-Net does, <case>_0000{description.ending}:{several(strangers)}"
        )
    cases = []
    for name in sorted(by_case, key=natural_order):
        beyond = [number for number in by_case[name] if number >= len(description.channels)]
        if beyond:
            raise DataError(
                f"{folder}: case {name} has the channel {beyond[0]:04d}, and {description.path} declares "
                f"{len(description.channels)} channels ({', '.join(description.channels)})."
            )
        truth = description.folder / labels / f"{name}{description.ending}"
        description.refuse_link_outside(truth)
        paths = [by_case[name].get(number) for number in range(len(description.channels))]
        found = ImageRef(truth) if truth.exists() else None
        refs = tuple(None if path is None else ImageRef(path) for path in paths)
        cases.append(FoundCase(name, refs, found, part=part))
    return cases


def _case(description: _Description, name: str, paths: list[Path], labels: ImageRef | None, part: str) -> FoundCase:
    """A case with one file per channel; files that are not there are missing channels."""
    if len(paths) != len(description.channels):
        raise DataError(
            f"{description.path}: case {name[:100]} lists {len(paths)} images, and there are "
            f"{len(description.channels)} channels ({', '.join(description.channels)}); give one per channel."
        )
    refs = tuple(ImageRef(path) if path.exists() else None for path in paths)
    return FoundCase(name, refs, labels, part=part)


def _channels_of(description: _Description, path: Path) -> tuple[ImageRef, ...]:
    """The channels within one file: a 3D image is one channel, a 4D one has a volume for each."""
    volumes = read_header(ImageRef(path, 0)).n_volumes
    wanted = len(description.channels)
    if volumes != wanted:
        raise DataError(
            f"{path}: found {volumes} volumes, and {description.path} declares {wanted} channels "
            f"({', '.join(description.channels)}); a 4D image must have one volume per channel."
        )
    return (ImageRef(path),) if volumes == 1 else tuple(ImageRef(path, number) for number in range(volumes))
