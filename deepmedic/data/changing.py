"""Versions of cases that are computed ahead: rotated and scaled in a thread while the present segments are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from deepmedic.data.preprocessing import PreparedCase
from deepmedic.devices import is_out_of_memory

Change = Callable[[PreparedCase], PreparedCase]

_IN_HAND = 2  # so that only few volumes lie beside the pool


class ChangedCases:
    """Computes the versions of cases that are wanted next; for use by one thread.

    Each is computed from a copy, made when its turn comes: the pool that holds the original may be rearranged
    meanwhile. Whether a version is computed ahead makes no difference to its values.
    """

    def __init__(
        self, original: Callable[[Hashable], PreparedCase | None], change: Callable[[Hashable], Change]
    ) -> None:
        """Create it; no thread is started before a version is wanted.

        Args:
            original: the case that the version of this key is made of, if it is resident; called by the user's thread.
            change: how it is made.
        """
        self._original = original
        self._change = change
        self._executor: ThreadPoolExecutor | None = None
        self._wanted: deque[Hashable] = deque()
        self._in_hand: dict[Hashable, Future[PreparedCase]] = {}

    def want(self, keys: Iterable[Hashable]) -> None:
        """Compute these versions next, in this order, and no others."""
        wanted = list(keys)
        for key in self._in_hand.keys() - set(wanted):
            self._in_hand.pop(key).cancel()
        self._wanted = deque(key for key in wanted if key not in self._in_hand)
        self._go_on()

    def take(self, key: Hashable) -> PreparedCase | None:
        """Return a version as soon as it is computed; None if that was not begun, or memory was not enough for it."""
        future = self._in_hand.pop(key, None)
        if future is None:
            return None
        try:
            return future.result()
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
            return None  # without a copy of the original beside it, it may fit
        finally:
            self._go_on()

    def close(self) -> None:
        """Drop what is in hand and end the thread."""
        self.want(())
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _go_on(self) -> None:
        while self._wanted and len(self._in_hand) < _IN_HAND:
            key = self._wanted.popleft()
            original = self._original(key)
            if original is not None:
                if self._executor is None:
                    # One core: several threads of several cores each would wait for each other most of the time.
                    self._executor = ThreadPoolExecutor(1, "changer", torch.set_num_threads, (1,))
                self._in_hand[key] = self._executor.submit(self._change(key), _copied(original))


def _copied(case: PreparedCase) -> PreparedCase:
    return replace(
        case,
        channels=case.channels.clone(),
        labels=None if case.labels is None else case.labels.clone(),
        roi=None if case.roi is None else case.roi.clone(),
        weight_maps=None if case.weight_maps is None else case.weight_maps.clone(),
        border_values=case.border_values.clone(),
    )
