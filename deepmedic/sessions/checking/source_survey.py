"""All images of a found data set, read and judged: headers compared, voxels described, labels counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deepmedic.config.sections import PreprocessingConfig
from deepmedic.data.case_headers import CaseHeaders, check_case, check_cases
from deepmedic.data.cases import Case
from deepmedic.data.fingerprint import CaseFacts, CaseSummary, Fingerprint, summarise
from deepmedic.data.reading import read_ahead
from deepmedic.data.volumes import load_case
from deepmedic.errors import DataError, ProblemList
from deepmedic.planning.found import MOST_UNUSED, FoundCase, FoundData, several
from deepmedic.words import classes_by_number

_LARGEST_LABELS = 65536
_COARSE_TOLERANCE = 0.1
"""Millimetres: what rounded headers differ by, and no voxel is misplaced by."""


@dataclass(frozen=True)
class SurveyedData:
    """A data set whose images were all read."""

    found: FoundData
    cases: tuple[FoundCase, ...]
    """Channels that are constant in a case are missing from it."""
    digests: Mapping[str, Sequence[str]]
    """By name of the case: digests of the voxels of its channels."""
    labelled: Fingerprint
    """Of the cases with labels that are not for testing."""
    unlabelled: Fingerprint
    """Of all others."""
    notes: tuple[str, ...]
    why_turned: str | None
    """Why `orientation = "RAS"` is needed."""
    why_tolerant: str | None
    """Why `affineTolerance = 0.1` is needed."""

    @property
    def classes(self) -> int:
        return self.labelled.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the source, else made up."""
        names = self.found.class_names
        return names or classes_by_number(self.classes)


def survey_source(found: FoundData, source: Path) -> SurveyedData:
    """Read every image of a data set.

    Raises:
        DataError: images or labels cannot be used; all of them are listed.
    """
    cases = [Case(case.name, case.channels, case.labels, case.roi) for case in found.cases]
    headers, preprocessing, notes = _headers(cases)
    facts, labelled, unlabelled = _read(found, cases, headers, preprocessing)
    classes = _classes(found, [case for case in facts if case.labels is not None], source, notes)
    kept = _without_constant(found, facts, notes)
    for fingerprint in (labelled, unlabelled):
        fingerprint.classes = classes
        fingerprint.cases = [_as_kept(case, kept, classes) for case in fingerprint.cases]
    turned = None
    if preprocessing.orientation == "RAS":
        turned = (
            "The cases are stored with different axis orders; all are turned to right, anterior, superior in memory."
        )
    tolerant = None
    if preprocessing.affine_tolerance == _COARSE_TOLERANCE:
        tolerant = "Headers of images of one case differ by more than 0.001 mm and less than this, by rounding."
    digests = {case.name: [mark for title, mark, _ in case.digests if title != "labels"] for case in facts}
    return SurveyedData(found, tuple(kept.values()), digests, labelled, unlabelled, tuple(notes), turned, tolerant)


def _headers(cases: Sequence[Case]) -> tuple[list[CaseHeaders], PreprocessingConfig, list[str]]:
    """Headers of all cases, with the settings under which they fit together."""
    problems = ProblemList()
    for tolerance in (PreprocessingConfig().affine_tolerance, _COARSE_TOLERANCE):
        config = PreprocessingConfig(affine_tolerance=tolerance)
        stored = [check_case(case, config, ProblemList(), []) for case in cases]
        orders = {headers.header.axis_codes for headers in stored if headers}
        config = replace(config, orientation="RAS" if len(orders) > 1 else "asStored")
        problems = ProblemList()
        notes: list[str] = []
        headers = check_cases(cases, config, problems, notes)
        if not problems.problems:
            return headers, config, notes
    problems.raise_if_any()
    raise AssertionError("cases without a problem were refused")


