"""What changes the weights of a network in one phase of a training: frozen layers, optimiser, averages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepmedic.config.training import TrainConfig
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.averaging import WeightAverage
from deepmedic.training.optimisers import Optimiser, make_optimiser
from deepmedic.training.refinements import UpdateRefinements

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learning:
    """The parts of a trainer that belong to one phase."""

    optimiser: Optimiser
    average: WeightAverage | None
    """Of the network's weights; None: they are not averaged."""

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Take over the state that a checkpoint of the same phase holds.

        Raises:
            ModelError: it is of another kind of optimiser or of other parameters.
        """
        self.optimiser.load_state_dict(saved["optimiser"])
        if self.average is not None and "averaging" in saved:
            self.average.load_state_dict(saved["averaging"])


def begin_phase(network: DeepMedicNet, config: TrainConfig) -> Learning:
    """Freeze the layers that a phase's config names; make an optimiser, with a new state, and averages for the others.

    Raises:
        ConfigError: a layer that the network does not have.
    """
    frozen = parameters.freeze(network, config.freezing)
    if frozen:
        log.info("Frozen layers, whose parameters do not change: %s", ", ".join(frozen))
    return new_learning(network, config)


def new_learning(network: DeepMedicNet, config: TrainConfig) -> Learning:
    """Make an optimiser with a new state, and averages, for the parameters of a network that are not frozen."""
    refinements = UpdateRefinements.of(config.refinements, network)
    optimiser = make_optimiser(config.optimizer, parameters.optimizer_order(network), refinements)
    decay = config.refinements.weight_averaging
    return Learning(optimiser, None if decay is None else WeightAverage(network, decay))
