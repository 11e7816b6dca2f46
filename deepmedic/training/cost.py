"""The cost that a phase of a training minimises: loss on a batch, and penalties on the weights."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from deepmedic.config.training import TrainConfig
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.losses import class_weights, pull_to_start, regularization, training_cost


class TrainingCost:
    """The cost of one phase."""

    def __init__(
        self,
        config: TrainConfig,
        epochs: int,
        network: DeepMedicNet,
        start: Mapping[str, Tensor] | None,
        device: torch.device,
    ) -> None:
        """Create it for the layers that are trained now.

        Args:
            config: of the phase.
            epochs: of the whole session, over which classes may be weighted less and less.
            network: whose weights are penalised.
            start: the parameters that weights may be pulled to; needed where the config says so.
            device: of the network.
        """
        self._config, self._epochs = config, epochs
        self._classes = network.architecture.classes
        self._weights = parameters.regularized(network)
        self._pulled: list[Tensor] = []
        self._start: list[Tensor] = []
        if config.refinements.l2_to_start != 0:
            assert start is not None
            kernels = parameters.trained_kernels(network)
            self._pulled, self._start = list(kernels.values()), [start[name].to(device) for name in kernels]

    def __call__(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Return the cost, 0-dimensional float32; `logits` [B, class, x, y, z], `labels` [B, x, y, z]."""
        config = self._config
        weights = class_weights(config.loss.reweighting, labels, epoch, self._epochs, self._classes)
        cost = training_cost(logits, labels, config.loss, weights)
        cost = cost + regularization(self._weights, config.optimizer.l1, config.optimizer.l2)
        if self._pulled:
            cost = cost + pull_to_start(self._pulled, self._start, config.refinements.l2_to_start)
        return cost

    def changes_with(self, epoch: int) -> Hashable:
        """What is the same for epochs in which the cost is the same function."""
        return None if self._config.loss.reweighting.kind is None else epoch
