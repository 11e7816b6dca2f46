"""A list of cases from files to files: results, scores, repeating, skipping, and refusing to mix runs."""

from __future__ import annotations

import csv
import gzip
import json
import threading
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmedic.config.prediction import PredictionConfig
from deepmedic.config.scoring import ScoringConfig
from deepmedic.config.sections import OutputConfig
from deepmedic.data import gzip_codecs
from deepmedic.errors import DataError, OutputHeldError, ResourceError
from deepmedic.inference import segment_cases as module
from deepmedic.inference.case_prediction import predict_case
from deepmedic.inference.evaluation import evaluate_case
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.flow import Flow
from deepmedic.inference.predictor import predict_volume
from deepmedic.inference.results import ResultFiles, RunIdentity
from deepmedic.inference.scoring import scoring_memory
from deepmedic.inference.segment_cases import SegmentationOptions, segment_cases
from deepmedic.inference.surfaces import surface_scores
from deepmedic.inference.survey import Saving
from deepmedic.metrics import confusion_counts, counts_per_class, ratios_of
from deepmedic.model.network import DeepMedicNet

INFERENCE = InferenceSettings(segment=(9, 9, 9), batch_size=4)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "predictions" / "session"


def options(folder: Path | None = None, data=None, model="m" * 64, **changes) -> SegmentationOptions:
    saving = None
    if folder is not None:
        files = ResultFiles(folder, OutputConfig(save_probability_maps=(False, True, False)), classes=3)
        saving = Saving(files, RunIdentity.of(model, INFERENCE, data.preprocessing))
    return SegmentationOptions(inference=INFERENCE, saving=saving, **changes)


def image(folder: Path, name: str) -> np.ndarray:
    return np.asarray(nib.load(folder / "predictions" / f"{name}.nii.gz").dataobj)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_hold_the_predictions(make_net, make_data, folder) -> None:
    net, data = make_net(), make_data()
    summary = segment_cases(net, data, options(folder, data))
    assert summary.computed == ["pred_case0", "pred_case1"]
    assert summary.exit_code == 0
    for index in range(2):
        expected = predict_volume(net, data.load(index), INFERENCE)
        assert np.array_equal(image(folder, f"pred_case{index}_Segm"), expected.segmentation.numpy())
        assert np.array_equal(image(folder, f"pred_case{index}_ProbMapClass1"), expected.probabilities[1].numpy())
    assert not (folder / "predictions" / "pred_case0_ProbMapClass0.nii.gz").exists()


def test_tables_score_the_saved_files(make_net, make_data, folder, tmp_path) -> None:
    data = make_data()
    summary = segment_cases(make_net(), data, options(folder, data))
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class_index"]) for row in rows] == [
        (f"pred_case{case}", str(label)) for case in range(2) for label in range(3)
    ]
    for index in range(2):
        labels = torch.from_numpy(np.asarray(nib.load(tmp_path / "images" / f"case{index}_gt.nii.gz").dataobj))
        saved = torch.from_numpy(image(folder, f"pred_case{index}_Segm"))
        counts = counts_per_class(confusion_counts(saved, labels, 3))
        for label in range(3):
            assert float(rows[3 * index + label]["dice"]) == ratios_of(counts[label]).dice
            assert summary.evaluations[index].dices.dice2[label] == ratios_of(counts[label]).dice
    assert float(rows[0]["volume_truth_ml"]) == pytest.approx(int(rows[0]["voxels_truth"]) * 3 / 1000)
    table = json.loads((folder / "metrics.json").read_text())
    assert table["mean_foreground_dice"] == pytest.approx(summary.mean_foreground_dice)


@pytest.mark.parametrize("orientation", ["asStored", "RAS"])
def test_distances_are_those_of_the_saved_files(make_net, make_data, folder, tmp_path, orientation) -> None:
    """The images have voxels of 1 x 2 x 1.5 mm, with axes that RAS swaps and reverses."""
    data = make_data(1, orientation=orientation)
    segment_cases(make_net(), data, options(folder, data, scoring=ScoringConfig()))
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = nib.load(tmp_path / "images" / "case0_gt.nii.gz")
    assert labels.header.get_zooms() == (1.0, 2.0, 1.5)
    for label in (1, 2):
        true, saved = np.asarray(labels.dataobj) == label, image(folder, "pred_case0_Segm") == label
        expected = surface_scores(saved, true, (1.0, 2.0, 1.5))
        assert float(rows[label]["hd95_mm"]) == pytest.approx(expected.hd95, rel=1e-6)
        assert float(rows[label]["assd_mm"]) == pytest.approx(expected.assd, rel=1e-6)


