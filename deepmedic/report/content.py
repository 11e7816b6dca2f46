"""What a report shows, gathered before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepmedic.config.architecture import Architecture
from deepmedic.data.cases import ImageRef


@dataclass(frozen=True)
class Line:
    """One curve of a chart; undefined values are nan."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False
    colour: int = 0
    """Index of its colour; curves of one class have the same."""


@dataclass(frozen=True)
class Chart:
    """Curves over the epochs of a training."""

    title: str
    lines: tuple[Line, ...]
    unit_range: bool = False
    """The values lie between 0 and 1, as Dice does."""


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to a file, where that file is there; else its text."""

    text: str
    file: Path
    part: str = ""
    """Of the page that the file is: what follows #."""


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns; numbers are sorted as numbers, nan last."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Facts:
    """Names and values under a heading; a value may be a mapping itself."""

    title: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class CaseImages:
    """The files of one case that its viewer shows."""

    name: str
    channels: tuple[ImageRef | None, ...] = ()
    labels: ImageRef | None = None
    segmentation: ImageRef | None = None
    probabilities: Mapping[int, ImageRef] = field(default_factory=dict)
    """By class."""
    uncertainty: Mapping[str, ImageRef] = field(default_factory=dict)
    """Maps of uncertainty by kind: "entropy", "variance"."""
    score: float | None = None
    """Mean Dice over the classes that labels or prediction have; None: not scored."""


@dataclass(frozen=True)
class Model:
    """The model of a session."""

    architecture: Architecture
    segments: Mapping[str, tuple[int, int, int]]
    """What for (train, inference, ...) -> size of the segments, voxels."""
    class_names: tuple[str, ...]
    """The background included."""
    channel_names: tuple[str, ...]
    memory: Table | None = None
    """What a segment of each size needs."""


@dataclass(frozen=True)
class Picture:
    """A PNG file that is put into the page."""

    path: Path
    shows: str
    """In words, for readers who cannot see it."""


@dataclass(frozen=True)
class NamedTable:
    """A table with what it shows."""

    title: str
    table: Table
    note: str = ""
    folded: bool = False
    """Shown when its title is clicked."""


@dataclass(frozen=True)
class Findings:
    """What an analysis or a cross-validation found; a section of the page of its own."""

    anchor: str
    """By which the section is known on the page: letters, digits and hyphens."""
    title: str
    headline: Mapping[str, str] = field(default_factory=dict)
    """The answer, in a few words and numbers."""
    sentences: tuple[str, ...] = ()
    """Reasons, and what should be known of the answer."""
    tables: tuple[NamedTable, ...] = ()
    pictures: tuple[Picture, ...] = ()
    charts: tuple[Chart, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was run."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """What was written, by name; the page links to those that are there."""


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page of one session."""

    session: str
    kind: Literal["training", "inference", "analysis", "cross-validation"]
    findings: tuple[Findings, ...] = ()
    """Of analyses under the session's name."""
    facts: tuple[Facts, ...] = ()
    warnings: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    summary: Table | None = None
    """Metrics over all cases."""
    metrics: Table | None = None
    """Metrics per case and class."""
    cases: tuple[CaseImages, ...] = ()
    """Worst first."""
    model: Model | None = None
    transfer: Table | None = None
    transfer_note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    headline: Mapping[str, str] = field(default_factory=dict)
    """A few numbers for the top of the page."""
    notes: tuple[str, ...] = ()
    """What the report could not find."""
    origin: Path | None = None
    """The output folder of the session."""
