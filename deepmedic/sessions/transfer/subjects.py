"""The subjects whose cases an analysis learns from and tests on."""

from __future__ import annotations

from collections.abc import Sequence

from deepmedic.data.cases import Case
from deepmedic.data.splits import subject_of
from deepmedic.errors import DataError


def count_subjects(cases: Sequence[Case]) -> int:
    """How many subjects the cases are of."""
    return len({subject_of(case) for case in cases})


def refuse_single_subject(cases: Sequence[Case], role: str, analysis: str) -> None:
    """Refuse cases of which none is left to test on.

    Args:
        cases: those that are listed.
        role: what they are for, for the message.
        analysis: what is made of them, likewise.

    Raises:
        DataError: they are of fewer than two subjects.
    """
    if count_subjects(cases) < 2:
        raise DataError(
            f"{role}: {len(cases)} labelled cases of one subject are listed; {analysis} needs at least 2 subjects, for "
            "what is learnt from some is tested on others. List more cases."
        )
