"""`-selfTest`: whether this installation computes on this device what it should, in under a minute."""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from deepmedic import devices, nvidia, versions
from deepmedic.config.sections import ExecutionConfig
from deepmedic.model.compilation import numba_version
from deepmedic.sessions.selftest import (
    selftest_convolutions,
    selftest_numbers,
    selftest_resume,
    selftest_steps,
    selftest_volumes,
)
from deepmedic.sessions.selftest.selftest_reference import Check, Comparison, NotTestedError

_CHECKS = (
    *selftest_numbers.CHECKS,
    *selftest_steps.CHECKS,
    *selftest_convolutions.CHECKS,
    *selftest_volumes.CHECKS,
    *selftest_resume.CHECKS,
)
_COLUMNS = ("check", "compared with", "largest error", "allowed", "seconds", "result")
_FAILED = "FAILED"
_DEFECTIVE_CUDNN = range(90800, 91500)


@dataclass(frozen=True)
class _Row:
    """One line of the table."""

    name: str
    result: str
    seconds: float
    comparison: Comparison | None = None
    note: str = ""
    """Why the check failed without a comparison, or was not made."""

    @property
    def cells(self) -> tuple[str, ...]:
        against, error, allowed = "", "", ""
        if self.comparison is not None:
            against = self.comparison.against
            error, allowed = _number(self.comparison.error), _number(self.comparison.allowed)
        return (self.name, against, error, allowed, f"{self.seconds:.1f}", self.result)


def run(device: str) -> tuple[str, bool]:
    """Make all checks on the device that `-dev` names.

    Returns:
        The report, and whether every check that could be made was passed.

    Raises:
        CommandLineError: another value than `-dev` allows.
        ResourceError: the device is absent or cannot be used.
    """
    chosen = devices.choose_device(device)
    log = logging.getLogger("deepmedic")
    silent = logging.NullHandler()
    log.addHandler(silent)
    started = time.perf_counter()
    with devices.session_numerics(chosen, ExecutionConfig(deterministic=True)):
        pass  # tells cuBLAS before its first use what the deterministic mode needs
    try:
        rows = [_row(check, chosen) for check in _CHECKS if chosen.type == "cuda" or not check.only_cuda]
    finally:
        log.removeHandler(silent)
    seconds = time.perf_counter() - started
    passed = all(row.result != _FAILED for row in rows)
    return "\n".join([*_head(chosen), "", *_table(rows), "", *_summary(rows, seconds)]), passed


def _row(check: Check, device: torch.device) -> _Row:
    started = time.perf_counter()
    comparison, note = None, ""
    try:
        # All checks are made as sessions compute when the config says nothing else.
        with devices.session_numerics(device, ExecutionConfig()), _threads(check):
            comparison = check.run(device)
        result = "ok" if comparison.passed else _FAILED
    except NotTestedError as reason:
        result, note = "not tested", str(reason)
    except Exception as problem:  # noqa: BLE001 - whatever a broken installation raises belongs into the report
        result, note = _FAILED, f"{type(problem).__name__}: {problem}"
    return _Row(check.name, result, time.perf_counter() - started, comparison, note)


@contextmanager
def _threads(check: Check) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if check.all_threads else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _head(device: torch.device) -> list[str]:
    driver = nvidia.find_driver()
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    parts = {
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "cuDNN": _cudnn_text(cudnn),
        "driver": driver.version if driver else "none",
        "Python": platform.python_version(),
    }
    if device.type == "cpu":
        parts["numba"] = numba_version() or "not used"
    lines = [
        f"Self-test of deepmedic {versions.VERSION} on {devices.describe(device)}",
        ", ".join(f"{name} {value}" for name, value in parts.items()),
    ]
    if cudnn in _DEFECTIVE_CUDNN:
        lines.append(
            f"cuDNN {_cudnn_text(cudnn)} is known to give wrong convolutions in bf16 for feature maps above 2 GiB "
            "(pytorch issue 163539); install cuDNN 9.15 or later, or leave precision at float32."
        )
    return lines


def _cudnn_text(version: int | None) -> str:
    """90501 is 9.5.1, as cuDNN numbers its releases from 9 on; 8902 is 8.9.2."""
    if not version:
        return "none"
    major, rest = divmod(version, 10000 if version >= 90000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _table(rows: list[_Row]) -> list[str]:
    cells = [_COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    lines = []
    for line in cells:
        left = (line[column].ljust(widths[column]) for column in (0, 1))
        right = (line[column].rjust(widths[column]) for column in (2, 3, 4))
        lines.append("  ".join([*left, *right, line[5]]).rstrip())
    return lines


def _summary(rows: list[_Row], seconds: float) -> list[str]:
    lines = [f"{row.name}: {row.note}" for row in rows if row.note]
    failed = [row.name for row in rows if row.result == _FAILED]
    made = [row for row in rows if row.result in ("ok", _FAILED)]
    untested = f" {len(rows) - len(made)} could not be made." if len(made) < len(rows) else ""
    if failed:
        verdict = f"{_FAILED}: {len(failed)} of {len(made)} checks: {', '.join(failed)}."
        advice = " Do not trust results of this installation on this device."
    else:
        verdict, advice = f"All {len(made)} checks passed in {seconds:.1f} s.", ""
    return [*lines, verdict + untested + advice]


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else str(value)
