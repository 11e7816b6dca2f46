"""Whether images that are to be segmented were trained on, as far as the model's checkpoint and the files tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deepmedic.config.sections import DataConfig
from deepmedic.data.cases import Case, ImageRef, duplicates_between, list_cases
from deepmedic.errors import ProblemList
from deepmedic.files import sha256_of
from deepmedic.model.saved import SavedModel

_MOST_SHOWN = 20


def shared_with_training(model: SavedModel, cases: Sequence[Case]) -> list[str]:
    """Say which images the model was trained on: the same file, or a copy of it under another name.

    The checkpoint knows the listing files of its training; where they are gone, or a split chose among their cases,
    nothing is said. Only files of equal size are read, to compare their checksums.

    Args:
        model: the model that will segment.
        cases: what it will segment.
    """
    trained = _training_cases(model)
    same = duplicates_between(trained, cases, "this session")
    copies = list(_copies(trained, cases))
    more = len(copies) - _MOST_SHOWN
    return [*same, *copies[:_MOST_SHOWN], *([f"... and {more} more copies of training images"] if more > 0 else [])]


def _training_cases(model: SavedModel) -> list[Case]:
    training = model.training or {}
    settings, origin = training.get("settings") or {}, training.get("origin") or {}
    if origin.get("split"):
        return []
    listed = DataConfig(
        table=_path(settings.get("dataframe_train")),
        channels=tuple(Path(path) for path in settings.get("channelsTraining") or ()) or None,
        labels=_path(settings.get("gtLabelsTraining")),
    )
    if listed.table is None and listed.channels is None:
        return []
    return list_cases(listed, "training", ProblemList())


def _copies(trained: Sequence[Case], cases: Sequence[Case]) -> Iterator[str]:
    """Images whose files have the same bytes as one of training, and another path."""
    by_size: dict[int, list[tuple[Case, ImageRef]]] = defaultdict(list)
    for case, ref, size in _files(trained):
        by_size[size].append((case, ref))
    digests: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in digests:
            digests[path] = sha256_of(path)
        return digests[path]

    for case, ref, size in _files(cases):
        for other, known in by_size.get(size, ()):
            apart = known.path.resolve() != ref.path.resolve() and known.volume == ref.volume
            if apart and digest(known.path) == digest(ref.path):
                yield (
                    f"{ref} (case {case.name}) is a copy of {known}, which the model was trained on (case "
                    f"{other.name}); scores on it say nothing about new cases"
                )
                break


def _files(cases: Sequence[Case]) -> Iterator[tuple[Case, ImageRef, int]]:
    """The images of the channels that can be read, with their size in bytes."""
    for case in cases:
        for ref in case.channels:
            if ref is not None and ref.path.is_file():
                yield case, ref, ref.path.stat().st_size


def _path(text: Any) -> Path | None:
    return Path(text) if text else None
