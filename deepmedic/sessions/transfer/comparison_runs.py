"""The runs of a comparison: which there are, on which cases, and how each is known again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepmedic.arguments import Arguments
from deepmedic.config.comparison import ComparisonConfig
from deepmedic.config.initialisation import Initialisation
from deepmedic.config.plain import digest_of_plain, to_plain
from deepmedic.config.sections import DataConfig
from deepmedic.config.training import TrainConfig
from deepmedic.data.cases import Case
from deepmedic.data.splits import subject_of
from deepmedic.errors import DataError
from deepmedic.sessions.training.split_files import PartListing
from deepmedic.sessions.transfer.comparison_configs import Compared

_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Source:
    """A model that is transferred from."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """Short, and another one for other weights."""
        return f"{_UNSAFE.sub('_', self.path.stem)}-{self.sha256[:8]}"


@dataclass(frozen=True)
class Cases:
    """Cases to train on."""

    subjects: int
    cases: tuple[Case, ...]
    listing: PartListing | None
    """Listing files of a part of the listed cases; None: all of them, as they are listed."""

    def data(self, whole: DataConfig) -> DataConfig:
        """Where they are listed."""
        part = self.listing
        if part is None:
            return whole
        channels = tuple(part.folder / f"channel_{number}.cfg" for number in _numbers(self.cases[0].channels))
        maps = tuple(part.folder / f"weight_map_{number}.cfg" for number in _numbers(self.cases[0].weight_maps))
        return DataConfig(
            channels=channels,
            labels=part.path("labels"),
            roi_masks=part.path("roi"),
            weight_maps=maps or None,
            subjects=part.path("subjects"),
        )


@dataclass(frozen=True)
class Run:
    """One training of a comparison."""

    comparison: str
    compared: Compared
    source: Source | None
    """None: nothing is transferred."""
    initialisation: Initialisation
    cases: Cases
    seed: int
    scored: str
    """Digest of the cases that it is scored on, and by which of its models."""

    @property
    def name(self) -> str:
        """The name of its session."""
        start = self.initialisation.name if self.source is None else f"{self.initialisation.name}_{self.source.name}"
        return f"{self.comparison}_{self.compared.model.name}_{start}_n{self.cases.subjects}_seed{self.seed}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what its result depends on; where files lie does not count."""
        compared, nowhere = self.compared, DataConfig()
        training = replace(
            compared.training,
            session_name="",
            folder_for_output=Path(),
            data=nowhere,
            validation_data=nowhere,
        )
        plain = {
            "model": compared.model.to_dict() | {"folderForOutput": None, "folder_for_output": None},
            "training": to_plain(training),
            "source": None if self.source is None else self.source.sha256,
            "initialisation": self.initialisation.name,
            "cases": identity(self.cases.cases),
            "scored": self.scored,
            "seed": self.seed,
        }
        return digest_of_plain(plain)

    @property
    def training(self) -> TrainConfig:
        """The config of its session."""
        config = self.compared.training
        return replace(config, session_name=self.name, data=self.cases.data(config.data))

    def arguments(self, given: Arguments) -> Arguments:
        """The command line of its session, as a user would give it."""
        return Arguments(
            new_model=self.compared.path,
            train=self.compared.training.source.path,
            pretrained=None if self.source is None else self.source.path,
            initialisation=None if self.source is None else self.initialisation.name,
            device=given.device,
            overwrite=given.overwrite,
            seed=self.seed,
        )


def runs_of(
    config: ComparisonConfig,
    compared: Sequence[Compared],
    sources: Sequence[Source],
    cases: Sequence[Sequence[Case]],
    scored: Sequence[str],
    folder: Path,
) -> list[Run]:
    """All runs, those of one seed after those of another, so that early results can be compared already.

    Args:
        config: of the comparison.
        compared: its architectures.
        sources: its source models.
        cases: the listed training cases of each architecture.
        scored: digest of the scored cases of each architecture.
        folder: where the listing files of parts of the cases are written.

    Raises:
        DataError: more training subjects are asked for than are listed.
    """
    return [
        Run(config.session_name, one, source, initialisation, chosen, seed, digest_of_scored)
        for seed in config.seeds
        for one, listed, digest_of_scored in zip(compared, cases, scored, strict=True)
        for chosen in _sizes(config, listed, seed, folder)
        for source, initialisation in _starts(config, sources)
    ]


def nested_subjects(subjects: Sequence[str], count: int, seed: int) -> frozenset[str]:
    """Draw subjects without replacement; with the same seed fewer are always among the more.

    Args:
        subjects: names of all.
        count: how many.
        seed: another one draws others.
    """
    ordered = sorted(set(subjects), key=lambda name: digest_of_plain([seed, "comparison", name]))
    return frozenset(ordered[:count])


def identity(cases: Sequence[Case]) -> list[list[Any]]:
    """Name of every case and size of its files, by which other cases are noticed wherever they lie."""
    return [
        [case.name, *(None if ref is None else _size(ref.path) for ref in (*case.channels, case.labels, case.roi))]
        for case in cases
    ]


def _starts(config: ComparisonConfig, sources: Sequence[Source]) -> Iterator[tuple[Source | None, Initialisation]]:
    for initialisation in config.arms:
        if initialisation.rest == "nothing":
            yield None, initialisation
        else:
            yield from ((source, initialisation) for source in sources)


def _sizes(config: ComparisonConfig, cases: Sequence[Case], seed: int, folder: Path) -> Iterator[Cases]:
    subjects = sorted({subject_of(case) for case in cases})
    for count in config.case_counts or (len(subjects),):
        if count > len(subjects):
            raise DataError(
                f"{config.source.path}: numbersOfTrainingCases: {count} subjects are asked for and {len(subjects)} are "
                f"listed in {config.training}; allowed are 1 to {len(subjects)}."
            )
        if count == len(subjects):
            yield Cases(count, tuple(cases), None)
            continue
        kept = nested_subjects(subjects, count, seed)
        part = tuple(case for case in cases if subject_of(case) in kept)
        yield Cases(count, part, PartListing(folder / f"n{count}_seed{seed}", part))


def _numbers(columns: Sequence[Any]) -> range:
    return range(1, len(columns) + 1)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # told when the image is read
