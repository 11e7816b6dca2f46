"""The study of transfer over seeds: its data, its configs, and its statistics."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from deepmedic.config.load import load_model_config, load_train_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIGS = EXAMPLES / "transfer_study"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module("transfer_study")
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture
def data(module, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "OUTPUT", tmp_path)
    module.make_data()
    return tmp_path / "data"


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_source_knows_white_matter_only(data):
    shipped = voxels(EXAMPLES / "data" / "subject1" / "labels.nii.gz")
    assert np.array_equal(voxels(data / "source_labels.nii.gz"), shipped == 3)


def test_target_is_labelled_in_the_cube_only_and_every_prediction_lies_in_it(module, data):
    shipped, few = voxels(EXAMPLES / "data" / "subject2" / "labels.nii.gz"), voxels(data / "target_labels.nii.gz")
    assert np.array_equal(few[module.CUBE], shipped[module.CUBE])
    assert set(np.unique(few)) == {0, 1, 2, 3}
    outside = few.copy()
    outside[module.CUBE] = 0
    assert not outside.any()
    architecture = load_model_config(CONFIGS / "model_target.cfg").architecture
    half = [(size - 1) // 2 for size in architecture.output_size((19, 19, 19))]
    centres = np.argwhere(voxels(data / "target_centres.nii.gz"))
    for axis, side in enumerate(module.CUBE):
        assert centres[:, axis].min() - half[axis] == side.start
        assert centres[:, axis].max() + half[axis] == side.stop - 1


def test_data_that_are_there_stay(module, data):
    before = {path: path.stat().st_mtime_ns for path in data.glob("*.nii.gz")}
    module.make_data()
    assert {path: path.stat().st_mtime_ns for path in data.glob("*.nii.gz")} == before


def test_trainings_differ_in_their_phases_only_and_are_equally_long():
    model = load_model_config(CONFIGS / "model_target.cfg")
    one, two = (load_train_config(CONFIGS / f"train_{name}.cfg", model=model) for name in ("one_phase", "two_phases"))
    assert one.total_epochs == two.total_epochs == 8
    assert len(two.phases) == 2
    assert (one.data, one.segments_per_subepoch, one.optimizer) == (two.data, two.segments_per_subepoch, two.optimizer)
    assert load_train_config(CONFIGS / "train_source.cfg").source.notes == ()


def test_intervals_are_those_of_student(module, capsys):
    # 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3), and 4.302653 is the 97.5 % quantile of t with 2 degrees.
    assert module._bounds([0.1, 0.2, 0.3]) == pytest.approx((0.2, 0.2 - 0.2484138, 0.2 + 0.2484138), abs=1e-6)
    assert module._verdict([0.1, 0.2, 0.3]) == "no evidence of a difference"
    assert module._verdict([0.1, 0.11, 0.12]) == "higher"
    assert module._verdict([-0.1, -0.11, -0.12]) == "lower"
    scores = {
        "from scratch": [module.Scores(0.1, 0.2), module.Scores(0.2, 0.3)],
        "one phase": [module.Scores(0.3, 0.5), module.Scores(0.3, 0.6)],
        "two phases": [module.Scores(0.2, 0.4), module.Scores(0.2, 0.5)],
    }
    module.print_table(scores)
    printed = capsys.readouterr().out
    assert re.search(r"two phases - one phase +-0\.100 \[-0\.100, -0\.100\]  lower", printed)
    assert re.search(r"one phase - from scratch +0\.300 \[0\.300, 0\.300\]  higher", printed)
