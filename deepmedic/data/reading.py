"""Reading cases ahead: the next ones are read and prepared in threads while the present ones are used.

Threads rather than processes: unpacking, checking and normalising happen in zlib and numpy, which let other threads
run meanwhile; volumes need no copying from one process to another, nothing is forked beside a CUDA context, and a
session that is killed leaves no process behind.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import torch

Read = TypeVar("Read")
"""What reading a case gives, commonly a `PreparedCase`."""

_MOST_BY_DEFAULT = 4


@dataclass(frozen=True)
class Reading:
    """How cases are read."""

    workers: int
    """Threads that read ahead; 0: each case is read when it is needed, by the thread that needs it."""
    in_hand: int
    """Most cases that are being read or wait to be taken."""


def workers_of(sampling_processes: int | None) -> int:
    """Number of threads that `num_processes_sampling` asks for; None: one per processor core, at most four."""
    if sampling_processes is None:
        return min(_MOST_BY_DEFAULT, os.cpu_count() or 1)
    return {-1: 0, 0: 1}.get(sampling_processes, sampling_processes)


class CaseReader(Generic[Read]):
    """Reads the cases that are wanted next; for use by one thread.

    What went wrong with a case is raised when that case is taken, not before: whether and when a case is read ahead
    makes no difference to what its user sees.
    """

    def __init__(self, load: Callable[[int], Read], reading: Reading, threads_each: int | None = None) -> None:
        """Create a reader; no thread is started before a case is wanted.

        Args:
            load: reads and prepares a case, given its number; called from several threads.
            reading: how many cases at once.
            threads_each: of torch, for the computations of each thread that reads; None: as torch has it.
        """
        self._load = load
        self._settings = reading
        self._threads_each = threads_each
        self._executor: ThreadPoolExecutor | None = None
        self._wanted: deque[int] = deque()
        self._in_hand: dict[int, Future[Read]] = {}
        self._dropped: list[Future[Read]] = []

    @property
    def in_hand(self) -> int:
        """Cases that are being read or wait to be taken."""
        return len(self._in_hand) + sum(not future.done() for future in self._dropped)

    def want(self, cases: Iterable[int]) -> None:
        """Read these cases next, in this order, and no others."""
        wanted = list(cases)
        for case in self._in_hand.keys() - set(wanted):
            future = self._in_hand.pop(case)
            if not future.cancel():
                self._dropped.append(future)
        self._wanted = deque(case for case in wanted if case not in self._in_hand)
        self._go_on()

    def allow(self, in_hand: int) -> None:
        """Have at most so many cases in hand from now on; none of those that are is dropped."""
        self._settings = replace(self._settings, in_hand=in_hand)
        self._go_on()

    def ready(self) -> list[tuple[int, Read]]:
        """Cases that were read without error and wait to be taken, with their numbers."""
        done = [(case, future) for case, future in self._in_hand.items() if future.done()]
        return [(case, future.result()) for case, future in done if future.exception() is None]

    def take(self, case: int) -> Read:
        """Return a case as soon as it is read; one that was not wanted is read now.

        Raises:
            Exception: what reading it raised.
        """
        future = self._in_hand.pop(case, None)
        if future is None:
            if case in self._wanted:
                self._wanted.remove(case)
            return self._load(case)
        try:
            return future.result()
        except MemoryError:
            wait([*self._in_hand.values(), *self._dropped])
            return self._load(case)  # while no other one is read it may fit
        finally:
            self._go_on()

    def close(self) -> None:
        """Drop what is in hand and end the threads."""
        self.want(())
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _go_on(self) -> None:
        """Let further cases be read, as long as there are not too many in hand."""
        if self._settings.workers == 0 or not self._wanted:
            return
        if self._executor is None:
            begin = None if self._threads_each is None else partial(torch.set_num_threads, self._threads_each)
            self._executor = ThreadPoolExecutor(self._settings.workers, "reader", begin)
        self._dropped = [future for future in self._dropped if not future.done()]
        while self._wanted and self.in_hand < self._settings.in_hand:
            case = self._wanted.popleft()
            self._in_hand[case] = self._executor.submit(self._load, case)


def read_ahead(
    load: Callable[[int], Read], count: int, reading: Reading | None = None
) -> Iterator[tuple[int, Callable[[], Read]]]:
    """Give the number of each of `count` cases and a call that returns the case or raises; the next ones are read."""
    workers = workers_of(None)
    reader = CaseReader(load, reading or Reading(workers, workers + 1))
    reader.want(range(count))
    try:
        for case in range(count):
            yield case, partial(reader.take, case)
    finally:
        reader.close()
