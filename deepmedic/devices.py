"""The device a session computes on, and the settings of torch that decide its numbers."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from deepmedic import nvidia
from deepmedic.config.sections import ExecutionConfig
from deepmedic.errors import CommandLineError, ResourceError
from deepmedic.words import counted

log = logging.getLogger(__name__)

Precision = Literal["float32", "tf32", "bf16"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8  # parameters of mallopt, from glibc's malloc.h
_REUSED_BLOCK = 2**30
_KEPT_AT_THE_END = 2**31 - 1
_MEMORY_MESSAGES = (
    *("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc"),
    *("could not create a primitive", "could not create a memory"),  # oneDNN does not say why
    "ALLOCATION_FAILED",  # cuDNN from version 9 on
    "unable to find an engine to execute this computation",  # torch keeps from us that there was no room for cuDNN
    "NVML_SUCCESS ==",  # where torch may not ask how full a GPU is, as in containers with a part of one (MIG)
)
_IN_USE = "busy or unavailable"


def choose_device(wanted: str) -> torch.device:
    """Return the torch device for the value of `-dev`: cpu, cuda, cudaN, gpu or auto.

    `auto` is the CUDA device with most free memory. A GPU that is there but cannot be used is never passed over in
    silence.

    Raises:
        CommandLineError: another value.
        ResourceError: a device asked for and absent, or a GPU that the installed torch cannot use.
    """
    name = wanted.lower()
    if name == "cpu":
        return torch.device("cpu")
    numbered = re.fullmatch(r"(?:cuda|gpu):?(\d*)", name)
    if not numbered and name != "auto":
        raise CommandLineError(f"-dev {wanted}: allowed are cpu, cuda, cuda0, cuda1, ..., gpu and auto.")
    if not torch.cuda.is_available():
        return _without_cuda(wanted, explicit=name != "auto")
    if numbered and numbered.group(1):
        return _usable(_existing(wanted, int(numbered.group(1))))
    return _usable(_most_free())


def describe(device: torch.device) -> str:
    """Name and memory of a device, for the log."""
    if device.type != "cuda":
        return f"CPU with {counted(torch.get_num_threads(), 'thread')}"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name} ({device}, {properties.total_memory / 2**30:.0f} GiB)"


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which torch, CUDA and Python say that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_MESSAGES)


def is_deterministic(device: torch.device, execution: ExecutionConfig) -> bool:
    """Whether a session uses deterministic algorithms only: as `deterministic` says, by default on a CPU."""
    return device.type == "cpu" if execution.deterministic is None else execution.deterministic


def reuse_freed_memory() -> None:
    """Let this process keep the memory of freed tensors up to 1 GiB each, and use it for the next ones.

    Otherwise the C library gives large blocks back to the system at once and gets new ones page by page, each filled
    with zeros: on a CPU that takes as long as the convolutions between. All threads take memory from one place from now
    on: what threads that read give back serves those that compute, and blocks of more than 64 MiB, which a thread's
    own place cannot hold, are kept as well. Does nothing where the C library is another.
    """
    try:
        allocator = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.debug("The C library has no mallopt; freed memory goes back to the system at once.")
        return
    allocator(_MMAP_THRESHOLD, _REUSED_BLOCK)
    allocator(_TRIM_THRESHOLD, _KEPT_AT_THE_END)
    allocator(_ARENAS, 1)


def return_freed_memory() -> None:
    """Give free memory back to the system, where `reuse_freed_memory` keeps it; for after work on whole volumes.

    Does nothing where the C library is another.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        log.debug("The C library has no malloc_trim.")


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to the CPU; from a GPU into memory that it writes by itself, in a fraction of the time.

    Otherwise the driver copies by way of a buffer of its own, into memory that the system first fills with zeros.
    """
    if values.device.type != "cuda":
        return values.cpu()
    try:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    except RuntimeError as problem:  # the system allows only so much of such memory
        log.debug("No pinned memory for %d bytes: %s", values.nbytes, problem)
        return values.cpu()
    return host.copy_(values)


@contextmanager
def session_numerics(device: torch.device, execution: ExecutionConfig) -> Iterator[None]:
    """Set precision and determinism of torch inside the block, for forward and backward passes alike."""
    if device.type == "cpu":
        reuse_freed_memory()
    deterministic = is_deterministic(device, execution)
    if device.type == "cuda":
        # cuBLAS is only reproducible with a fixed workspace. Both cuBLAS and torch look for it at the first use of
        # cuBLAS in a process, which may be in a session before the deterministic one.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, _fill_memory()
    # The same as use_deterministic_algorithms, which would import the compiler and so take seconds.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.backends.cudnn.benchmark = not deterministic
    # Filling new tensors only helps to find reads of memory that nothing wrote; it costs a third of inference on a CPU.
    _set_fill_memory(False)
    try:
        with _tf32(execution.precision == "tf32"):
            yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch.backends.cudnn.benchmark = before[1]
        _set_fill_memory(before[2])


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed the generator that torch draws from on a device, as `torch.manual_seed` does for all of them.

    That function also notes where it was called from, for GPUs that nobody has used yet, and so takes longer than
    drawing the dropout of a small network.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def kernels_for(*, recurring: bool) -> Iterator[None]:
    """Inside the block, let cuDNN search for the fastest kernels only if images have sizes that come again and again.

    For each new size of each layer the search runs up to ten kernels: that pays over a training, while it takes seconds
    for a volume whose tiles have sizes of their own.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before and recurring
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def numerical_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute a forward pass with that precision inside the block: float32 switches TF32 off, bf16 is autocast."""
    with _tf32(precision == "tf32"), torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    precision = "tf32" if allowed else "ieee"  # not "none", which leaves it to settings for more than these
    _set_precisions(precision, precision, precision)
    try:
        yield
    finally:
        _set_precisions(*before)


def _set_precisions(products: str, convolutions: str, recurrences: str) -> None:
    """Set what CUDA computes with float32, by both ways that torch has: where they differ, asking for one is an error,
    so that neither a program that used the other way before nor libraries called meanwhile can be left with one."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    matmul.allow_tf32, cudnn.allow_tf32 = products == "tf32", convolutions == recurrences == "tf32"
    matmul.fp32_precision = products
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = convolutions, recurrences


