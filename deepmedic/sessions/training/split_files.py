"""The files of a session's split: the split itself, and listing files of its parts that any config can name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic.config.plain import to_plain
from deepmedic.config.training import TrainConfig
from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.listing import MISSING, Column, Entry
from deepmedic.data.output_names import output_names
from deepmedic.data.splits import subject_of
from deepmedic.errors import ProblemList
from deepmedic.files import write_text_atomically


@dataclass(frozen=True)
class PartListing:
    """The listing files of one part of a split, in a folder of its own."""

    folder: Path
    cases: Sequence[Case]

    @property
    def files(self) -> dict[str, list[str]]:
        """Name of each listing file -> its lines; paths are absolute, so that the files can be put anywhere."""
        first, columns = self.cases[0], dict[str, list[ImageRef | None]]()
        for number in range(len(first.channels)):
            columns[f"channel_{number + 1}"] = [case.channels[number] for case in self.cases]
        for number in range(len(first.weight_maps)):
            columns[f"weight_map_{number + 1}"] = [case.weight_maps[number] for case in self.cases]
        if any(case.labels for case in self.cases):
            columns["labels"] = [case.labels for case in self.cases]
        if any(case.roi for case in self.cases):
            columns["roi"] = [case.roi for case in self.cases]
        lines = {name: [str(image or MISSING) for image in images] for name, images in columns.items()}
        names = {"names": [case.output_name or case.name for case in self.cases]}
        return {**lines, **names, "subjects": [subject_of(case) for case in self.cases]}

    def path(self, name: str) -> Path | None:
        """The listing file of that name; None if the part has none."""
        return self.folder / f"{name}.cfg" if name in self.files else None

    def write(self) -> None:
        """Write all listing files; those that are as they should be already are left alone."""
        for name, lines in self.files.items():
            write_if_changed(self.folder / f"{name}.cfg", "".join(f"{line}\n" for line in lines))


def with_result_names(cases: Sequence[Case]) -> list[Case]:
    """Give each case a name for its results: its own name where all of them can be names of files, else numbers."""
    if all(case.output_name for case in cases):
        return list(cases)
    problems = ProblemList()
    column = Column("names", Path(), tuple(Entry(case.name, number) for number, case in enumerate(cases)))
    names = output_names(column, problems)
    if problems.problems:
        names = [f"case{number}" for number in range(len(cases))]
    return [
        Case(case.name, case.channels, case.labels, case.roi, case.weight_maps, name, case.subject)
        for case, name in zip(cases, names, strict=True)
    ]


def test_config_text(config: TrainConfig, session: str, part: PartListing) -> str:
    """The TOML text of a test config that segments and scores a part as the training session would.

    Args:
        config: of the training session: preprocessing, execution and which results are saved are the same.
        session: name of the inference session.
        part: what is segmented.
    """
    channels = range(1, len(part.cases[0].channels) + 1)
    settings: dict[str, Any] = {
        "sessionName": session,
        "folderForOutput": str(config.folder_for_output.absolute()),
        "channels": [str(part.path(f"channel_{number}")) for number in channels],
        "gtLabels": _text(part.path("labels")),
        "roiMasks": _text(part.path("roi")),
        "namesForPredictionsPerCase": _text(part.path("names")),
        "batchsize": config.volume_batch_size,
        "report": None if config.report else False,
        "tiling": "segments" if config.source.dialect != "toml" else None,
    }
    for section in (config.validation_output, config.preprocessing, config.execution):
        defaults = to_plain(type(section)())
        settings |= {key: value for key, value in to_plain(section).items() if value != defaults[key]}
    lines = [f"{key} = {_toml(value)}\n" for key, value in settings.items() if value is not None]
    return "".join(lines)


def write_if_changed(path: Path, text: str) -> None:
    """Replace a text file, unless it holds that text already."""
    if not path.is_file() or path.read_bytes() != text.encode("utf-8", "backslashreplace"):
        write_text_atomically(path, text)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        given = {key: item for key, item in value.items() if item is not None}
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in given.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
