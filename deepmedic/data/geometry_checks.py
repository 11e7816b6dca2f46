"""Do images lie on one another, and do cases resemble one another? Judged from headers alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from deepmedic.data.nifti import VolumeHeader
from deepmedic.data.nifti_affine import corner_distance
from deepmedic.errors import DataError
from deepmedic.words import counted

Named = Sequence[tuple[str, VolumeHeader]]
_SAME_SPACING = 0.01
"""Relative difference of voxel spacings below which two cases count as alike."""
_NAMES_SHOWN = 3
_COSINE_OF_45_DEGREES = math.sqrt(0.5)


def check_same_geometry(case: str, images: Named, tolerance: float) -> None:
    """Refuse images of one case whose voxels are not in the same places.

    Args:
        case: its name.
        images: title and header of each image, the first of which the others must match.
        tolerance: millimetres by which a corner of the volume may lie elsewhere (key `affineTolerance`).

    Raises:
        DataError: shapes or axis orders differ, or affines by more than the tolerance.
    """
    title, first = images[0]
    if any(image.shape != first.shape for _, image in images):
        shapes = _table((name, _sizes(image), str(image.path)) for name, image in images)
        raise DataError(
            f"case {case}: its images have different shapes; all must have one. Resample or crop them to one:{shapes}"
        )
    if not all(_run_alike(first, image) for _, image in images):
        orders = _table((name, image.axis_codes, str(image.path)) for name, image in images)
        raise DataError(
            f"case {case}: the axes of its images point in different directions (flipped or swapped), which is never "
            f"tolerated. Resample them to {title}, or correct the header that is wrong:{orders}"
        )
    distances = [corner_distance(first.affine, image.affine, first.shape) for _, image in images]
    if max(distances) > tolerance:
        table = _table(
            (name, f"{distance:.4g} mm", str(image.path))
            for (name, image), distance in zip(images, distances, strict=True)
        )
        raise DataError(
            f"case {case}: its images do not lie on one another: by their headers, a corner of the volume is up to "
            f"{max(distances):.4g} mm away from that of {title}; allowed are {tolerance:g} mm (affineTolerance). "
            f"Resample them to {title}, correct the header that is wrong, or raise affineTolerance if the difference "
            f"does not matter:{table}"
        )


def check_axis_orders(cases: Named) -> None:
    """Refuse cases whose arrays run in different directions.

    Raises:
        DataError: with the cases of each axis order.
    """
    orders: dict[str, list[str]] = defaultdict(list)
    for name, header in cases:
        orders[header.axis_codes].append(name)
    if len(orders) > 1:
        table = _table(
            (codes, counted(len(names), "case"), _shortened(names)) for codes, names in sorted(orders.items())
        )
        raise DataError(
            "the cases are stored with different axis orders, and a network sees arrays, not directions. Set "
            f'orientation = "RAS" for training and inference, which turns all of them, or store them alike:{table}'
        )


def spacing_table(cases: Named) -> str | None:
    """Return a warning with the voxel spacings of the cases if these differ by more than 1 %, else None."""
    groups: dict[tuple[float, float, float], list[str]] = {}
    for name, header in cases:
        spacing = header.spacing
        alike = (known for known in groups if _are_alike(known, spacing))
        groups.setdefault(next(alike, spacing), []).append(name)
    if len(groups) < 2:
        return None
    table = _table(
        (" x ".join(f"{size:.4g}" for size in spacing) + " mm", counted(len(names), "case"), _shortened(names))
        for spacing, names in sorted(groups.items())
    )
    return (
        "the cases have different voxel spacings, so the network sees the same anatomy in different sizes. Give them "
        f"one with the key resampleTo, for instance resampleTo = [1.0, 1.0, 1.0] (millimetres):{table}"
    )


def _run_alike(first: VolumeHeader, second: VolumeHeader) -> bool:
    """Whether each array axis of the one points less than 45 degrees away from the same axis of the other."""
    cosines = (first.affine[:3, :3] / first.spacing * (second.affine[:3, :3] / second.spacing)).sum(axis=0)
    return bool((cosines > _COSINE_OF_45_DEGREES).all())


def _are_alike(first: tuple[float, float, float], second: tuple[float, float, float]) -> bool:
    return all(abs(a - b) <= _SAME_SPACING * max(a, b) for a, b in zip(first, second, strict=True))


def _sizes(image: VolumeHeader) -> str:
    return " x ".join(map(str, image.shape))


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _table(rows: object) -> str:
    lines = [tuple(row) for row in rows]  # type: ignore[attr-defined]
    widths = [max(len(row[column]) for row in lines) for column in range(2)]
    return "".join(f"\n    {row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in lines)
