"""Statistics for the z-score, the warning about its absence, and fingerprints."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from deepmedic.config.sections import ZScoreConfig
from deepmedic.data.intensities import intensity_fingerprint, mean_and_std, moments, unnormalised_warning
from deepmedic.errors import DataError

RNG = np.random.default_rng(5)


def case(*channels: np.ndarray, roi: np.ndarray | None = None) -> SimpleNamespace:
    return SimpleNamespace(channels=np.stack(channels).astype(np.float32), roi=roi)


def test_cut_offs_by_hand() -> None:
    volume = np.arange(10, dtype=np.float32).reshape(10, 1, 1)
    inside = volume > 1  # 2 to 9
    assert mean_and_std(volume, inside, ZScoreConfig()) == pytest.approx((5.5, np.std(np.arange(2, 10))))
    by_percent = ZScoreConfig(cutoff_percents=(0.0, 100.0))  # strict: the smallest and the largest drop out
    assert mean_and_std(volume, inside, by_percent) == pytest.approx((5.5, np.std(np.arange(3, 9))))
    below_mean = ZScoreConfig(cutoff_below_mean=True)  # whole mean 4.5, and the maximum drops out
    assert mean_and_std(volume, inside, below_mean) == pytest.approx((6.5, np.std(np.arange(5, 9))))
    by_std = ZScoreConfig(cutoff_times_std=(1.0, 0.5))  # 5.5 - 2.29 < v < 5.5 + 1.15
    assert mean_and_std(volume, inside, by_std) == pytest.approx((5.0, np.std([4, 5, 6])))


def test_statistics_of_large_float32_values_are_exact_enough() -> None:
    volume = (1e6 + RNG.normal(size=(30, 30, 30))).astype(np.float32)
    exact = volume.astype(np.longdouble)
    assert mean_and_std(volume, None, ZScoreConfig()) == pytest.approx(
        (float(exact.mean()), float(exact.std())), rel=1e-12
    )


def test_statistics_are_those_of_numpy_and_the_volume_stays_as_it_was() -> None:
    for dtype in (np.float32, np.float64):
        volume = (np.random.default_rng(3).normal(size=(20, 21, 22)) * 100).astype(dtype)
        before = volume.copy()
        found = mean_and_std(volume, None, ZScoreConfig())
        assert found == (float(before.astype(np.float64).mean()), float(before.astype(np.float64).std()))
        assert np.array_equal(volume, before)


@pytest.mark.parametrize("count", [1, 7, 129, 65_536, 65_537, 131_073, 300_007])
def test_moments_of_parts_are_those_of_numpy_to_the_last_bit(count: int) -> None:
    values = (np.random.default_rng(count).normal(size=count) * 100 + 1000).astype(np.float32)
    whole = values.astype(np.float64)
    assert moments(values) == (float(whole.mean()), float(whole.std()))


@pytest.mark.parametrize(
    "cutoffs", [{"cutoff_percents": (5.0, 95.0)}, {"cutoff_times_std": (2.0, 1.0)}, {"cutoff_below_mean": True}]
)
def test_cut_offs_of_large_volumes_are_those_of_float64(cutoffs: dict) -> None:
    volume = (np.random.default_rng(1).normal(size=(50, 60, 70)) * 100).astype(np.float32)
    mask = np.random.default_rng(2).random(volume.shape) < 0.7
    inside = volume[mask].astype(np.float64)
    low, high = {
        "cutoff_percents": tuple(np.percentile(inside, (5, 95))),
        "cutoff_times_std": (inside.mean() - 2 * inside.std(), inside.mean() + inside.std()),
        "cutoff_below_mean": (volume.mean(dtype=np.float64), volume.max()),
    }[next(iter(cutoffs))]
    left = inside[(inside > low) & (inside < high)]
    assert mean_and_std(volume, mask, ZScoreConfig(**cutoffs)) == (float(left.mean()), float(left.std()))


def test_warning_and_fingerprint_of_large_volumes_have_the_moments_of_numpy() -> None:
    volume = (np.random.default_rng(1).normal(size=(50, 60, 70)) * 100 + 7).astype(np.float32)
    mean, std = volume.ravel().mean(dtype=np.float64), volume.ravel().std(dtype=np.float64)
    found = intensity_fingerprint(case(volume))["channels"][0]
    assert (found["mean"], found["std"]) == (float(mean), float(std))
    assert f"channel 1 has mean {mean:.4g} and standard deviation {std:.4g}" in unnormalised_warning(
        case(volume), ZScoreConfig()
    )


def test_a_constant_channel_has_no_z_score() -> None:
    volume = np.full((4, 4, 4), 0.1, np.float32)
    with pytest.raises(
        DataError, match=r"all 64 voxels within the ROI have the intensity 0.1: no z-score.*apply_per_ch"
    ):
        mean_and_std(volume, None, ZScoreConfig())


def test_cut_offs_that_leave_nothing_or_one_value_are_named() -> None:
    volume = np.repeat(np.array([0, 1], np.float32), 32).reshape(4, 4, 4)
    with pytest.raises(DataError, match=r"cut-offs of norm_zscore_prms are too narrow .* within the ROI none is left"):
        mean_and_std(volume, None, ZScoreConfig(cutoff_percents=(5.0, 95.0)))
    volume[0, 0, 0] = 0.5
    with pytest.raises(DataError, match="the voxels left have one value"):
        mean_and_std(volume, None, ZScoreConfig(cutoff_percents=(5.0, 95.0)))


def test_raw_intensities_without_normalisation_give_a_warning_that_names_the_key() -> None:
    normal = RNG.normal(size=(8, 8, 8))
    assert unnormalised_warning(case(normal, normal * 2 + 1), ZScoreConfig()) is None
    warning = unnormalised_warning(case(normal, normal * 150 + 400), ZScoreConfig())
    assert warning is not None
    assert "channel 2 has mean 4" in warning
    assert "channel 1" not in warning
    assert "norm_zscore_prms" in warning
    raw = case(normal * 150 + 400)
    assert unnormalised_warning(raw, ZScoreConfig(all_channels=True)) is None
    assert unnormalised_warning(raw, ZScoreConfig(per_channel=(True,))) is None
    assert unnormalised_warning(raw, ZScoreConfig(per_channel=(False,))) is not None


def test_the_warning_looks_within_the_roi_and_not_at_missing_channels() -> None:
    normal = RNG.normal(size=(8, 8, 8))
    roi = np.zeros((8, 8, 8), bool)
    roi[:4] = True
    background = np.where(roi, normal, -1000)
    assert unnormalised_warning(case(background, roi=roi), ZScoreConfig()) is None
    assert unnormalised_warning(case(background), ZScoreConfig()) is not None
    assert unnormalised_warning(case(np.zeros((8, 8, 8)), roi=roi), ZScoreConfig()) is None


def test_a_fingerprint_is_plain_numbers_within_the_roi() -> None:
    volume = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    roi = volume >= 500
    found = intensity_fingerprint(case(volume, np.zeros((10, 10, 10)), roi=roi))
    assert json.loads(json.dumps(found)) == found
    first, second = found["channels"]
    assert second is None
    assert first["mean"] == pytest.approx(749.5)
    assert first["std"] == pytest.approx(np.std(np.arange(500, 1000)))
    assert first["values"] == pytest.approx(np.quantile(np.arange(500, 1000), found["quantiles"]))


def test_a_fingerprint_of_a_large_volume_is_estimated_closely() -> None:
    volume = RNG.normal(size=(100, 100, 60)).astype(np.float32)
    (found,) = intensity_fingerprint(case(volume))["channels"]
    assert found["values"] == pytest.approx(np.quantile(volume, (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)), abs=0.03)


@pytest.mark.parametrize("shape", [(500, 500, 4), (500, 4, 500), (5, 1000, 251)])
def test_a_fingerprint_is_estimated_from_all_planes_of_a_volume(shape) -> None:
    """Every so many voxels of which a row or plane is a multiple would be the same place in each of them."""
    for axis in range(3):
        places = np.arange(shape[axis]).reshape([-1 if one == axis else 1 for one in range(3)])
        volume = np.broadcast_to(places, shape).astype(np.float32) + 1
        (found,) = intensity_fingerprint(case(volume))["channels"]
        expected = np.quantile(volume, (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995))
        assert found["values"] == pytest.approx(expected, abs=1 + 0.01 * shape[axis])