def test_log_follows_the_original(make_net, make_data, caplog) -> None:
    with caplog.at_level("DEBUG", "deepmedic"):
        segment_cases(make_net(), make_data(), options(purpose="Validation"))
    text = "\n".join(caplog.messages)
    assert "Starting full Segmentation of Validation subjects" in text
    assert "ACCURACY: (Validation) The Per-Class DICE Coefficients for subject with index #1 equal: DICE1=[ 0." in text
    assert "ACCURACY: (Validation) The Per-Class average DICE Coefficients over all subjects are: DICE1=[ 0." in text
    assert "TIMING: Validation process lasted:" in text


def test_results_return_in_the_axes_of_the_file(make_net, make_data, folder) -> None:
    net, data = make_net(), make_data(1, orientation="RAS")
    segment_cases(net, data, options(folder, data))
    expected = predict_volume(net, data.load(0), INFERENCE).segmentation.numpy()
    saved = nib.load(folder / "predictions" / "pred_case0_Segm.nii.gz")
    assert saved.shape == (12, 11, 10)
    assert np.array_equal(np.asarray(nib.as_closest_canonical(saved).dataobj), expected)


def test_repeating_computes_nothing_and_changes_nothing(make_net, make_data, folder, monkeypatch) -> None:
    net, data = make_net(), make_data()
    first = segment_cases(net, data, options(folder, data))
    before = contents(folder)
    monkeypatch.setattr(module, "predict_case", lambda *_: pytest.fail("computed again"))
    second = segment_cases(net, data, options(folder, data))
    assert second.kept == first.computed
    assert second.computed == []
    assert second.rows == first.rows
    assert contents(folder) == before


def test_interrupted_run_computes_the_rest(make_net, make_data, folder, tmp_path) -> None:
    net, data = make_net(), make_data(3)
    whole = segment_cases(net, data, options(folder, data))
    expected = contents(folder)
    (folder / "predictions" / "pred_case1_Segm.nii.gz").write_bytes(b"torn")
    (folder / "predictions" / "pred_case2_ProbMapClass1.nii.gz").unlink()
    (folder / "metrics.csv").unlink()

    again = segment_cases(net, data, options(folder, data))

    assert (again.kept, again.computed) == (["pred_case0"], ["pred_case1", "pred_case2"])
    assert again.rows == whole.rows
    assert contents(folder) == expected


def test_results_of_another_model_are_not_kept(make_net, make_data, folder, monkeypatch) -> None:
    data = make_data()
    segment_cases(make_net(), data, options(folder, data))
    before = contents(folder)
    other = options(folder, data, model="n" * 64)
    monkeypatch.setattr(module, "predict_case", lambda *_: pytest.fail("computed"))
    with pytest.raises(
        OutputHeldError, match=r"for 2 of 2 cases:\n  pred_case0: made by another model (.*\n)+.*-overwrite"
    ):
        segment_cases(make_net(seed=2), data, other)
    assert contents(folder) == before


def test_overwriting_replaces_results_of_another_model(make_net, make_data, folder) -> None:
    data, other = make_data(), make_net(seed=2)
    segment_cases(make_net(), data, options(folder, data))
    chosen = options(folder, data, model="n" * 64)
    assert chosen.saving is not None
    files = replace(chosen.saving.files, output=OutputConfig(save_probability_maps=(False, False, True)))
    summary = segment_cases(other, data, replace(chosen, saving=replace(chosen.saving, files=files, overwrite=True)))
    assert summary.computed == ["pred_case0", "pred_case1"]
    expected = predict_volume(other, data.load(0), INFERENCE).segmentation.numpy()
    assert np.array_equal(image(folder, "pred_case0_Segm"), expected)
    assert sorted(path.name for path in (folder / "predictions").glob("pred_case0*")) == [
        "pred_case0.json",
        "pred_case0_ProbMapClass2.nii.gz",
        "pred_case0_Segm.nii.gz",
    ]


def test_foreign_files_are_not_overwritten(make_net, make_data, folder) -> None:
    data = make_data(1)
    mine = folder / "predictions" / "pred_case0_Segm.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"drawn by hand for weeks")
    with pytest.raises(OutputHeldError, match=r"pred_case0_Segm\.nii\.gz has no record of what it was made from"):
        segment_cases(make_net(), data, options(folder, data))
    assert mine.read_bytes() == b"drawn by hand for weeks"


