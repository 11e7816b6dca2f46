"""Loops over rows of memory that numba compiles: each of them reads and writes every number once.

torch takes one pass over memory for each operation, and batch norm with PReLU and dropout is a dozen of them. On a CPU
these wait for memory most of the time, and together took a quarter of a training step.

Images are the numbers of channels-last storage, [number], in *rows* of several voxels, so that loops over a row are
long even where channels are few; a *position* in a row is a voxel and a channel, and the last row may be shorter.
Numbers of type bfloat16 come as the upper halves of float32, in uint16; all arithmetic is in float32. Rows are worked
on in blocks of as many, whatever the number of threads, so that sums do not depend on it. Parameters are [parameter,
position], in the order of `MEAN`, `SCALE`, ...

Importing this module needs numba.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

from deepmedic.model.compilation import Kernel
from deepmedic.model.kernel_numbers import number, rounded

ROWS_PER_BLOCK = 128
"""So few that a block of them stays in the cache of a core while it is read twice."""

MEAN, SCALE, SHIFT, SLOPE, OF_DEVIATION, CONSTANT = range(6)
"""Rows of parameters: a number x becomes n = (x - mean) * scale + shift, and n * slope where that is not positive."""


def _factor(mask: Any, position: Any) -> Any:
    """Return what a number is multiplied by: 1 without a mask."""
    raise NotImplementedError


@overload(_factor, inline="always", strict=False)
def _factor_of(mask: Any, position: Any) -> Any:
    if mask is types.none:
        return lambda mask, position: np.float32(1)
    return lambda mask, position: np.float32(mask[position])


@numba.njit
def blocks(numbers: int, length: int) -> int:
    """Return how many blocks so many numbers make, in rows of that length."""
    return -(-numbers // (length * ROWS_PER_BLOCK))


@Kernel
def statistics(images: Any, reference: Any, means: Any, squares: Any) -> None:
    """Write of each block the mean of `images` - `reference` and the sum of squared deviations from it.

    Args:
        images: [number].
        reference: [position].
        means: [block, position], written.
        squares: [block, position], written.
    """
    length = len(reference)
    for block in numba.prange(len(means)):
        first = block * ROWS_PER_BLOCK
        end = min(-(-len(images) // length), first + ROWS_PER_BLOCK)
        for position in range(length):
            means[block, position] = 0
            squares[block, position] = 0
        for row in range(first, end):
            numbers = images[row * length : (row + 1) * length]
            for position in range(len(numbers)):
                means[block, position] += number(numbers[position]) - reference[position]
        for position in range(length):
            rows = min(end, -(-(len(images) - position) // length)) - first  # the last one may be shorter
            means[block, position] /= np.float32(max(1, rows))
        for row in range(first, end):
            numbers = images[row * length : (row + 1) * length]
            for position in range(len(numbers)):
                deviation = number(numbers[position]) - reference[position] - means[block, position]
                squares[block, position] += deviation * deviation


@Kernel
def rectify(images: Any, parameters: Any, mask: Any, result: Any) -> None:
    """Normalise, rectify and multiply by a mask.

    Args:
        images: [number].
        parameters: [parameter, position], those up to SLOPE.
        mask: uint8 [number] or None.
        result: like `images`, written.
    """
    length = parameters.shape[1]
    for block in numba.prange(blocks(len(images), length)):
        for row in range(block * ROWS_PER_BLOCK, (block + 1) * ROWS_PER_BLOCK):
            own = slice(row * length, (row + 1) * length)  # shorter, or empty, at the end
            numbers, results = images[own], result[own]
            kept = None if mask is None else mask[own]
            for position in range(len(numbers)):
                deviation = number(numbers[position]) - parameters[MEAN, position]
                value = deviation * parameters[SCALE, position] + parameters[SHIFT, position]
                value = value if value > 0 else value * parameters[SLOPE, position]
                results[position] = rounded(value * _factor(kept, position), numbers[position])


@Kernel
def sums(images: Any, gradients: Any, parameters: Any, mask: Any, sums: Any) -> None:
    """Write what the gradients of `rectify` for its parameters are made of.

    With d the gradient for n: the sums of d, of d * (x - mean), and that of the gradient for the rectified number times
    n where this is not positive.

    Args:
        images: [number].
        gradients: for the result of `rectify`, like `images`.
        parameters: [parameter, position], those up to SLOPE.
        mask: as of `rectify`.
        sums: [block, 3, position], written.
    """
    length = parameters.shape[1]
    for block in numba.prange(len(sums)):
        for position in range(length):
            sums[block, 0, position] = 0
            sums[block, 1, position] = 0
            sums[block, 2, position] = 0
        for row in range(block * ROWS_PER_BLOCK, (block + 1) * ROWS_PER_BLOCK):
            own = slice(row * length, (row + 1) * length)
            numbers, upstream = images[own], gradients[own]
            kept = None if mask is None else mask[own]
            for position in range(len(numbers)):
                deviation = number(numbers[position]) - parameters[MEAN, position]
                value = deviation * parameters[SCALE, position] + parameters[SHIFT, position]
                gradient = number(upstream[position]) * _factor(kept, position)
                of_value = gradient * (np.float32(1) if value > 0 else parameters[SLOPE, position])
                sums[block, 0, position] += of_value
                sums[block, 1, position] += of_value * deviation
                sums[block, 2, position] += gradient * (np.float32(0) if value > 0 else value)


@Kernel
def gradients(images: Any, gradients: Any, parameters: Any, mask: Any, result: Any) -> None:
    """Write the gradient for `images`: d * scale + (x - mean) * of_deviation + constant, d as of `sums`.

    Args:
        images: [number].
        gradients: for the result of `rectify`, like `images`.
        parameters: [parameter, position], all of them.
        mask: as of `rectify`.
        result: like `images`, written.
    """
    length = parameters.shape[1]
    for block in numba.prange(blocks(len(images), length)):
        for row in range(block * ROWS_PER_BLOCK, (block + 1) * ROWS_PER_BLOCK):
            own = slice(row * length, (row + 1) * length)
            numbers, upstream, results = images[own], gradients[own], result[own]
            kept = None if mask is None else mask[own]
            for position in range(len(numbers)):
                deviation = number(numbers[position]) - parameters[MEAN, position]
                value = deviation * parameters[SCALE, position] + parameters[SHIFT, position]
                gradient = number(upstream[position]) * _factor(kept, position)
                of_value = gradient * (np.float32(1) if value > 0 else parameters[SLOPE, position])
                total = of_value * parameters[SCALE, position] + deviation * parameters[OF_DEVIATION, position]
                results[position] = rounded(total + parameters[CONSTANT, position], numbers[position])
