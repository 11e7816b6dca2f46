"""Histories and scans that are small enough to check by hand."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deepmedic.plots import canvas
from deepmedic.training.history import DICE_KINDS, EpochRecord, History, SampleRecord, VolumeRecord


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels, so that the tests are quick; everything else is drawn as always."""
    monkeypatch.setitem(canvas._STYLE, "savefig.dpi", 30)


@pytest.fixture
def make_history() -> Callable[..., History]:
    """A history in which 100 voxels of every class improve by one right voxel per subepoch, from 50 on."""

    def make(
        epochs: int = 3, subepochs: int = 2, classes: int = 3, validation: bool = True, volumes: bool = True
    ) -> History:
        history, others = History(), 100 * (classes - 1)
        for epoch in range(epochs):
            for subepoch in range(subepochs):
                right = 50 + epoch * subepochs + subepoch
                counts = ((100, others, right, others - 10),) * classes
                history.samples["training", epoch, subepoch] = SampleRecord(counts, 1.0 / right)
                if validation:
                    history.samples["validation", epoch, subepoch] = SampleRecord(counts)
            history.epochs[epoch] = EpochRecord(0.001 / 10**epoch, 0.6)
            if volumes:
                dice = [0.5 + 0.1 * epoch, *(0.4 + 0.1 * epoch for _ in range(classes - 1))]
                history.volumes[epoch] = VolumeRecord(dict.fromkeys(DICE_KINDS, dice), dice[-1])
        return history

    return make


@pytest.fixture
def output(tmp_path: Path, make_history: Callable[..., History]) -> Path:
    """A `folderForOutput` with the histories of the sessions "first" and "second"."""
    logs = tmp_path / "output" / "logs"
    logs.mkdir(parents=True)
    (logs / "first.metrics.csv").write_text(make_history().csv())
    (logs / "second.metrics.csv").write_text(make_history(epochs=2, subepochs=4).csv())
    return tmp_path / "output"


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write voxels [x, y, z] with an affine, by default 2 mm voxels that point right, anterior, superior."""

    def write(name: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine).to_filename(path)
        return path

    return write