def test_unusable_case_stops_the_run_and_keeps_the_others(make_net, make_data, folder, tmp_path) -> None:
    net, data = make_net(), make_data(3)
    damage(tmp_path / "images" / "case1_ch0.nii.gz")
    with pytest.raises(DataError, match=r"case1_ch0\.nii\.gz"):
        segment_cases(net, data, options(folder, data))
    assert sorted(path.name for path in (folder / "predictions").glob("*_Segm*")) == ["pred_case0_Segm.nii.gz"]


def test_skipped_cases_are_named_and_change_the_exit_code(make_net, make_data, folder, tmp_path, caplog) -> None:
    net, data = make_net(), make_data(3)
    damage(tmp_path / "images" / "case1_ch0.nii.gz")
    summary = segment_cases(net, data, options(folder, data, allow_skipped_cases=True))
    assert summary.computed == ["pred_case0", "pred_case2"]
    assert list(summary.failures) == ["pred_case1"]
    assert summary.exit_code == 9
    assert "1 case was skipped: pred_case1" in caplog.text
    assert {row.case for row in summary.rows} == {"pred_case0", "pred_case2"}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_empty_roi_gives_background_and_a_warning(make_net, make_data, folder, tmp_path, caplog) -> None:
    data = make_data(1)
    path = tmp_path / "images" / "case0_roi.nii.gz"
    roi = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(roi.shape, np.uint8), roi.affine), path)
    segment_cases(make_net(), make_data(1), options(folder, data))
    assert "pred_case0: the ROI mask is empty, so the result is background everywhere." in caplog.text
    assert not image(folder, "pred_case0_Segm").any()


def test_without_labels_there_is_nothing_to_score(make_net, make_data, folder) -> None:
    data = make_data(1, labels=False)
    (folder / "predictions").mkdir(parents=True)
    (folder / "metrics.csv").write_text("of an earlier run with labels")
    summary = segment_cases(make_net(), data, options(folder, data))
    assert summary.rows == []
    assert summary.mean_dices is None
    assert not (folder / "metrics.csv").exists()


def test_scores_alone_write_no_file(make_net, make_data, tmp_path) -> None:
    data = make_data()
    before = contents(tmp_path)
    summary = segment_cases(make_net(), data, options())
    assert 0 < summary.mean_foreground_dice < 1
    assert contents(tmp_path) == before


def test_image_smaller_than_a_tile(make_net, make_data, folder) -> None:
    data = make_data(1, size=(4, 5, 12))
    segment_cases(make_net(), data, options(folder, data))
    assert image(folder, "pred_case0_Segm").shape == (4, 5, 12)


def test_next_case_is_read_while_one_is_computed(make_net, make_data, monkeypatch) -> None:
    data = make_data()
    second_was_read = threading.Event()
    read_each = data.read_each

    def watched(index: int, needs):
        prepared = read_each(index, needs)
        if index == 1:
            second_was_read.set()
        return prepared

    def patient(*arguments):
        assert second_was_read.wait(timeout=20)
        return predict_case(*arguments)

    monkeypatch.setattr(data, "read_each", watched)
    monkeypatch.setattr(module, "predict_case", patient)
    assert len(segment_cases(make_net(), data, options()).computed) == 2


def test_a_case_is_scored_while_the_next_one_is_computed(make_net, make_data, monkeypatch) -> None:
    second_is_computed, computed = threading.Event(), []

    def watched(*arguments):
        computed.append(arguments)
        if len(computed) == 2:
            second_is_computed.set()
        return predict_case(*arguments)

    def patient(*arguments):
        assert second_is_computed.wait(timeout=20)
        return evaluate_case(*arguments)

    monkeypatch.setattr(module, "predict_case", watched)
    monkeypatch.setattr(module, "evaluate_case", patient)
    assert len(segment_cases(make_net(), make_data(), options()).evaluations) == 2


@pytest.mark.parametrize("scoring", [None, ScoringConfig()])
@pytest.mark.parametrize("labels", [True, False])
def test_cases_in_scoring_are_counted_with_the_memory_that_scoring_takes(
    make_net, make_data, monkeypatch, labels, scoring
) -> None:
    sizes, as_before = list[int](), Flow.cases_scored
    monkeypatch.setattr(Flow, "cases_scored", lambda self, size: sizes.append(size) or as_before(self, size))
    segment_cases(make_net(), make_data(1, labels=labels), options(scoring=scoring))
    stored, padded = 12 * 11 * 10, 16 * 15 * 14
    of_prediction = (4 * 3 + 2) * stored  # three probabilities, the segmentation within the ROI and everywhere
    of_case = (4 * 2 + 1 + labels) * padded  # two channels, ROI, labels
    assert sizes == [of_prediction + of_case + (scoring_memory(stored, scoring) if labels else 0)]


