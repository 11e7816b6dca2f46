"""Tiled prediction against one pass over the whole volume and against a slow cut of every tile."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from deepmedic.errors import ModelError, ResourceError
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_tiles, predict_volume
from deepmedic.inference.tiling import segment_tiles

FACTORS = ((3, 3, 2), (1, 2, 3))


def settings(segment=(11, 11, 11), **changes) -> InferenceSettings:
    return InferenceSettings(segment=segment, **changes)


def auto(**changes) -> InferenceSettings:
    return settings(tiling="auto", **changes)


def low_resolution(channels: np.ndarray, border: np.ndarray, start, size, factor, *, grid_restarts: bool) -> np.ndarray:
    """Cut one segment voxel by voxel, by the rules of the original for a receptive field of 5."""
    positions = []
    for axis in range(3):
        first = start[axis] + 2 - 2 * factor[axis]  # the first predicted voxel minus two low-resolution voxels
        row = [first + slot * factor[axis] for slot in range(size[axis])]
        if first < 0 and grid_restarts:
            lost = -first // factor[axis]
            row = [(slot - lost) * factor[axis] for slot in range(size[axis])]
        positions.append(row)
    cut = np.empty((len(channels), *size), np.float32)
    for index in np.ndindex(*size):
        voxel = [positions[axis][index[axis]] for axis in range(3)]
        inside = all(0 <= at < length for at, length in zip(voxel, channels.shape[1:], strict=True))
        cut[(slice(None), *index)] = channels[(slice(None), *voxel)] if inside else border
    return cut


def slow_probabilities(net, case, segment, starts, *, grid_restarts=True) -> torch.Tensor:
    """Predict tile by tile; later tiles overwrite earlier ones."""
    architecture = net.architecture
    channels, border = case.channels.numpy(), case.border_values.numpy()
    output = architecture.output_size(segment)
    volume = torch.zeros(architecture.classes, *case.size)
    for start in starts:
        inputs = [torch.from_numpy(channels[(slice(None), *_box(start, segment))])[None]]
        for pathway, size in zip(architecture.subsampled, architecture.input_sizes(segment)[1:], strict=True):
            cut = low_resolution(channels, border, start, size, pathway.factor, grid_restarts=grid_restarts)
            inputs.append(torch.from_numpy(cut)[None])
        with torch.no_grad():
            tile = net.eval()(*inputs).softmax(dim=1)[0]
        first = [at + low for at, (low, _) in zip(start, architecture.margins(segment), strict=True)]
        volume[(slice(None), *_box(first, output))] = tile
    return volume


def _box(first, size):
    return tuple(slice(low, low + length) for low, length in zip(first, size, strict=True))


# What is computed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("segment", "batch_size"), [((7, 9, 8), 1), ((9, 8, 7), 4), ((13, 14, 12), 2)])
def test_without_low_resolution_tiles_equal_one_pass_over_the_volume(make_net, make_case, segment, batch_size) -> None:
    net, case = make_net(), make_case((13, 14, 12))
    whole = slow_probabilities(net, case, case.size, [(0, 0, 0)])

    found = predict_volume(net, case, settings(segment, batch_size=batch_size))

    torch.testing.assert_close(found.probabilities, whole, atol=1e-6, rtol=0)
    assert torch.equal(found.segmentation, whole.argmax(dim=0).to(torch.uint8))


@pytest.mark.parametrize("fc_kernel", [(1, 1, 1), (3, 3, 3)])
def test_low_resolution_grid_starts_anew_in_every_tile(make_net, make_case, fc_kernel) -> None:
    net, case = make_net(FACTORS, fc_kernel), make_case((17, 15, 13))
    segment = (11, 10, 9)
    starts = segment_tiles(case.size, segment, net.architecture.output_size(segment)).tolist()

    found = predict_volume(net, case, settings(segment, batch_size=3))

    expected = slow_probabilities(net, case, segment, starts)
    torch.testing.assert_close(found.probabilities, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("memory", [80_000, 120_000, 10**9])
@pytest.mark.parametrize("fc_kernel", [(1, 1, 1), (3, 2, 3)])
def test_auto_is_one_pass_over_the_volume_whatever_the_tiles(make_net, make_case, memory, fc_kernel) -> None:
    net, case = make_net(FACTORS, fc_kernel), make_case((20, 19, 18))
    whole = slow_probabilities(net, case, case.size, [(0, 0, 0)], grid_restarts=False)

    found = predict_volume(net, case, auto(tile_memory=memory))

    torch.testing.assert_close(found.probabilities, whole, atol=2e-6, rtol=0)


def test_auto_tiles_are_really_smaller_with_less_memory(make_net, make_case) -> None:
    counts = []
    for memory in (60_000, 10**9):
        predict_volume(
            make_net(FACTORS), make_case((20, 19, 18)), auto(tile_memory=memory), progress=lambda _, n: counts.append(n)
        )
    assert counts[-1] == 1 < counts[0]


def test_auto_agrees_with_segments_where_the_low_resolution_grids_agree(make_net, make_case) -> None:
    net, case = make_net(((3, 3, 3),)), make_case((36, 30, 30))
    segment = (13, 13, 13)  # predicts 9 voxels, a multiple of the factor
    auto_map = predict_volume(net, case, auto()).probabilities
    segments_map = predict_volume(net, case, settings(segment)).probabilities

    # The tile at 9 reaches no border; of the voxels 11 to 19 it predicts, the last tile along y and z overwrites 19.
    interior = (slice(None), slice(11, 19), slice(11, 19), slice(11, 19))
    torch.testing.assert_close(auto_map[interior], segments_map[interior], atol=1e-6, rtol=0)
    assert (auto_map - segments_map).abs().max() > 1e-3


def test_auto_and_segments_agree_everywhere_without_low_resolution(make_net, make_case) -> None:
    net, case = make_net(), make_case((20, 19, 18))
    maps = [predict_volume(net, case, chosen).probabilities for chosen in (auto(tile_memory=100_000), settings())]
    torch.testing.assert_close(*maps, atol=1e-6, rtol=0)


# What comes back -----------------------------------------------------------------------------------------------------


def test_border_that_the_network_does_not_reach_is_zero(make_net, make_case) -> None:
    found = predict_volume(make_net(), make_case((12, 11, 13)), settings())
    inner = found.probabilities[:, 2:-2, 2:-2, 2:-2]
    torch.testing.assert_close(inner.sum(dim=0), torch.ones(8, 7, 9))
    assert found.probabilities.sum() == pytest.approx(8 * 7 * 9, abs=1e-3)
    assert found.segmentation[:2].sum() == 0


def test_padding_is_removed(make_net, make_case) -> None:
    net, padding = make_net(((3, 3, 3),)), ((2, 2), (3, 2), (2, 4))
    with_padding = predict_volume(net, make_case((15, 16, 17), padding=padding), settings())
    bare = predict_volume(net, make_case((15, 16, 17)), settings())
    assert torch.equal(with_padding.probabilities, bare.probabilities[:, 2:13, 3:14, 2:13])
    assert torch.equal(with_padding.segmentation, bare.segmentation[2:13, 3:14, 2:13])
    assert with_padding.probabilities.is_contiguous()


@pytest.mark.parametrize("tiling", ["segments", "auto"])
def test_roi_is_a_mask(make_net, make_case, tiling) -> None:
    roi = torch.zeros(16, 16, 16, dtype=torch.bool)
    roi[4:8, 4:8, 5:9] = True
    net, chosen = make_net(((3, 3, 3),)), settings(tiling=tiling)
    everywhere = predict_volume(net, make_case((16, 16, 16)), chosen)
    inside = predict_volume(net, make_case((16, 16, 16), roi=roi), chosen)

    torch.testing.assert_close(inside.probabilities, everywhere.probabilities * roi, atol=1e-6, rtol=0)
    assert torch.equal(inside.segmentation, everywhere.segmentation * roi)
    assert torch.equal(inside.segmentation_everywhere * roi, inside.segmentation)
    predicted_outside = int(inside.segmentation_everywhere[~roi].sum())
    assert predicted_outside > 0 if tiling == "segments" else predicted_outside == 0


@pytest.mark.parametrize("tiling", ["segments", "auto"])
def test_empty_roi_gives_background(make_net, make_case, tiling) -> None:
    case = make_case((13, 13, 13), roi=torch.zeros(13, 13, 13, dtype=torch.bool))
    found = predict_volume(make_net(), case, settings(tiling=tiling))
    assert found.probabilities.count_nonzero() == 0
    assert found.segmentation_everywhere.count_nonzero() == 0


@pytest.mark.parametrize("tiling", ["segments", "auto"])
@pytest.mark.parametrize("predict", [predict_volume, predict_tiles])
def test_what_is_no_number_is_refused_rather_than_background(make_net, make_case, tiling, predict) -> None:
    """Above all where no probabilities are saved, in which it would be seen."""
    roi = torch.zeros(13, 14, 12, dtype=torch.bool)
    roi[:6] = True
    case = make_case((13, 14, 12), roi=roi)
    case.channels[0, 12, 13, 11] = float("nan")  # farther from the ROI than the network sees, but in a tile of it
    predict(make_net(), case, settings((13, 14, 12), tiling=tiling))
    case.channels[0, 3, 7, 6] = float("nan")  # seen by 4 x 5 x 5 voxels at least
    with pytest.raises(ModelError, match=r"case: the model gives values that are not finite for 1\d\d voxels of this"):
        predict(make_net(), case, settings((13, 14, 12), tiling=tiling))


def test_feature_maps_are_those_of_one_pass(make_net, make_case) -> None:
    net, case = make_net(((3, 3, 3),)), make_case((14, 12, 13), padding=((1, 1), (1, 0), (0, 1)))
    wanted = {0: {1: (1, 4)}, 2: {0: (0, 2), 1: (2, 3)}}
    found = predict_volume(net, case, settings((11, 12, 11), batch_size=2), wanted)

    assert {layer: tuple(maps.shape) for layer, maps in found.feature_maps.items()} == {
        (0, 1): (3, 12, 11, 12),
        (2, 0): (2, 12, 11, 12),
        (2, 1): (1, 12, 11, 12),
    }
    with torch.no_grad():
        normal = net.eval().parallel[0](case.channels[None])[0, 1:4]
    inner = found.feature_maps[0, 1][:, 1:11, 1:9, 2:11]
    torch.testing.assert_close(inner, normal[:, :10, :8, :9], atol=1e-5, rtol=0)
    predicted = found.probabilities.sum(dim=0) > 0
    assert (found.feature_maps[2, 1][0][predicted] != 0).all()
    assert not found.feature_maps[2, 1][0][~predicted].any()


# How it is computed --------------------------------------------------------------------------------------------------


def test_training_mode_comes_back_module_by_module(make_net, make_case) -> None:
    net = make_net().train()
    net.fc.eval()
    before = {name: module.training for name, module in net.named_modules()}
    predict_volume(net, make_case((11, 11, 11)), settings())
    assert {name: module.training for name, module in net.named_modules()} == before
    assert any(before.values())
    assert not all(before.values())


def test_mode_comes_back_after_an_error(make_net, make_case) -> None:
    net = make_net().train()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt(f"{done}/{total}")

    with pytest.raises(KeyboardInterrupt, match="1/8"):
        predict_volume(net, make_case((13, 13, 13)), settings((9, 9, 9), batch_size=1), progress=interrupt)
    assert net.training


def test_progress_counts_tiles(make_net, make_case) -> None:
    calls = []
    predict_volume(
        make_net(),
        make_case((13, 13, 11)),
        settings((9, 9, 11), batch_size=3),
        progress=lambda *done: calls.append(done),
    )
    assert calls == [(3, 4), (4, 4)]


def test_the_logged_number_of_tiles_is_filled_to_whole_batches(make_net, make_case, caplog) -> None:
    with caplog.at_level(logging.DEBUG, "deepmedic"):
        predict_volume(make_net(), make_case((13, 13, 11)), settings((9, 9, 11), batch_size=3))
    assert "Total number of Segments to process:6" in caplog.text


def test_bf16_is_close_to_float32(make_net, make_case) -> None:
    net, case = make_net(((3, 3, 3),)), make_case((15, 15, 15))
    exact, rough = (predict_volume(net, case, settings(precision=kind)).probabilities for kind in ("float32", "bf16"))
    difference = (exact - rough).abs().max()
    assert rough.dtype == torch.float32
    assert 0 < difference < 0.05


class ShortOfMemory:
    """Raise out of memory in forward passes with more input voxels than allowed."""

    def __init__(self, monkeypatch, net, voxels: int, error: Exception) -> None:
        self.sizes: list[int] = []
        real = type(net)._check_inputs

        def limited(this, inputs):
            self.sizes.append(inputs[0][:, 0].numel())
            if self.sizes[-1] > voxels:
                raise error
            real(this, inputs)

        monkeypatch.setattr(type(net), "_check_inputs", limited)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_batch(make_net, make_case, monkeypatch, caplog, error) -> None:
    net, case = make_net(((3, 3, 3),)), make_case((20, 18, 16))
    enough = predict_volume(net, case, settings(batch_size=8))
    short = ShortOfMemory(monkeypatch, net, 2 * 11**3, error)

    found = predict_volume(net, case, settings(batch_size=8))

    assert torch.equal(found.segmentation, enough.segmentation)
    torch.testing.assert_close(found.probabilities, enough.probabilities, atol=1e-5, rtol=0)
    assert [size // 11**3 for size in short.sizes[:3]] == [8, 4, 2]
    assert "case: memory ran out with tiles of 11x11x11 in batches of 8 on cpu" in caplog.text
    assert "trying tiles of 11x11x11 in batches of 2 on cpu" in caplog.text


def test_out_of_memory_makes_auto_tiles_smaller(make_net, make_case, monkeypatch) -> None:
    net, case = make_net(FACTORS, (3, 3, 3)), make_case((24, 22, 20))
    enough = predict_volume(net, case, auto())
    short = ShortOfMemory(monkeypatch, net, 4000, torch.OutOfMemoryError("CUDA out of memory."))

    found = predict_volume(net, case, auto())

    assert torch.equal(found.segmentation, enough.segmentation)
    torch.testing.assert_close(found.probabilities, enough.probabilities, atol=1e-5, rtol=0)
    assert short.sizes[0] == 24 * 22 * 20
    assert short.sizes[-1] <= 4000


@pytest.mark.parametrize("tiling", ["segments", "auto"])
def test_memory_that_never_suffices_is_a_refusal(make_net, make_case, monkeypatch, tiling) -> None:
    net = make_net()
    ShortOfMemory(monkeypatch, net, 0, MemoryError())
    with pytest.raises(
        ResourceError, match=r"case: memory was not enough to predict a volume of 12x12x12 voxels, .*1 on"
    ):
        predict_volume(net, make_case((12, 12, 12)), settings(tiling=tiling))


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_net, make_case, monkeypatch) -> None:
    net = make_net()
    ShortOfMemory(monkeypatch, net, 0, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        predict_volume(net, make_case((12, 12, 12)), settings())


@pytest.mark.parametrize(("tiling", "searches"), [("segments", True), ("auto", False)])
def test_kernels_are_searched_only_where_tiles_have_one_size(make_net, make_case, monkeypatch, tiling, searches):
    """Tiles of speed have sizes of their own for each volume, and a search takes longer than the volume."""
    net, seen = make_net(), []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    net.softmax.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    predict_volume(net, make_case((20, 19, 18)), settings(tiling=tiling))
    assert set(seen) == {searches}
    assert torch.backends.cudnn.benchmark is True
