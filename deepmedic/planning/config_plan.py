"""What is to be written of a ready set of configs, and the names of its files and sessions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deepmedic.planning.found import FoundCase
from deepmedic.planning.networks import NetworkPlan
from deepmedic.planning.suggestions import Suggestion

LISTS = "lists"
"""Folder of the listing files, beside the configs."""
ALL_CASES = f"{LISTS}/all_cases.csv"
"""The table of all cases with labels, for a cross-validation."""
MOST_FOLDS = 5
_PARTS = {"training": "train", "validation": "validation", "test": "test"}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class ConfigPlan:
    """Everything that is to be written."""

    name: str
    """Of the model, safe for file names."""
    source: str
    """What the configs were made from, for their first lines."""
    channel_names: tuple[str, ...]
    class_names: tuple[str, ...] | None
    classes: int
    network: NetworkPlan
    parts: Mapping[str, Sequence[FoundCase]]
    """"training", "validation" and "test"; a part may be empty, but not the first one."""
    test_is: str
    """Which cases those of the test config are, for its comment."""
    split: str
    """How the validation cases were chosen, for a comment."""
    orientation: str | None = None
    """Why `orientation = "RAS"` is set; None: it is not."""
    affine_tolerance: str | None = None
    """Why images of a case may lie 0.1 mm apart; None: they may not."""
    subjects: Mapping[str, str] = field(default_factory=dict)
    """By name of the case, for those with labels."""
    suggestions: Mapping[str, Suggestion] = field(default_factory=dict)
    """By key."""

    @property
    def folds(self) -> int:
        """Folds of a cross-validation: five, or one per subject where these are fewer; with one there is none."""
        return min(MOST_FOLDS, len(set(self.subjects.values())))

    @property
    def is_cross_validated(self) -> bool:
        return self.folds > 1

    @property
    def labelled(self) -> list[FoundCase]:
        """The cases of a cross-validation: all with labels that the source does not keep for testing."""
        return [*self.parts["training"], *self.parts["validation"]]

    @property
    def session(self) -> str:
        return f"train_{self.name}"

    @property
    def cross_validation_session(self) -> str:
        return f"cv_{self.name}"

    @property
    def test_session(self) -> str:
        return f"test_{self.name}"

    def has(self, part: str, what: str) -> bool:
        """Whether the cases of a part have labels or roi."""
        return any(getattr(case, what) is not None for case in self.parts[part])


def safe_name(text: str) -> str:
    """A name for files and sessions made of any text."""
    return _NOT_IN_NAMES.sub("_", text).strip("_")[:60] or "data"


def slugs(channels: Iterable[str]) -> list[str]:
    """Different names for the listing files of channels."""
    plain = [safe_name(channel) for channel in channels]
    reserved = {"labels", "masks", "names"}
    folded = [name.lower() for name in plain]
    return [
        f"channel{number}_{name}" if folded.count(name.lower()) > 1 or name.lower() in reserved else name
        for number, name in enumerate(plain, 1)
    ]


def listing_name(part: str, what: str) -> str:
    """The listing file of a channel, of labels, masks or names of one part."""
    return f"{LISTS}/{_PARTS[part]}_{what}.cfg"
