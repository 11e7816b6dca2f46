"""Parts of an inference session for array jobs: `-part i/n` segments every n-th case from the i-th on.

Parts run at the same time, each under a lock of its own, and write into one folder. Each leaves its scores in a file;
whichever finds the files of all parts writes the tables of the whole session.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic.files import write_json_atomically
from deepmedic.inference.evaluation import CaseEvaluation
from deepmedic.inference.survey import Saving
from deepmedic.inference.tables import remove_tables, write_tables
from deepmedic.locks import refuse_if_held, session_lock

log = logging.getLogger(__name__)

_FORMAT = 1
_LOCK = re.compile(r"part(\d+)of(\d+)")


@dataclass(frozen=True)
class Part:
    """One part of a session."""

    number: int
    """From 1."""
    of: int

    def __str__(self) -> str:
        return f"part{self.number}of{self.of}"

    def indices(self, cases: int) -> list[int]:
        """The cases of this part, so that cases of one site or size, listed in a row, are spread over the parts."""
        return list(range(self.number - 1, cases, self.of))


def session_name(session: str, part: Part | None) -> str:
    """What locks and logs of a session or of one of its parts are called."""
    return session if part is None else f"{session}.{part}"


@contextmanager
def part_lock(folder: Path, session: str, part: Part | None) -> Iterator[None]:
    """Hold a session, or one of its parts, inside the block.

    Raises:
        OutputHeldError: another process holds the same; or the whole session while this is a part of it, or the other
            way round; or a part of another division.
        ResourceError: the lock file cannot be made.
    """
    with session_lock(folder, session_name(session, part)):
        refuse_if_overlapping(folder, session, part)
        yield


def refuse_if_overlapping(folder: Path, session: str, part: Part | None) -> None:
    """Raise OutputHeldError if another process holds cases of this session that may be those of this part."""
    if part is not None:
        refuse_if_held(folder, session)
    pattern = f".{glob.escape(session)}.part*of*"
    for path in sorted((folder / "logs").glob(pattern)):
        found = _LOCK.fullmatch(path.name.removeprefix(f".{session}.").rpartition(".")[0])
        if found is None:
            continue
        other = Part(int(found[1]), int(found[2]))
        if part is None or other.of != part.of:
            refuse_if_held(folder, session_name(session, other))


def run_digest(saving: Saving, names: Sequence[str]) -> str:
    """What all parts of one run have in common: model, settings, scoring and names of the results, condensed."""
    common = [saving.run.model_sha256, dict(saving.run.settings), dict(saving.scoring or {}), list(names)]
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()


def finish_part(
    folder: Path, part: Part, digest: str, evaluations: Mapping[int, CaseEvaluation], skipped: Mapping[str, str]
) -> dict[int, CaseEvaluation] | None:
    """Keep the scores of a finished part; once all parts are there, write the tables of the whole session.

    Args:
        folder: of the session's results.
        part: the part.
        digest: of `run_digest`.
        evaluations: of its cases with labels, by index in the whole list.
        skipped: its cases that were left out, and why.

    Returns:
        The scores of the whole session; None while parts are missing.

    Raises:
        ResourceError: a file cannot be written.
    """
    plain = {str(index): evaluation.to_plain() for index, evaluation in sorted(evaluations.items())}
    content = {"format": _FORMAT, "run": digest, "evaluations": plain, "skipped": dict(skipped)}
    write_json_atomically(part_file(folder, part), content)
    rows = [row for _, evaluation in sorted(evaluations.items()) for row in evaluation.rows]
    write_tables(folder, rows, f"metrics.{part}")
    found = [_read(part_file(folder, Part(number, part.of)), digest) for number in range(1, part.of + 1)]
    missing = [number for number, content in enumerate(found, 1) if content is None]
    if missing:
        waited = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        log.info("Parts that are not finished yet: %s of %d. The last one writes metrics.csv.", waited, part.of)
        return None
    together = {
        int(index): CaseEvaluation.from_plain(evaluation)
        for content in found
        if content is not None
        for index, evaluation in content["evaluations"].items()
    }
    write_tables(folder, [row for _, evaluation in sorted(together.items()) for row in evaluation.rows])
    log.info("All %d parts are finished: the tables of metrics cover all cases.", part.of)
    return together


def begin_anew(folder: Path, part: Part | None) -> None:
    """Remove tables and scores that will not fit the results which are about to be replaced.

    Otherwise those of the earlier run stayed until the last part is finished, beside results of this one.

    Args:
        folder: of the session's results.
        part: whose results are replaced; None: those of the whole session.
    """
    remove_tables(folder)
    if part is not None:
        remove_tables(folder, f"metrics.{part}")
        part_file(folder, part).unlink(missing_ok=True)


def part_file(folder: Path, part: Part) -> Path:
    """Where the scores of a finished part are kept."""
    return folder / f"scores.{part}.json"


def _read(path: Path, digest: str) -> dict[str, Any] | None:
    """What a part kept; None if it is not finished, or is one of another run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(content, dict) and content.get("format") == _FORMAT and content.get("run") == digest
    return content if same else None
