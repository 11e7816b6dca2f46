"""Metrics and curves of a session as a report shows them, from the files that the session wrote."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic.plots.histories import Curve, SessionHistory
from deepmedic.report.content import Chart, Line, Table
from deepmedic.training.history import ROLES

_TEXT = ("case", "class_name", "classes")
_RENAMED = {"class_name": "class"}
_LEFT_OUT = ("class_index", "classes")
_STATISTICS = {"ci95": "95 % interval of the mean", "std": "standard deviation"}
_FIRST = ("case", "class_name", "dice", "hd95_mm", "assd_mm", "sensitivity", "precision", "lesion_f1")
"""Columns that a reader looks for; the others follow as they are in the file."""


@dataclass(frozen=True)
class CaseMetrics:
    """What `metrics.csv` says."""

    table: Table
    """A row per case and class, whatever the columns of the file."""
    scores: dict[str, float]
    """Mean Dice of each case over its classes; the whole foreground, regions and undefined ones left out."""


def read_metrics(path: Path) -> CaseMetrics | None:
    """Read `metrics.csv`; None where there is none or it cannot be read."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return None
    if not rows or "case" not in rows[0]:
        return None
    names = _ordered([name for name in rows[0] if name and name not in _LEFT_OUT])
    cells = tuple(tuple(_cell(name, row.get(name) or "") for name in names) for row in rows)
    table = Table(tuple(_RENAMED.get(name, name) for name in names), cells)
    return CaseMetrics(table, _scores(rows))


def _scores(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        dice = _cell("dice", row.get("dice") or "")
        is_class = (row.get("class_index") or "0").isdecimal() and int(row.get("class_index") or 0) > 0
        if is_class and isinstance(dice, int | float) and not math.isnan(dice):
            values.setdefault(row["case"], []).append(dice)
    return {name: math.fsum(dices) / len(dices) for name, dices in values.items()}


def _ordered(names: Sequence[str]) -> list[str]:
    first = [name for name in _FIRST if name in names]
    return [*first, *(name for name in names if name not in first)]


def read_summary(path: Path) -> tuple[Table | None, float | None]:
    """Return what `metrics.json` says over all cases, a row per class and statistic, and the mean foreground Dice."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lines = [line for line in content["summary"] if isinstance(line, dict)]
        mean = float(content["mean_foreground_dice"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    columns = _ordered(
        list(dict.fromkeys(name for line in lines for _, values in _statistics(line) for name in values))
    )
    rows = [
        (line.get("class_name", ""), line.get("cases"), statistic, *(values.get(name, math.nan) for name in columns))
        for line in lines
        for statistic, values in _statistics(line)
    ]
    table = Table(("class", "cases", "over cases", *columns), tuple(rows)) if rows else None
    return table, mean if math.isfinite(mean) else None


def _statistics(line: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statistic of one class, by column; counts of what is undefined only where there is any."""
    for statistic, values in line.items():
        if not isinstance(values, dict):
            continue
        if statistic in ("undefined", "infinite") and not any(values.values()):
            continue
        if statistic != "mean" and line.get("cases") == 1:
            continue
        if statistic != "mean" and all(_is_undefined(value) for value in values.values()):
            continue
        yield _STATISTICS.get(statistic, statistic), values


def _is_undefined(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, float) and math.isnan(one) for one in values)


def charts_of(history: SessionHistory) -> tuple[Chart, ...]:
    """Return the curves of a training: cost, accuracy, Dice on samples and on whole volumes, learning rate."""
    one_class = history.classes == 2
    classes = [1] if one_class else list(range(history.classes))
    named = [(index, history.name_of(index)) for index in classes]
    per_class = [
        *(
            _line(f"{name}, {role}", history.on_samples(role, "dice", index), index, role == "training")
            for role in ROLES
            for index, name in named
        )
    ]
    charts = (
        Chart("Cost of training", (_line("training", history.on_samples("training", "cost"), 0),)),
        Chart(
            "Accuracy on samples",
            tuple(_line(role, history.on_samples(role, "accuracy"), at) for at, role in enumerate(ROLES)),
            unit_range=True,
        ),
        Chart("Dice on samples", tuple(per_class), unit_range=True),
        Chart(
            "Dice on whole volumes (validation)",
            tuple(_line(name, history.on_volumes(index), index) for index, name in named),
            unit_range=True,
        ),
        Chart("Learning rate", (_line("learning rate", history.learning_rate(), 0),)),
    )
    defined = (Chart(chart.title, _defined(chart), chart.unit_range) for chart in charts)
    return tuple(chart for chart in defined if chart.lines)


def transfer_table(transfer: Mapping[str, Any] | None) -> tuple[Table | None, str]:
    """What a new model received from another one, layer by layer, and a sentence; None if it received nothing.

    Args:
        transfer: a `TransferReport` as plain values.
    """
    if not transfer:
        return None, ""
    rows = tuple(
        (layer["layer"], layer["source"], layer["transferred"], layer["parameters"], layer["note"])
        for layer in transfer["layers"]
    )
    note = (
        f"{transfer['transferred']:,} of {transfer['parameters']:,} parameters ({transfer['share']:.1%}) come from "
        f"model {transfer['source']}."
    )
    return Table(("layer", "from layer", "received", "parameters", "note"), rows), note


def _defined(chart: Chart) -> tuple[Line, ...]:
    return tuple(line for line in chart.lines if any(math.isfinite(value) for value in line.y))


def _line(name: str, curve: Curve, colour: int, dashed: bool = False) -> Line:
    return Line(name, curve.x, curve.y, dashed, colour)


def _cell(column: str, text: str) -> Any:
    """A cell as a number where it is one; names stay text, whatever they look like."""
    if column in _TEXT:
        return text
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text if text else math.nan
