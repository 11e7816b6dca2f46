"""`-split` and the folds of `-crossValidate`: which of the listed training cases a session trains and validates on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepmedic.arguments import Arguments
from deepmedic.config.training import TrainConfig
from deepmedic.data.cases import Case, duplicates_between, list_cases, read_cases
from deepmedic.data.dataset import CaseNeeds
from deepmedic.data.splits import PARTS, TEST, TRAINING, VALIDATION, Split, fold_shares, read_split, split_cases
from deepmedic.errors import ModelError, ProblemList
from deepmedic.files import remove_stale_temporaries
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.training.split_files import PartListing, test_config_text, with_result_names, write_if_changed
from deepmedic.words import counted


@dataclass(frozen=True)
class SessionSplit:
    """The parts of a session's training cases."""

    split: Split
    """With a training part, a validation part, and maybe a test part."""
    stored: Split
    """What is stored: the same, or all folds of a cross-validation."""
    path: Path
    """Where it is stored."""
    folder: Path
    """Where the listing files of the parts lie, each part in a folder of its own."""
    cases: tuple[Case, ...]
    """All listed cases, each with a name for its results."""
    asked: str
    """For messages: "-split 0.8 0.1 0.1"."""

    @property
    def origin(self) -> dict[str, Any]:
        """What a session records of it, to notice another one."""
        shares = list(self.split.shares.values())
        return {"asked": self.asked, "seed": self.split.seed, "proportions": shares, "sha256": self.split.digest}

    def part(self, name: str) -> PartListing:
        """The listing files of a part."""
        chosen = self.split.cases_of(name)
        return PartListing(self.folder / name, [case for case in self.cases if case.name in chosen])

    def read(
        self, part: str, config: TrainConfig, needs: CaseNeeds, problems: ProblemList
    ) -> tuple[list[Case], list[str]]:
        """The cases of a part with the names that their results get, and what the user should know of them.

        Args:
            part: training or validation.
            config: of the session.
            needs: of the network.
            problems: get what is wrong with the files of these cases.
        """
        training, notes = part == TRAINING, list[str]()
        # The weight maps are one per category of the training's sampling; that of validation may have others.
        listed = config.data if training else replace(config.data, weight_maps=None)
        cases = read_cases(
            listed,
            part,
            problems,
            notes,
            needs_labels=True,
            categories=config.sampling.categories(needs.classes) if training else None,
            channels=None if config.data.table is None else needs.channels,
            channel_names=needs.channel_names,
            keep=self.split.cases_of(part),
        )
        if not training:
            cases = [replace(case, weight_maps=()) for case in cases]
        names = {case.name: case.output_name for case in self.cases}
        return [replace(case, output_name=names[case.name]) for case in cases], notes

    def shared_images(self) -> list[str]:
        """Say which images the test part has in common with the other parts."""
        test = self.split.cases_of(TEST)
        others = [case for case in self.cases if case.name not in test]
        return duplicates_between(others, self.part(TEST).cases, TEST)

    def write(self, config: TrainConfig) -> None:
        """Store the split, listing files of its parts, and a test config for the part that is held out.

        Raises:
            ResourceError: a file cannot be written.
        """
        for folder in (self.path.parent, self.folder, *(self.folder / name for name in self.split.parts)):
            remove_stale_temporaries(folder)
        self.stored.write(self.path)
        for name in self.split.parts:
            self.part(name).write()
        if self.has_test:
            text = test_config_text(config, f"{config.session_name}_test", self.part(TEST))
            write_if_changed(self.test_config, text)

    @property
    def has_test(self) -> bool:
        """Whether cases are held out of training and validation."""
        return TEST in self.split.parts

    @property
    def test_config(self) -> Path:
        """The test config for the part that is held out."""
        return self.folder / "test.cfg"

    def counted(self) -> str:
        """How many subjects each part has, and cases where these are more; for messages."""
        shown = []
        for name, subjects in self.split.parts.items():
            cases = len(self.split.cases_of(name))
            more = f" ({counted(cases, 'case')})" if cases != len(subjects) else ""
            shown.append(f"{name} {len(subjects)}{more}")
        return f"subjects: {', '.join(shown)}"


