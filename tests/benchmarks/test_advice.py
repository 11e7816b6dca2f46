"""The benchmark of the advice: its tasks, its trainings, its statistics, and what planted negatives are called."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch

import deepmedic
from deepmedic.config.load import load_model_config, load_train_config

ROOT = Path(__file__).resolve().parents[2]


def benchmark(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


advice, data, results = (benchmark(name) for name in ("advice", "advice_data", "advice_results"))
STUDIES = list(data.STUDIES.values())


class TestTasks:
    @pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
    def test_nobody_has_two_roles_and_all_are_measured_equally_often(self, study) -> None:
        count = len(study.people)
        for number in range(3 * count):
            roles = study.roles(number)
            people = [*roles.source, *roles.target, roles.test]
            assert len(people) == len(set(people)) == 4
            assert set(study.people) <= set(people)
        for first in range(0, 3 * count, count):
            assert {study.roles(first + number).test for number in range(count)} == set(study.people)

    def test_four_patients_have_twelve_different_orders(self) -> None:
        assert len({data.STUDIES["brats"].roles(number) for number in range(12)}) == 12

    def test_coarser_voxels_are_means_at_the_middle_of_what_they_replace(self) -> None:
        volume = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)
        affine = np.diag([-1.0, 1.0, 2.0, 1.0])
        coarse, scaled = data.coarser(volume, affine)
        # Voxels 0, 1, 3, 4, 6, 7, 9, 10; the plane z = 2 has no partner.
        assert coarse.tolist() == [[[5.0]]]
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
        assert scaled @ [0, 0, 0, 1] == pytest.approx((affine @ corners.T).mean(axis=1))
        assert np.array_equal(np.diag(scaled), [-2, 2, 4, 1])

    def test_labels_of_patients_are_oedema_and_core(self) -> None:
        assert data.merged(np.array([0.0, 1, 2, 3, 4])).tolist() == [0, 2, 1, 2, 2]

    def test_sources_learn_coarser_tasks(self) -> None:
        labels, mask = np.array([[[0, 1, 2, 3]]], np.uint8), np.array([[[0, 1, 1, 1]]])
        assert data.source_labels("whiteMatter", labels, mask, 0).tolist() == [[[0, 0, 0, 1]]]
        assert data.source_labels("wholeTumour", labels, mask, 0).tolist() == [[[0, 1, 1, 1]]]
        assert data.source_labels("tissues", labels, mask, 0) is labels

    def test_the_made_up_scan_is_bright_where_white_matter_is_probable(self) -> None:
        priors = np.zeros((12, 12, 12, 3))
        priors[..., 0] = 1
        priors[3:9, 3:9, 3:9] = [0, 1, 0]
        priors[6:9, 3:9, 3:9] = [0, 0.1, 0.9]
        scan, labels, mask = data.made_up_scan(priors, seed=1)
        assert (labels[4, 5, 5], labels[7, 5, 5], labels[2, 5, 5], labels[0, 0, 0]) == (2, 3, 1, 0)
        assert np.array_equal(labels > 0, mask > 0)
        assert scan[labels == 3].mean() > scan[labels == 2].mean() + 0.1 > scan[labels == 1].mean() + 0.2
        assert not scan[mask == 0].any()

    @pytest.mark.parametrize("kind", data.NEGATIVES)
    def test_planted_labels_have_all_classes_within_the_mask_and_agree_with_none(self, kind) -> None:
        mask = np.zeros((24, 24, 24), np.uint8)
        mask[2:22, 2:22, 2:22] = 1
        labels = mask * np.broadcast_to(np.arange(24) // 8 + 1, mask.shape).astype(np.uint8)
        planted = data.negative_labels(kind, labels, mask, 1)
        assert planted.dtype == np.uint8
        assert not planted[mask == 0].any()
        assert set(np.unique(planted[mask > 0])) <= {0, 1, 2, 3}
        assert len(np.unique(planted[mask > 0])) >= 3
        assert (planted == labels)[mask > 0].mean() < 0.5
        assert np.array_equal(planted, data.negative_labels(kind, labels, mask, 1))

    def test_blobs_are_equally_large_and_smooth(self) -> None:
        mask = np.ones((30, 30, 30), np.uint8)
        labels = data.blobs(mask, 3, 5)
        assert np.bincount(labels.ravel()) == pytest.approx(np.full(3, 9000), abs=1)
        assert (labels[1:] == labels[:-1]).mean() > 0.85


class TestTrainings:
    @pytest.fixture
    def repetition(self, tmp_path):
        one = advice.Repetition(data.STUDIES["shipped"], 0, advice.STEPS, tmp_path)
        one.folder.mkdir(parents=True)
        return one

    def test_all_are_equally_long_and_differ_in_what_is_frozen(self, repetition) -> None:
        advice.write_task(repetition)
        model = load_model_config(repetition.folder / "target.cfg")
        default = load_train_config(repetition.folder / "train.cfg", model=model)
        assert default.total_epochs * default.segments_per_subepoch == advice.STEPS * default.batch_size
        path = advice.write(
            repetition.folder / "frozen.cfg", {**advice.training(repetition, "default0"), **advice.FROZEN}
        )
        frozen = load_train_config(path, model=model)
        assert (frozen.optimizer, frozen.data, frozen.total_epochs) == (
            default.optimizer,
            default.data,
            default.total_epochs,
        )
        depth, hidden = model.architecture.normal.depth, model.architecture.fc.depth - 1
        assert frozen.freezing.normal == frozen.freezing.subsampled == tuple(range(1, depth + 1))
        assert frozen.freezing.fc == tuple(range(1, hidden + 1))

    def test_what_is_finished_is_kept(self, tmp_path) -> None:
        calls = []

        def make() -> list[dict[str, int]]:
            calls.append(1)
            return [{"seed": 3}]

        for _ in range(2):
            assert advice.kept(tmp_path / "found.json", make) == [{"seed": 3}]
        assert len(calls) == 1


def outcome(seed: int, verdict: str, default: float, tuned: float, advised: float, frozen: float | None, probes: float):
    dice = {"default": default, "fine-tuned": tuned, "as advised": advised}
    return {
        "source": "A" if verdict == "transfer" else "B",
        "seed": seed,
        "verdict": verdict,
        "probeGainOnVolumes": {"mean": probes},
        "dice": dice if frozen is None else {**dice, "frozen": frozen},
    }


OUTCOMES = [
    outcome(0, "transfer", 0.5, 0.6, 0.7, 0.3, 0.2),
    outcome(1, "transfer", 0.5, 0.7, 0.8, 0.4, 0.4),
    outcome(0, "do not transfer", 0.5, 0.4, 0.5, None, 0.001),
]


class TestResults:
    def test_the_bad_choice_is_the_opposite_of_the_advice(self) -> None:
        assert [results.bad_choice(one) for one in OUTCOMES] == [0.3, 0.4, 0.4]

    def test_differences_are_those_within_repetitions(self) -> None:
        first, second = results.summarise(OUTCOMES)
        assert (first.source, first.verdicts) == ("A", {"transfer": 2})
        assert first.dice["as advised"].mean == pytest.approx(0.75)
        found = first.differences["as advised", "default"]
        assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.2, 0.3))  # of two values, their range
        assert first.differences["as advised", results.BAD].mean == pytest.approx(0.4)
        assert "frozen" not in second.dice
        assert second.differences["as advised", results.BAD].mean == pytest.approx(0.1)

    def test_the_remaining_share_is_the_slope_through_zero(self) -> None:
        # (0.2 * 0.1 + 0.4 * 0.2) / (0.2^2 + 0.4^2); the third foretold nothing that matters.
        assert results.remaining_share(OUTCOMES) == pytest.approx(0.1 / 0.2)
        assert math.isnan(results.remaining_share(OUTCOMES[2:]))

    def test_words_and_files(self, tmp_path) -> None:
        shown = results.write_results(
            tmp_path / "found", OUTCOMES, [{"kind": "blobs", "verdict": "no evidence"}], tmp_path / "none"
        )
        assert "A            as advised - default             0.250 [0.200, 0.300]  better" in shown
        assert "blobs: 1 no evidence" in shown
        plain = json.loads((tmp_path / "found.json").read_text())
        assert plain["results"][0]["differences"]["as advised - default"]["verdict"] == "better"
        assert plain["outcomes"] == OUTCOMES
        assert (tmp_path / "found.png").stat().st_size > 1000
        interval = results.Interval
        assert results.verdict(interval(0.01, 0.005, 0.015)) == "better, but small"
        assert results.verdict(interval(-0.1, -0.2, -0.01)) == "worse"
        assert results.verdict(interval(0.1, -0.2, 0.4)) == "no evidence of a difference"


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["real", "blobs"])
def test_planted_labels_on_the_shipped_scans_are_called_do_not_transfer(tmp_path, kind) -> None:
    shipped = ROOT / "examples" / "data"
    for number, person in enumerate(data.PEOPLE):
        image = nib.load(shipped / person / "labels.nii.gz")
        labels, mask = (
            np.asarray(nib.load(shipped / person / f"{name}.nii.gz").dataobj) for name in ("labels", "mask")
        )
        planted = labels if kind == "real" else data.negative_labels(kind, labels, mask, number)
        nib.save(nib.Nifti1Image(planted.astype(np.uint8), image.affine), tmp_path / f"{person}_labels.nii.gz")
    settings = {
        "folderForOutput": tmp_path,
        "channelsTarget": [ROOT / "examples" / "lists" / "all_t1.cfg"],
        "gtLabelsTarget": advice.listing(tmp_path, "labels", tmp_path, data.PEOPLE),
        "roiMasksTarget": ROOT / "examples" / "lists" / "all_masks.cfg",
        "norm_zscore_prms": {"apply_to_all_channels": True},
        "voxelsPerClass": 24,
        "segmentsPerCase": 6,
        "randomNetworks": 1,
    }
    config = advice.write(tmp_path / "analysis.cfg", settings)
    found = deepmedic.analyse_model_and_data(ROOT / "examples" / "models" / "tissues.save", config, device="cpu")
    assert found.recommendation.verdict == ("transfer" if kind == "real" else "do not transfer")
