"""Loops over tensors on a CPU that numba compiles, for where this optional package is installed.

Modules of such loops import numba, and so are imported late: after `is_possible` said yes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

log = logging.getLogger(__name__)

_SAFE_TO_SHARE = ("omp", "tbb")
"""Ways of numba to use several cores that several threads of Python may use at the same time."""


def is_possible() -> bool:
    """Whether numba is installed and has threads that this process may compute with; the first call starts these."""
    # GNU's OpenMP ends a process that is a copy of the one (fork) in which numba started its threads.
    return _process_with_threads() == os.getpid()


def numba_version() -> str | None:
    """Version of numba where what it compiles decides the numbers of a CPU in their last digits; None elsewhere."""
    if not is_possible():
        return None
    import numba

    return str(numba.__version__)


def is_possible_for(tensor: Tensor) -> bool:
    """Whether compiled loops may read and write a tensor, here and now."""
    # What records operations in order to repeat them would not see what loops write.
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or is_in_torch_dispatch_mode()
    is_plain = tensor.device.type == "cpu" and type(tensor) in (Tensor, Parameter)
    return is_plain and not recorded and is_possible()


@cache
def _process_with_threads() -> int | None:
    """Start the threads of numba; return the process that may use them, None where there are none."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        import numba

        settings: Any = numba.config
        if settings.DISABLE_JIT:
            return None
        layer = _start_threads(settings)
    except Exception as problem:  # noqa: BLE001 - whatever a broken installation of an optional package raises
        log.info("numba is installed, but cannot be used, so that networks are slower: %s", problem)
        return None
    if layer not in _SAFE_TO_SHARE:
        log.info('numba is not used, since its threading layer is "%s", which only one thread may use.', layer)
        return None
    return os.getpid()


def _start_threads(settings: Any) -> str:
    """Start the threads of numba, unless a program did so before; return by which library."""
    import numba

    wanted, threads = settings.THREADING_LAYER, torch.get_num_threads()
    if wanted == "default":
        settings.THREADING_LAYER = "omp"  # with the threads that torch computes with
    try:
        numba.get_num_threads()
    finally:
        settings.THREADING_LAYER = wanted
        torch.set_num_threads(threads)  # numba tells OpenMP another number at its start
    return str(numba.threading_layer())


class Kernel:
    """A function of numpy arrays and numbers that writes to some of the arrays, compiled at its first call.

    It is called with tensors for which `is_possible_for` is true, or tuples of them, contiguous in memory; those of
    type bfloat16 become arrays of uint16. It computes with as many threads as torch.

    The machine code is kept on disk where numba finds a place: beside the function's file or in the user's directory
    for caches. What is there and cannot be read, or is for other arguments, is removed and not used.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        # numba takes what it kept for right if the time of the function's own file is the same.
        function.__qualname__ += f"-{_digest_of_sources(function)}"
        try:
            self._compiled = _compiled(function, kept=True)
        except RuntimeError:  # no place to keep it
            self._compiled = _compiled(function, kept=False)

    def __call__(self, *arguments: Any) -> None:
        arrays = [_as_arrays(argument) for argument in arguments]
        self._compile_for(arrays)
        with _threads_of_torch():
            self._compiled(*arrays)

    def _compile_for(self, arguments: list[Any]) -> None:
        """Compile for arguments of these types, or take from disk what was kept there."""
        import numba

        types = tuple(numba.typeof(argument) for argument in arguments)
        if types in self._compiled.overloads:
            return
        try:
            self._compiled.compile(types)
        except Exception as problem:  # noqa: BLE001 - reading damaged machine code and writing to a full disk
            log.debug("What numba keeps of %s on disk cannot be used: %s", self._function.__name__, problem)
        # Processes that keep code for different types at the same moment may name both alike.
        if types not in self._compiled.overloads:
            self._remove_what_is_kept()
            self._compiled = _compiled(self._function, kept=False)
            self._compiled.compile(types)

    def _remove_what_is_kept(self) -> None:
        folder = self._compiled.stats.cache_path
        if folder is not None:
            with suppress(OSError):
                for index in Path(folder).glob(f"*.{self._function.__qualname__}-*.nbi"):
                    index.unlink(missing_ok=True)


def _compiled(function: Callable[..., None], *, kept: bool) -> Any:
    import numba

    # Without "fast" arithmetic: which product of a sum is rounded together with it would depend on how often the code
    # was optimised, which is once more for what is kept on disk. A session would not go on to the same numbers.
    return numba.njit(cache=kept, parallel=True, nogil=True)(function)


def _digest_of_sources(function: Callable[..., None]) -> str:
    """Return a few letters that differ where this module, that of a function, or one it takes names from differs."""
    package = __name__.partition(".")[0]
    taken_from = {str(getattr(value, "__module__", "")) for value in function.__globals__.values()}
    own = {name for name in taken_from if name.partition(".")[0] == package}
    digest = hashlib.sha256()
    for name in sorted({__name__, function.__module__, *own}):
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is not None:
            with suppress(OSError):
                digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:8]


@contextmanager
def _threads_of_torch() -> Iterator[None]:
    """Let numba compute in the block with as many threads as torch, or as many as it has."""
    import numba

    settings: Any = numba.config
    before = numba.get_num_threads()
    numba.set_num_threads(min(torch.get_num_threads(), settings.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _as_arrays(argument: Any) -> Any:
    """A tensor as a numpy array of the same memory, also those in a tuple; anything else as it is."""
    if isinstance(argument, tuple):
        return tuple(_as_arrays(one) for one in argument)
    if not isinstance(argument, Tensor):
        return argument
    tensor = argument.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