def _read(
    found: FoundData, cases: Sequence[Case], headers: Sequence[CaseHeaders], preprocessing: PreprocessingConfig
) -> tuple[list[CaseFacts], Fingerprint, Fingerprint]:
    """Read all voxels; returns what is known of each case, and of those with labels and the others together."""

    def read(index: int) -> CaseSummary:
        loaded = load_case(cases[index], headers[index], preprocessing, _LARGEST_LABELS)
        return summarise(loaded, 1 if loaded.labels is None else int(loaded.labels.max()) + 1)

    channels = len(found.channel_names)
    labelled, unlabelled = Fingerprint("labelled cases", channels, 1), Fingerprint("other cases", channels, 1)
    facts: list[CaseFacts] = []
    problems = ProblemList()
    reading = tqdm(read_ahead(read, len(cases)), "reading", len(cases), unit="case", leave=False, disable=None)
    for index, result in reading:
        with problems.gather():
            summary = result()
            is_labelled = cases[index].labels is not None and found.cases[index].part != "test"
            (labelled if is_labelled else unlabelled).add(summary)
            facts.append(summary.facts)
    problems.raise_if_any()
    return facts, labelled, unlabelled


def _classes(found: FoundData, facts: Sequence[CaseFacts], source: Path, notes: list[str]) -> int:
    """The number of classes, from the labels that occur and those that the source declares.

    Raises:
        DataError: labels that are not declared, nothing but background, or numbers far apart.
    """
    counts = np.zeros(max((len(case.labels) for case in facts if case.labels is not None), default=1), np.int64)
    for case in facts:
        if case.labels is not None:
            counts[: len(case.labels)] += case.labels
    occurring = np.flatnonzero(counts).tolist()
    if not any(occurring):
        raise DataError(f"{source}: the labels of all cases are 0 everywhere; there is nothing to learn.")
    declared = found.class_names
    if declared is not None:
        _refuse_undeclared(declared, facts, source)
        unused = [declared[value] for value in range(len(declared)) if value not in occurring]
        notes += [f"no voxel has the label of these classes: {', '.join(unused)}"] if unused else []
        return max(len(declared), 2)
    unused_values = [value for value in range(occurring[-1]) if value not in occurring]
    if len(unused_values) > MOST_UNUSED:
        raise DataError(
            f"{source}: the labels are {_ranges(occurring)}. Labels must be numbered 0 (background), 1, 2, ...; "
            "renumber them, since every unused number would be a class of the network."
        )
    if unused_values:
        notes.append(f"no voxel has the label {', '.join(map(str, unused_values))}; they become classes without voxels")
    return int(occurring[-1]) + 1


def _refuse_undeclared(declared: Sequence[str], facts: Sequence[CaseFacts], source: Path) -> None:
    lines = [
        f"case {case.name}: {_ranges((np.flatnonzero(case.labels[len(declared) :]) + len(declared)).tolist())}"
        for case in facts
        if case.labels is not None and case.labels[len(declared) :].any()
    ]
    if lines:
        raise DataError(
            f"{source}: {len(lines)} cases have labels outside the {len(declared)} declared classes (0 to "
            f"{len(declared) - 1}: {', '.join(declared)}):{several(lines)}\n  Correct the labels or the declaration."
        )


def _without_constant(found: FoundData, facts: Sequence[CaseFacts], notes: list[str]) -> dict[str, FoundCase]:
    """The cases by name, without channels that have one value throughout the ROI: nothing can be learnt from them."""
    kept = {}
    for case, known in zip(found.cases, facts, strict=True):
        constant = [number for number, channel in enumerate(known.channels) if channel is not None and channel.constant]
        notes += [
            f"case {case.name}: {found.channel_names[number]} ({case.channels[number]}) has one value throughout the "
            "region of interest; it is listed as missing (-)"
            for number in constant
        ]
        channels = tuple(None if number in constant else ref for number, ref in enumerate(case.channels))
        if not any(channels):
            raise DataError(f"case {case.name}: no channel has more than one value within the region of interest.")
        kept[case.name] = replace(case, channels=channels)
    return kept


def _as_kept(case: CaseFacts, kept: Mapping[str, FoundCase], classes: int) -> CaseFacts:
    """A case's facts without the channels that were left out, and with counts for every class."""
    channels = zip(case.channels, kept[case.name].channels, strict=True)
    return replace(
        case,
        channels=tuple(facts if ref is not None else None for facts, ref in channels),
        labels=_padded(case.labels, classes),
        labels_in_roi=_padded(case.labels_in_roi, classes),
    )


def _padded(counts: np.ndarray | None, classes: int) -> np.ndarray | None:
    return None if counts is None else np.pad(counts[:classes], (0, max(classes - len(counts), 0)))


def _ranges(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:20]))
    return f"{shown} and {len(values) - 20} more" if len(values) > 20 else shown
