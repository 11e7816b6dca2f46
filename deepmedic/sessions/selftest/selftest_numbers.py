"""Checks of the self-test on the network, its gradients and the optimisers, against golden numbers or exact rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.training import FreezeConfig, LossConfig, OptimizerConfig
from deepmedic.devices import Precision, numerical_precision
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.normalization import RollingBatchNorm
from deepmedic.sessions.selftest.selftest_reference import (
    PROBABILITY,
    Check,
    Comparison,
    NotTestedError,
    difference,
    golden,
    relative_difference,
)
from deepmedic.training.losses import regularization, training_cost
from deepmedic.training.optimisers import make_optimiser

_ORIGINAL = "the original DeepMedic"
_GRADIENT, _GRADIENT_FLOOR = 1e-3, 1e-3
_OPTIMISER = 3e-6
_TF32, _BF16 = 1e-2, 4e-2
_SMALLEST_BATCH_NORM_EPSILON = 1.1754944e-38


def forward(name: str, device: torch.device, precision: Precision, allowed: float) -> Comparison:
    """Class probabilities of a golden network in inference mode."""
    numbers = golden("forward")
    net = _network(name, device).eval()
    with torch.inference_mode(), numerical_precision(precision, device):
        logits = net(*numbers.numbered(f"{name}/infer/inputs", device))
    probabilities = torch.softmax(logits.float(), dim=1)
    return Comparison(_ORIGINAL, difference(probabilities, numbers.arrays[f"{name}/infer/probabilities"]), allowed)


def forward_reduced(device: torch.device, precision: Precision, allowed: float) -> Comparison:
    """The same in a precision that only some GPUs have."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise NotTestedError(f"this GPU has no {precision} arithmetic")
    return forward("multiscale", device, precision, allowed)


def gradients(device: torch.device) -> Comparison:
    """Gradients of the training cost for all parameters."""
    numbers = golden("forward")
    net = _network("multiscale", device, dropout=False).train()
    _cost(net, device).backward()
    expected = numbers.below("multiscale/gradients")
    trained = dict(parameters.optimizer_order(net))
    if trained.keys() != expected.keys():
        raise ValueError(f"other parameters are trained: {sorted(trained.keys() ^ expected.keys())}")
    errors = [
        relative_difference(_gradient(trained[name]), gradient, _GRADIENT_FLOOR) for name, gradient in expected.items()
    ]
    return Comparison(_ORIGINAL, max(errors), _GRADIENT)


def optimisers(device: torch.device) -> Comparison:
    """Parameters after the golden steps of every optimiser."""
    numbers = golden("optimisers")
    names = numbers.settings["parameters"]
    errors = []
    for label, settings in numbers.settings["cases"].items():
        config = OptimizerConfig(**settings)
        moved = {name: torch.nn.Parameter(numbers.arrays[f"start/{name}"].clone().to(device)) for name in names}
        optimiser = make_optimiser(config, list(moved.items()))
        for step in range(numbers.settings["steps"]):
            for name, parameter in moved.items():
                parameter.grad = numbers.arrays[f"gradients/{name}"][step].to(device)
            optimiser.step(config.learning_rate, config.momentum)
        errors += [difference(parameter, numbers.arrays[f"{label}/{name}"]) for name, parameter in moved.items()]
    return Comparison(_ORIGINAL, max(errors), _OPTIMISER)


def freezing(device: torch.device) -> Comparison:
    """Parameters and batch-norm statistics of frozen layers do not change by one bit, all others are trained."""
    net = _network("multiscale", device).train()
    frozen = parameters.freeze(net, FreezeConfig(normal=(1, 2), subsampled=(1, 3), fc=()))
    before = {name: tensor.detach().clone() for name, tensor in parameters.named_tensors(net).items()}
    optimiser = make_optimiser(OptimizerConfig(kind=2, learning_rate=0.01), parameters.optimizer_order(net))
    for _ in range(3):
        optimiser.zero_grad()
        _cost(net, device).backward()
        optimiser.step(0.01, 0.6)
    after = parameters.named_tensors(net)
    is_frozen = {name: name.rpartition("/")[0] in frozen for name in after}
    still = [name for name, fixed in is_frozen.items() if not fixed and torch.equal(after[name], before[name])]
    if still:
        raise ValueError(f"not trained although not frozen: {', '.join(still)}")
    moved = [difference(after[name], before[name]) for name, fixed in is_frozen.items() if fixed]
    return Comparison("the same layers before 3 steps", max(moved), 0.0)


