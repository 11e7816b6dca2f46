"""Counts and ratios against the original's numbers and brute force; tables that drop nothing."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepmedic import metrics
from deepmedic.metrics import Ratios, confusion_counts, counts_per_class, metrics_rows, ratios_of

GOLDEN = Path(__file__).resolve().parent / "golden" / "metrics"
EXPECTED = json.loads((GOLDEN / "metrics.json").read_text())
ARRAYS = np.load(GOLDEN / "metrics.npz")
CLASSES = EXPECTED["n_classes"]
SAMPLES = {sample["label"]: sample for sample in EXPECTED["samples"]}
VOLUMES = {volume["label"]: volume for volume in EXPECTED["volumes"]}
NAMES = {"accuracy": "accuracy", "sensitivity": "sensitivity", "precision": "precision", "specificity": "specificity"}


def none_for_na(value):
    return None if value == "N/A" else pytest.approx(value, abs=1e-7)


def as_ratios(golden: dict) -> Ratios:
    return Ratios(dice=none_for_na(golden["dsc"]), **{name: none_for_na(golden[name]) for name in NAMES})


def assert_ratios(found: Ratios, golden: dict) -> None:
    for name, expected in vars(as_ratios(golden)).items():
        assert getattr(found, name) == expected, name


def sample_counts(label: str) -> torch.Tensor:
    probabilities, labels = ARRAYS[f"samples.probs.{label}"], ARRAYS[f"samples.y.{label}"]
    return confusion_counts(torch.from_numpy(probabilities).argmax(dim=1), torch.from_numpy(labels), CLASSES)


def brute_force(predicted: np.ndarray, labels: np.ndarray, classes: int) -> list[list[int]]:
    table = []
    for c in range(classes):
        pairs = [(int(p) == c, int(t) == c) for p, t in zip(predicted.flat, labels.flat, strict=True)]
        reals = sum(t for _, t in pairs)
        table.append([reals, len(pairs) - reals, pairs.count((True, True)), pairs.count((False, False))])
    return table


@pytest.mark.parametrize("label", SAMPLES)
def test_samples_as_the_original(label):
    golden = SAMPLES[label]
    counts = sample_counts(label)
    assert counts.dtype == torch.int64
    assert counts.tolist() == golden["rp_rn_tp_tn_per_class"]
    assert metrics.overall_accuracy(counts) == pytest.approx(golden["overall_accuracy"], abs=1e-7)
    foreground, *classes = counts_per_class(counts)
    assert list(vars(foreground).values()) == golden["foreground_rp_rn_tp_tn"]
    assert_ratios(ratios_of(foreground), golden["logged_as_class0_whole_foreground"])
    for one, expected in zip(classes, golden["per_class_one_vs_all"][1:], strict=True):
        assert_ratios(ratios_of(one), expected)


def test_epoch_means_as_the_original():
    golden = EXPECTED["epoch"]
    subepochs = golden["counts_per_subepoch"]
    accuracies = [metrics.overall_accuracy(counts) for counts in subepochs]
    assert metrics.mean_defined(accuracies) == pytest.approx(golden["mean_accuracy_of_epoch"], abs=1e-7)
    assert metrics.mean_defined(golden["costs"]) == pytest.approx(golden["mean_cost_of_epoch"], abs=1e-7)
    ratios = [[ratios_of(one) for one in counts_per_class(counts)] for counts in subepochs]
    for index, name in enumerate(("class_0_whole_foreground", "class_1", "class_2")):
        assert_ratios(metrics.mean_ratios([subepoch[index] for subepoch in ratios]), golden["epoch_means"][name])


def volume_dices(label: str) -> metrics.ThreeDices:
    seg, truth = ARRAYS[f"volumes.seg.{label}"], ARRAYS[f"volumes.gt.{label}"]
    roi = torch.from_numpy(ARRAYS[f"volumes.roi.{label}"]) if VOLUMES[label]["roi"] else None
    return metrics.dice_123(torch.from_numpy(seg), torch.from_numpy(truth), roi, CLASSES)


@pytest.mark.parametrize("label", VOLUMES)
def test_volumes_as_the_original(label):
    found = volume_dices(label)
    for name in ("dice1", "dice2", "dice3"):
        assert getattr(found, name) == [none_for_na(value) for value in VOLUMES[label][name]], name


def test_means_over_volumes_as_the_original():
    found = [volume_dices(label) for label in VOLUMES]
    for name, expected in EXPECTED["mean_over_these_volumes"].items():
        means = [metrics.mean_defined(getattr(volume, name)[c] for volume in found) for c in range(CLASSES)]
        assert means == pytest.approx(expected, abs=1e-7)


def test_roi_of_any_positive_value_is_a_mask():
    predicted = torch.tensor([[[1, 1, 2]]])
    labels = torch.tensor([[[1, 2, 2]]])
    roi = torch.tensor([[[7, 7, 0]]])
    found = metrics.dice_123(predicted, labels, roi, 3)
    assert found.dice1 == [1.0, pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert found.dice2 == [pytest.approx(4 / 5), pytest.approx(2 / 3), 0.0]
    assert found.dice3 == [1.0, pytest.approx(2 / 3), 0.0]


@settings(max_examples=30, deadline=None)
@given(
    data=hnp.arrays(np.uint8, st.tuples(st.just(2), st.integers(0, 3), st.integers(1, 4)), elements=st.integers(0, 4)),
    part=st.integers(1, 30),
)
def test_counts_as_brute_force(data, part):
    predicted, labels = data
    whole = metrics._VOXELS_TIMES_CLASSES
    try:
        metrics._VOXELS_TIMES_CLASSES = part
        counts = confusion_counts(torch.from_numpy(predicted), torch.from_numpy(labels.astype(np.int64)), 5)
    finally:
        metrics._VOXELS_TIMES_CLASSES = whole
    assert counts.tolist() == brute_force(predicted, labels, 5)


def test_counts_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"predicted \(2, 3\) and labels \(3, 2\) differ in shape"):
        confusion_counts(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64), 2)


def test_nothing_at_all_is_undefined():
    empty = metrics.Counts(0, 0, 0, 0)
    assert ratios_of(empty) == Ratios(None, None, None, None, None)
    assert metrics.mean_defined([]) is None
    assert metrics.overall_accuracy([[0, 0, 0, 0], [0, 0, 0, 0]]) is None


def test_ratios_are_shown_as_in_the_log():
    assert [metrics.format_ratio(value) for value in (0.65454545, None, 1.0)] == ["0.6545", "N/A", "1.0000"]
    assert metrics.format_ratio(0.123456, digits=5) == "0.12346"


def rows_of(predicted: list[int], labels: list[int], case: str = "a", **options) -> list[metrics.MetricsRow]:
    counts = confusion_counts(torch.tensor(predicted), torch.tensor(labels), 3)
    return metrics_rows(case, counts, voxel_volume_mm3=2.5, **options)


def test_rows_of_a_case():
    foreground, first, second = rows_of([0, 1, 1, 2, 2, 0], [0, 1, 2, 2, 2, 2], class_names=("none", "core", "rim"))
    assert (foreground.class_index, foreground.class_name) == (0, "whole foreground")
    assert (first.class_index, first.class_name) == (1, "core")
    assert second.as_dict() == {
        "case": "a",
        "class_index": 2,
        "class_name": "rim",
        "dice": pytest.approx(4 / 6),
        "sensitivity": 0.5,
        "precision": 1.0,
        "specificity": 1.0,
        "volume_predicted_ml": 0.005,
        "volume_truth_ml": 0.01,
        "voxels_predicted": 2,
        "voxels_truth": 4,
        "voxels_in_both": 2,
    }
    assert foreground.dice == pytest.approx(8 / 9)
    assert rows_of([0], [0])[2].class_name == "class 2"


def test_dice_of_empty_classes():
    only_predicted = rows_of([0, 2], [0, 0])[2]
    assert only_predicted.dice == 0
    assert math.isnan(only_predicted.sensitivity)
    assert only_predicted.precision == 0
    only_real = rows_of([0, 0], [0, 2])[2]
    assert (only_real.dice, only_real.sensitivity) == (0, 0)
    assert math.isnan(only_real.precision)
    neither = rows_of([0, 1], [0, 1])[2]
    assert math.isnan(neither.dice)


def test_mean_foreground_dice_weighs_classes_equally():
    rows = [
        *rows_of([0, 1, 2], [0, 1, 2], "both classes right"),
        *rows_of([0, 1, 0], [0, 1, 0], "class 2 in neither"),
        *rows_of([0, 2, 0], [0, 1, 0], "1 missed, 2 only predicted"),
    ]
    assert metrics.mean_foreground_dice(rows) == pytest.approx(((1 + 1 + 0) / 3 + (1 + 0) / 2) / 2)
    assert math.isnan(metrics.mean_foreground_dice(rows_of([0], [0])))
    assert math.isnan(metrics.mean_foreground_dice([]))


def test_summary_counts_what_is_undefined_and_keeps_infinity():
    near, far = [[{"hd95_mm": value}] * 3 for value in (3.0, math.inf)]
    rows = [
        *rows_of([0, 1, 2], [0, 1, 2], further=near),
        *rows_of([0, 1, 0], [0, 1, 0], further=near),
        *rows_of([0, 0, 2], [0, 1, 2], further=far),
    ]
    foreground, first, second = metrics.summary(rows)
    assert (foreground["class_name"], first["class_name"], first["cases"]) == ("whole foreground", "class 1", 3)
    assert first["mean"]["dice"] == pytest.approx(2 / 3)
    assert first["undefined"] | {"precision": 0} == dict.fromkeys(first["undefined"], 0)
    assert first["undefined"]["precision"] == 1
    assert second["mean"]["dice"] == 1
    assert second["undefined"]["dice"] == 1
    assert second["mean"]["hd95_mm"] == math.inf
    assert second["infinite"]["hd95_mm"] == 1


def test_csv_has_every_row_and_number_in_full(tmp_path):
    further = [{"hd95_mm": value} for value in (0.1, math.inf, math.nan)]
    rows = rows_of([0, 1, 1, 2], [0, 1, 1, 1], 'case "1", left', further=further)
    path = tmp_path / "metrics.csv"
    metrics.write_metrics_csv(path, rows)
    first = path.read_bytes()
    metrics.write_metrics_csv(path, rows)
    assert path.read_bytes() == first
    assert b"\r" not in first
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["hd95_mm"] for line in lines] == ["0.1", "inf", "nan"]
    assert lines[1]["case"] == 'case "1", left'
    for line, row in zip(lines, rows, strict=True):
        assert float(line["dice"]) == row.dice
        assert int(line["voxels_truth"]) == row.voxels_truth


def test_csv_without_cases_has_its_heading(tmp_path):
    metrics.write_metrics_csv(tmp_path / "metrics.csv", [])
    assert (tmp_path / "metrics.csv").read_text().startswith("case,class_index,class_name,dice,")


def test_json_has_rows_summary_and_mean(tmp_path):
    rows = [*rows_of([0, 1], [0, 1], "a"), *rows_of([0, 2], [0, 1], "b")]
    path = tmp_path / "metrics.json"
    metrics.write_metrics_json(path, rows)
    content = json.loads(path.read_text())
    assert content["mean_foreground_dice"] == pytest.approx((0.5 + 0) / 2)
    assert [row["case"] for row in content["rows"]] == ["a"] * 3 + ["b"] * 3
    assert math.isnan(content["rows"][2]["dice"])
    assert content["summary"][2]["undefined"]["dice"] == 1