def _fill_memory() -> bool:
    return bool(torch.utils.deterministic.fill_uninitialized_memory)  # type: ignore[attr-defined]


def _set_fill_memory(fill: bool) -> None:
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _without_cuda(wanted: str, *, explicit: bool) -> torch.device:
    driver = nvidia.find_driver()
    hidden = nvidia.hidden_by_environment()
    if driver and hidden is None:
        built = torch.version.cuda or "no CUDA, a CPU build"
        raise ResourceError(
            f"This machine has {driver}, but the installed torch {torch.__version__} (built for {built}) cannot use "
            f"it. Install a build that fits: {nvidia.install_command(driver, torch.__version__)} "
            "- or choose the CPU with -dev cpu."
        )
    if explicit:
        reason = f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU" if driver else "no NVIDIA driver was found"
        raise ResourceError(f"-dev {wanted}: there is no CUDA device here ({reason}); use -dev cpu or another machine.")
    return torch.device("cpu")


def _existing(wanted: str, index: int) -> torch.device:
    count = torch.cuda.device_count()
    if index >= count:
        allowed = ", ".join(f"cuda{number}" for number in range(count))
        raise ResourceError(f"-dev {wanted}: this machine has {count} CUDA device(s); allowed are {allowed}.")
    return torch.device("cuda", index)


def _most_free() -> torch.device:
    free = [_free_memory(index) for index in range(torch.cuda.device_count())]
    return torch.device("cuda", free.index(max(free)))


def _free_memory(index: int) -> int:
    try:
        return torch.cuda.mem_get_info(index)[0]
    except RuntimeError as error:
        log.warning("cuda%d was left out: %s", index, error)
        return -1


def _usable(device: torch.device) -> torch.device:
    """Refuse a GPU for which the installed torch has no code, before anything is computed on it."""
    try:
        probe = torch.ones(8, device=device)
        total = float((probe + probe).sum())
    except RuntimeError as error:
        if is_out_of_memory(error) or _IN_USE in str(error):
            what = "is in use by another program" if _IN_USE in str(error) else "has no free memory"
            raise ResourceError(
                f"{device} {what}: {str(error).splitlines()[0].rstrip('.')}. Wait until others have finished, choose "
                "another device, or use -dev cpu."
            ) from error
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        driver = nvidia.find_driver() or nvidia.NvidiaDriver("", ())
        raise ResourceError(
            f"{torch.cuda.get_device_name(device)} (compute capability {capability}, driver {driver.version}) cannot "
            f"be used by torch {torch.__version__} built for CUDA {torch.version.cuda}, which has code for "
            f"{' '.join(torch.cuda.get_arch_list())}: {error}. "
            f"Install a build that fits: {nvidia.install_command(driver, torch.__version__)} - or use -dev cpu."
        ) from error
    if total != 16.0:
        raise ResourceError(f"{device} gives wrong sums (16 expected, found {total}); test the GPU or use -dev cpu.")
    return device
