"""What a network loses when layers of it go back to where training started, or are drawn anew.

Re-initialisation and re-randomisation of Zhang et al., "Are All Layers Created Equal?" (JMLR 2022), layer by layer as
in Matsoukas et al. (CVPR 2022): a layer is critical if segmentations suffer. A unit is all tensors of its layers, by
exact name, with batch norm's statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from deepmedic.analysis.layer_units import STATISTICS, layers_of, replaced
from deepmedic.config.architecture import Architecture
from deepmedic.data.randomness import stream
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet

Scorer = Callable[[DeepMedicNet], float]
"""Mean foreground Dice (0 to 1) of a network on a data set; nan where it is not defined."""
UnitKind = Literal["layer", "up to", "from", "pathway", "all"]


@dataclass(frozen=True)
class Unit:
    """Layers that are replaced together."""

    name: str
    kind: UnitKind
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Importance:
    """What replacing a unit does."""

    unit: Unit
    reinitialised: float
    """Dice with the unit as it was at the start."""
    rerandomised: tuple[float, ...]
    """Dice with each draw of the unit; empty where none was made."""
    reference: float
    """Dice of the network as it is."""

    @property
    def criticality(self) -> float:
        """The drop of Dice by re-initialisation; negative where it helps."""
        return self.reference - self.reinitialised

    @property
    def random_drop(self) -> tuple[float, float]:
        """Mean and standard deviation (over the draws) of the drop by re-randomisation; nan without draws."""
        if not self.rerandomised:
            return float("nan"), float("nan")
        drops = self.reference - np.array(self.rerandomised)
        return float(drops.mean()), float(drops.std(ddof=1)) if len(drops) > 1 else float("nan")


def units_of(architecture: Architecture) -> list[Unit]:
    """Every layer; of every pathway its first and its last layers together; every pathway; the whole network."""
    layers = layers_of(architecture)
    units = [Unit(layer, "layer", (layer,)) for layer in layers]
    for pathway in architecture.pathways:
        own = tuple(f"{pathway.name}/{number}" for number in range(1, pathway.depth + 1))
        middle = range(2, pathway.depth)
        units += [Unit(f"{pathway.name}/1-{end}", "up to", own[:end]) for end in middle]
        units += [Unit(f"{pathway.name}/{first}-{pathway.depth}", "from", own[first - 1 :]) for first in middle]
        units.append(Unit(pathway.name, "pathway", own))
    return [*units, Unit("all layers", "all", layers)]


def layer_importance(
    network: DeepMedicNet,
    start: Mapping[str, Tensor],
    score: Scorer,
    draws: int,
    seed: int,
    units: Sequence[Unit] | None = None,
    reference: float | None = None,
) -> Iterator[Importance]:
    """Replace one unit after the other and yield what it does; between, the network is as it was, bit by bit.

    Single layers and whole pathways are also drawn anew; cumulative units are only re-initialised.

    Args:
        network: trained, in inference mode.
        start: parameters and rolling statistics before training, by canonical name.
        score: segments the cases.
        draws: how often a unit is drawn anew.
        seed: of the draws.
        units: None: those of `units_of`.
        reference: score of the network as it is, where that is known already.
    """
    trained = {name: tensor.detach().cpu().clone() for name, tensor in parameters.named_tensors(network).items()}
    reference = score(network) if reference is None else reference
    for unit in units_of(network.architecture) if units is None else units:
        with replaced(network, unit.layers, start):
            reinitialised = score(network)
        scores = []
        for draw in range(draws if unit.kind in ("layer", "pathway") else 0):
            with replaced(network, unit.layers, drawn_anew(trained, seed, draw)):
                scores.append(score(network))
        yield Importance(unit, reinitialised, tuple(scores), reference)


def drawn_anew(trained: Mapping[str, Tensor], seed: int, draw: int) -> dict[str, Tensor]:
    """Every learnt tensor drawn from the normal distribution of its own mean and deviation, independently.

    The statistics of batch norm are not among them: they describe what a layer is given, which does not change by its
    being drawn anew, and a drawn variance could be negative. What is drawn for a tensor depends on its name only, so
    that a layer is the same in every unit.
    """
    drawn = {}
    for name, tensor in trained.items():
        if name.rpartition("/")[2] in STATISTICS:
            continue
        values = tensor.double()
        deviation = float(values.std(correction=0))
        normal = torch.from_numpy(stream(seed, "layer drawn anew", name, draw).standard_normal(tuple(tensor.shape)))
        drawn[name] = (float(values.mean()) + deviation * normal).to(tensor.dtype)
    return drawn