def split_of_command(arguments: Arguments, config: TrainConfig, problems: ProblemList) -> SessionSplit | None:
    """The split that `-split` asks for; None where it is not given, or not possible.

    A split that the session stored before is used again, if it is the one that is asked for.

    Args:
        arguments: the command line.
        config: of the session.
        problems: gets what is wrong with the split; what is wrong with listing files is told when they are read.
    """
    if arguments.split is None:
        return None
    cases = list_cases(config.data, "training", ProblemList())
    if not cases:
        return None
    folder = SessionPaths(config.folder_for_output, config.session_name).splits
    path = folder / "split.json"
    with problems.gather():
        if isinstance(arguments.split, Path):
            split, asked = read_split(arguments.split), f"-split {arguments.split}"
            split.check(cases, arguments.split)
            _refuse_other_parts(split, arguments.split)
        else:
            shares = dict(zip(PARTS, arguments.split, strict=False))
            split = _stored_or_drawn(path, cases, shares, arguments)
            asked = f"-split {' '.join(f'{share:g}' for share in arguments.split)}"
        return SessionSplit(split, split, path, folder, tuple(with_result_names(cases)), asked)
    return None


def folds_of_command(arguments: Arguments, config: TrainConfig, problems: ProblemList) -> list[SessionSplit]:
    """The split of each fold of `-crossValidate`; none where it is not possible. Arguments as `split_of_command`."""
    assert arguments.cross_validate is not None
    cases = list_cases(config.data, "training", ProblemList())
    if not cases:
        return []
    folder = SessionPaths(config.folder_for_output, config.session_name).splits
    path, count = folder / "folds.json", arguments.cross_validate
    with problems.gather():
        folds = _stored_or_drawn(path, cases, fold_shares(count), arguments)
        named = tuple(with_result_names(cases))
        return [
            SessionSplit(
                folds.fold(part), folds, path, folder / part, named, f"fold {number} of -crossValidate {count}"
            )
            for number, part in enumerate(folds.parts, 1)
        ]
    return []


def refuse_other_split(session: Path, recorded: dict[str, Any] | None, asked: dict[str, Any] | None) -> None:
    """Refuse to go on with a session whose cases were split in another way, which would train on validation cases.

    Args:
        session: folder of the session's models.
        recorded: what the session recorded of its split; None: it was not split.
        asked: the same of the command.

    Raises:
        ModelError: they differ.
    """
    deciding = ("seed", "proportions", "sha256")
    if [(recorded or {}).get(key) for key in deciding] != [(asked or {}).get(key) for key in deciding]:
        raise ModelError(
            f"{session}: this session was started with {_described(recorded)}, but the command has "
            f"{_described(asked)}. Repeat the first command to go on, choose another sessionName, or add -overwrite to "
            "start anew."
        )


def _described(origin: dict[str, Any] | None) -> str:
    if origin is None:
        return "no split"
    return f"the split of {origin['asked']}, seed {origin['seed']} (SHA-256 {origin['sha256'][:12]})"


def _stored_or_drawn(path: Path, cases: Sequence[Case], shares: dict[str, float], arguments: Arguments) -> Split:
    """The session's stored split if it was drawn as the command asks, else one that is drawn now."""
    if path.is_file() and not arguments.overwrite:
        stored = read_split(path)
        if stored.seed == arguments.seed and stored.shares == shares:
            stored.check(cases, path)
            return stored
    return split_cases(cases, shares, arguments.seed)


def _refuse_other_parts(split: Split, path: Path) -> None:
    if not {TRAINING, VALIDATION} <= set(split.parts) <= set(PARTS):
        raise ModelError(
            f"{path}: this split has the parts {', '.join(split.parts)}; a session needs {TRAINING}, {VALIDATION} and "
            f"maybe {TEST}."
        )
