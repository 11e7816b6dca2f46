"""What this machine knows about NVIDIA GPUs without asking torch: the kernel driver's own files.

Used to notice a GPU that the installed torch cannot use, and by `-version`, which must not import torch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_DRIVER_FOLDER = Path("/proc/driver/nvidia")
_TORCH_INDEX = "https://download.pytorch.org/whl"
_BUILDS = ("cu130", "cu126")
_CUDA_13_DRIVER = 580
_CUDA_12_DRIVER = 525
_BEFORE_TURING = re.compile(
    r"V100|P100|P40|P4\b|M60|M40|GTX (9|10)\d\d|TITAN (V|X)|Quadro (P|M|GP|GV)|Tesla [KMPV]", re.IGNORECASE
)
_BLACKWELL = re.compile(r"\bG?B[123]00|RTX 50\d\d|Blackwell", re.IGNORECASE)


@dataclass(frozen=True)
class NvidiaDriver:
    """The driver and the GPUs it drives; empty strings and lists where unknown."""

    version: str
    gpus: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.gpus) or 'an NVIDIA GPU'} with driver {self.version or 'of unknown version'}"


def find_driver(folder: Path = _DRIVER_FOLDER) -> NvidiaDriver | None:
    """Return the NVIDIA driver of this machine, or None when there is neither driver nor `nvidia-smi`."""
    if folder.is_dir():
        return NvidiaDriver(_driver_version(folder), _gpu_names(folder))
    tool = shutil.which("nvidia-smi")
    return _ask(tool) if tool else None


def install_command(driver: NvidiaDriver, torch_version: str) -> str:
    """Return the command that installs a build of torch which this driver and these GPUs can run.

    CUDA 13 needs driver 580 or later and a GPU of the Turing generation or newer; CUDA 12.6 runs on driver 525 or later
    (minor-version compatibility) and has no code for Blackwell. Generations are told from the names of the GPUs.
    """
    plain = torch_version.split("+")[0]
    major = int(driver.version.split(".")[0]) if driver.version[:1].isdigit() else _CUDA_13_DRIVER
    newest, oldest = (
        f"pip install --force-reinstall torch=={plain} --index-url {_TORCH_INDEX}/{cuda}" for cuda in _BUILDS
    )
    if any(_BEFORE_TURING.search(gpu) for gpu in driver.gpus):
        needed, command = _CUDA_12_DRIVER, oldest
    elif major >= _CUDA_13_DRIVER or any(_BLACKWELL.search(gpu) for gpu in driver.gpus):
        needed, command = _CUDA_13_DRIVER, newest
    else:
        needed, command = _CUDA_12_DRIVER, oldest
    if major >= needed:
        return command
    return f"first update the NVIDIA driver to {needed} or later (found {driver.version}), then {command}"


def hidden_by_environment() -> str | None:
    """Return the setting of CUDA_VISIBLE_DEVICES when it hides every GPU, else None."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return value if value is not None and value.strip() in ("", "-1", "none", "NoDevFiles") else None


def _driver_version(folder: Path) -> str:
    try:
        found = re.search(r"Module\S*\s+(?:for \S+\s+)?([0-9]+(?:\.[0-9]+)+)", (folder / "version").read_text())
    except OSError:
        return ""
    return found.group(1) if found else ""


def _gpu_names(folder: Path) -> tuple[str, ...]:
    names = []
    for information in sorted((folder / "gpus").glob("*/information")):
        try:
            found = re.search(r"Model:\s*(.+)", information.read_text())
        except OSError:
            continue
        names.append(found.group(1).strip() if found else "unknown GPU")
    return tuple(names)


def _ask(tool: str) -> NvidiaDriver | None:
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [[part.strip() for part in line.split(",")] for line in answer.splitlines() if line.count(",") == 1]
    return NvidiaDriver(rows[0][1], tuple(row[0] for row in rows)) if rows else None
