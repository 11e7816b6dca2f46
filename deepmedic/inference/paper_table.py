"""The summary of scores as people read it: a table for the console, for Markdown and for LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepmedic.words import counted

_COLUMNS = {
    "dice": ("Dice", 3),
    "sensitivity": ("sensitivity", 3),
    "precision": ("precision", 3),
    "hd95_mm": ("HD95 (mm)", 2),
    "assd_mm": ("ASSD (mm)", 2),
    "lesion_f1": ("lesion F1", 3),
}
"""The columns that such a table has, where they were measured: heading and decimals."""

_EXPLANATION = """\
Mean over cases [95 % bootstrap confidence interval of the mean]; `(n of m)`: defined in n of m cases, and over these.
HD95 is the 95th percentile of the Hausdorff distance, ASSD the average symmetric surface distance, both infinite where
only one of prediction and labels has the class. Lesions are connected components of 26 neighbours; one is detected
where at least one of its voxels is predicted. `metrics_summary.csv` has all columns, with median and standard
deviation.
"""


def console(lines: Sequence[Mapping[str, Any]]) -> str:
    """The table with columns of blanks, from `summary`."""
    table = _cells(lines)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    )


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """A page with the table in Markdown and in LaTeX (package booktabs), from `summary`."""
    table = _cells(lines)
    rule = ["---", *("---:" for _ in table[0][1:])]
    rows = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (table[0], rule, *table[1:])]
    title = f"# Scores over {_cases(lines)}"
    return "\n".join([title, "", *rows, "", _EXPLANATION, "```latex", _latex(table), "```", ""])


def heading(lines: Sequence[Mapping[str, Any]]) -> str:
    """What the table's numbers are, in one line."""
    several = max(line["cases"] for line in lines) > 1
    return f"Scores over {_cases(lines)}{', mean [95 % confidence interval]' if several else ''}:"


def _cases(lines: Sequence[Mapping[str, Any]]) -> str:
    count = max(line["cases"] for line in lines)
    return counted(count, "case")


def _cells(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Heading and rows, the name of the class first."""
    columns = [name for name in _COLUMNS if name in lines[0]["mean"]]
    heading_row = ["class", *(_COLUMNS[name][0] for name in columns)]
    return [heading_row, *([line["class_name"], *(_cell(line, name) for name in columns)] for line in lines)]


def _cell(line: Mapping[str, Any], name: str) -> str:
    digits, cases = _COLUMNS[name][1], line["cases"]
    undefined = line["undefined"][name]
    if undefined == cases:
        return "N/A"
    text = f"{line['mean'][name]:.{digits}f}"
    low, high = line["ci95"][name]
    if not math.isnan(low):
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} ({cases - undefined} of {cases})" if undefined else text


def _latex(table: Sequence[Sequence[str]]) -> str:
    rows = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in table]
    columns = "l" + "r" * (len(table[0]) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}"])


def _escaped(text: str) -> str:
    """A cell for LaTeX; characters that LaTeX would act upon are escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escaped = "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
    return re.sub(r"\binf\b", r"$\\infty$", escaped)
