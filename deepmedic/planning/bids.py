"""Data sets in the Brain Imaging Data Structure: images in `sub-*/[ses-*/]anat`, labels and masks in `derivatives`.

Names: https://bids-specification.readthedocs.io (version 1.10), sections "Filenames", "Anatomy imaging data" and
"Imaging derivative data": entities such as `acq-`, `ce-`, `run-`, `space-`, and suffixes such as T1w, dseg and mask.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti_stream import open_image
from deepmedic.errors import DataError
from deepmedic.planning.found import (
    MOST_UNUSED,
    FoundCase,
    FoundData,
    class_names_of,
    folders_in,
    listable,
    natural_order,
    nifti_files,
    read_json_object,
    several,
    stem_of,
)
from deepmedic.versions import PROGRAM_NAME

_NAME = re.compile(r"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9+]+)*_(?P<suffix>[A-Za-z0-9]+)")
_ENTITY = re.compile(r"(?P<key>[a-z]+)-(?P<value>[A-Za-z0-9+]+)")
_NO_IMAGES = frozenset({"dseg", "probseg", "mask", "defacemask", "xfm", "warp", "boldref", "bold", "sbref", "dwi"})
_OF_CASE = ("sub", "ses", "run", "space", "desc", "res", "den", "label", "hemi")
_OUTSIDE = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")
_DEPTH = 4
_LARGEST_TABLE = 1 << 20


@dataclass(frozen=True)
class _Image:
    path: Path
    entities: Mapping[str, str]
    suffix: str
    derived: bool

    def __getitem__(self, entity: str) -> str | None:
        return self.entities.get(entity)

    @property
    def is_brain_mask(self) -> bool:
        return self.suffix == "mask" and "brain" in (self["desc"], self["label"])

    @property
    def is_truth(self) -> bool:
        return self.suffix == "dseg" or (self.suffix == "mask" and not self.is_brain_mask)

    @property
    def variant(self) -> str:
        """What tells images of one suffix apart: entities other than those of the case."""
        others = [f"{key}-{value}" for key, value in self.entities.items() if key not in _OF_CASE]
        return "_".join([*others, self.suffix])


@dataclass(frozen=True)
class _Scan:
    """One case: the images of a subject's session (and run) in one space."""

    subject: str
    name: str
    images: tuple[_Image, ...]
    labels: _Image | None
    roi: _Image | None


def is_bids(folder: Path) -> bool:
    """Whether a folder is the root of a BIDS tree."""
    return any(child.name.startswith("sub-") for child in folders_in(folder))


def read_bids(source: Path) -> FoundData:
    """Return the data set of a BIDS tree: anatomical images, and labels and brain masks among the derivatives.

    A case is a subject's session (and run, where labels say so). Its images are those in the space of its labels.

    Raises:
        DataError: no images or no labels, or several files for one purpose; says which.
    """
    notes: list[str] = []
    images = _images(source, notes)
    if not any(image.is_truth for image in images):
        raise DataError(
            f"{source}: found no labels in this BIDS tree. Needed are files such as derivatives/manual/sub-01/anat/"
            "sub-01_dseg.nii.gz, or sub-01_label-lesion_mask.nii.gz."
        )
    scans = _scans(images, source)
    channels, by_scan = _channels(scans, source, notes)
    cases = tuple(_case(scan, channels, found) for scan, found in zip(scans, by_scan, strict=True) if found)
    lost = [scan.name for scan, found in zip(scans, by_scan, strict=True) if scan.labels and not found]
    if lost:
        notes.append(
            f"left out, since there are labels but no images in their space or session: {', '.join(lost[:20])}"
        )
    notes += _participants(source, {scan.subject for scan in scans})
    names = tuple(channel.replace("_", " ") for channel in channels)
    return FoundData("a BIDS tree", names, cases, _class_names(scans), tuple(notes))


def _images(source: Path, notes: list[str]) -> list[_Image]:
    """All anatomical images, segmentations and masks; those in `derivatives` are marked."""
    found = [_image(path, derived=False) for path in nifti_files(source, _DEPTH, _OUTSIDE)]
    derivatives = source / "derivatives"
    if derivatives.is_dir():
        own = [folder.name for folder in folders_in(derivatives) if _is_our_own(folder)]
        notes += [f"left out, since this program wrote it: {derivatives / name}" for name in own]
        found += [_image(path, derived=True) for path in nifti_files(derivatives, _DEPTH + 1, own)]
    return [image for image in found if image is not None]


