import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmedic.inference.tables import write_metrics_csv
from deepmedic.metrics import confusion_counts, metrics_rows
from deepmedic.training.history import History

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("background", "CSF", "grey matter", "white matter")


@pytest.fixture
def show_result(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module("show_result")
    baselines = {"atlas": np.array([0.6, 0.8, 0.75]), "lookup": np.array([0.85, 0.95, 0.9])}
    monkeypatch.setattr(module, "baseline_dice", lambda data: baselines)
    return module


@pytest.fixture
def results(tmp_path: Path, make_history: Callable[..., History]) -> Callable[[float], Path]:
    """A `folderForOutput` whose prediction for subject 3 has this share of wrong voxels in every tissue."""

    def write(wrong: float) -> Path:
        image = nib.Nifti1Image.from_filename(EXAMPLES / "data" / "subject3" / "labels.nii.gz")
        labels = np.asarray(image.dataobj).astype(np.uint8)
        is_wrong = (np.random.default_rng(0).random(labels.shape) < wrong) & (labels > 0)
        predicted = np.where(is_wrong, labels % 3 + 1, labels)
        folder = tmp_path / "output" / "predictions" / "quickstartTest"
        (folder / "predictions").mkdir(parents=True)
        saved = nib.Nifti1Image(predicted.astype(np.uint8), image.affine)
        saved.to_filename(folder / "predictions" / "subject3_Segm.nii.gz")
        counts = confusion_counts(torch.from_numpy(predicted), torch.from_numpy(labels), classes=4)
        write_metrics_csv(folder / "metrics.csv", metrics_rows("subject3", counts, 8.0, NAMES))
        (tmp_path / "output" / "logs").mkdir()
        history = make_history(classes=4, validation=False, volumes=False)
        (tmp_path / "output" / "logs" / "quickstart.metrics.csv").write_text(history.csv())
        return tmp_path / "output"

    return write


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["show_result.py", *map(str, words)])
    return int(module.main())


def test_a_good_result_is_shown_with_its_picture(
    show_result: ModuleType,
    results: Callable[[float], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = results(0.01)
    assert run(show_result, monkeypatch, folder) == 0
    out = capsys.readouterr().out
    assert "real MRI, automatically derived labels" in out
    assert "Target reached: mean Dice of at least 0.95, and every tissue above both simple methods." in out
    rows = [line.split() for line in out.splitlines()]
    assert ["tissue", "atlas", "prior", "intensity", "lookup", "this", "model"] in rows
    (mean,) = [row for row in rows if row[:1] == ["mean"]]
    assert mean[1:3] == ["0.7167", "0.9000"]
    assert 0.98 < float(mean[3]) < 1.0
    assert str(folder / "quickstart.png") in out
    assert (folder / "quickstart.png").read_bytes().startswith(b"\x89PNG")


def test_a_poor_result_is_said_in_words_and_by_the_exit_code(
    show_result: ModuleType,
    results: Callable[[float], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = results(0.12)
    assert run(show_result, monkeypatch, folder) == 1
    out = capsys.readouterr().out
    assert "Target missed" in out
    assert ", below 0.95" in out
    assert "not above the intensity lookup with 0.9500" in out
    assert (folder / "quickstart.png").is_file()


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        ([0.91, 0.96, 0.98], []),
        ([0.90, 0.96, 0.98], ["the mean Dice is 0.9467, below 0.95"]),
        ([0.95, 0.95, 0.99], ["grey matter is at 0.9500, not above the intensity lookup with 0.9500"]),
        ([0.99, 0.96, float("nan")], ["the mean Dice is nan", "white matter is at nan", "white matter is at nan"]),
    ],
)
def test_the_target_needs_the_mean_and_every_tissue(
    show_result: ModuleType, model: list[float], reasons: list[str]
) -> None:
    missed = show_result.Scores([0.6, 0.8, 0.75], [0.85, 0.95, 0.9], model).missed()
    assert len(missed) == len(reasons)
    assert all(found.startswith(reason) for found, reason in zip(missed, reasons, strict=True))


def test_what_is_missing_is_named(
    show_result: ModuleType,
    results: Callable[[float], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert run(show_result, monkeypatch, tmp_path / "nowhere") == 2
    assert "predictions/<session>/metrics.csv; run the quickstart's -test session first" in capsys.readouterr().err
    folder = results(0.01)
    (folder / "predictions" / "quickstartTest" / "predictions" / "subject3_Segm.nii.gz").unlink()
    assert run(show_result, monkeypatch, folder) == 4
    assert "subject3_Segm.nii.gz" in capsys.readouterr().err


def test_one_of_several_sessions_has_to_be_named(
    show_result: ModuleType,
    results: Callable[[float], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = results(0.01)
    shutil.copytree(folder / "predictions" / "quickstartTest", folder / "predictions" / "again")
    assert run(show_result, monkeypatch, folder) == 2
    assert "name one session with --test" in capsys.readouterr().err
    assert run(show_result, monkeypatch, folder, "--test", "again", "--training", "quickstart") == 0
    assert run(show_result, monkeypatch, folder, "--test", "other") == 2
    assert "predictions/other/metrics.csv is not there" in capsys.readouterr().err


def test_validation_results_of_a_training_are_not_taken_for_the_test(
    show_result: ModuleType, results: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results(0.01)
    shutil.copytree(folder / "predictions" / "quickstartTest", folder / "predictions" / "quickstart")
    (folder / "cnnModels" / "quickstart").mkdir(parents=True)
    assert show_result.inference_results(folder, None) == folder / "predictions" / "quickstartTest"


def test_scores_of_another_case_are_refused(show_result: ModuleType, results: Callable[[float], Path]) -> None:
    metrics = results(0.01) / "predictions" / "quickstartTest" / "metrics.csv"
    with pytest.raises(show_result.ResultMissingError, match=r"for the case subject9; cases there: subject3"):
        show_result.model_dice(metrics, "subject9")
