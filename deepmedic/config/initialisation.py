"""How a new model starts from a source model: with its weights, only with their statistics, or with nothing of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

ALLOWED = (
    '"WT" (weights), "ST" (statistics of the weights), "WT-ST-n" (weights up to depth n as -layers counts it, or of '
    'one pathway such as "WT-ST-normal", statistics of the others), "shuffle" and "WT-shuffle-n" (weights in random '
    'order instead of statistics), and in a comparison "RI" (random initialisation, nothing of the source)'
)

_PARTIAL = re.compile(r"WT-(?P<rest>ST|shuffle)-(?P<kept>\d{1,4}|normal|fc|subsampled[1-9]\d?)")
_WHOLE: dict[str, Literal["nothing", "weights", "statistics", "order"]] = {
    "RI": "nothing",
    "WT": "weights",
    "ST": "statistics",
    "shuffle": "order",
}


@dataclass(frozen=True)
class Initialisation:
    """What a new model takes from a source model.

    The names are those of Matsoukas et al., "What Makes Transfer Learning Work for Medical Images: Feature Reuse &
    Other Factors" (CVPR 2022): WT transfers weights, ST only their mean and deviation per tensor, WT-ST-n weights up to
    a depth and statistics beyond it, RI nothing.
    """

    name: str
    rest: Literal["nothing", "weights", "statistics", "order"]
    """What is taken of layers whose weights are not kept."""
    kept: int | str | None = None
    """Weights are kept up to this depth, or in the pathway of this name; None: nowhere but with "weights"."""

    @classmethod
    def of(cls, name: str) -> Initialisation:
        """Read a name such as "WT-ST-3".

        Raises:
            ValueError: there is none of that name; says which there are.
        """
        if name in _WHOLE:
            return cls(name, _WHOLE[name])
        found = _PARTIAL.fullmatch(name)
        if found is None:
            raise ValueError(f"found {name!r}; allowed: {ALLOWED}")
        kept = found["kept"]
        rest: Literal["statistics", "order"] = "statistics" if found["rest"] == "ST" else "order"
        return cls(name, rest, int(kept) if kept.isdecimal() else kept)

    def keeps(self, pathway: str, depth: int) -> bool:
        """Whether the weights of a layer of the source are taken as they are.

        Args:
            pathway: its name.
            depth: as `-layers` counts it: 1, 2, ... along the parallel pathways, then on through the FC pathway.
        """
        if self.kept is None:
            return self.rest == "weights"
        return pathway == self.kept if isinstance(self.kept, str) else depth <= self.kept