def _image(path: Path, *, derived: bool) -> _Image | None:
    match = _NAME.fullmatch(stem_of(path))
    if match is None:
        return None
    suffix = match["suffix"]
    entities = {found["key"]: found["value"] for found in map(_ENTITY.fullmatch, stem_of(path).split("_")) if found}
    if suffix not in ("dseg", "mask") and (suffix in _NO_IMAGES or "anat" not in path.parts):
        return None
    return _Image(listable(path, path), entities, suffix, derived)


def _is_our_own(folder: Path) -> bool:
    """Whether this program wrote a folder of derivatives, which is no manual segmentation."""
    path = folder / "dataset_description.json"
    if not path.is_file():
        return False
    makers = read_json_object(path).get("GeneratedBy")
    return isinstance(makers, list) and any(isinstance(m, dict) and m.get("Name") == PROGRAM_NAME for m in makers)


def _scans(images: Sequence[_Image], source: Path) -> list[_Scan]:
    """The cases of all subjects, those with labels and, in the space most labels are in, those without."""
    sessions = _sessions(images)
    spaces = Counter(image["space"] for image in images if image.is_truth)
    usual = spaces.most_common(1)[0][0]
    scans: list[_Scan] = []
    for (subject, session), group in sorted(
        sessions.items(), key=lambda item: natural_order("_".join(map(str, item[0])))
    ):
        truths = [image for image in group if image.is_truth]
        runs = {truth["run"] for truth in truths} if truths else _runs(group, usual)
        if len(truths) > len(runs):
            raise DataError(
                f"{source}: several files could be the labels of sub-{subject}{f' ses-{session}' if session else ''}:"
                f"{several([str(truth.path) for truth in truths])}\n  Move those that are not meant elsewhere, or list "
                "the images in a CSV table."
            )
        for run in sorted(runs, key=str):
            truth = next((truth for truth in truths if truth["run"] == run), None)
            space = truth["space"] if truth else usual
            present = tuple(image for image in group if image["space"] == space and image["run"] in (None, run))
            if run is None:
                present = tuple(image for image in group if image["space"] == space)
            scans.append(_scan((subject, session, run), present, truth, source))
    return scans


def _sessions(images: Sequence[_Image]) -> dict[tuple[str, str | None], list[_Image]]:
    """Images by subject and session; one without a session belongs to the only session of its subject."""
    known: dict[str, set[str]] = defaultdict(set)
    for image in images:
        if image["ses"] is not None:
            known[image.entities["sub"]].add(image.entities["ses"])
    groups: dict[tuple[str, str | None], list[_Image]] = defaultdict(list)
    for image in images:
        subject, session = image.entities["sub"], image["ses"]
        if session is None and len(known[subject]) == 1:
            [session] = known[subject]
        groups[subject, session].append(image)
    return groups


def _runs(group: Sequence[_Image], space: str | None) -> set[str | None]:
    """Runs of a scan without labels: one case each."""
    runs = {image["run"] for image in group if image["space"] == space and image.suffix not in ("dseg", "mask")}
    return runs - {None} or {None}


def _scan(
    where: tuple[str, str | None, str | None], present: Sequence[_Image], truth: _Image | None, source: Path
) -> _Scan:
    subject, session, run = where
    parts = [f"sub-{subject}", *([f"ses-{session}"] if session else []), *([f"run-{run}"] if run else [])]
    masks = [image for image in present if image.is_brain_mask]
    if len(masks) > 1:
        raise DataError(
            f"{source}: several brain masks of {'_'.join(parts)}:{several([str(mask.path) for mask in masks])}\n  Keep "
            "one, or list the images in a CSV table."
        )
    images = tuple(image for image in present if image.suffix not in ("dseg", "mask"))
    return _Scan(f"sub-{subject}", "_".join(parts), images, truth, masks[0] if masks else None)


