"""Masks of zeros and ones on a CPU from as few random bits as their share of ones needs."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 32
_BITS = (1, 2, 4, 8, 16)
_CACHED_WORDS = 2**18
"""As many as stay in the cache of a core."""


def random_mask(count: int, share: float) -> Tensor:
    """Return `count` numbers, 1 with probability `share` and otherwise 0, uint8 on the CPU.

    Bits come from torch's global generator, which draws them one word after the other on a single core: for a share of
    one half, one bit per number takes a fortieth of the time of a random float32. A share that 16 bits cannot hold is
    rounded to them, by 2^-17 at most.
    """
    bits = next((bits for bits in _BITS if (share * 2**bits).is_integer()), _BITS[-1])
    words = torch.empty(-(-count * bits // (2 * _WORD)), dtype=torch.int64).random_(-(2**63), None).view(torch.int32)
    threshold = (round(share * 2**bits) << (_WORD - bits)) - 2 ** (_WORD - 1)
    # Shifted to the left, each group of bits of a word is the highest one once, and what is below does not matter.
    shifts = torch.arange(0, _WORD, bits, dtype=torch.int32)[:, None]
    mask = torch.empty(len(shifts), len(words), dtype=torch.uint8)
    at_once = max(1, torch.get_num_threads() * _CACHED_WORDS // len(words))
    for some, numbers in zip(shifts.split(at_once), mask.split(at_once), strict=True):
        numbers.copy_(torch.bitwise_left_shift(words, some).lt_(threshold))
    return mask.view(-1)[:count]
