"""Scoring in the background: cases are finished in their order, and no error is lost."""

from __future__ import annotations

import threading
import time

import pytest

from deepmedic.errors import DataError
from deepmedic.inference.finishing import Finishing
from deepmedic.inference.flow import Flow

FLOW = Flow(scorers=2, memory=1000)


def test_cases_are_finished_in_their_order_whichever_is_scored_first() -> None:
    other_is_scored = threading.Event()
    finished: list[list[int]] = []

    def first() -> int:
        assert other_is_scored.wait(10)
        time.sleep(0.05)  # in which the other could be finished
        return 1

    def second() -> int:
        other_is_scored.set()
        return 2

    with Finishing[int](FLOW) as finishing:
        finishing.begin([first], lambda scores: finished.append(list(scores)), size=1)
        finishing.begin([second, lambda: 3], lambda scores: finished.append(list(scores)), size=1)
        finishing.wait()
    assert finished == [[1], [2, 3]]


def test_an_error_is_raised_by_waiting_and_nothing_later_is_finished() -> None:
    finished: list[list[int]] = []
    both_are_begun = threading.Event()

    def fail() -> int:
        assert both_are_begun.wait(10)
        raise DataError("scan a has no labels")

    def score_two() -> None:
        with Finishing[int](FLOW) as finishing:
            finishing.begin([fail], lambda scores: finished.append(list(scores)), size=1)
            finishing.begin([lambda: 2], lambda scores: finished.append(list(scores)), size=1)
            both_are_begun.set()
            finishing.wait()

    with pytest.raises(DataError, match="scan a has no labels"):
        score_two()
    assert finished == []


def test_errors_of_earlier_cases_are_told_when_something_else_ends_the_work(caplog) -> None:
    """The error elsewhere is the one that is raised; what failed before it would be lost without a word."""
    ended_elsewhere = threading.Event()

    def fail_late() -> int:
        assert ended_elsewhere.wait(10)
        raise DataError("scan a has no labels")

    def predict_two() -> None:
        with Finishing[int](FLOW) as finishing:
            finishing.begin([fail_late], lambda scores: None, size=1)
            ended_elsewhere.set()
            raise RuntimeError("scan b cannot be predicted")

    with pytest.raises(RuntimeError, match="scan b cannot be predicted"):
        predict_two()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("ERROR", "scan a has no labels")]


def test_nothing_is_told_where_nothing_failed(caplog) -> None:
    finished: list[int] = []

    def predict_two() -> None:
        with Finishing[int](FLOW) as finishing:
            finishing.begin([lambda: 1], finished.extend, size=1)
            raise RuntimeError("scan b cannot be predicted")

    with pytest.raises(RuntimeError, match="scan b cannot be predicted"):
        predict_two()
    assert finished == [1]  # what was begun is done
    assert not caplog.records
