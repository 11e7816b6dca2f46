"""Random masks: shares, independence and where their bits come from."""

from __future__ import annotations

import pytest
import torch

from deepmedic.model.random_masks import random_mask


@pytest.mark.parametrize("share", [0.5, 0.25, 0.875, 0.7, 0.999, 0.01])
def test_share_of_ones(share: float) -> None:
    torch.manual_seed(1)
    mask = random_mask(400_003, share)
    assert mask.shape == (400_003,)
    assert mask.dtype == torch.uint8
    assert ((mask == 0) | (mask == 1)).all()
    deviation = (share * (1 - share) / len(mask)) ** 0.5
    assert mask.double().mean().item() == pytest.approx(share, abs=4 * deviation)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.7])
def test_numbers_are_independent_of_each_other(share: float) -> None:
    """Also of those that came from the same word, which are a fixed number of places apart."""
    torch.manual_seed(2)
    count = 2**18
    centred = random_mask(count, share).double() - share
    spectrum = torch.fft.rfft(centred, 2 * count).abs().square()
    covariances = torch.fft.irfft(spectrum)[1 : count // 2] / torch.arange(count - 1, count // 2, -1)
    # About 130,000 of them, so that the largest of independent ones is near 4.5 standard deviations.
    deviations = covariances * torch.arange(count - 1, count // 2, -1).sqrt() / (share * (1 - share))
    assert deviations.abs().max() < 6


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000])
@pytest.mark.parametrize("share", [0.5, 0.7])
def test_bits_come_from_the_global_generator(count: int, share: float) -> None:
    masks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(torch.cat([random_mask(count, share), random_mask(1000, share)]))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0][:count], masks[0][-count:]) or count < 3
