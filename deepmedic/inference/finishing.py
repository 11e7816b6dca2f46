"""What comes after the prediction of a case: it is scored and handed to the writer while others are computed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from deepmedic.inference.flow import Flow

log = logging.getLogger(__name__)

Scores = TypeVar("Scores")


class Finishing(Generic[Scores]):
    """Scores cases in the background, several at once, and finishes them one after the other in their order.

    Distances take a core of the CPU a second or so, in which a fast GPU would wait. A context manager that ends when
    what was begun is done, also after an error elsewhere. After an error nothing that comes later is finished.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._scoring = ThreadPoolExecutor(flow.scorers, "scores", torch.set_num_threads, (1,))
        self._in_order = ThreadPoolExecutor(1, "finishing", torch.set_num_threads, (1,))
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Finishing[Scores]:
        return self

    def __exit__(self, *_: object) -> None:
        self._in_order.shutdown()
        self._scoring.shutdown()
        for one in self._pending:  # what was begun before an error elsewhere, and failed too
            if error := one.exception():
                log.error("%s", error)

    def begin(
        self, scoring: Sequence[Callable[[], Scores]], finish: Callable[[Sequence[Scores]], None], size: int
    ) -> None:
        """Score in the background, and finish when all before is finished; waits while too much is in hand.

        Args:
            scoring: one call per case; they run in any order.
            finish: given what these returned, in their order.
            size: bytes of memory that the cases hold until they are finished, and that scoring them takes.

        Raises:
            Exception: what was begun before raised it.
        """
        self._wait_until_at_most(self._flow.cases_scored(size) - 1)
        begun = [self._scoring.submit(call) for call in scoring]

        def end() -> None:
            scores = [one.result() for one in begun] if not self._failed else []
            if not self._failed:
                finish(scores)

        self._pending.append(self._in_order.submit(self._noting_failure, end))

    def wait(self) -> None:
        """Wait until everything is done, and raise what it raised."""
        self._wait_until_at_most(0)

    def _wait_until_at_most(self, count: int) -> None:
        while self._pending and (len(self._pending) > count or self._pending[0].done()):
            self._pending.popleft().result()

    def _noting_failure(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            self._failed = True
            raise
