"""Fingerprints as lines of text for the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepmedic.data.fingerprint import Fingerprint
from deepmedic.words import counted

_MOST_GROUPS = 5
_MOST_NAMES = 5
_INTENSITIES = ("mean", "sd", "min", "5 %", "median", "95 %", "max", "zeros")
_LABELS = ("voxels", "share", "median ml", "in cases")


def described(fingerprint: Fingerprint, channel_names: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Return lines that say what a set of cases looks like: geometry, intensities per channel, labels per class."""
    plain = fingerprint.to_plain(channel_names, class_names)
    lines = [f"{fingerprint.role}:"]
    if not fingerprint.cases:
        return [*lines, "  no case could be read"]
    for title, key in (("shapes", "shapes"), ("spacings", "spacings"), ("axis orders", "axisOrders")):
        lines.append(f"  {title}: {_grouped(plain[key])}")
    rows = [[name, *_intensity_cells(plain["intensities"][name])] for name in channel_names]
    within = plain["intensities"]["within"]
    lines += [f"  {line}" for line in _table([[f"intensities ({within})", *_INTENSITIES], *rows])]
    for name in channel_names:
        for what, names in (
            ("constant", plain["intensities"][name]["constantIn"]),
            ("missing", plain["intensities"][name]["missingIn"]),
        ):
            if names:
                lines.append(f"  {name} is {what} in {counted(len(names), 'case')}: {_shortened(names)}")
    if plain["labels"] is None:
        return [*lines, "  no labels"]
    cells = [
        [
            name,
            str(label["voxels"]),
            f"{label['share']:.3%}",
            f"{label['medianMillilitres']:.4g}",
            str(label["casesWithIt"]),
        ]
        for name, label in plain["labels"].items()
    ]
    lines += [f"  {line}" for line in _table([["labels (whole image)", *_LABELS], *cells])]
    outside = plain["foregroundOutsideRoi"]
    if outside["voxels"]:
        voxels, cases = counted(outside["voxels"], "voxel"), counted(len(outside["in"]), "case")
        lines.append(
            f"  {outside['share']:.2%} of the foreground ({voxels}) lies outside the ROI and is never predicted, in "
            f"{cases}: {_shortened(outside['in'])}"
        )
    return lines


def _intensity_cells(channel: Mapping[str, object]) -> list[str]:
    percentiles = channel.get("percentiles")
    if not isinstance(percentiles, Mapping):
        return ["-"] * len(_INTENSITIES)
    values = [channel["mean"], channel["std"], channel["minimum"]]
    values += [percentiles["5"], percentiles["50"], percentiles["95"], channel["maximum"]]
    return [*(f"{value:.4g}" for value in values), f"{channel['shareOfZeros']:.1%}"]


def _grouped(groups: Mapping[str, int]) -> str:
    shown = [f"{text} ({counted(count, 'case')})" for text, count in list(groups.items())[:_MOST_GROUPS]]
    more = len(groups) - _MOST_GROUPS
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
