"""Numbers as loops compiled by numba read and write them: float32, or bfloat16 as the upper half of one, in uint16.

Importing this module needs numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload


def number(stored: Any) -> Any:
    """Return what is stored as a float32; for use in compiled functions only."""
    raise NotImplementedError


def rounded(number: Any, like: Any) -> Any:
    """Round a float32 to the type of `like`, to be stored; for use in compiled functions only."""
    raise NotImplementedError


@overload(number, inline="always", strict=False)
def _number_of(stored: Any) -> Any:
    if stored is types.uint16:
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@overload(rounded, inline="always", strict=False)
def _rounded(number: Any, like: Any) -> Any:
    if like is not types.uint16:
        return lambda number, like: number

    def to_bfloat16(number: Any, like: Any) -> Any:
        bits = np.float32(number).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        nearest = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))  # to even where two are near
        return np.uint16(nearest) if number == number else np.uint16(0x7FC0)

    return to_bfloat16
