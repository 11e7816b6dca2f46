"""What is wrong with the data that a refused config lists, so that one run shows all there is to mend."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deepmedic.config.listed import listed_data
from deepmedic.data.case_headers import check_without_model
from deepmedic.errors import ProblemList


def check_listed_data(path: Path, kind: Literal["train", "test"], problems: ProblemList, *, is_split: bool) -> None:
    """Add what is wrong with listing files, files and headers of a session; without torch. Arguments as `listed_data`.

    What depends on the model, such as the number of its channels, is told when it can be read.
    """
    for one in listed_data(path, kind, is_split=is_split):
        check_without_model(one.data, one.role, one.preprocessing, problems, needs_labels=one.needs_labels)
