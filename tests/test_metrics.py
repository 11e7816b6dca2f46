"""Counts and ratios against the original's numbers and brute force; tables that drop nothing."""

from __future__ import annotations

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
from deepmedic.config import scoring as config_scoring
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
        counts = confusion_counts(torch.from_numpy(predicted), torch.from_numpy(labels.astype(np.int64)), 16)
    finally:
        metrics._VOXELS_TIMES_CLASSES = whole
    assert counts.tolist() == brute_force(predicted, labels, 16)


@pytest.mark.parametrize("types", [(torch.uint8, torch.int16), (torch.int64, torch.uint8)], ids=["bytes", "words"])
@pytest.mark.parametrize("classes", [2, 15, 16, 40])
def test_counts_of_pairs_equal_comparing_with_each_class(classes, types):
    """Values that are no class at all, above or below, count as none of them in either way."""
    predicted, labels = (
        torch.randint(-2 if dtype.is_signed else 0, classes + 3, (7, 6, 5), generator=generator).to(dtype)
        for dtype, generator in zip(types, (torch.Generator().manual_seed(seed) for seed in (1, 2)), strict=True)
    )
    expected = metrics._counts_of_part(predicted.flatten(), labels.flatten(), classes)
    assert torch.equal(confusion_counts(predicted, labels, classes), expected)


@pytest.mark.parametrize("types", [(torch.uint8, torch.int32), (torch.int8, torch.uint8), (torch.int64, torch.int8)])
@pytest.mark.parametrize("classes", [128, 129, 256, 257, 300])
def test_classes_that_a_type_cannot_hold_have_no_voxels_in_it(classes, types):
    predicted, labels = (
        torch.arange(classes).clamp(max=torch.iinfo(dtype).max).to(dtype).view(-1, 1, 1) for dtype in types
    )
    expected = brute_force(predicted.numpy().astype(int), labels.numpy().astype(int), classes)
    assert confusion_counts(predicted, labels, classes).tolist() == expected


@pytest.mark.parametrize("types", [(torch.uint8, torch.int16), (torch.int64, torch.uint8), (torch.int8, torch.int32)])
@pytest.mark.parametrize("classes", [2, 15, 16, 40, 127, 128, 255, 256, 300])
def test_the_matrix_has_each_pair_of_classes_and_no_other_value(classes, types):
    predicted, labels = (
        torch.randint(-3, classes + 3, (4, 3, 50), generator=generator)
        .clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        .to(dtype)
        for dtype, generator in zip(types, (torch.Generator().manual_seed(seed) for seed in (1, 2)), strict=True)
    )
    expected = np.zeros((classes, classes), int)
    for label, found in zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if 0 <= label < classes and 0 <= found < classes:
            expected[label, found] += 1
    assert np.array_equal(metrics.confusion_matrix(predicted, labels, classes).numpy(), expected)


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, torch.uint8), (6, torch.uint8), (256, torch.uint8), (300, torch.int32)]
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_the_most_probable_class_is_the_first_of_equals(classes, dtype, memory_format):
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randint(0, 2 * classes, (2, classes, 4, 3, 20), generator=generator) / 3
    scores[torch.rand(scores.shape, generator=generator) < 0.3] = -torch.inf
    scores[torch.rand(scores.shape, generator=generator) < 0.1] = torch.inf
    scores[0, :, 0] = -torch.inf
    found = metrics.most_probable(scores.contiguous(memory_format=memory_format), dim=1)
    assert found.dtype == dtype
    assert np.array_equal(found.numpy(), np.argmax(scores.numpy(), axis=1))
    assert np.array_equal(metrics.most_probable(scores[1, :, 1:, :, 2:9], dim=0), found[1, 1:, :, 2:9])


def test_counts_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"predicted \(2, 3\) and labels \(3, 2\) differ in shape"):
        confusion_counts(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64), 2)


def test_nothing_at_all_is_undefined():
    empty = metrics.Counts(0, 0, 0, 0)
    assert ratios_of(empty) == Ratios(None, None, None, None, None)
    assert metrics.mean_defined([]) is None
    assert metrics.overall_accuracy([[0, 0, 0, 0], [0, 0, 0, 0]]) is None


def test_mean_of_numbers_leaves_out_what_is_none():
    assert metrics.mean_of_numbers([0.25, math.nan, 0.75]) == 0.5
    assert math.isnan(metrics.mean_of_numbers([math.nan]))
    assert math.isnan(metrics.mean_of_numbers([]))


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
        "classes": [2],
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


def test_regions_are_classes_as_one():
    predicted, labels = torch.tensor([0, 1, 1, 2, 3, 0]), torch.tensor([0, 1, 2, 2, 2, 3])
    matrix = metrics.confusion_matrix(predicted.to(torch.uint8), labels, 4)
    assert matrix.dtype == torch.int64
    assert matrix.sum() == 6
    assert matrix[2, 1] == 1  # true 2, predicted 1
    merged = metrics.merged_counts(matrix, (1, 2))
    assert merged == metrics.Counts(4, 2, 3, 2)
    assert [metrics.merged_counts(matrix, (label,)) for label in (1, 2, 3)] == counts_per_class(
        confusion_counts(predicted, labels, 4)
    )[1:]
    everything = metrics.merged_counts(matrix, (1, 2, 3))
    assert everything == counts_per_class(confusion_counts(predicted, labels, 4))[0]


def test_scored_are_foreground_classes_and_regions_in_turn():
    scored = metrics.scored_classes(3, None, {"all": (2, 1)})
    assert [(one.class_index, one.class_name, one.classes) for one in scored] == [
        (0, "whole foreground", (1, 2)),
        (1, "class 1", (1,)),
        (2, "class 2", (2,)),
        (None, "all", (1, 2)),
    ]


def test_regions_do_not_count_for_the_best_checkpoint():
    rows = rows_of([0, 1, 2], [0, 1, 2])
    region = metrics.metrics_row("a", metrics.scored_classes(3, None, {"r": (1, 2)})[-1], metrics.Counts(4, 4, 0, 4), 1)
    assert region.dice == 0
    assert metrics.mean_foreground_dice([*rows, region]) == 1


def test_the_foreground_is_called_the_same_where_its_name_is_refused_for_regions():
    assert metrics.WHOLE_FOREGROUND == config_scoring.WHOLE_FOREGROUND
