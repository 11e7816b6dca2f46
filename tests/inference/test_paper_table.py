"""The summary as people read it."""

from __future__ import annotations

import math

from deepmedic.inference.paper_table import console, heading, markdown
from deepmedic.inference.tables import summary
from deepmedic.metrics import Counts, MetricsRow, Scored, metrics_row


def row(case: str, name: str, counts: Counts, hd95: float) -> MetricsRow:
    return metrics_row(case, Scored(class_index=1, class_name=name, classes=(1,)), counts, 1.0, {"hd95_mm": hd95})


HALF, FULL, NONE = Counts(4, 4, 2, 4), Counts(4, 4, 4, 4), Counts(0, 8, 0, 8)
LINES = summary(
    [
        row("a", "infarct_1 & more", HALF, 2.0),
        row("b", "infarct_1 & more", FULL, math.inf),
        row("a", "gone", NONE, math.nan),
        row("b", "gone", NONE, math.nan),
        row("a", "rare", FULL, 1.0),
        row("b", "rare", NONE, math.nan),
    ]
)


def test_the_console_has_aligned_columns():
    assert heading(LINES) == "Scores over 2 cases, mean [95 % confidence interval]:"
    assert console(LINES).splitlines() == [
        "class                             Dice           sensitivity             precision        HD95 (mm)",
        "infarct_1 & more  0.833 [0.667, 1.000]  0.750 [0.500, 1.000]  1.000 [1.000, 1.000]  inf [2.00, inf]",
        "gone                               N/A                   N/A                   N/A              N/A",
        "rare                    1.000 (1 of 2)        1.000 (1 of 2)        1.000 (1 of 2)    1.00 (1 of 2)",
    ]


def test_markdown_has_the_table_twice():
    page = markdown(LINES)
    assert page.startswith(
        "# Scores over 2 cases\n\n| class | Dice | sensitivity | precision | HD95 (mm) |\n| --- | ---: |"
    )
    assert "| infarct_1 & more | 0.833 [0.667, 1.000] |" in page
    assert "\n```latex\n\\begin{tabular}{lrrrr}\n\\toprule\nclass & Dice & " in page
    assert r"infarct\_1 \& more & 0.833 [0.667, 1.000] & " in page
    assert r"& $\infty$ [2.00, $\infty$] \\" in page
    assert "\\bottomrule\n\\end{tabular}\n```\n" in page


def test_a_single_case_has_no_intervals():
    lines = summary([row("a", "x|y", HALF, 2.0)])
    assert heading(lines) == "Scores over 1 case:"
    assert console(lines).splitlines()[1].split() == ["x|y", "0.667", "0.500", "1.000", "2.00"]
    assert "| x/y | 0.667 | 0.500 | 1.000 | 2.00 |" in markdown(lines)
