"""Versions of everything that decides numbers, read without importing torch."""

from __future__ import annotations

import importlib.util
import platform
import re
from importlib import metadata
from pathlib import Path

from deepmedic import nvidia

VERSION = "0.1.0"
PROGRAM_NAME = "DeepMedic for PyTorch"


def describe() -> str:
    """The text of `-version`: this program, Python, torch with its CUDA and cuDNN, the driver and its GPUs."""
    driver = nvidia.find_driver()
    rows = {
        "deepmedic": VERSION,
        "python": platform.python_version(),
        "torch": installed("torch"),
        "CUDA of torch": torch_cuda(),
        "cuDNN of torch": _cudnn(),
        "numpy": installed("numpy"),
        "nibabel": installed("nibabel"),
        "isal": installed("isal"),
        "numba": installed("numba"),
        "NVIDIA driver": driver.version if driver else "none",
        "GPU": ", ".join(driver.gpus) if driver and driver.gpus else "none",
    }
    return "\n".join(f"{name.ljust(15)} {value}" for name, value in rows.items())


def installed(package: str) -> str:
    """Version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def torch_cuda() -> str:
    """CUDA version that the installed torch was built for, or "none (a CPU build)"."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return "not installed"
    try:
        text = (Path(found.origin).parent / "version.py").read_text()
    except OSError:
        return "unknown"
    match = re.search(r"^cuda[^=]*=\s*['\"]([0-9.]+)['\"]", text, re.MULTILINE)
    return match.group(1) if match else "none (a CPU build)"


def _cudnn() -> str:
    names = (distribution.metadata["Name"] or "" for distribution in metadata.distributions())
    found = sorted(name for name in names if name.startswith("nvidia-cudnn-cu"))
    return metadata.version(found[-1]) if found else "none"
