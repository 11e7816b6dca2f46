"""Tables of scores: `metrics.csv` and `metrics.json` with every row, and their summary over cases."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepmedic.bootstrap import Bootstrap
from deepmedic.files import write_json_atomically, write_text_atomically
from deepmedic.inference.paper_table import markdown
from deepmedic.metrics import OWN_COLUMNS, MetricsRow, mean_foreground_dice, mean_without_nan

BOOTSTRAP = Bootstrap()
_SUMMARY_COLUMNS = (
    *("class_index", "class_name", "classes", "metric", "cases"),
    *("mean", "ci95_low", "ci95_high", "median", "std", "undefined", "infinite"),
)


def summary(rows: Sequence[MetricsRow]) -> list[dict[str, Any]]:
    """Per class or region: the number of cases, and over them of each column

    - `mean`, `median`, `std` (of a sample, with n - 1) of the cases where it is defined, and `ci95`, the 95 %
      bootstrap interval of the mean;
    - `undefined` and `infinite`: how many cases are nan and infinite.

    Nothing is dropped: an infinite distance makes the mean infinite and the standard deviation nan.
    """
    groups: dict[tuple[int | None, str], list[MetricsRow]] = {}
    for row in rows:
        groups.setdefault((row.class_index, row.class_name), []).append(row)
    return [_summary_of(group) for group in groups.values()]


def _summary_of(rows: Sequence[MetricsRow]) -> dict[str, Any]:
    cases = [row.as_dict() for row in rows]
    columns = [name for name, value in cases[0].items() if isinstance(value, int | float) and name != "class_index"]
    values = {name: [float(case[name]) for case in cases] for name in columns}
    intervals = BOOTSTRAP.intervals(np.array([values[name] for name in columns], np.float64).T)
    return {
        "class_index": rows[0].class_index,
        "class_name": rows[0].class_name,
        "classes": list(rows[0].classes),
        "cases": len(rows),
        "mean": {name: mean_without_nan(values[name]) for name in columns},
        "ci95": dict(zip(columns, intervals.tolist(), strict=True)),
        "median": {name: _of_defined(statistics.median, values[name]) for name in columns},
        "std": {name: _of_defined(_deviation, values[name]) for name in columns},
        "undefined": {name: sum(map(math.isnan, values[name])) for name in columns},
        "infinite": {name: sum(map(math.isinf, values[name])) for name in columns},
    }


def _of_defined(statistic: Callable[[list[float]], float], values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return statistic(defined) if defined else math.nan


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


def write_tables(folder: Path, rows: Sequence[MetricsRow], stem: str = "metrics") -> list[Path]:
    """Write all tables of a session and return their paths; without rows, remove those of an earlier run.

    Args:
        folder: where.
        rows: of all cases, in the order of their list.
        stem: what the names of the files begin with.

    Raises:
        ResourceError: a file cannot be written.
    """
    paths = _table_files(folder, stem)
    if not rows:
        remove_tables(folder, stem)
        return []
    lines = summary(rows)
    write_metrics_csv(paths[0], rows)
    write_text_atomically(paths[1], _csv(_SUMMARY_COLUMNS, _long(lines)))
    write_metrics_json(paths[2], rows)
    write_text_atomically(paths[3], markdown(lines))
    return paths


def remove_tables(folder: Path, stem: str = "metrics") -> None:
    """Remove what `write_tables` wrote in an earlier run."""
    for path in _table_files(folder, stem):
        path.unlink(missing_ok=True)


def write_metrics_csv(path: Path, rows: Sequence[MetricsRow]) -> None:
    """Write `metrics.csv`; equal rows give equal bytes, and numbers are written in full (nan, inf included).

    Raises:
        ResourceError: the file cannot be written.
    """
    write_text_atomically(path, _csv(list(rows[0].as_dict()) if rows else OWN_COLUMNS, [row.as_dict() for row in rows]))


def write_metrics_json(path: Path, rows: Sequence[MetricsRow]) -> None:
    """Write `metrics.json`: the same rows, their summary per class and region, and the mean foreground Dice.

    Raises:
        ResourceError: the file cannot be written.
    """
    content = {
        "mean_foreground_dice": mean_foreground_dice(rows),
        "ci95": BOOTSTRAP.to_plain(),
        "summary": summary(rows),
        "rows": [row.as_dict() for row in rows],
    }
    write_json_atomically(path, content)


def _table_files(folder: Path, stem: str) -> list[Path]:
    return [folder / f"{stem}{ending}" for ending in (".csv", "_summary.csv", ".json", ".md")]


def _long(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per class and metric, for `metrics_summary.csv`."""
    table = []
    for line in lines:
        for metric, mean in line["mean"].items():
            low, high = line["ci95"][metric]
            numbers = {name: line[name][metric] for name in ("median", "std", "undefined", "infinite")}
            head = {name: line[name] for name in ("class_index", "class_name", "classes", "cases")}
            table.append({**head, "metric": metric, "mean": mean, "ci95_low": low, "ci95_high": high, **numbers})
    return table


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "classes": "+".join(map(str, row["classes"]))} for row in rows)
    return text.getvalue()
