"""What the machine says about its NVIDIA driver and GPUs, without torch."""

from __future__ import annotations

import subprocess

import pytest

from deepmedic import nvidia
from deepmedic.nvidia import NvidiaDriver

VERSION_FILE = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)
GCC version:  gcc version 12.2.0
"""


@pytest.fixture
def folder(tmp_path):
    """A copy of /proc/driver/nvidia with two GPUs."""
    (tmp_path / "version").write_text(VERSION_FILE)
    for number, name in enumerate(("NVIDIA H200", "NVIDIA A100")):
        gpu = tmp_path / "gpus" / f"0000:0{number}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t\t {name}\nIRQ: 11\n")
    return tmp_path


def test_driver_is_read_from_the_kernel(folder):
    driver = nvidia.find_driver(folder)
    assert driver == NvidiaDriver("580.65.06", ("NVIDIA H200", "NVIDIA A100"))
    assert str(driver) == "NVIDIA H200, NVIDIA A100 with driver 580.65.06"


def test_proprietary_driver_is_read_too(folder):
    (folder / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n")
    assert nvidia.find_driver(folder).version == "535.104.05"


def test_driver_that_says_nothing_is_a_driver_all_the_same(tmp_path):
    driver = nvidia.find_driver(tmp_path)
    assert driver == NvidiaDriver("", ())
    assert str(driver) == "an NVIDIA GPU with driver of unknown version"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("NVIDIA H200, 580.65.06\nNVIDIA H200, 580.65.06\n", NvidiaDriver("580.65.06", ("NVIDIA H200",) * 2)),
        ("No devices were found\n", None),
    ],
)
def test_nvidia_smi_is_asked_where_the_kernel_shows_nothing(monkeypatch, tmp_path, answer, expected):
    monkeypatch.setattr(nvidia.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(nvidia.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, answer))
    assert nvidia.find_driver(tmp_path / "missing") == expected


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 10)])
def test_nvidia_smi_that_fails_is_no_driver(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(nvidia.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(nvidia.subprocess, "run", fail)
    assert nvidia.find_driver(tmp_path / "missing") is None


def test_no_driver_and_no_tool(monkeypatch, tmp_path):
    monkeypatch.setattr(nvidia.shutil, "which", lambda tool: None)
    assert nvidia.find_driver(tmp_path / "missing") is None


@pytest.mark.parametrize(("value", "hides"), [(None, False), ("", True), ("-1", True), ("0,1", False)])
def test_gpus_hidden_by_the_environment(monkeypatch, value, hides):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert (nvidia.hidden_by_environment() is not None) is hides
