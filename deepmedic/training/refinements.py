"""What is done to gradients and rates before an optimiser's own rule; each part is off by default.

Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deepmedic.config.training import RefinementConfig
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet

_NORM_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class UpdateRefinements:
    """Refinements of every step of an optimiser, by canonical names of parameters."""

    largest_norm: float | None = None
    """Of the gradient of all parameters together; None: not clipped."""
    weight_decay: float = 0.0
    """A step shrinks `decayed` parameters by this times their learning rate, in proportion."""
    decayed: frozenset[str] = frozenset()
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    """Factors of the learning rate; 1 for parameters that are not listed."""

    @classmethod
    def of(cls, config: RefinementConfig, network: DeepMedicNet) -> UpdateRefinements:
        """Return those that a config asks for."""
        return cls(
            largest_norm=config.gradient_clipping,
            weight_decay=config.weight_decay,
            decayed=frozenset(parameters.trained_kernels(network)),
            rate_factors=rate_factors(network, config.rate_decay_per_layer),
        )

    def groups(self, names: Sequence[str]) -> dict[float, list[int]]:
        """Return indices of the named parameters by the factor of their learning rate."""
        groups: dict[float, list[int]] = {}
        for index, name in enumerate(names):
            groups.setdefault(self.rate_factors.get(name, 1.0), []).append(index)
        return groups

    def decay(self, names: Sequence[str], tensors: Sequence[Tensor], learning_rate: float) -> None:
        """Shrink those of the named parameters that are to be decayed.

        Loshchilov and Hutter, "Decoupled weight decay regularization" (ICLR 2019).
        """
        if self.weight_decay:
            shrunk = [tensor for name, tensor in zip(names, tensors, strict=True) if name in self.decayed]
            if shrunk:
                torch._foreach_mul_(shrunk, 1.0 - learning_rate * self.weight_decay)


NO_REFINEMENTS = UpdateRefinements()


def clip_gradients(gradients: list[Tensor], largest_norm: float) -> None:
    """Scale gradients, in place, so that the norm of all of them together is at most `largest_norm`.

    Pascanu et al., "On the difficulty of training recurrent neural networks" (ICML 2013). A gradient that is infinite
    or not a number becomes not a number, so that the training is found to diverge.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2)))
    torch._foreach_mul_(gradients, (largest_norm / (norm + _NORM_EPSILON)).clamp(max=1.0))


def rate_factors(network: DeepMedicNet, decay: float | None) -> dict[str, float]:
    """Return for each trained parameter `decay` to the power of its layer's depth below the classification layer.

    The classification layer and the softmax bias have depth 0; the last layers of all parallel pathways feed the first
    one of the FC pathway. Howard and Ruder, "Universal language model fine-tuning" (ACL 2018), section 3.2.
    """
    if decay is None:
        return {}
    architecture = network.architecture
    top = {pathway.name: architecture.fc.depth + pathway.depth for pathway in architecture.parallel}
    top["fc"] = architecture.fc.depth
    factors = {}
    for name, _ in parameters.optimizer_order(network):
        pathway, _, rest = name.partition("/")
        depth = 0 if pathway == "softmax" else top[pathway] - int(rest.partition("/")[0])
        factors[name] = decay**depth
    return factors