def test_an_error_in_scoring_ends_the_run_and_leaves_finished_cases(make_net, make_data, folder, monkeypatch) -> None:
    data = make_data(3)

    def fails_at_second(name: str, *arguments):
        if name == "pred_case1":
            raise ResourceError("memory ran out")
        return evaluate_case(name, *arguments)

    monkeypatch.setattr(module, "evaluate_case", fails_at_second)
    with pytest.raises(ResourceError, match="memory ran out"):
        segment_cases(make_net(), data, options(folder, data))
    assert (folder / "predictions" / "pred_case0_Segm.nii.gz").is_file()
    assert not (folder / "predictions" / "pred_case1_Segm.nii.gz").exists()


def test_interruption_leaves_finished_cases(make_net, make_data, folder) -> None:
    data, calls = make_data(3), []

    def interrupt(done: int, total: int) -> None:
        calls.append(done)
        if done == total and len([count for count in calls if count == total]) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_cases(make_net(), data, options(folder, data, progress=interrupt))
    assert [path.name for path in (folder / "predictions").glob("*_Segm*")] == ["pred_case0_Segm.nii.gz"]
    assert segment_cases(make_net(), data, options(folder, data)).kept == ["pred_case0"]


# Small cases together ------------------------------------------------------------------------------------------------

ACROSS = replace(INFERENCE, segment=(12, 11, 10), batch_size=4, across_cases=True)
"""With it the four cases below have few tiles each, and a batch has room for those of two or more."""


