"""The loop of Winograd's method that numba compiles: planes times a small matrix, each of them read and written once.

Importing this module needs numba.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from deepmedic.model.compilation import Kernel

_NUMBERS_AT_ONCE = 2048
"""Of each plane: what stays in the fastest caches of a core while all sums are made."""


@Kernel
def multiply(
    matrix: Any, sources: Any, source_starts: Any, target: Any, target_starts: Any, length: int, added: bool
) -> None:
    """Write sums of planes weighted by the rows of a matrix, image by image.

    Args:
        matrix: [row, 6].
        sources: for each of 6 columns the array, [number], that its planes are in.
        source_starts: where they begin there, [image, column].
        target: [number].
        target_starts: where the sums begin there, [image, row].
        length: numbers of a plane.
        added: to what the target holds.
    """
    # Six at a time, since loops over columns would read and write every sum six times.
    parts = -(-length // _NUMBERS_AT_ONCE)
    for task in numba.prange(len(source_starts) * parts):
        image, part = divmod(np.int64(task), parts)
        first, end = part * _NUMBERS_AT_ONCE, min(length, (part + 1) * _NUMBERS_AT_ONCE)
        a = _part(sources[0], source_starts[image, 0], first, end)
        b = _part(sources[1], source_starts[image, 1], first, end)
        c = _part(sources[2], source_starts[image, 2], first, end)
        d = _part(sources[3], source_starts[image, 3], first, end)
        e = _part(sources[4], source_starts[image, 4], first, end)
        f = _part(sources[5], source_starts[image, 5], first, end)
        for row in range(len(matrix)):
            results = _part(target, target_starts[image, row], first, end)
            of_a, of_b, of_c = matrix[row, 0], matrix[row, 1], matrix[row, 2]
            of_d, of_e, of_f = matrix[row, 3], matrix[row, 4], matrix[row, 5]
            for number in range(len(results)):
                of_abc = of_a * a[number] + of_b * b[number] + of_c * c[number]
                of_def = of_d * d[number] + of_e * e[number] + of_f * f[number]
                before = results[number] if added else np.float32(0)
                results[number] = before + (of_abc + of_def)


@numba.njit
def _part(numbers: Any, start: Any, first: Any, end: Any) -> Any:
    """Return some of the numbers of the plane that begins at `start`."""
    return numbers[start + first : start + end]
