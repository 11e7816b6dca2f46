"""A comparison of initialisations as text for the console and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from deepmedic.analysis.comparison import FLOOR, RunScores, SettingResult
from deepmedic.analysis.scores import Interval
from deepmedic.words import counted

_UNDEFINED = "undefined"


def comparison_text(settings: Sequence[SettingResult]) -> str:
    """All settings, one table each, with the verdict below it."""
    return "\n\n".join(_setting_text(setting) for setting in settings)


def comparison_csv(settings: Sequence[SettingResult]) -> str:
    """One line per setting and initialisation; what belongs to the setting as a whole stands in each."""
    return _csv([line for setting in settings for line in _lines(setting)])


def runs_csv(runs: Sequence[RunScores]) -> str:
    """One line per run and subject."""
    return _csv(
        [
            {
                "model": run.model,
                "source": run.source or "",
                "initialisation": run.initialisation,
                "training_cases": run.cases,
                "seed": run.seed,
                "subject": subject,
                "dice": dice,
            }
            for run in runs
            for subject, dice in run.dice.items()
        ]
    )


def _setting_text(setting: SettingResult) -> str:
    title = (
        f"{setting.model} from {setting.source}, trained on {counted(setting.cases, 'subject')}, "
        f"{counted(len(setting.seeds), 'seed')}, scored on {counted(len(setting.subjects), 'subject')}"
    )
    rows = [["", "mean foreground Dice", "less RI"]]
    rows += [
        [arm.initialisation, str(arm.dice), "" if arm.over_random is None else str(arm.over_random)]
        for arm in setting.arms
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [title]
    lines += [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    names = [arm.initialisation for arm in setting.arms]
    if {"WT", "RI"} <= set(names):
        lines.append(f"  relative gain WT / RI: {_or_undefined(setting.relative_gain, 'RI')}")
    if {"WT", "ST"} <= set(names):
        lines.append(f"  feature reuse (WT - ST) / WT: {_or_undefined(setting.reuse, 'WT')}")
    lines.append(f"  verdict: {setting.verdict.upper()}: {setting.reason}")
    return "\n".join(lines)


def _or_undefined(interval: Interval | None, divisor: str) -> str:
    return f"{_UNDEFINED}, {divisor} is below {FLOOR:g}" if interval is None else str(interval)


def _lines(setting: SettingResult) -> list[dict[str, Any]]:
    names = {arm.initialisation for arm in setting.arms}
    whole = {
        **_columns("gain", setting.gain),
        **_columns("relative_gain", setting.relative_gain, _UNDEFINED if {"WT", "RI"} <= names else ""),
        **_columns("feature_reuse", setting.reuse, _UNDEFINED if {"WT", "ST"} <= names else ""),
        "verdict": setting.verdict,
    }
    return [
        {
            "model": setting.model,
            "source": setting.source,
            "training_cases": setting.cases,
            "seeds": len(setting.seeds),
            "subjects": len(setting.subjects),
            "initialisation": arm.initialisation,
            **_columns("dice", arm.dice),
            **_columns("over_random", arm.over_random),
            **whole,
        }
        for arm in setting.arms
    ]


def _columns(name: str, interval: Interval | None, missing: str = "") -> dict[str, Any]:
    if interval is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), missing)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()
