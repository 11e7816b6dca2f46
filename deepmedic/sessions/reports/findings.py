"""What a cross-validation and analyses under a session's name found, as sections of its report, from their files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepmedic.errors import DeepMedicError
from deepmedic.report.content import Findings
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.reports.findings_of_folds import fold_findings
from deepmedic.sessions.reports.findings_of_layers import layer_findings, rate_findings
from deepmedic.sessions.reports.findings_of_transfer import analysis_findings, comparison_findings

log = logging.getLogger(__name__)

_Describe = Callable[[dict[str, Any], Path], Sequence[Findings]]


def result_files(paths: SessionPaths) -> dict[Path, _Describe]:
    """The files by which a cross-validation and finished analyses are known, each with what describes it."""
    return {
        paths.splits / "folds.json": fold_findings,
        paths.analyses / "analysis.json": analysis_findings,
        paths.comparisons / "comparison.json": comparison_findings,
        paths.layers / "layers.json": layer_findings,
        paths.rates / "lr_finder.json": rate_findings,
    }


def read_findings(paths: SessionPaths, notes: list[str]) -> tuple[Findings, ...]:
    """Read what analyses of a session found; what cannot be read is noted."""
    found: list[Findings] = []
    for path, describe in result_files(paths).items():
        if not path.is_file():
            continue
        try:
            found += describe(json.loads(path.read_text(encoding="utf-8")), path.parent)
        except (AttributeError, DeepMedicError, LookupError, OSError, TypeError, ValueError) as problem:
            notes.append(f"{path}: cannot be read, or is of another version ({problem!r})")
    return tuple(found)
