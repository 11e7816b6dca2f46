"""Which build of torch is recommended for a driver and a GPU."""

import pytest

from deepmedic import nvidia


@pytest.mark.parametrize(
    ("gpu", "version", "expected"),
    [
        ("NVIDIA H200", "580.159.03", "/cu130"),
        ("NVIDIA A100-SXM4-40GB", "550.54.15", "/cu126"),
        ("Tesla V100-SXM2-32GB", "580.65.06", "/cu126"),
        ("NVIDIA GeForce GTX 1080 Ti", "590.10", "/cu126"),
        ("NVIDIA GeForce RTX 5090", "570.124.06", "first update the NVIDIA driver to 580 or later (found 570.124.06)"),
        ("NVIDIA B200", "580.95.05", "/cu130"),
        ("NVIDIA GeForce RTX 2080", "470.57.02", "first update the NVIDIA driver to 525 or later (found 470.57.02)"),
    ],
)
def test_the_build_fits_driver_and_generation(gpu: str, version: str, expected: str) -> None:
    command = nvidia.install_command(nvidia.NvidiaDriver(version, (gpu,)), "2.13.0+cpu")
    assert expected in command
    assert "torch==2.13.0 " in command