def constant_channel(device: torch.device) -> Comparison:
    """Batch norm of a channel that is constant over the batch: beta, and no gradient to its input."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(3, 3, 6, 5, 4, generator=generator)
    images[:, 0] = 0.1  # its mean cannot be represented exactly
    images[:, 2] = 1e6
    layer = RollingBatchNorm(3, window=4, epsilon=_SMALLEST_BATCH_NORM_EPSILON).to(device).train()
    with torch.no_grad():
        layer.bn_gamma.copy_(torch.tensor([2.0, 3.0, 4.0]))
        layer.bn_beta.copy_(torch.tensor([0.5, -1.0, 0.25]))
    on_device = images.to(device).requires_grad_()
    output = layer(on_device)
    output.backward(torch.randn(output.shape, generator=generator).to(device))
    varying = images[:, 1].double()
    expected = torch.full(images.shape, 0.5, dtype=torch.float64)
    expected[:, 1] = 3.0 * (varying - varying.mean()) / varying.std(correction=0) - 1.0
    expected[:, 2] = 0.25
    gradient = _gradient(on_device)[:, [0, 2]]
    errors = [difference(output, expected), difference(gradient, torch.zeros_like(gradient))]
    if not bool(torch.isfinite(_gradient(on_device)).all()):
        raise ValueError("the gradient is not finite")
    return Comparison("the formula in float64", max(errors), 1e-5)


def _network(name: str, device: torch.device, *, dropout: bool = True) -> DeepMedicNet:
    numbers = golden("forward")
    architecture = Architecture.from_dict(numbers.settings[name]["architecture"])
    net = DeepMedicNet(architecture if dropout else _without_dropout(architecture))
    parameters.load_tensors(net, numbers.below(f"{name}/parameters"))
    return net.to(device)


def _cost(net: DeepMedicNet, device: torch.device) -> torch.Tensor:
    """The training cost of the golden batch."""
    numbers = golden("forward")
    settings = numbers.settings["multiscale"]
    logits = net(*numbers.numbered("multiscale/train/inputs", device))
    labels = numbers.arrays["multiscale/train/labels"].to(device)
    penalty = regularization(parameters.regularized(net), settings["l1"], settings["l2"])
    return training_cost(logits, labels, LossConfig()) + penalty


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.grad is None:
        raise ValueError("a parameter got no gradient")
    return tensor.grad


def _without_dropout(architecture: Architecture) -> Architecture:
    def plain(pathway: Pathway) -> Pathway:
        return replace(pathway, dropout_rates=(0.0,) * pathway.depth)

    subsampled = tuple(plain(pathway) for pathway in architecture.subsampled)
    return replace(architecture, normal=plain(architecture.normal), subsampled=subsampled, fc=plain(architecture.fc))


def _forward(name: str) -> Callable[[torch.device], Comparison]:
    return lambda device: forward(name, device, "float32", PROBABILITY)


CHECKS = (
    Check("forward, two resolutions", _forward("multiscale"), all_threads=True),
    Check("forward, padded convolutions", _forward("padded"), all_threads=True),
    Check("forward, tf32", lambda device: forward_reduced(device, "tf32", _TF32), only_cuda=True),
    Check("forward, bf16", lambda device: forward_reduced(device, "bf16", _BF16)),
    Check("backward, all gradients", gradients),
    Check("SGD, Adam, RMSProp", optimisers),
    Check("batch norm, constant channel", constant_channel),
    Check("frozen layers", freezing),
)
