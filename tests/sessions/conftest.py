"""A study in small for every test, and the command line run inside the test's process."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from study_fixtures import (
    all_in_training,
    one_thread,
    pictures,
    run,
    source,
    source_once,
    study,
    without_waiting_for_the_disk,
    written_once,
)

__all__ = [
    "all_in_training",
    "one_thread",
    "pictures",
    "run",
    "source",
    "source_once",
    "study",
    "without_waiting_for_the_disk",
    "written_once",
]
