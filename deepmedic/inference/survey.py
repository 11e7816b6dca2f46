"""What the output folder of a session holds before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepmedic.data.cases import Case
from deepmedic.errors import DataError, OutputHeldError
from deepmedic.files import remove_stale_temporaries
from deepmedic.inference.results import (
    ExistingResults,
    ResultFiles,
    RunIdentity,
    case_fingerprint,
    existing_results,
    output_name,
)

log = logging.getLogger(__name__)

_MOST_NAMED = 10


@dataclass(frozen=True)
class Saving:
    """Where results go, and what they are made from."""

    files: ResultFiles
    run: RunIdentity
    overwrite: bool = False
    """Compute everything and replace what is there, instead of keeping what this run already wrote."""
    scoring: Mapping[str, Any] | None = None
    """How cases with labels are scored; plain values."""


def survey(
    cases: Sequence[Case], saving: Saving | None, indices: Sequence[int] | None = None
) -> dict[int, ExistingResults]:
    """Return the cases whose results this run already wrote, by index; nothing is changed.

    Args:
        cases: all cases of the session.
        saving: where results go; None: nowhere.
        indices: only these cases are looked at; None: all.

    Raises:
        OutputHeldError: there are results of another run.
    """
    if saving is None or saving.overwrite:
        return {}
    kept, foreign = {}, []
    for index in range(len(cases)) if indices is None else indices:
        case = cases[index]
        found = _existing(case, output_name(index, case), saving)
        if found.status == "match":
            kept[index] = found
        elif found.status == "damaged":
            log.warning("%s is computed again: %s.", case.name, found.reason)
        elif found.status == "other run":
            foreign.append(f"{case.name}: {found.reason}")
    if foreign:
        more = f"\n  ... and {len(foreign) - _MOST_NAMED} more" if len(foreign) > _MOST_NAMED else ""
        listing = "".join(f"\n  {line}" for line in foreign[:_MOST_NAMED])
        raise OutputHeldError(
            f"{saving.files.folder} holds results of another run for {len(foreign)} of {len(cases)} cases:{listing}"
            f"{more}\nChoose another sessionName, folderForOutput or -output, or replace them with -overwrite."
        )
    return kept


def remove_stale(cases: Sequence[Case], files: ResultFiles) -> None:
    """Remove the temporaries of a run that was killed."""
    names = [output_name(index, case) for index, case in enumerate(cases)]
    folders = {path.parent for name in names for path in (files.record(name), *files.all_of(name))}
    for folder in sorted({files.folder, *folders}):
        remove_stale_temporaries(folder)


def _existing(case: Case, name: str, saving: Saving) -> ExistingResults:
    files = saving.files
    if not any(path.exists() for path in (files.record(name), *files.all_of(name))):
        return ExistingResults("absent")
    try:
        return existing_results(case, name, files, case_fingerprint(case, saving.run), saving.scoring)
    except DataError as problem:
        # Reading the case will meet the same problem, and say so in its turn.
        log.debug("%s", problem)
        return ExistingResults("absent")