def _channels(scans: Sequence[_Scan], source: Path, notes: list[str]) -> tuple[list[str], list[dict[str, _Image]]]:
    """Names of the channels, and each scan's images by channel.

    A suffix is a channel; where one scan has several images of it, acq-, ce- and the like tell channels apart.
    """
    split = {
        suffix for scan in scans for suffix, group in _by_suffix(scan).items() if len({i.variant for i in group}) > 1
    }
    found = [_by_channel(scan, split, source) for scan in scans]
    labelled = [channels for scan, channels in zip(scans, found, strict=True) if scan.labels]
    counts = Counter(channel for channels in labelled for channel in channels)
    kept = sorted(channel for channel, count in counts.items() if 2 * count >= len(labelled))
    rare = sorted({channel for channels in found for channel in channels} - set(kept))
    if rare:
        notes.append(f"left out, since less than half of the cases with labels have them: {', '.join(rare)}")
    if not kept:
        raise DataError(
            f"{source}: found no anatomical images in the space of the labels. A label with space-X needs images with "
            "space-X; one without needs the raw images."
        )
    return kept, [{channel: image for channel, image in channels.items() if channel in kept} for channels in found]


def _by_suffix(scan: _Scan) -> dict[str, list[_Image]]:
    groups: dict[str, list[_Image]] = defaultdict(list)
    for image in scan.images:
        groups[image.suffix].append(image)
    return groups


def _by_channel(scan: _Scan, split: set[str], source: Path) -> dict[str, _Image]:
    groups: dict[str, list[_Image]] = defaultdict(list)
    for image in scan.images:
        groups[image.variant if image.suffix in split else image.suffix].append(image)
    chosen = {}
    for channel, group in groups.items():
        raw = [image for image in group if not image.derived]
        candidates = raw or [image for image in group if image["desc"] in (None, "preproc")] or group
        if len(candidates) > 1:
            raise DataError(
                f"{source}: {scan.name} has several images for the channel {channel}:"
                f"{several([str(image.path) for image in candidates])}\n  Keep one (for runs: name the run in the file "
                "name of the labels too), or list the images in a CSV table."
            )
        chosen[channel] = candidates[0]
    return chosen


def _case(scan: _Scan, channels: Sequence[str], found: Mapping[str, _Image]) -> FoundCase:
    def ref(image: _Image | None) -> ImageRef | None:
        return None if image is None else ImageRef(image.path)

    images = tuple(ref(found.get(channel)) for channel in channels)
    return FoundCase(scan.name, images, ref(scan.labels), ref(scan.roi), None, scan.subject)


def _participants(source: Path, subjects: set[str]) -> list[str]:
    """Compare the subjects with `participants.tsv`, if there is one."""
    rows = _table(source / "participants.tsv")
    listed = {row.get("participant_id", "") for row in rows} - {""}
    missing = sorted(listed - subjects, key=natural_order)
    if not missing:
        return []
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return [f"participants.tsv lists {len(missing)} subjects without usable images: {', '.join(missing[:10])}{more}"]


def _class_names(scans: Iterable[_Scan]) -> tuple[str, ...] | None:
    """Names of classes from the table (`..._dseg.tsv`: index, name) beside the first labels that have one."""
    for scan in scans:
        if scan.labels is None:
            continue
        rows = _table(scan.labels.path.with_name(f"{stem_of(scan.labels.path)}.tsv"))
        names = {
            int(row["index"]): row["name"]
            for row in rows
            if row.get("index", "").isdecimal() and len(row["index"]) < 5 and row.get("name", "").isprintable()
        }
        names = {number: name for number, name in names.items() if name}
        if names and max(names) < len(names) + MOST_UNUSED:
            return class_names_of(names, max(names))
    return None


def _table(path: Path) -> list[dict[str, str]]:
    """Rows of a table with tabs between its columns; none where there is no such file.

    Raises:
        DataError: it is too large or no UTF-8 text.
    """
    if not path.is_file():
        return []
    with open_image(path) as file:
        content = file.read(_LARGEST_TABLE + 1)
    if len(content) > _LARGEST_TABLE:
        raise DataError(f"{path}: too large for a table of subjects or classes ({_LARGEST_TABLE} bytes are allowed).")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}: this is no UTF-8 text. Save the table in UTF-8.") from problem
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t")
    return [{key: value for key, value in row.items() if key and isinstance(value, str)} for row in rows]
