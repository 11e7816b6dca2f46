"""Whether channels look like those of training, and are in their order."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from deepmedic.data.fingerprints import channels_unlike_training, order_that_fits_better
from deepmedic.data.intensities import intensity_fingerprint


def fingerprint(seed: int, order=(0, 1, 2), missing=(), scale: float = 1.0):
    """Three contrasts, normalised: bell-shaped, with a long bright tail, with two tissues; cases differ a little."""
    rng = np.random.default_rng(seed)
    size = (12, 12, 12)
    contrasts = [
        rng.normal(size=size) + 0.2 * rng.normal() * rng.random(size),
        rng.exponential(size=size) ** (1.5 + 0.1 * rng.normal()),
        rng.normal(size=size) * 0.2 + 2 * (rng.random(size) < 0.5 + 0.05 * rng.normal()),
    ]
    volumes = np.stack([scale * (contrasts[kind] - contrasts[kind].mean()) / contrasts[kind].std() for kind in order])
    volumes[list(missing)] = 0
    return intensity_fingerprint(SimpleNamespace(channels=volumes.astype(np.float32), roi=None))


TRAINED = [fingerprint(seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("seed", [11, 12])
def test_another_order_is_found_and_the_right_one_is_left_alone(order, seed):
    found = order_that_fits_better(fingerprint(seed, order), TRAINED)
    if order == (0, 1, 2):
        assert found is None
    else:
        assert tuple(order[channel] for channel in found) == (0, 1, 2)


def test_one_training_case_is_enough():
    assert order_that_fits_better(fingerprint(20, (1, 0, 2)), TRAINED[:1]) == (1, 0, 2)
    assert order_that_fits_better(fingerprint(20), TRAINED[:1]) is None


def test_a_missing_channel_takes_part():
    """The image with the tail was given as the bell-shaped one, which is the one that is missing."""
    assert order_that_fits_better(fingerprint(30, (1, 0, 2), missing=[1]), TRAINED) == (None, 0, 2)
    assert order_that_fits_better(fingerprint(30, missing=[1]), TRAINED) is None


def test_images_of_one_contrast_have_no_order():
    alike = [fingerprint(seed, (0, 0, 0)) for seed in (1, 2, 3)]
    assert all(order_that_fits_better(fingerprint(seed, (0, 0, 0)), alike) is None for seed in range(40, 50))


def test_intensities_that_were_not_normalised_are_compared_in_their_own_unit():
    raw = [fingerprint(seed, scale=250.0) for seed in (1, 2)]
    assert order_that_fits_better(fingerprint(50, (2, 1, 0), scale=250.0), raw) == (2, 1, 0)
    assert order_that_fits_better(fingerprint(50, scale=250.0), raw) is None


def test_many_channels_are_exchanged_in_pairs():
    nine = [fingerprint(seed, (0, 1, 2) * 3) for seed in (1, 2)]
    found = order_that_fits_better(fingerprint(60, (1, 0, 2, 0, 1, 2, 0, 1, 2)), nine)
    assert found is not None
    assert [index for index, channel in enumerate(found) if channel != index] != []
    assert order_that_fits_better(fingerprint(60, (0, 1, 2) * 3), nine) is None


def test_what_is_unlike_training_is_named():
    assert channels_unlike_training(fingerprint(70), TRAINED) == []
    foreign = fingerprint(70)
    foreign["channels"][1]["values"] = [value + 2 for value in foreign["channels"][1]["values"]]
    assert channels_unlike_training(foreign, TRAINED) == [1]


def test_without_comparable_training_cases_nothing_is_said():
    other_fractions = [{**case, "quantiles": [0.1, 0.9]} for case in TRAINED]
    never_there = [fingerprint(seed, missing=[2]) for seed in (1, 2)]
    for trained in ([], other_fractions, never_there, [{**TRAINED[0], "channels": TRAINED[0]["channels"][:2]}]):
        assert order_that_fits_better(fingerprint(80, (1, 0, 2)), trained) is None
        assert channels_unlike_training(fingerprint(80), trained) == []
