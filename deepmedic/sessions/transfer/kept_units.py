"""What replacing units of layers did, kept one by one, so that an interrupted analysis of layers goes on."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepmedic.analysis.layer_importance import Importance, Unit
from deepmedic.files import write_json_atomically
from deepmedic.plain_content import finite

log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass
class KeptUnits:
    """The units of one analysis that are finished; the file is replaced as a whole after each."""

    path: Path
    request: str
    """Digest of what the analysis was asked for: units of another one are not used."""
    units: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Name of each case that was left out -> why."""

    @classmethod
    def read(cls, path: Path, request: str) -> KeptUnits:
        """Read what an interrupted analysis left; nothing if it was another one, or the file is damaged."""
        kept = cls(path, request)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] == _FORMAT and content["request"] == request:
                kept.units, kept.skipped = dict(content["units"]), dict(content["skippedCases"])
        except FileNotFoundError:
            return kept
        except (OSError, ValueError, KeyError, TypeError) as problem:
            log.warning("%s: cannot be read and is not used: %s", path, problem)
        if kept.units:
            log.info("Going on: %d units were replaced before the interruption.", len(kept.units))
        return kept

    def find(self, unit: Unit) -> Importance | None:
        """What replacing a unit did; None if that is still to be done."""
        one = self.units.get(unit.name)
        if one is None:
            return None
        return Importance(unit, _number(one["dice"]), tuple(map(_number, one["drawn"])), _number(one["reference"]))

    @property
    def reference(self) -> float | None:
        """Dice of the network as it is; None before the first unit."""
        return next((_number(one["reference"]) for one in self.units.values()), None)

    def keep(self, one: Importance, skipped: dict[str, str]) -> None:
        """Add a unit.

        Raises:
            ResourceError: the file cannot be written.
        """
        values = {"dice": one.reinitialised, "drawn": one.rerandomised, "reference": one.reference}
        self.units[one.unit.name] = finite(values)
        self.skipped |= skipped
        content = {"format": _FORMAT, "request": self.request, "units": self.units, "skippedCases": self.skipped}
        write_json_atomically(self.path, content)

    def remove(self) -> None:
        """Remove the file, when all results are written."""
        self.path.unlink(missing_ok=True)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
