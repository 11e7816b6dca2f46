"""Optimisers against golden numbers of the original, scalar formulas and `torch.optim` where they coincide."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deepmedic.config.training import OptimizerConfig
from deepmedic.errors import ModelError
from deepmedic.training.optimisers import SGD, Adam, Optimiser, RMSProp, make_optimiser

GOLDEN = Path(__file__).parents[1] / "golden" / "optim"
CASES = json.loads((GOLDEN / "optimisers.json").read_text())
STEPS = CASES["n_steps"]
NAMES = {"w": "normal/1/weight", "b": "fc/1/bias", "g": "fc/1/bn_gamma"}
SLOTS = {
    "velocity": {"SGD": "velocities_for_mom", "RMSProp": "velocities_for_mom"},
    "mean_square": {"RMSProp": "accu_grad_squared", "Adam": "vars_of_grads"},
    "mean": {"Adam": "means_of_grads"},
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "optimisers.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def config_of(case: dict) -> OptimizerConfig:
    return OptimizerConfig(
        kind=("sgd", "adam", "rmsprop").index(case["kind"]),
        learning_rate=case["learning_rate"],
        nesterov=case.get("classicMom0OrNesterov1", 1),
        momentum=case.get("momentum", 0.6),
        normalized_momentum=case.get("momNonNorm0orNormalized1", 1),
        adam_beta1=case.get("b1", 0.9),
        adam_beta2=case.get("b2", 0.999),
        adam_epsilon=case.get("epsilon", 1e-8),
        rms_rho=case.get("rho", 0.9),
        rms_epsilon=case.get("epsilon", 1e-4),
    )


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["label"])
def test_parameters_and_states_equal_the_original_after_each_step(golden, case):
    config = config_of(case)
    parameters = {short: nn.Parameter(golden[f"init.{short}"].clone()) for short in NAMES}
    optimiser = make_optimiser(config, [(NAMES[short], parameter) for short, parameter in parameters.items()])
    for step in range(STEPS):
        for short, parameter in parameters.items():
            parameter.grad = golden[f"grads.{short}"][step].clone()
        optimiser.step(config.learning_rate, config.momentum)
        for short, parameter in parameters.items():
            expected = golden[f"{case['label']}.param.{short}"][step]
            torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=3e-6)
            for slot, tensors in optimiser.state_dict()["slots"].items():
                expected = golden[f"{case['label']}.state_{SLOTS[slot][optimiser.kind]}.{short}"][step]
                torch.testing.assert_close(tensors[NAMES[short]], expected, rtol=0, atol=3e-6)


def scalar(value: float, gradient: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor([value], dtype=torch.float64))
    parameter.grad = torch.tensor([gradient], dtype=torch.float64)
    return parameter


def test_one_step_of_each_rule_by_hand():
    sgd, rms, adam = scalar(1.0, 0.5), scalar(1.0, 0.5), scalar(1.0, 0.5)
    SGD([("a/1/bias", sgd)], nesterov=True, normalized_momentum=True).step(0.1, 0.8)
    RMSProp([("a/1/bias", rms)], rho=0.9, epsilon=0.01, nesterov=False, normalized_momentum=False).step(0.1, 0.8)
    Adam([("a/1/bias", adam)], beta1=0.9, beta2=0.99, epsilon=1e-3).step(0.1, 0.8)
    step = 0.2 * 0.1 * 0.5
    assert sgd.item() == pytest.approx(1.0 - 0.8 * step - step)
    assert rms.item() == pytest.approx(1.0 - 0.1 * 0.5 / (0.1 * 0.25 + 0.01) ** 0.5)
    rate = 0.1 * 0.01**0.5 / 0.1
    assert adam.item() == pytest.approx(1.0 - rate * 0.05 / ((0.01 * 0.25) ** 0.5 + 1e-3))


def run(optimiser: Optimiser | torch.optim.Optimizer, parameter: nn.Parameter, *hyper: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    for _ in range(6):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step(*hyper)
    return parameter.detach()


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_without_normalisation_equals_torch_at_a_constant_rate(nesterov):
    ours, theirs = nn.Parameter(torch.ones(5, 2)), nn.Parameter(torch.ones(5, 2))
    reference = torch.optim.SGD([theirs], lr=0.05, momentum=0.7, nesterov=nesterov)
    result = run(SGD([("a", ours)], nesterov=nesterov, normalized_momentum=False), ours, 0.05, 0.7)
    torch.testing.assert_close(result, run(reference, theirs), rtol=1e-5, atol=1e-6)


def test_adam_equals_torch_where_epsilon_does_not_matter():
    ours, theirs = nn.Parameter(torch.ones(5, 2)), nn.Parameter(torch.ones(5, 2))
    reference = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99), eps=1e-12)
    result = run(Adam([("a", ours)], beta1=0.9, beta2=0.99, epsilon=1e-12), ours, 0.01, 0.0)
    torch.testing.assert_close(result, run(reference, theirs), rtol=1e-5, atol=1e-6)


def test_frozen_parameters_and_those_without_a_gradient_stay():
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    idle, trained = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimiser = make_optimiser(OptimizerConfig(kind=0), [("a", frozen), ("b", idle), ("c", trained)])
    frozen.grad, trained.grad = torch.ones(3), torch.ones(3)
    optimiser.step(0.1, 0.5)
    assert optimiser.names == ["b", "c"]
    assert frozen.tolist() == idle.tolist() == [1.0] * 3
    assert (trained < 1.0).all()


def test_a_step_with_everything_frozen_does_nothing():
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    optimiser = make_optimiser(OptimizerConfig(), [("a", frozen)])
    optimiser.step(0.1, 0.5)
    assert frozen.tolist() == [1.0] * 3
    assert optimiser.state_dict()["slots"] == {"mean_square": {}, "velocity": {}}


def test_zero_grad_forgets_gradients():
    parameter = scalar(1.0, 0.5)
    make_optimiser(OptimizerConfig(), [("a", parameter)]).zero_grad()
    assert parameter.grad is None


def train(optimiser: Optimiser, parameters: list[nn.Parameter], first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step(0.1 / (1 + step), 0.6 + 0.01 * step)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_training_resumed_from_a_saved_state_is_bit_exact(kind):
    def fresh() -> tuple[Optimiser, list[nn.Parameter]]:
        generator = torch.Generator().manual_seed(99)
        parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2, 2, 2, 2), (3,))]
        named = list(zip(("normal/1/weight", "normal/1/bias"), parameters, strict=True))
        return make_optimiser(OptimizerConfig(kind=kind), named), parameters

    uninterrupted, expected = fresh()
    train(uninterrupted, expected, 0, 9)

    interrupted, parameters = fresh()
    train(interrupted, parameters, 0, 4)
    file = io.BytesIO()
    torch.save({"optimiser": interrupted.state_dict(), "parameters": [p.detach() for p in parameters]}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, parameters = fresh()
    resumed.load_state_dict(saved["optimiser"])
    for parameter, value in zip(parameters, saved["parameters"], strict=True):
        parameter.data.copy_(value)
    train(resumed, parameters, 4, 9)

    assert all(torch.equal(a, b) for a, b in zip(parameters, expected, strict=True))
    assert resumed.steps == uninterrupted.steps == 9


def test_loading_copies_the_state():
    parameter = scalar(1.0, 0.5)
    first = make_optimiser(OptimizerConfig(kind=0), [("a", parameter)])
    first.step(0.1, 0.5)
    second = make_optimiser(OptimizerConfig(kind=0), [("a", parameter)])
    second.load_state_dict(first.state_dict())
    before = first.slots["velocity"][0].clone()
    second.step(0.1, 0.5)
    assert torch.equal(first.slots["velocity"][0], before)


def test_states_that_do_not_fit_are_refused():
    def optimiser(kind: int, **shapes: int) -> Optimiser:
        named = [(name, nn.Parameter(torch.ones(size))) for name, size in shapes.items()]
        return make_optimiser(OptimizerConfig(kind=kind), named)

    saved = optimiser(0, a=2, b=3).state_dict()
    with pytest.raises(ModelError, match=r"state is of SGD, but sgd0orAdam1orRms2 asks for RMSProp; .*-resetOptimizer"):
        optimiser(2, a=2, b=3).load_state_dict(saved)
    with pytest.raises(ModelError, match="it lacks c and has in addition b; were other layers frozen"):
        optimiser(0, a=2, c=3).load_state_dict(saved)
    with pytest.raises(ModelError, match=r"state of b \(velocity\) has shape \[3\], the parameter has \[4\]"):
        optimiser(0, a=2, b=4).load_state_dict(saved)
