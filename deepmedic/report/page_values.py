"""Values as people read them, on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

UNDEFINED = "\N{EN DASH}"


def shown(value: Any) -> str:
    """Return a value in words: a dash for what is not defined."""
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value) if value else "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {shown(item)}" for name, item in value.items()) if value else "none"
    return str(value)


def words(column: str) -> str:
    """Return the name of a column with spaces."""
    return column.replace("_", " ")


def cell(value: Any) -> str:
    """Return a value for a column of a table, numbers with as many decimals as their neighbours."""
    if isinstance(value, list | tuple):  # an interval
        return UNDEFINED if all(one != one for one in value) else " to ".join(cell(one) for one in value)
    if not isinstance(value, float) or not math.isfinite(value):
        return shown(value)
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 10_000 else f"{value:.0f}"


def _number(value: float) -> str:
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.6g}"