def across(folder: Path, data, **changes) -> SegmentationOptions:
    return replace(options(folder, data), inference=ACROSS, **changes)


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The number of tiles in each forward pass."""
    tiles: list[int] = []
    real = DeepMedicNet.forward_features

    def counted(this, *inputs, wanted):
        tiles.append(len(inputs[0]))
        return real(this, *inputs, wanted=wanted)

    monkeypatch.setattr(DeepMedicNet, "forward_features", counted)
    return tiles


def test_small_cases_share_batches_and_get_the_same_results(make_net, make_data, folder, tmp_path, passes) -> None:
    net, data = make_net(((3, 3, 3),)), make_data(4, size=(8, 7, 6))
    alone = replace(options(tmp_path / "alone", data), inference=replace(ACROSS, across_cases=False))
    expected = segment_cases(net, data, alone)
    apart = passes.copy()
    passes.clear()

    summary = segment_cases(net, data, across(folder, data))

    assert apart == [1, 1, 1, 1]
    assert passes == [4]
    assert summary.computed == expected.computed
    assert summary.rows == expected.rows
    for index in range(4):
        labels, probabilities = f"pred_case{index}_Segm", f"pred_case{index}_ProbMapClass1"
        assert np.array_equal(image(folder, labels), image(tmp_path / "alone", labels))
        difference = image(folder, probabilities) - image(tmp_path / "alone", probabilities)
        assert np.abs(difference).max() <= 1e-6
    assert segment_cases(net, data, alone).kept == summary.computed
    assert segment_cases(net, data, across(folder, data)).kept == summary.computed


def test_cases_with_many_tiles_are_computed_alone(make_net, make_data, folder, passes) -> None:
    data = make_data(2, size=(20, 18, 10))
    segment_cases(make_net(), data, across(folder, data))
    assert passes == [4, 4, 4, 4, 2] * 2


def test_refinements_are_computed_case_by_case(make_net, make_data, folder, passes) -> None:
    data = make_data(2, size=(8, 7, 6))
    refinement = PredictionConfig(mirrored_axes=("x",))
    segment_cases(make_net(), data, across(folder, data, refinement=refinement))
    assert passes == [1] * 4


def test_the_log_of_small_cases_has_lines_of_each(make_net, make_data, folder, caplog) -> None:
    data = make_data(3, size=(8, 7, 6))
    with caplog.at_level("DEBUG", "deepmedic.inference"):
        segment_cases(make_net(), data, across(folder, data))
    beginnings = ("Segmenting subject", "Total number of Segments", "TIMING: Segmentation of", "pred_case")
    lines = [line for line in caplog.messages if line.startswith(beginnings)]
    for index in range(3):
        assert lines[2 * index] == f"Segmenting subject with index #{index}: pred_case{index}"
        assert lines[2 * index + 1] == "Total number of Segments to process:4"
    assert [line[:22] for line in lines[6:9]] == ["TIMING: Segmentation o"] * 3
    assert [line[:24] for line in lines[9:]] == [f"pred_case{index}: segmented in" for index in range(3)]


def test_a_case_that_cannot_be_used_leaves_those_before_it(make_net, make_data, folder, tmp_path) -> None:
    net, data = make_net(), make_data(4, size=(8, 7, 6))
    damage(tmp_path / "images" / "case2_ch0.nii.gz")
    with pytest.raises(DataError, match=r"case2_ch0\.nii\.gz"):
        segment_cases(net, data, across(folder, data))
    saved = sorted(path.name for path in (folder / "predictions").glob("*_Segm*"))
    assert saved == ["pred_case0_Segm.nii.gz", "pred_case1_Segm.nii.gz"]
    summary = segment_cases(net, data, across(folder, data, allow_skipped_cases=True))
    assert (summary.kept, summary.computed) == (["pred_case0", "pred_case1"], ["pred_case3"])


def test_an_interruption_loses_at_most_the_group(make_net, make_data, folder, passes) -> None:
    net, data = make_net(), make_data(7, size=(8, 7, 6))

    def interrupt(done: int, total: int) -> None:
        if len(passes) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_cases(net, data, across(folder, data, progress=interrupt))
    summary = segment_cases(net, data, across(folder, data))
    assert summary.kept == [f"pred_case{index}" for index in range(4)]
    assert summary.computed == [f"pred_case{index}" for index in range(4, 7)]


def test_after_a_group_as_many_cases_are_read_ahead(make_net, make_data, monkeypatch, passes) -> None:
    """The second group is computed only when the whole third one was read."""
    data, last_was_read = make_data(12, size=(8, 7, 6)), threading.Event()
    read_each = data.read_each

    def watched(index: int, needs):
        if index == 11:
            last_was_read.set()
        return read_each(index, needs)

    def patient(*_: object) -> None:
        if len(passes) == 2:
            assert last_was_read.wait(timeout=20)

    monkeypatch.setattr(data, "read_each", watched)
    summary = segment_cases(make_net(), data, replace(options(progress=patient), inference=ACROSS))
    assert len(summary.computed) == 12
    assert passes == [4, 4, 4]


# Several cases in hand -----------------------------------------------------------------------------------------------

SEVERAL = Flow(readers=3, scorers=3, writers=3, images=2, memory=2**30)


def in_disorder(monkeypatch, data, place: str, count: int) -> list[int]:
    """Let the reading or scoring of `count` cases begin in any order but end in the reverse one; what began."""
    begun, ended = list[int](), [threading.Event() for _ in range(count + 1)]
    ended[count].set()
    real = data.read_each if place == "reading" else evaluate_case

    def backwards(number: int, work):
        begun.append(number)
        assert ended[number + 1].wait(timeout=20)
        try:
            return work()
        finally:
            ended[number].set()

    if place == "reading":
        monkeypatch.setattr(data, "read_each", lambda index, needs: backwards(index, lambda: real(index, needs)))
    else:
        monkeypatch.setattr(
            module, "evaluate_case", lambda name, *rest: backwards(int(name[-1]), lambda: real(name, *rest))
        )
    return begun


@pytest.mark.parametrize("place", ["reading", "scoring"])
def test_cases_in_hand_together_change_neither_results_nor_messages(
    make_net, make_data, folder, tmp_path, monkeypatch, caplog, place
) -> None:
    net, data = make_net(), make_data(3)
    caplog.set_level("INFO", "deepmedic")
    expected = segment_cases(net, data, options(tmp_path / "one", data, scoring=ScoringConfig()))
    lines = [line.rpartition(" in ")[0] for line in caplog.messages]
    caplog.clear()
    if place == "reading":
        monkeypatch.setattr(Flow, "cases_ahead", lambda *_: 2)
    begun = in_disorder(monkeypatch, data, place, 3)

    summary = segment_cases(net, data, options(folder, data, scoring=ScoringConfig(), flow=SEVERAL))

    assert sorted(begun) == [0, 1, 2]
    assert [line.rpartition(" in ")[0] for line in caplog.messages] == lines
    assert len(lines) == 3
    assert (summary.computed, summary.rows) == (expected.computed, expected.rows)
    assert list(summary.evaluations) == [0, 1, 2]
    assert without_times(contents(folder)) == without_times(contents(tmp_path / "one"))


def without_times(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if not name.startswith("logs")}


def test_notes_come_in_the_order_of_the_cases_and_once(make_net, make_data, monkeypatch, tmp_path, caplog) -> None:
    data = make_data(3)
    for number in range(3):
        path = tmp_path / "images" / f"case{number}_gt.nii.gz"
        labels = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(labels.dataobj) + np.float32(1e-4), labels.affine), path)
    data = replace(data, headers=make_data(3).headers)
    monkeypatch.setattr(Flow, "cases_ahead", lambda *_: 2)
    in_disorder(monkeypatch, data, "reading", 3)
    segment_cases(make_net(), data, options(flow=SEVERAL))
    segment_cases(make_net(), data, options())
    assert [line.partition(": ")[0] for line in caplog.messages if "were off an integer" in line] == [
        f"inference, case pred_case{number}" for number in range(3)
    ]


@pytest.mark.parametrize("damaged", [[1], [1, 2]])
def test_with_several_readers_the_first_unusable_case_is_named(
    make_net, make_data, folder, tmp_path, monkeypatch, damaged
) -> None:
    net, data = make_net(), make_data(4)
    for number in damaged:
        damage(tmp_path / "images" / f"case{number}_ch0.nii.gz")
    monkeypatch.setattr(Flow, "cases_ahead", lambda *_: 3)
    in_disorder(monkeypatch, data, "reading", 3)
    with pytest.raises(DataError, match=r"case1_ch0\.nii\.gz"):
        segment_cases(net, data, options(folder, data, flow=SEVERAL))
    assert sorted(path.name for path in (folder / "predictions").glob("*_Segm*")) == ["pred_case0_Segm.nii.gz"]


def test_after_an_error_in_scoring_no_later_case_is_finished(make_net, make_data, folder, monkeypatch, caplog) -> None:
    data = make_data(3)
    caplog.set_level("INFO", "deepmedic")
    in_disorder(monkeypatch, data, "scoring", 3)
    backwards = module.evaluate_case

    def fails_at_second(name: str, *rest):
        found = backwards(name, *rest)
        if name == "pred_case1":
            raise ResourceError("memory ran out")
        return found

    monkeypatch.setattr(module, "evaluate_case", fails_at_second)
    with pytest.raises(ResourceError, match="memory ran out"):
        segment_cases(make_net(), data, options(folder, data, flow=SEVERAL))
    assert [path.name for path in (folder / "predictions").glob("*_Segm*")] == ["pred_case0_Segm.nii.gz"]
    assert [line.partition(":")[0] for line in caplog.messages] == ["pred_case0"]


def test_a_case_that_finds_no_memory_is_read_again_alone(make_net, make_data, monkeypatch) -> None:
    data, reading, refused = make_data(4), set[int](), list[int]()
    read_each = data.read_each

    def short_of_memory(index: int, needs):
        reading.add(index)
        try:
            if index == 2 and not refused:
                refused.append(index)
                raise MemoryError
            assert index != 2 or reading == {2}
            return read_each(index, needs)
        finally:
            reading.discard(index)

    monkeypatch.setattr(data, "read_each", short_of_memory)
    summary = segment_cases(make_net(), data, options(flow=SEVERAL))
    assert refused == [2]
    assert summary.computed == [f"pred_case{number}" for number in range(4)]


@pytest.mark.parametrize("fast_first", [True, False])
def test_results_are_kept_whichever_library_packed_them(make_net, make_data, folder, monkeypatch, fast_first) -> None:
    """Files of probabilities hold other bytes with ISA-L; a result is known by the bytes that were written."""
    net, data, isal = make_net(), make_data(), gzip_codecs._isal()
    monkeypatch.setattr(gzip_codecs, "_isal", lambda: isal if fast_first else None)
    segment_cases(net, data, options(folder, data))
    before = contents(folder)
    monkeypatch.setattr(gzip_codecs, "_isal", lambda: None if fast_first else isal)
    assert segment_cases(net, data, options(folder, data)).kept == ["pred_case0", "pred_case1"]
    assert contents(folder) == before
    segment_cases(
        net, data, replace(options(folder, data), saving=replace(options(folder, data).saving, overwrite=True))
    )
    packed = "predictions/pred_case0_ProbMapClass1.nii.gz"
    assert contents(folder)[packed] != before[packed]
    assert gzip.decompress(contents(folder)[packed]) == gzip.decompress(before[packed])
