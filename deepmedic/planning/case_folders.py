"""A data set as people keep it: a folder per case, with images of the same names in every folder."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepmedic.data.cases import ImageRef
from deepmedic.errors import DataError
from deepmedic.planning.found import (
    FoundCase,
    FoundData,
    common_ends,
    entries_of,
    folders_in,
    is_nifti,
    listable,
    natural_order,
    nifti_files,
    several,
    stem_of,
)

_PARTS = {
    **dict.fromkeys(("train", "training", "tr"), "training"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}
_LABEL_WORDS = frozenset(
    {
        *(
            "seg",
            "segm",
            "segmentation",
            "segmentations",
            "dseg",
            "label",
            "labels",
            "gt",
            "groundtruth",
            "truth",
            "ot",
        ),
        *("annotation", "annotations", "manual", "consensus", "lesion", "lesions", "tumor", "tumour", "wmh"),
    }
)
"""Words in names of manual segmentations; ot: "observed truth", as in BraTS 2013."""
_MASK_WORDS = frozenset({"mask", "masks", "roi"})
_ROI_WORDS = frozenset({"brain", "roi", "head", "bet", "body", "foreground"})
_COMPOUNDS = {"brainmask": ("brain", "mask"), "headmask": ("head", "mask"), "bodymask": ("body", "mask")}
_SEPARATORS = re.compile(r"[\s_.\-]+")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_DEPTH = 2
"""Levels below the folder of a case at which its images may lie."""


@dataclass(frozen=True)
class _Folder:
    """One case: its images by the part of their names that tells them apart."""

    path: Path
    name: str
    part: str | None
    images: Mapping[tuple[str, ...], Path]


@dataclass(frozen=True)
class _Roles:
    """Which name part stands for what."""

    channels: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] | None
    roi: tuple[str, ...] | None


def read_case_folders(source: Path) -> FoundData:
    """Return the data set of a folder with one folder per case, or with folders for training, validation and test.

    The images of a case are told apart by their names without the name of the case. A name part that occurs in at
    least half of the cases is a channel; one with a word such as seg, label or truth are the labels, one with mask or
    roi is the region of interest (or the labels, if nothing else can be them).

    Raises:
        DataError: no images, or names that can be understood in several ways; says which there are.
    """
    groups, notes = _case_folders(source)
    if not groups:
        raise DataError(
            f"{source}: found no folders with NIfTI images (.nii.gz or .nii). Needed is one folder per case, a CSV "
            "table, a dataset.json, or a BIDS tree."
        )
    folders = _keyed(groups, source)
    roles = _roles(folders, source)
    notes += _label_note(roles)
    cases = tuple(_case(folder, roles) for folder in folders)
    return FoundData("a folder per case", _channel_names(roles.channels), cases, None, tuple(notes))


def _case_folders(source: Path) -> tuple[list[tuple[Path, str | None]], list[str]]:
    """The folders of cases with the part they belong to, and what is left out."""
    below = folders_in(source)
    parts = [folder for folder in below if folder.name.lower() in _PARTS and _holds_cases(folder)]
    found: list[tuple[Path, str | None]] = []
    notes = []
    if parts:
        found += [(case, _PARTS[folder.name.lower()]) for folder in parts for case in folders_in(folder)]
        others = [folder.name for folder in below if folder not in parts and nifti_files(folder, _DEPTH)]
        if others:
            notes.append(
                f"left out, since it is none of the parts {', '.join(p.name for p in parts)}: {', '.join(others)}"
            )
    else:
        found += [(case, None) for case in below]
    loose = [entry.name for entry in entries_of(source) if entry.is_file() and is_nifti(entry.name)]
    if loose:
        notes.append(f"left out, since they belong to no case: {', '.join(loose[:10])}")
    empty = [folder.name for folder, _ in found if not nifti_files(folder, _DEPTH)]
    if empty:
        notes.append(f"left out, since they hold no image: {', '.join(empty[:10])}")
    return [(folder, part) for folder, part in found if nifti_files(folder, _DEPTH)], notes


def _holds_cases(folder: Path) -> bool:
    direct = any(is_nifti(entry.name) for entry in entries_of(folder))
    return not direct and any(nifti_files(case, _DEPTH) for case in folders_in(folder))


def _keyed(groups: Sequence[tuple[Path, str | None]], source: Path) -> list[_Folder]:
    """The folders with their images by name part, taken in the first way that gives the same parts in most folders."""
    for strip in (False, True):
        folders = [_folder(path, part, strip_common=strip) for path, part in groups]
        if not _rare(folders):
            return folders
    folders = [_folder(path, part, strip_common=False) for path, part in groups]
    counts = Counter(_text(key) for folder in folders for key in folder.images)
    lines = [f"{count:5d} of {len(folders)} cases: {name}" for name, count in counts.most_common()]
    raise DataError(
        f"{source}: the names of the images do not say which are the same channel. Without the names of the cases they "
        f"are:{several(lines)}\n  Each must occur in at least half of the cases. Rename the files alike in every "
        "folder (for instance t1.nii.gz, flair.nii.gz, seg.nii.gz), move others away, or list the images in a CSV."
    )


def _rare(folders: Sequence[_Folder]) -> bool:
    """Whether a name part occurs in less than half of the cases; labels may be missing in more of them."""
    counts = Counter(key for folder in folders for key in folder.images)
    return any(2 * count < len(folders) and not _is_truth(key) for key, count in counts.items())


def _folder(path: Path, part: str | None, *, strip_common: bool) -> _Folder:
    files = [listable(file, path) for file in nifti_files(path, _DEPTH)]
    own = _tokens(path.name)
    names = [_without(_tokens(stem_of(file)), own) for file in files]
    if strip_common:
        lead, trail = common_ends(names)
        names = [name[lead : len(name) - trail] for name in names]
    images: dict[tuple[str, ...], Path] = {}
    for name, file in zip(names, files, strict=True):
        if name in images:
            raise DataError(
                f"{path}: {images[name]} and {file} have the same name apart from folder and case. Rename or move one "
                "of them, or list the images in a CSV table."
            )
        images[name] = file
    return _Folder(path, path.name, part, images)


def _roles(folders: Sequence[_Folder], source: Path) -> _Roles:
    keys = sorted({key for folder in folders for key in folder.images}, key=lambda key: natural_order(_text(key)))
    truths = [key for key in keys if _is_truth(key)]
    masks = [key for key in keys if _is_mask(key) and key not in truths]
    if not truths and len(masks) > 1:
        truths = [key for key in masks if not _words(key) & _ROI_WORDS]
    elif not truths and len(masks) == 1 and not _words(masks[0]) & _ROI_WORDS:
        truths = masks
    masks = [key for key in masks if key not in truths]
    for found, what in ((truths, "labels"), (masks, "the region of interest")):
        if len(found) > 1:
            raise DataError(
                f"{source}: several files of a case could be {what}: {', '.join(map(_text, found))}. Move those that "
                "are not meant elsewhere, or list the images in a CSV table."
            )
    channels = tuple(key for key in keys if key not in truths and key not in masks)
    if not truths or not channels:
        missing = "labels (no name with seg, label, truth, gt, ...)" if not truths else "channels"
        raise DataError(
            f"{source}: found no {missing} among the images: {', '.join(map(_text, keys))}. Rename the files, or list "
            "the images in a CSV table."
        )
    return _Roles(channels, truths[0], masks[0] if masks else None)


def _label_note(roles: _Roles) -> list[str]:
    assert roles.labels is not None
    roi = f", {_text(roles.roi)} for the region of interest" if roles.roi else ""
    return [f"by their names, {_text(roles.labels)} are taken for labels{roi}; the other images are channels"]


def _case(folder: _Folder, roles: _Roles) -> FoundCase:
    def image(key: tuple[str, ...] | None) -> ImageRef | None:
        path = folder.images.get(key) if key is not None else None
        return None if path is None else ImageRef(path)

    return FoundCase(
        folder.name, tuple(image(key) for key in roles.channels), image(roles.labels), image(roles.roi), folder.part
    )


def _channel_names(keys: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Names of the channels: their name parts without what all of them share."""
    lead, trail = common_ends(keys)
    return tuple(_text(key[lead : len(key) - trail]) for key in keys)


