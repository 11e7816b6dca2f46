"""Mirrored passes and ensembles against predictions made one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepmedic.config.prediction import PredictionConfig
from deepmedic.config.sections import PreprocessingConfig, ZScoreConfig
from deepmedic.data.case_headers import resampled_header
from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.nifti import array_header
from deepmedic.data.preprocessing import PreparedCase, prepare_case
from deepmedic.data.resampling import to_native_grid
from deepmedic.data.volumes import LoadedCase
from deepmedic.inference import case_prediction as module
from deepmedic.inference.averaging import MeanPrediction, entropy
from deepmedic.inference.case_prediction import Member, mirrorings, predict_case
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.postprocessing import without_small_components
from deepmedic.inference.predictor import predict_volume

SEGMENT = (11, 11, 11)
SETTINGS = InferenceSettings(segment=SEGMENT)
AXES = {"x": 0, "y": 1, "z": 2}


def prepared(net, flipped=(), roi=True, minimum=SEGMENT, size=(12, 10, 13)) -> PreparedCase:
    """A case that is flipped before anything else is done to it."""
    rng = np.random.default_rng(0)
    channels = rng.normal(size=(2, *size)).astype(np.float32)
    mask = rng.random(size) < 0.7
    channels, mask = np.flip(channels, [axis + 1 for axis in flipped]), np.flip(mask, flipped)
    loaded = LoadedCase(
        Case("a", (ImageRef(Path("a")),) * 2),
        array_header(size, np.diag([1.0, 2.0, 3.0, 1.0])),
        np.ascontiguousarray(channels),
        None,
        np.ascontiguousarray(mask) if roi else None,
        None,
    )
    margins = net.architecture.margins(SEGMENT)
    return prepare_case(loaded, margins, PreprocessingConfig(zscore=ZScoreConfig(all_channels=True)), minimum)


def test_combinations_of_axes() -> None:
    assert mirrorings(PredictionConfig()) == [()]
    assert mirrorings(PredictionConfig(mirrored_axes=("y",))) == [(), (1,)]
    assert sorted(mirrorings(PredictionConfig(mirrored_axes=("x", "z")))) == [(), (0,), (0, 2), (2,)]


@pytest.mark.parametrize("tiling", ["segments", "auto"])
@pytest.mark.parametrize("roi", [True, False], ids=["roi", "whole"])
@pytest.mark.parametrize("minimum", [SEGMENT, (20, 18, 17)], ids=["", "small case"])
def test_mirroring_averages_predictions_of_mirrored_images(make_net, tiling, roi, minimum) -> None:
    net = make_net(((3, 3, 2),))
    settings = InferenceSettings(segment=SEGMENT, tiling=tiling)
    expected = torch.zeros(3, 12, 10, 13)
    for axes in [(), (0,), (2,), (0, 2)]:
        case = prepared(net, axes, roi, minimum)
        expected += predict_volume(net, case, settings).probabilities.flip([axis + 1 for axis in axes]) / 4
    chosen = PredictionConfig(mirrored_axes=("x", "z"))
    found = predict_case([Member(net, SEGMENT)], [prepared(net, (), roi, minimum)], settings, chosen)
    torch.testing.assert_close(found.probabilities, expected, atol=2e-6, rtol=0)
    mask = prepared(net, (), roi, minimum)
    inside = torch.ones(12, 10, 13) if mask.roi is None else mask.roi[mask.unpadded]
    assert torch.equal(found.segmentation, found.probabilities.argmax(dim=0).to(torch.uint8) * inside.to(torch.uint8))


def test_an_ensemble_is_the_mean_of_its_members(make_net) -> None:
    nets = [make_net(((3, 3, 3),), seed=seed) for seed in (1, 2, 3)]
    case = prepared(nets[0])
    alone = [predict_volume(net, case, SETTINGS) for net in nets]
    members = [Member(net, SEGMENT) for net in nets]
    found = predict_case(members, [case] * 3, SETTINGS, PredictionConfig(uncertainty=("entropy", "variance")))
    stacked = torch.stack([one.probabilities for one in alone])
    torch.testing.assert_close(found.probabilities, stacked.mean(dim=0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.uncertainty["variance"], stacked.var(dim=0, correction=0).mean(dim=0))
    roi = case.roi[case.unpadded]
    torch.testing.assert_close(found.uncertainty["entropy"], entropy(found.probabilities) * roi)
    assert found.uncertainty["entropy"][roi].min() > 0
    assert not found.uncertainty["entropy"][~roi].any()


def test_members_may_want_other_paddings_and_tiles(make_net) -> None:
    first, second = make_net(), make_net(((3, 3, 3),), fc_kernel=(3, 3, 3), fc_padding="valid", seed=4)
    cases = [prepared(net) for net in (first, second)]
    assert cases[0].size != cases[1].size
    sizes = [(11, 11, 11), (13, 12, 11)]
    alone = [
        predict_volume(net, case, InferenceSettings(segment=segment)).probabilities
        for net, case, segment in zip((first, second), cases, sizes, strict=True)
    ]
    members = [Member(net, segment) for net, segment in zip((first, second), sizes, strict=True)]
    found = predict_case(members, cases, SETTINGS, PredictionConfig())
    torch.testing.assert_close(found.probabilities, sum(alone) / 2, atol=1e-6, rtol=0)


def test_without_refinements_nothing_changes(make_net) -> None:
    net = make_net(((3, 3, 3),))
    wanted = {0: {1: (0, 2)}}
    plain = predict_volume(net, prepared(net), SETTINGS, wanted)
    found = predict_case([Member(net, SEGMENT)], [prepared(net)], SETTINGS, PredictionConfig(), wanted)
    assert torch.equal(found.probabilities, plain.probabilities)
    assert torch.equal(found.segmentation, plain.segmentation)
    assert torch.equal(found.feature_maps[0, 1], plain.feature_maps[0, 1])
    assert not found.uncertainty


def test_feature_maps_are_those_of_the_plain_pass(make_net) -> None:
    net, wanted = make_net(), {0: {0: (0, 2)}}
    plain = predict_volume(net, prepared(net), SETTINGS, wanted)
    chosen = PredictionConfig(mirrored_axes=("x",))
    found = predict_case([Member(net, SEGMENT)], [prepared(net)], SETTINGS, chosen, wanted)
    assert torch.equal(found.feature_maps[0, 0], plain.feature_maps[0, 0])


@pytest.mark.parametrize("roi", [True, False], ids=["roi", "whole"])
def test_components_are_removed_within_the_roi(make_net, roi) -> None:
    net = make_net()
    case = prepared(net, roi=roi)
    plain = predict_volume(net, case, SETTINGS)
    chosen = PredictionConfig(keep_largest=(False, True, True), connectivity=6)
    found = predict_case([Member(net, SEGMENT)], [case], SETTINGS, chosen)
    expected = without_small_components(plain.segmentation, (1.0, 2.0, 3.0), chosen)
    assert torch.equal(found.segmentation, expected)
    assert not torch.equal(expected, plain.segmentation)
    assert torch.equal(found.probabilities, plain.probabilities)
    mask = case.roi[case.unpadded] if roi else torch.ones_like(expected, dtype=torch.bool)
    assert torch.equal(found.segmentation_everywhere[mask], expected[mask])
    assert torch.equal(found.segmentation_everywhere[~mask], plain.segmentation_everywhere[~mask])


def test_progress_is_told_in_every_pass(make_net) -> None:
    net, calls = make_net(), []
    case = prepared(net)
    predict_case(
        [Member(net, SEGMENT)] * 2,
        [case] * 2,
        SETTINGS,
        PredictionConfig(mirrored_axes=("y",)),
        progress=lambda *done: calls.append(done),
    )
    assert len(calls) % 4 == 0
    assert calls[0] == calls[len(calls) // 4]


# Where averages are computed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "stays"), [(10**9, True), (1, False)], ids=["enough memory", "little memory"])
def test_predictions_are_averaged_on_the_device_if_memory_allows(make_net, monkeypatch, memory, stays) -> None:
    """The device is the CPU here; what is looked at is whether predictions are asked to leave it."""
    net, moved, real = make_net(), [], module.predict_tiles

    class Watched(torch.Tensor):
        def cpu(self) -> torch.Tensor:  # type: ignore[override]
            moved.append(self.shape)
            return self.as_subclass(torch.Tensor)

    def watched(*arguments):
        found = real(*arguments)
        return replace(found, probabilities=found.probabilities.as_subclass(Watched))

    monkeypatch.setattr(module, "predict_tiles", watched)
    settings = InferenceSettings(segment=SEGMENT, tile_memory=memory)
    chosen = PredictionConfig(mirrored_axes=("x",))
    found = predict_case([Member(net, SEGMENT)], [prepared(net)], settings, chosen)
    passes = [shape for shape in moved if len(shape) == 4]
    assert len(passes) == (1 if stays else 2)  # once at the end, or each pass
    monkeypatch.undo()
    plain = predict_case([Member(net, SEGMENT)], [prepared(net)], SETTINGS, chosen)
    assert torch.equal(found.probabilities, plain.probabilities)
    assert torch.equal(found.segmentation, plain.segmentation)


def test_memory_that_runs_out_after_averaging_is_taken_from_the_cpu(make_net, monkeypatch, caplog) -> None:
    net, chosen = make_net(), PredictionConfig(mirrored_axes=("x",), uncertainty=("entropy", "variance"))
    expected = predict_case([Member(net, SEGMENT)], [prepared(net)], SETTINGS, chosen)
    decided, devices = module._decided, iter([torch.device("cuda", 0)])

    class Sums(MeanPrediction):
        @property
        def device(self) -> torch.device:
            return torch.device("cuda", 0) if not moved else torch.device("cpu")

        def move_to_cpu(self) -> None:
            moved.append(self)
            super().move_to_cpu()

    moved: list[MeanPrediction] = []

    def short(*arguments, **options):
        if next(devices, None) is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decided(*arguments, **options)

    monkeypatch.setattr(module, "MeanPrediction", Sums)
    monkeypatch.setattr(module, "_decided", short)
    found = predict_case([Member(net, SEGMENT)], [prepared(net)], SETTINGS, chosen)
    assert len(moved) == 1
    assert "a: memory ran out after averaging on cuda:0; trying on the CPU." in caplog.text
    assert torch.equal(found.probabilities, expected.probabilities)
    assert torch.equal(found.uncertainty["variance"], expected.uncertainty["variance"])


def test_a_grid_is_changed_on_the_device_of_the_volumes() -> None:
    header = resampled_header(array_header((12, 10, 13), np.diag([1.0, 2.0, 3.0, 1.0])), (2.0, 2.0, 2.0))
    found = to_native_grid(torch.zeros(3, *header.shape, device="meta"), header)
    assert (found.device, tuple(found.shape)) == (torch.device("meta"), (3, 12, 10, 13))
