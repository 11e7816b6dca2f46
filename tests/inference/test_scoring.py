"""All scores of one case."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from scipy import ndimage

from deepmedic.config.scoring import ScoringConfig
from deepmedic.inference.scoring import Compared, scored_rows, scoring_memory
from deepmedic.inference.surfaces import surface_scores
from deepmedic.metrics import scored_classes

SPACING = (0.8, 1.0, 3.0)
EVERYTHING = ScoringConfig(regions={"core": (1, 3)})


def case(roi: bool = True) -> Compared:
    """Random labels of classes 0 to 3; class 4 is nowhere; a third of them predicted otherwise."""
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 4, (10, 9, 8)).astype(np.uint8)
    labels[:2] = 0
    everywhere = np.where(rng.random(labels.shape) < 0.3, rng.integers(0, 4, labels.shape), labels).astype(np.uint8)
    mask = torch.from_numpy(rng.random(labels.shape) < 0.8) if roi else None
    predicted = torch.from_numpy(everywhere)
    return Compared(
        "a", predicted if mask is None else predicted * mask, predicted, torch.from_numpy(labels), mask, SPACING
    )


def rows(compared: Compared, scoring: ScoringConfig = EVERYTHING):
    return scored_rows(compared, scored_classes(5, None, scoring.regions), scoring)


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    return 2 * (predicted & true).sum() / (predicted.sum() + true.sum())


def test_every_class_and_region_has_its_scores():
    compared = case()
    found = rows(compared)
    assert [row.class_name for row in found] == ["whole foreground", "class 1", "class 2", "class 3", "class 4", "core"]
    roi = compared.roi.numpy()
    for row in (found[0], found[2], found[5]):
        saved, everywhere, true = (
            np.isin(volume.numpy(), row.classes)
            for volume in (compared.segmentation, compared.segmentation_everywhere, compared.labels)
        )
        assert row.dice == pytest.approx(dice(saved, true))
        assert row.further["dice1"] == pytest.approx(dice(everywhere, true))
        assert row.further["dice3"] == pytest.approx(dice(saved, true & roi))
        assert row.sensitivity == pytest.approx((saved & true).sum() / true.sum())
        assert row.precision == pytest.approx((saved & true).sum() / saved.sum())
        assert row.specificity == pytest.approx((~saved & ~true).sum() / (~true).sum())
        assert row.volume_truth_ml == pytest.approx(true.sum() * math.prod(SPACING) / 1000)
        surfaces = surface_scores(saved, true, SPACING)
        assert row.further["hd95_mm"] == surfaces.hd95
        assert row.further["assd_mm"] == surfaces.assd
        lesions = {name: row.further[f"lesions_{name}"] for name in ("truth", "detected", "missed")}
        assert lesions["truth"] == lesions["detected"] + lesions["missed"] > 0


def test_a_class_that_is_nowhere_is_undefined():
    row = rows(case())[4]
    assert row.voxels_truth == row.voxels_predicted == 0
    assert all(math.isnan(row.further[name]) for name in ("dice1", "dice3", "hd95_mm", "assd_mm", "lesion_f1"))
    assert row.specificity == 1


def test_without_roi_the_three_dices_are_equal():
    for row in rows(case(roi=False))[:4]:
        assert row.further["dice1"] == row.further["dice3"] == row.dice


def test_what_is_switched_off_is_not_there():
    found = rows(case(), ScoringConfig(surface_distances=False, lesion_counts=False))
    assert [set(row.further) for row in found] == [{"dice1", "dice3"}] * 5
    assert "hd95_mm" in rows(case(), ScoringConfig(lesion_counts=False))[0].further


def test_nothing_predicted_and_nothing_true():
    nothing = torch.zeros(4, 4, 4, dtype=torch.uint8)
    for row in rows(Compared("a", nothing, nothing, nothing, None, SPACING)):
        assert (row.voxels_truth, row.voxels_predicted) == (0, 0)
        assert math.isnan(row.dice)
        assert math.isnan(row.further["hd95_mm"])


def test_voxels_outside_the_box_count_as_true_negatives():
    labels = torch.zeros(10, 10, 10, dtype=torch.uint8)
    labels[4, 4, 4] = 1
    [foreground] = scored_rows(Compared("a", labels, labels, labels, None, SPACING), scored_classes(2), EVERYTHING)[:1]
    assert foreground.specificity == 1
    assert foreground.further["hd95_mm"] == 0


@pytest.mark.parametrize("masks", ["smooth", "far apart", "one point"])
@pytest.mark.parametrize("scoring", [ScoringConfig(), ScoringConfig(surface_distances=False)], ids=["all", "lesions"])
def test_scoring_takes_no_more_memory_than_is_reckoned_with(masks, scoring):
    """What numpy takes at most: for smooth masks that fill the image, and where the nearest target is far away, of one
    face of the image on the opposite one, or of all faces in one corner."""
    size = (72, 80, 64)
    labels, predicted = np.zeros((2, *size), np.uint8)
    if masks == "smooth":
        labels, predicted = (
            (ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 4) > 0.5).astype(np.uint8)
            for seed in (1, 2)
        )
    elif masks == "far apart":
        labels[0], predicted[-1] = 1, 1
    else:
        labels[:], predicted[0, 0, 0] = 1, 1
    found, true = torch.from_numpy(predicted), torch.from_numpy(labels)
    compared = Compared("a", found, found, true, None, (1.0, 1.0, 1.0))
    scored = scored_classes(2, None, None)
    tracemalloc.start()
    try:
        scored_rows(compared, scored, scoring)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    reckoned = scoring_memory(labels.size, scoring)
    assert peak <= reckoned
    assert reckoned <= 5 * peak


def test_counting_voxels_takes_less_memory_than_distances_and_lesions():
    nothing = ScoringConfig(surface_distances=False, lesion_counts=False)
    assert scoring_memory(1000, None) == scoring_memory(1000, nothing) < scoring_memory(1000, ScoringConfig())
