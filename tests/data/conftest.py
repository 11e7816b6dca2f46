"""Small cases in memory, and the devices to test on."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from deepmedic.data.pool import PoolLayout, VolumePool
from deepmedic.data.preprocessing import PreparedCase


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])


def build_case(
    size: tuple[int, int, int] = (8, 7, 6),
    seed: int = 0,
    n_channels: int = 2,
    classes: int = 3,
    with_roi: bool = False,
    n_weight_maps: int = 0,
    **replaced: object,
) -> PreparedCase:
    """A case of random voxels; `replaced` are arrays to use instead."""
    rng = np.random.default_rng(seed)
    values: dict[str, object] = {
        "channels": rng.normal(size=(n_channels, *size)).astype(np.float32),
        "labels": rng.integers(0, classes, size=size).astype(np.uint8),
        "roi": rng.random(size) < 0.5 if with_roi else None,
        "weight_maps": rng.random((n_weight_maps, *size)).astype(np.float32) if n_weight_maps else None,
        **replaced,
    }
    tensors = {name: None if array is None else torch.as_tensor(array) for name, array in values.items()}
    corners = tensors["channels"][:, [0, 0, 0, 0, -1, -1, -1, -1], [0, 0, -1, -1] * 2, [0, -1] * 4]
    return PreparedCase(
        name=f"case-{seed}",
        header=None,  # no test of this folder looks at it
        padding=((0, 0),) * 3,
        border_values=corners.double().mean(dim=1).float(),
        **tensors,
    )


@pytest.fixture(scope="session")
def make_case() -> Callable[..., PreparedCase]:
    return build_case


@pytest.fixture(scope="session")
def make_pool() -> Callable[..., VolumePool]:
    """A pool with the given cases as rows 0, 1, ..., exactly as large as they need or with a given budget."""

    def make(cases: list[PreparedCase], device: str = "cpu", budget_bytes: int = 2**30) -> VolumePool:
        pool = VolumePool(PoolLayout.of(cases[0]), device, budget_bytes)
        pool.require(range(len(cases)), lambda number: cases[number])
        return pool

    return make
