"""Whether images that are to be segmented were trained on, as far as the model's checkpoint and the files tell."""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepmedic.config.sections import DataConfig
from deepmedic.data.cases import Case, ImageRef, list_cases
from deepmedic.data.splits import TRAINING, read_split
from deepmedic.errors import DeepMedicError, ProblemList
from deepmedic.files import sha256_of
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.words import counted

_MOST_NAMED = 20
_PROBED = 4096
"""Bytes of a file that are compared before all of it is read."""
_FOLD = re.compile(r"fold (?P<number>\d+) of -crossValidate \d+")


def shared_with_training(model: SavedModel, cases: Sequence[Case], name: str = "the model") -> list[str]:
    """Say which cases a model was trained on: by the same files, or by copies of their images under other names.

    The checkpoint knows the listing files of its training, and where a split or a fold chose among their cases, which
    one. Where these files are gone or hold something else by now, nothing is said. Of two files of equal size a few
    bytes are compared; only if these agree are both read.

    Args:
        model: the model that will segment.
        cases: what it will segment.
        name: what the message calls the model.

    Returns:
        One line, or none.
    """
    trained = _training_cases(model)
    used = {_identity(ref) for case in trained for ref in (*case.channels, case.labels) if ref}
    copies = _Copies([ref for case in trained for ref in case.channels if ref])
    found = []
    for case in cases:
        if any(_identity(ref) in used for ref in (*case.channels, case.labels) if ref):
            found.append(case.name)
        elif copied := copies.original(case):
            found.append(f"{case.name} (copied from {copied})")
    if not found:
        return []
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return [
        f"{name} was trained on {len(found)} of {counted(len(cases), 'case')} to segment: "
        f"{', '.join(found[:_MOST_NAMED])}{more}; scores on them say nothing about new cases"
    ]


def _training_cases(model: SavedModel) -> list[Case]:
    training = model.training or {}
    settings, origin = training.get("settings") or {}, training.get("origin") or {}
    listed = DataConfig(
        table=_path(settings.get("dataframe_train")),
        channels=tuple(Path(path) for path in settings.get("channelsTraining") or ()) or None,
        labels=_path(settings.get("gtLabelsTraining")),
    )
    if listed.table is None and listed.channels is None:
        return []
    cases, split = list_cases(listed, "training", ProblemList()), origin.get("split")
    if not split:
        return cases
    chosen = _chosen_by(split, SessionPaths(Path(settings.get("folderForOutput", "")), training.get("session", "")))
    return [case for case in cases if case.name in chosen]


def _chosen_by(recorded: dict[str, Any], session: SessionPaths) -> frozenset[str]:
    """Names of the training cases of a split, from the file it is stored in; none if that has another one by now.

    Args:
        recorded: what the session recorded of it, see `SessionSplit.origin`.
        session: the session, which is called <session>_fold<n> for a fold.
    """
    fold = _FOLD.fullmatch(str(recorded.get("asked")))
    try:
        if fold is None:
            split = read_split(session.splits / "split.json")
        else:
            whole = SessionPaths(session.folder, session.session.removesuffix(f"_fold{fold['number']}"))
            split = read_split(whole.splits / "folds.json").fold(f"fold{fold['number']}")
    except (DeepMedicError, KeyError):
        return frozenset()
    return split.cases_of(TRAINING) if split.digest == recorded.get("sha256") else frozenset()


class _Copies:
    """Finds files with the same bytes as known ones, reading as little as possible."""

    def __init__(self, known: Sequence[ImageRef]) -> None:
        self._by_size: dict[int, list[ImageRef]] = defaultdict(list)
        for ref in known:
            size = _size_of(ref.path)
            if size is not None:
                self._by_size[size].append(ref)
        self._probes: dict[Path, bytes] = {}
        self._digests: dict[Path, str] = {}

    def original(self, case: Case) -> ImageRef | None:
        """The known image that the first copied channel of a case is a copy of."""
        for ref in case.channels:
            size = _size_of(ref.path) if ref is not None else None
            if ref is None or size is None:
                continue
            for known in self._by_size.get(size, ()):
                if known.volume == ref.volume and self._equal(known.path, ref.path):
                    return known
        return None

    def _equal(self, one: Path, other: Path) -> bool:
        try:
            return self._probe(one) == self._probe(other) and self._digest(one) == self._digest(other)
        except (OSError, DeepMedicError):
            return False  # a file that cannot be read is refused where it is needed

    def _probe(self, path: Path) -> bytes:
        """Bytes from the middle and the end: the end of a compressed file has a checksum of its content."""
        if path not in self._probes:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(size // 2)
                middle = file.read(_PROBED)
                file.seek(max(size - _PROBED, 0))
                self._probes[path] = middle + file.read(_PROBED)
        return self._probes[path]

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = sha256_of(path)
        return self._digests[path]


def _size_of(path: Path) -> int | None:
    """Bytes of a regular file; None where there is none to be seen, which is no matter of a search for copies."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # gone, of a server that does not answer, in a closed folder, of an impossible name
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _identity(ref: ImageRef) -> tuple[str, int]:
    """One image, also where links rename it."""
    return os.path.realpath(ref.path), ref.volume or 0


def _path(text: Any) -> Path | None:
    return Path(text) if text else None
