"""Stochastic gradient descent, Adam and RMSProp with the update rules of the original DeepMedic.

They differ from those of `torch.optim` in ways that matter for drop-in results: the learning rate is inside the
velocity, momentum may be normalised, RMSProp has its epsilon inside the square root, and Adam folds both bias
corrections into the rate. All parameters are updated together in a few kernels, without waiting for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deepmedic.config.training import OptimizerConfig
from deepmedic.errors import ModelError
from deepmedic.training.refinements import NO_REFINEMENTS, UpdateRefinements, clip_gradients


class Optimiser(ABC):
    """Updates the trainable parameters from their gradients; learning rate and momentum are handed in per step.

    Parameters that do not require a gradient (frozen layers) are left out. A parameter whose `grad` is None in some
    step is left as it is in that step.
    """

    kind: ClassVar[str]
    slot_names: ClassVar[tuple[str, ...]]
    """What is accumulated per parameter, in its shape, from zero."""

    def __init__(self, named_parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
        trainable = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
        self.names = [name for name, _ in trainable]
        self.parameters: list[Tensor] = [parameter for _, parameter in trainable]
        self.slots = {
            slot: [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]
            for slot in self.slot_names
        }
        self.steps = 0
        self.refinements: UpdateRefinements = NO_REFINEMENTS

    @torch.no_grad()
    def step(self, learning_rate: float, momentum: float) -> None:
        """Change every parameter by one step along its `grad`; Adam ignores `momentum`."""
        self.steps += 1
        if self.refinements.largest_norm is not None:
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            if gradients:
                clip_gradients(gradients, self.refinements.largest_norm)
        for factor, group in self.refinements.groups(self.names).items():
            self._step_of(group, learning_rate * factor, momentum)

    def rates(self, learning_rate: float) -> dict[str, float]:
        """Return the learning rate of each group of layers that share one, in the order of the network."""
        groups = {}
        for factor, group in self.refinements.groups(self.names).items():
            layers = dict.fromkeys(self.names[index].rpartition("/")[0] for index in group)
            groups[", ".join(layers)] = learning_rate * factor
        return groups

    def _step_of(self, group: list[int], learning_rate: float, momentum: float) -> None:
        """Change the parameters with these indices, which share a learning rate."""
        active = [index for index in group if self.parameters[index].grad is not None]
        if not active:
            return
        parameters = [self.parameters[index] for index in active]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        slots = {slot: [tensors[index] for index in active] for slot, tensors in self.slots.items()}
        self.refinements.decay([self.names[index] for index in active], parameters, learning_rate)
        self._update(parameters, gradients, slots, learning_rate, momentum)

    @abstractmethod
    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        slots: dict[str, list[Tensor]],
        learning_rate: float,
        momentum: float,
    ) -> None: ...

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward pass starts from none."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return kind, number of steps, and per slot the tensor of each parameter by its canonical name.

        The tensors are the live ones: save or copy them before the next step.
        """
        slots = {slot: dict(zip(self.names, tensors, strict=True)) for slot, tensors in self.slots.items()}
        return {"kind": self.kind, "steps": self.steps, "slots": slots}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from `state_dict`, copied to the device of the parameters.

        Raises:
            ModelError: the state is of another kind of optimiser or of other parameters; nothing is changed then.
        """
        self._check_state(state)
        for slot, tensors in self.slots.items():
            for name, tensor in zip(self.names, tensors, strict=True):
                tensor.copy_(state["slots"][slot][name])
        self.steps = int(state["steps"])

    def adopt(self, other: Optimiser) -> None:
        """Go on with what another optimiser of the same kind accumulated for the parameters that both have."""
        for slot, tensors in self.slots.items():
            earlier = dict(zip(other.names, other.slots[slot], strict=True))
            for name, tensor in zip(self.names, tensors, strict=True):
                if name in earlier:
                    tensor.copy_(earlier[name])
        self.steps = other.steps

    def _check_state(self, state: Mapping[str, Any]) -> None:
        remedy = "continue with the settings of the saved session, or start optimisation anew with -resetOptimizer"
        if state["kind"] != self.kind:
            raise ModelError(
                f"the saved optimiser state is of {state['kind']}, but sgd0orAdam1orRms2 asks for {self.kind}; {remedy}"
            )
        for slot, tensors in self.slots.items():
            saved = state["slots"][slot]
            missing = sorted(set(self.names) - set(saved))
            unexpected = sorted(set(saved) - set(self.names))
            if missing or unexpected:
                raise ModelError(
                    f"the saved optimiser state is not of the parameters that are trained now: it lacks "
                    f"{', '.join(missing) or 'none'} and has in addition {', '.join(unexpected) or 'none'}; were other "
                    f"layers frozen? {remedy}"
                )
            for name, tensor in zip(self.names, tensors, strict=True):
                if saved[name].shape != tensor.shape:
                    raise ModelError(
                        f"the saved optimiser state of {name} ({slot}) has shape {list(saved[name].shape)}, the "
                        f"parameter has {list(tensor.shape)}; {remedy}"
                    )


class _WithMomentum(Optimiser):
    """Momentum over steps that already include the learning rate.

    velocity <- momentum * velocity - step
    classic:  parameter <- parameter + velocity
    Nesterov: parameter <- parameter + momentum * velocity - step
    A normalised momentum multiplies the step by (1 - momentum).
    """

    def __init__(
        self, named_parameters: Sequence[tuple[str, nn.Parameter]], *, nesterov: bool, normalized_momentum: bool
    ) -> None:
        super().__init__(named_parameters)
        self.nesterov = nesterov
        self.normalized_momentum = normalized_momentum

    def _move(
        self,
        parameters: list[Tensor],
        directions: list[Tensor],
        velocities: list[Tensor],
        learning_rate: float,
        momentum: float,
    ) -> None:
        scale = learning_rate * (1.0 - momentum) if self.normalized_momentum else learning_rate
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, directions, alpha=-scale)
        if self.nesterov:
            torch._foreach_add_(parameters, velocities, alpha=momentum)
            torch._foreach_add_(parameters, directions, alpha=-scale)
        else:
            torch._foreach_add_(parameters, velocities)


class SGD(_WithMomentum):
    """Stochastic gradient descent: the step is the learning rate times the gradient."""

    kind = "SGD"
    slot_names = ("velocity",)

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        slots: dict[str, list[Tensor]],
        learning_rate: float,
        momentum: float,
    ) -> None:
        self._move(parameters, gradients, slots["velocity"], learning_rate, momentum)


class RMSProp(_WithMomentum):
    """RMSProp (Tieleman and Hinton, 2012): the gradient divided by sqrt(mean square + epsilon) before momentum."""

    kind = "RMSProp"
    slot_names = ("mean_square", "velocity")

    def __init__(
        self,
        named_parameters: Sequence[tuple[str, nn.Parameter]],
        *,
        rho: float,
        epsilon: float,
        nesterov: bool,
        normalized_momentum: bool,
    ) -> None:
        super().__init__(named_parameters, nesterov=nesterov, normalized_momentum=normalized_momentum)
        self.rho = rho
        self.epsilon = epsilon

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        slots: dict[str, list[Tensor]],
        learning_rate: float,
        momentum: float,
    ) -> None:
        mean_squares = slots["mean_square"]
        torch._foreach_mul_(mean_squares, self.rho)
        torch._foreach_addcmul_(mean_squares, gradients, gradients, value=1.0 - self.rho)
        denominators = torch._foreach_add(mean_squares, self.epsilon)
        torch._foreach_sqrt_(denominators)
        directions = torch._foreach_div(gradients, denominators)
        self._move(parameters, list(directions), slots["velocity"], learning_rate, momentum)


class Adam(Optimiser):
    """Adam (Kingma and Ba, 2015) in the form that corrects both biases in the rate; epsilon outside the root."""

    kind = "Adam"
    slot_names = ("mean", "mean_square")

    def __init__(
        self, named_parameters: Sequence[tuple[str, nn.Parameter]], *, beta1: float, beta2: float, epsilon: float
    ) -> None:
        super().__init__(named_parameters)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        slots: dict[str, list[Tensor]],
        learning_rate: float,
        momentum: float,
    ) -> None:
        means, mean_squares = slots["mean"], slots["mean_square"]
        torch._foreach_mul_(means, self.beta1)
        torch._foreach_add_(means, gradients, alpha=1.0 - self.beta1)
        torch._foreach_mul_(mean_squares, self.beta2)
        torch._foreach_addcmul_(mean_squares, gradients, gradients, value=1.0 - self.beta2)
        denominators = torch._foreach_sqrt(mean_squares)
        torch._foreach_add_(denominators, self.epsilon)
        correction = (1.0 - self.beta2**self.steps) ** 0.5 / (1.0 - self.beta1**self.steps)
        torch._foreach_addcdiv_(parameters, means, denominators, value=-learning_rate * correction)


def make_optimiser(
    config: OptimizerConfig,
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    refinements: UpdateRefinements = NO_REFINEMENTS,
) -> Optimiser:
    """Return the optimiser that `config` names, for those of the (canonically) named parameters that are trained."""
    optimiser = _own_rule(config, named_parameters)
    optimiser.refinements = refinements
    return optimiser


def _own_rule(config: OptimizerConfig, named_parameters: Sequence[tuple[str, nn.Parameter]]) -> Optimiser:
    momentum = {"nesterov": bool(config.nesterov), "normalized_momentum": bool(config.normalized_momentum)}
    if config.kind == 0:
        return SGD(named_parameters, **momentum)
    if config.kind == 1:
        return Adam(named_parameters, beta1=config.adam_beta1, beta2=config.adam_beta2, epsilon=config.adam_epsilon)
    return RMSProp(named_parameters, rho=config.rms_rho, epsilon=config.rms_epsilon, **momentum)
