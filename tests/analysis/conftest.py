"""Small networks and labelled cases in memory for the tests of analyses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.nifti import array_header
from deepmedic.data.preprocessing import PreparedCase

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))  # for `random_architectures`


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_case() -> Callable[..., PreparedCase]:
    """A case of noise with labels of nested boxes; `padding` voxels count as added around it."""

    def make(size=(22, 20, 18), *, padding=((0, 0),) * 3, roi=None, seed=0, channels=2, name="case") -> PreparedCase:
        images = torch.randn(channels, *size, generator=torch.Generator().manual_seed(seed))
        labels = torch.zeros(size, dtype=torch.uint8)
        labels[5:15, 5:14, 5:13] = 2
        labels[7:12, 7:12, 7:10] = 1
        native = tuple(length - sum(added) for length, added in zip(size, padding, strict=True))
        return PreparedCase(name, array_header(native), images, labels, roi, None, padding, images.mean(dim=(1, 2, 3)))

    return make


@dataclass
class CasesInMemory:
    """What `stream_features` asks of a data set."""

    prepared: list[PreparedCase | None]
    subjects: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    """Of the image of each case."""

    @property
    def cases(self) -> list[Case]:
        subjects = self.subjects or (None,) * len(self.prepared)
        names = [case.name if case else "unusable" for case in self.prepared]
        paths = self.paths or names
        return [
            Case(name, (ImageRef(Path(path)),), subject=subject)
            for name, path, subject in zip(names, paths, subjects, strict=True)
        ]

    @property
    def skipped(self) -> dict[str, str]:
        return {"unusable": "unusable: its labels are missing."}

    def __len__(self) -> int:
        return len(self.prepared)

    def load_if_usable(self, index: int) -> PreparedCase | None:
        return self.prepared[index]


@pytest.fixture
def in_memory() -> Callable[..., CasesInMemory]:
    return lambda *cases, **listed: CasesInMemory(list(cases), **listed)


@pytest.fixture
def two_clouds() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Features [voxel, 4] and labels of two classes whose means are `apart` deviations apart along the first axis."""

    def make(apart: float, count: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 2
        features = torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 4))).float()
        features[:, 0] += apart * labels
        return features, labels

    return make
