"""How `-findLr` looks for a learning rate: which rates it tries, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepmedic.config.options import option


@dataclass(frozen=True, kw_only=True)
class RateSearchConfig:
    """The search for a learning rate of `-findLr`; a training does not use it."""

    method: Literal["both", "grid", "ramp"] = option(
        "method",
        "both",
        origin="new",
        doc='"grid": one short training per rate from the same start, judged on validation samples; "ramp": one '
        'training whose rate rises with every step, judged by its cost; "both".',
    )
    lowest_power: float = option(
        "minPower", -5.0, minimum=-12, maximum=2, origin="new", doc="The lowest rate is 10 to this power."
    )
    highest_power: float = option(
        "maxPower",
        -1.0,
        minimum=-12,
        maximum=2,
        origin="new",
        doc="The highest rate is 10 to this power. Rates between are evenly spaced by their logarithms.",
    )
    resolution: int = option("resolution", 20, minimum=2, maximum=1000, origin="new", doc="Rates of the grid.")
    epochs: int = option("epochs", 1, minimum=1, origin="new", doc="Epochs that each rate of the grid is trained for.")
    ramp_steps: int = option(
        "rampSteps",
        100,
        minimum=20,
        origin="new",
        doc="Training steps of the ramp, at most: it ends when the cost has risen to four times its lowest value.",
    )
