"""A signal is remembered until the session can leave; outside the block signals do what they did before."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from deepmedic.training.interruption import Interrupted, Interruption


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_signal_is_remembered(number, code, caplog):
    interruption = Interruption()
    before = signal.getsignal(number)
    with interruption.listening():
        interruption.raise_if_requested()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as raised:
            interruption.raise_if_requested()
    assert (raised.value.exit_code, str(raised.value)) == (code, signal.Signals(number).name)
    assert f"{signal.Signals(number).name} received: the session ends as soon as its state can be saved" in caplog.text
    assert signal.getsignal(number) == before


def test_first_signal_counts():
    interruption = Interruption()
    with interruption.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.requested == signal.SIGUSR1


def test_other_threads_catch_nothing():
    interruption, before, inside = Interruption(), signal.getsignal(signal.SIGTERM), []

    def listen():
        with interruption.listening():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert inside == [before]