def _tokens(name: str) -> tuple[str, ...]:
    return tuple(token for token in _SEPARATORS.split(name) if token) or (name,)


def _without(tokens: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """The tokens of a file's name without the folder's name before or after them, unless nothing would be left."""
    folded, size = tuple(token.lower() for token in tokens), len(own)
    case = tuple(token.lower() for token in own)
    if len(tokens) > size and folded[:size] == case:
        return tokens[size:]
    if len(tokens) > size and folded[-size:] == case:
        return tokens[:-size]
    return tokens


def _text(key: Sequence[str]) -> str:
    return "_".join(key)


def _words(key: Sequence[str]) -> frozenset[str]:
    """The words of a name part in small letters: "OTMultiClass" has ot, multi and class."""
    found: dict[str, list[str]] = defaultdict(list)
    for token in key:
        found[token] = [word.lower() for word in _WORDS.findall(token)] + [token.lower()]
    words = {word for several_words in found.values() for word in several_words}
    return frozenset(words.union(*(_COMPOUNDS.get(word, ()) for word in words)))


def _is_truth(key: Sequence[str]) -> bool:
    words = _words(key)
    return bool(words & _LABEL_WORDS) and not (words & _MASK_WORDS and words & _ROI_WORDS)


def _is_mask(key: Sequence[str]) -> bool:
    return bool(_words(key) & _MASK_WORDS)
