"""What kind of data set a path names, told by its content, and the cases in it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from deepmedic.config.sections import DataConfig
from deepmedic.data.cases import read_cases
from deepmedic.data.listing import read_table
from deepmedic.errors import DataError, ProblemList
from deepmedic.planning.bids import is_bids, read_bids
from deepmedic.planning.case_folders import read_case_folders
from deepmedic.planning.dataset_json import read_dataset_json
from deepmedic.planning.found import FoundCase, FoundData

_COLUMN = re.compile(r"\(channel_(?P<name>.+)\)$")


def read_source(path: Path) -> FoundData:
    """Return the cases of a data folder, a CSV table, a `dataset.json` (or its folder) or a BIDS tree.

    Cases have different names: those that occur in several parts get the part's name before their own.

    Raises:
        DataError: the path is none of these, or its content cannot be used; says why.
    """
    found = _read(path)
    counts = Counter(case.name for case in found.cases)
    cases = tuple(
        replace(case, name=f"{case.part}_{case.name}", subject=case.subject or case.name)
        if counts[case.name] > 1 and case.part
        else case
        for case in found.cases
    )
    repeated = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: several cases have one name: {', '.join(repeated[:10])}. Rename them.")
    return replace(found, cases=cases)


def _read(path: Path) -> FoundData:
    if path.is_dir():
        if (path / "dataset.json").is_file():
            return read_dataset_json(path / "dataset.json")
        return read_bids(path) if is_bids(path) else read_case_folders(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; name a data folder, a CSV table or a dataset.json.")
    if path.suffix.lower() == ".json":
        return read_dataset_json(path)
    if path.suffix.lower() == ".csv":
        return _read_table(path)
    raise DataError(f"{path}: this is no data set; name a folder, a CSV table (.csv) or a dataset.json.")


def _read_table(path: Path) -> FoundData:
    problems = ProblemList()
    notes: list[str] = []
    cases = read_cases(DataConfig(table=path), "inference", problems, notes)
    problems.raise_if_any()
    columns = read_table(path)
    names = tuple(
        match["name"] if (match := _COLUMN.search(column.title)) else column.title for column in columns.channels
    )
    if columns.weight_maps:
        notes.append(f"{path}: weight maps are not entered into the configs; list them yourself if you want them")
    found = tuple(FoundCase(case.name, case.channels, case.labels, case.roi, None, case.subject) for case in cases)
    return FoundData("a CSV table", names, found, None, tuple(notes))
