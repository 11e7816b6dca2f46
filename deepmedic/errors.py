"""Errors that a user can cause or meet, each with the exit code that the command line returns for it.

A message says what was found, where (file and line, or case and channel), what is allowed and what to do.
Several problems of one run are gathered in a `ProblemList` and raised together, so that one run shows them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class DeepMedicError(Exception):
    """A refusal or failure with a message for the user; never shown with a traceback."""

    exit_code = 1


class CommandLineError(DeepMedicError):
    """Options that contradict each other, are unknown or incomplete."""

    exit_code = 2


class ConfigError(DeepMedicError):
    """A configuration file that cannot be used as it stands."""

    exit_code = 3


class DataError(DeepMedicError):
    """Listing files, images, labels or masks that cannot be used as they stand."""

    exit_code = 4


class ModelError(DeepMedicError):
    """A saved model that is damaged, foreign, or does not fit the request or the data."""

    exit_code = 5


class ResourceError(DeepMedicError):
    """Memory, disk, device or an optional package that is not there."""

    exit_code = 6


class DivergedError(DeepMedicError):
    """The training cost became infinite or not a number."""

    exit_code = 7


class OutputHeldError(DeepMedicError):
    """An output folder in use by another session, or holding results of another run."""

    exit_code = 8


FINISHED_WITH_SKIPPED_CASES = 9
"""Exit code of a run that ended well but skipped or failed some cases; all of them are named in its summary."""

# Of several kinds of problem found together, the earliest in this order decides the exit code.
_PRECEDENCE = (2, 3, 5, 4, 6, 8)


class SeveralProblems(DeepMedicError):
    """All problems found before a run, listed together."""

    def __init__(self, problems: list[DeepMedicError]) -> None:
        self.problems = problems
        self.exit_code = min((problem.exit_code for problem in problems), key=_PRECEDENCE.index)
        heading = f"{len(problems)} problems were found; nothing was started:"
        super().__init__(
            "\n".join([heading, *(f"  {number}. {problem}" for number, problem in enumerate(problems, 1))])
        )


class ProblemList:
    """Gathers problems so that all of them are reported in one run."""

    def __init__(self) -> None:
        self.problems: list[DeepMedicError] = []

    def add(self, problem: DeepMedicError) -> None:
        if isinstance(problem, SeveralProblems):
            self.problems.extend(problem.problems)
        else:
            self.problems.append(problem)

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keep an error raised inside the block and go on after it."""
        try:
            yield
        except DeepMedicError as problem:
            self.add(problem)

    def raise_if_any(self) -> None:
        """Raise the single problem as it is, or `SeveralProblems`; do nothing when there are none."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise SeveralProblems(self.problems)
