"""Versions are read from installed files, without importing what they belong to."""

from __future__ import annotations

import numpy
import torch

from deepmedic import nvidia, versions


def test_installed_packages():
    assert versions.installed("numpy") == numpy.__version__
    assert versions.installed("no-such-package") == "not installed"


def test_cuda_that_torch_was_built_for():
    assert versions.torch_cuda() == (torch.version.cuda or "none (a CPU build)")


def test_table_names_driver_and_gpus(monkeypatch):
    monkeypatch.setattr(nvidia, "find_driver", lambda: nvidia.NvidiaDriver("580.65", ("NVIDIA H200",)))
    lines = versions.describe().splitlines()
    assert "NVIDIA driver   580.65" in lines
    assert "GPU             NVIDIA H200" in lines
    for name in ("torch", "isal", "numba"):
        assert f"{name.ljust(15)} {versions.installed(name)}" in lines
