"""Names and colours of classes for viewers: ITK-SNAP's label descriptions and FSLeyes' lookup tables."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

from deepmedic.files import write_text_atomically

_FIRST_COLOURS = (
    *((230, 75, 53), (60, 160, 220), (90, 180, 75), (245, 190, 40), (150, 85, 190), (240, 130, 190)),
    *((70, 210, 200), (170, 110, 60), (130, 140, 250), (190, 220, 80)),
)
"""Of class 1, 2, ...: told apart at a glance, on grey images too."""
_GOLDEN_RATIO = 0.618033988749895

_ITK_SNAP_HEADER = """\
# ITK-SnAP Label Description File
# index, red, green and blue (0 to 255), opacity (0 to 1), visible, visible as a mesh (0 or 1), name
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
"""


def colour_of(class_number: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a class from 1; each class has its own for any number of classes."""
    if class_number <= len(_FIRST_COLOURS):
        return _FIRST_COLOURS[class_number - 1]
    hue, ring = class_number * _GOLDEN_RATIO % 1, class_number % 3
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.55, 0.7)[ring], (0.95, 0.9, 0.65)[ring])
    return round(255 * red), round(255 * green), round(255 * blue)


def itk_snap(names: Sequence[str]) -> str:
    """A label description file, for ITK-SNAP's `-l`; the background is clear."""
    rows = [f'    0     0    0    0        0  0  0    "{_quoted(names[0])}"']
    for number, name in enumerate(names[1:], 1):
        red, green, blue = colour_of(number)
        rows.append(f'{number:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{_quoted(name)}"')
    return _ITK_SNAP_HEADER + "\n".join(rows) + "\n"


def fsleyes(names: Sequence[str]) -> str:
    """A lookup table, for FSLeyes' `-ot label -l`: value, red, green and blue from 0 to 1, name; no background."""
    rows = []
    for number, name in enumerate(names[1:], 1):
        red, green, blue = (f"{channel / 255:.5f}" for channel in colour_of(number))
        rows.append(f"{number} {red} {green} {blue} {' '.join(name.split())}")
    return "\n".join(rows) + "\n"


def write_label_tables(folder: Path, prefix: str, names: Sequence[str]) -> tuple[Path, Path]:
    """Write both beside segmentations and return their paths, ITK-SNAP's first.

    Args:
        folder: of the segmentations.
        prefix: what their names begin with.
        names: of all classes, the background first.

    Raises:
        ResourceError: a file cannot be written.
    """
    paths = folder / f"{prefix}labels_itksnap.txt", folder / f"{prefix}labels_fsleyes.lut"
    for path, text in zip(paths, (itk_snap(names), fsleyes(names)), strict=True):
        write_text_atomically(path, text)
    return paths


def _quoted(name: str) -> str:
    """A name between quotes, which ITK-SNAP's format cannot escape."""
    return " ".join(name.replace('"', "'").split())
