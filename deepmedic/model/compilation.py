"""Loops over tensors on a CPU that numba compiles, for where this optional package is installed.

Modules of such loops import numba, and so are imported late: after `is_possible` said yes.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_SAFE_TO_SHARE = ("omp", "tbb")
"""Ways of numba to use several cores that several threads of Python may use at the same time."""


@cache
def is_possible() -> bool:
    """Whether numba is installed and has threads to compute with; starts these."""
    try:
        import numba
    except ImportError:
        return False
    settings: Any = numba.config
    if settings.DISABLE_JIT:
        return False
    if settings.THREADING_LAYER == "default":
        settings.THREADING_LAYER = "omp"  # with the threads that torch computes with
    threads = torch.get_num_threads()
    try:
        _use_threads(threads)
    except ValueError as problem:
        log.debug("numba is installed, but has no threads: %s", problem)
        return False
    finally:
        torch.set_num_threads(threads)  # numba tells OpenMP another number at its start
    return numba.threading_layer() in _SAFE_TO_SHARE


class Kernel:
    """A function of numpy arrays and numbers that writes to some of the arrays, compiled at its first call.

    It is called with tensors on the CPU or tuples of them, of which those of type bfloat16 become arrays of uint16, and
    computes with as many threads as torch. What it writes must not depend on what was in there before.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        try:
            self._compiled = _compiled(function, kept=True)
        except RuntimeError:  # no place to keep it: neither beside its file nor in the user's directory for caches
            self._compiled = _compiled(function, kept=False)

    def __call__(self, *arguments: Any) -> None:
        _use_threads(torch.get_num_threads())
        arrays = [_as_arrays(argument) for argument in arguments]
        try:
            self._compiled(*arrays)
        except (OSError, EOFError, pickle.UnpicklingError) as problem:
            log.debug("What numba keeps of %s on disk cannot be used: %s", self._function.__name__, problem)
            self._compiled = _compiled(self._function, kept=False)
            self._compiled(*arrays)


def _compiled(function: Callable[..., None], *, kept: bool) -> Callable[..., None]:
    """Let numba compile a function at its first call, or take from disk what was kept there."""
    import numba

    compiled: Callable[..., None] = numba.njit(cache=kept, parallel=True, nogil=True, fastmath={"contract"})(function)
    return compiled


def _use_threads(count: int) -> None:
    """Let calls from this thread of Python use so many threads, or as many as numba has."""
    import numba

    settings: Any = numba.config
    numba.set_num_threads(min(count, settings.NUMBA_NUM_THREADS))


def _as_arrays(argument: Any) -> Any:
    """A tensor as a numpy array of the same memory, also those in a tuple; anything else as it is."""
    if isinstance(argument, tuple):
        return tuple(_as_arrays(one) for one in argument)
    if not isinstance(argument, Tensor):
        return argument
    tensor = argument.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
