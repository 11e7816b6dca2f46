"""Padding and normalisation against golden numbers of the original, and what the original could not do."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from deepmedic.config.sections import PreprocessingConfig, ZScoreConfig
from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.nifti import array_header
from deepmedic.data.preprocessing import prepare_case
from deepmedic.data.volumes import LoadedCase
from deepmedic.errors import ConfigError, DataError

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocessing"
ARRAYS = np.load(GOLDEN / "zscore.npz")
SETTINGS = json.loads((GOLDEN / "zscore.json").read_text())
NO_MARGINS = ((0, 0), (0, 0), (0, 0))
NORMALISED = PreprocessingConfig(zscore=ZScoreConfig(all_channels=True))
PLAIN = PreprocessingConfig()


def zscore(params: dict) -> PreprocessingConfig:
    def pair(key: str) -> tuple | None:
        return None if params[key] is None else tuple(params[key])

    return PreprocessingConfig(
        zscore=ZScoreConfig(
            all_channels=params["apply_to_all_channels"],
            per_channel=pair("apply_per_channel"),
            cutoff_percents=pair("cutoff_percents"),
            cutoff_times_std=pair("cutoff_times_std"),
            cutoff_below_mean=params["cutoff_below_mean"],
        )
    )


def loaded(
    channels: np.ndarray,
    roi: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    weight_maps: np.ndarray | None = None,
    missing: tuple[int, ...] = (),
) -> LoadedCase:
    refs = tuple(None if number in missing else ImageRef(Path(f"c{number}.nii")) for number in range(len(channels)))
    return LoadedCase(
        case=Case("p1", refs),
        header=array_header(channels.shape[1:]),
        channels=channels.astype(np.float32),
        labels=labels,
        roi=None if roi is None else roi.astype(bool),
        weight_maps=weight_maps,
    )


@pytest.mark.parametrize("setting", SETTINGS["zscore"], ids=lambda setting: setting["label"])
def test_normalisation_equals_the_original(setting: dict) -> None:
    case = loaded(ARRAYS["channels"], ARRAYS["roi"] if setting["roi"] else None)
    prepared = prepare_case(case, NO_MARGINS, zscore(setting["params"]))
    expected = ARRAYS[f"norm.{setting['label']}"]
    np.testing.assert_allclose(prepared.channels.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_roi", [0, 1])
def test_padding_then_normalisation_equals_the_original(with_roi: int) -> None:
    margins = tuple(map(tuple, SETTINGS["system_margin"]))
    case = loaded(ARRAYS["channels"], ARRAYS["roi"] if with_roi else None, ARRAYS["gt"].astype(np.uint8))
    prepared = prepare_case(case, margins, zscore(SETTINGS["system_zscore"]))
    expected = ARRAYS[f"system_roi{with_roi}.channels"]
    np.testing.assert_allclose(prepared.channels.numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(prepared.labels.numpy(), ARRAYS[f"system_roi{with_roi}.gt"])
    assert prepared.padding == margins
    if with_roi:
        np.testing.assert_array_equal(prepared.roi.numpy(), ARRAYS["system_roi1.roi"] > 0)
        border = SETTINGS["border_value_per_channel_after_system_preprocessing_with_roi"]
        np.testing.assert_allclose(prepared.border_values.numpy(), border, rtol=1e-5)


def test_border_values_are_the_mean_of_the_corners_as_in_the_original() -> None:
    prepared = prepare_case(loaded(ARRAYS["channels"]), NO_MARGINS, PLAIN)
    np.testing.assert_allclose(prepared.border_values.numpy(), SETTINGS["border_value_per_channel"], rtol=1e-6)


def small(**arrays: np.ndarray) -> LoadedCase:
    """A case of 2 x 3 x 1 voxels."""
    return loaded(np.arange(6.0).reshape(1, 2, 3, 1), **arrays)


def test_a_small_volume_is_reflected_up_to_the_size_of_a_segment_also_without_margins() -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    roi = labels == 5
    weights = labels[None].astype(np.float32)
    for pad, margins, padding in (
        (True, ((1, 1), (1, 0), (0, 0)), ((1, 1), (1, 1), (0, 2))),
        (False, ((1, 1), (1, 0), (0, 0)), ((0, 2), (0, 2), (0, 2))),
    ):
        config = PreprocessingConfig(pad_images=pad)
        prepared = prepare_case(small(labels=labels, roi=roi, weight_maps=weights), margins, config, (4, 5, 3))
        assert prepared.size == (4, 5, 3)
        assert prepared.padding == padding
        expected = np.pad(labels, padding, mode="reflect")
        np.testing.assert_array_equal(prepared.channels[0].numpy(), expected)
        np.testing.assert_array_equal(prepared.labels.numpy(), expected)
        np.testing.assert_array_equal(prepared.roi.numpy(), expected == 5)
        np.testing.assert_array_equal(prepared.weight_maps[0].numpy(), expected)
        (before_x, _), (before_y, _), _ = padding
        np.testing.assert_array_equal(prepared.labels[before_x:, before_y:][:2, :3, :1].numpy(), labels)


def test_what_fills_a_segment_does_not_count_in_the_statistics() -> None:
    case = small(roi=np.array([[[0], [1], [1]], [[1], [1], [1]]]))
    alone = prepare_case(small(roi=case.roi), NO_MARGINS, NORMALISED)
    filled = prepare_case(case, NO_MARGINS, NORMALISED, (7, 7, 7))
    torch.testing.assert_close(filled.channels[:, :2, :3, :1], alone.channels)
    inside = alone.channels[0][alone.roi]
    assert inside.mean().item() == pytest.approx(0, abs=1e-6)
    assert inside.std(correction=0).item() == pytest.approx(1, rel=1e-6)


def test_a_missing_channel_stays_zero() -> None:
    channels = np.stack([np.zeros((3, 3, 3)), np.arange(27.0).reshape(3, 3, 3)])
    prepared = prepare_case(loaded(channels, missing=(0,)), ((2, 2),) * 3, NORMALISED)
    assert not prepared.channels[0].any()
    assert prepared.border_values[0] == 0
    assert prepared.channels[1].any()


def test_a_constant_channel_is_refused_by_case_and_channel() -> None:
    channels = np.stack([np.arange(27.0).reshape(3, 3, 3), np.full((3, 3, 3), 7.0)])
    with pytest.raises(
        DataError, match=r"case p1, channel 2: c1.nii: all 27 voxels within the ROI have the intensity 7:"
    ):
        prepare_case(loaded(channels), NO_MARGINS, NORMALISED)
    only_first = PreprocessingConfig(zscore=ZScoreConfig(per_channel=(True, False)))
    prepared = prepare_case(loaded(channels), NO_MARGINS, only_first)
    assert prepared.channels[1].unique().tolist() == [7.0]
    with pytest.raises(ConfigError, match="apply_per_channel has 2 entries, and there are 1 channels"):
        prepare_case(loaded(channels[:1]), NO_MARGINS, only_first)


def test_an_empty_roi_takes_the_statistics_of_the_whole_volume_with_a_note() -> None:
    empty = small(roi=np.zeros((2, 3, 1)))
    prepared = prepare_case(empty, NO_MARGINS, NORMALISED)
    torch.testing.assert_close(prepared.channels, prepare_case(small(), NO_MARGINS, NORMALISED).channels)
    note = "the ROI is empty: intensities are normalised by those of the whole volume"
    assert prepared.notes == [note]
    assert empty.notes == [note]
    assert prepare_case(small(roi=np.zeros((2, 3, 1))), NO_MARGINS, PLAIN).notes == []


def test_types_are_those_a_network_needs_and_the_loaded_case_is_left_alone() -> None:
    case = small(labels=np.full((2, 3, 1), 300, np.uint16))
    before = case.channels.copy()
    prepared = prepare_case(case, NO_MARGINS, NORMALISED)
    assert prepared.labels.dtype == torch.int32
    assert prepared.labels.unique().tolist() == [300]
    assert prepared.channels.dtype == prepared.border_values.dtype == torch.float32
    np.testing.assert_array_equal(case.channels, before)
    assert prepare_case(small(labels=np.zeros((2, 3, 1), np.uint8)), NO_MARGINS, PLAIN).labels.dtype == torch.uint8


def test_preparing_a_case_takes_little_more_memory_than_the_result() -> None:
    """Of large volumes, each further copy in float64 is gigabytes."""
    case = loaded(np.random.default_rng(0).normal(size=(1, 64, 64, 64)))
    tracemalloc.start()
    prepare_case(case, NO_MARGINS, NORMALISED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 14 * 64**3  # 4 for the result, 8 for its statistics
