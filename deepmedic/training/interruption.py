"""Signals that ask a session to save its state and leave."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(Exception):
    """A signal asked the session to leave."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class Interruption:
    """Remembers a signal until the session reaches a point where it can leave."""

    def __init__(self) -> None:
        self.requested: int | None = None

    def raise_if_requested(self) -> None:
        """Raise `Interrupted` when a signal came."""
        if self.requested is not None:
            raise Interrupted(self.requested)

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Catch SIGTERM, SIGINT and SIGUSR1 inside the block; outside the main thread nothing is caught."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.requested is None:
            self.requested = number
            log.warning("%s received: the session ends as soon as its state can be saved.", signal.Signals(number).name)
