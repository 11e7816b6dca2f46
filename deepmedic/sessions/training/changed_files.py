"""Files of cases that were changed in place between two runs of a session: told, since they mix two data sets in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from deepmedic.data.dataset import DataSet
from deepmedic.data.file_marks import changed_since, marks_of
from deepmedic.sessions.training.resume import Beginning, repeat_subepoch

log = logging.getLogger(__name__)

_MOST_SHOWN = 20


def note_files(beginning: Beginning, data: Sequence[DataSet]) -> None:
    """Find the files that changed since the checkpoint, and let the session record them as they are now.

    Only what the checkpoint recorded is compared: new cases show in the listing files, and older versions recorded
    nothing. An interrupted subepoch whose batches would be others now is repeated from its first one.

    Args:
        beginning: of the session; gets `changed_files`.
        data: the cases of the session, one data set per role.
    """
    state = beginning.state
    changed = {one.role: changed_since(state.files.get(one.role, {}), one.checked_cases()) for one in data}
    beginning.changed_files = [
        f"{role} case {file.case}, {file.title}: {file.path} ({file.difference})"
        for role, files in changed.items()
        for file in files
    ]
    if state.position.batch and changed.get("training"):
        repeat_subepoch(state, beginning.extra)
    state.files |= {one.role: marks_of(one.checked_cases()) for one in data}


def log_changed_files(beginning: Beginning) -> None:
    """Say which files changed and what that means for the session, which goes on or is finished."""
    lines = beginning.changed_files
    for line in in_short(lines):
        log.warning("Changed in place since the checkpoint: %s", line)
    if lines:
        log.warning(
            "What this session learnt, and scored, until the checkpoint is of the files as they were then. To train "
            "anew on the files as they are now, add -overwrite or choose another sessionName."
        )


def in_short(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - _MOST_SHOWN
    return [*lines[:_MOST_SHOWN], f"and {more} more files"] if more > 0 else list(lines)
