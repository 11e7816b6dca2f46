"""Clipping, weight decay, rates per layer and the pull to the start against torch and against formulas by hand."""

import math

import pytest
import torch
from torch import nn

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.optimisation import FreezeConfig, OptimizerConfig
from deepmedic.config.training import RefinementConfig
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.losses import pull_to_start
from deepmedic.training.optimisers import make_optimiser
from deepmedic.training.refinements import UpdateRefinements, clip_gradients, rate_factors
from deepmedic.training.schedules import batch_factor, warm_up_factor

SHAPES = {
    "normal/1/weight": (4, 2, 3, 3, 3),
    "normal/1/bias": (4,),
    "fc/1/weight": (3, 4, 1, 1, 1),
    "softmax/bias": (3,),
}
KERNELS = frozenset(name for name in SHAPES if name.endswith("weight"))
SGD = OptimizerConfig(kind=0, momentum=0.0)


def made() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def give_gradients(named: dict[str, nn.Parameter], seed: int = 0, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    for parameter in named.values():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


def pathway(name: str, *maps: int) -> Pathway:
    depth, size = len(maps), 1 if name == "fc" else 3
    return Pathway(name, maps, ((size,) * 3,) * depth, ("valid",) * depth, (0.0,) * depth)


@pytest.fixture
def network() -> DeepMedicNet:
    """Three normal layers, two low-resolution ones, and one before the classification layer."""
    parallel = pathway("normal", 2, 3, 2), (pathway("subsampled1", 2, 2),)
    return DeepMedicNet(Architecture(1, 2, *parallel, pathway("fc", 4, 2)))


class TestClipping:
    @pytest.mark.parametrize("scale", [10.0, 1.0, 1e-3])
    def test_gradients_equal_those_that_torch_clips(self, scale):
        ours, theirs = made(), made()
        give_gradients(ours, scale=scale)
        give_gradients(theirs, scale=scale)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 2.5)
        clip_gradients([parameter.grad for parameter in ours.values()], 2.5)
        for name in SHAPES:
            torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-6, atol=0)

    def test_small_gradients_stay_to_the_bit(self):
        named = made()
        give_gradients(named, scale=1e-3)
        before = {name: parameter.grad.clone() for name, parameter in named.items()}
        clip_gradients([parameter.grad for parameter in named.values()], 2.5)
        assert all(torch.equal(named[name].grad, before[name]) for name in named)

    def test_a_step_moves_no_further_than_rate_times_norm(self):
        named, before = made(), made()
        give_gradients(named, scale=1e4)
        optimiser = make_optimiser(SGD, list(named.items()), UpdateRefinements(largest_norm=2.5))
        optimiser.step(0.1, 0.0)
        moved = math.sqrt(sum(float((named[name] - before[name]).detach().square().sum()) for name in named))
        assert moved == pytest.approx(0.25, rel=1e-4)

    def test_parameters_without_a_gradient_do_not_count(self):
        named = made()
        optimiser = make_optimiser(SGD, list(named.items()), UpdateRefinements(largest_norm=1.0))
        optimiser.step(0.1, 0.0)
        assert all(torch.equal(named[name], parameter) for name, parameter in made().items())

    def test_an_infinite_gradient_is_not_hidden(self):
        gradients = [torch.tensor([1.0, math.inf]), torch.ones(1)]
        clip_gradients(gradients, 1.0)
        assert gradients[0].isnan().any()


class TestWeightDecay:
    def test_adam_equals_adamw_of_torch(self):
        ours, theirs = made(), made()
        config = OptimizerConfig(kind=1, adam_epsilon=1e-12)
        optimiser = make_optimiser(config, list(ours.items()), UpdateRefinements(weight_decay=0.3, decayed=KERNELS))
        groups = [
            {"params": [theirs[name] for name in SHAPES if name in KERNELS], "weight_decay": 0.3},
            {"params": [theirs[name] for name in SHAPES if name not in KERNELS], "weight_decay": 0.0},
        ]
        oracle = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.999), eps=1e-12)
        for step in range(5):
            give_gradients(ours, step)
            give_gradients(theirs, step)
            optimiser.step(0.05, 0.0)
            oracle.step()
        for name in SHAPES:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)

    def test_it_shrinks_kernels_and_leaves_the_rest_alone(self):
        named, before = made(), made()
        for parameter in named.values():
            parameter.grad = torch.zeros_like(parameter)
        refinements = UpdateRefinements(weight_decay=0.5, decayed=KERNELS)
        make_optimiser(SGD, list(named.items()), refinements).step(0.2, 0.0)
        for name in SHAPES:
            expected = before[name] * (1 - 0.2 * 0.5 if name in KERNELS else 1)
            torch.testing.assert_close(named[name], expected)

    def test_kernels_are_the_trained_convolution_weights(self, network):
        parameters.freeze(network, FreezeConfig(normal=(1, 3), subsampled=()))
        refinements = UpdateRefinements.of(RefinementConfig(weight_decay=0.1), network)
        expected = {"normal/2/weight", "subsampled1/1/weight", "subsampled1/2/weight", "fc/1/weight", "fc/2/weight"}
        assert refinements.decayed == expected


class TestRatePerLayer:
    def test_factors_fall_with_the_depth_below_the_classification_layer(self, network):
        factors = rate_factors(network, 0.5)
        depths = {"fc/2": 0, "softmax": 0, "fc/1": 1, "normal/3": 2, "subsampled1/2": 2, "normal/2": 3, "normal/1": 4}
        for layer, depth in {**depths, "subsampled1/1": 3}.items():
            found = {factor for name, factor in factors.items() if name.startswith(f"{layer}/")}
            assert found == {0.5**depth}
        assert factors.keys() == dict(parameters.optimizer_order(network)).keys()

    def test_off_means_one_rate_for_all(self, network):
        names = [name for name, _ in parameters.optimizer_order(network)]
        refinements = UpdateRefinements.of(RefinementConfig(), network)
        assert refinements.groups(names) == {1.0: list(range(len(names)))}

    @pytest.mark.parametrize("kind", [0, 1, 2])
    def test_each_parameter_moves_as_if_it_were_alone_at_its_rate(self, kind):
        named, config = made(), OptimizerConfig(kind=kind)
        factors = {"normal/1/weight": 0.25, "normal/1/bias": 0.25, "fc/1/weight": 0.5}
        optimiser = make_optimiser(config, list(named.items()), UpdateRefinements(rate_factors=factors))
        alone = made()
        single = {name: make_optimiser(config, [(name, parameter)]) for name, parameter in alone.items()}
        for step in range(3):
            give_gradients(named, step)
            give_gradients(alone, step)
            optimiser.step(0.1, 0.6)
            for name in SHAPES:
                single[name].step(0.1 * factors.get(name, 1.0), 0.6)
        assert all(torch.equal(named[name], alone[name]) for name in SHAPES)

    def test_decay_uses_the_rate_of_its_layer(self):
        named, before = made(), made()
        for parameter in named.values():
            parameter.grad = torch.zeros_like(parameter)
        factors = {"normal/1/weight": 0.25}
        refinements = UpdateRefinements(weight_decay=0.5, decayed=KERNELS, rate_factors=factors)
        make_optimiser(SGD, list(named.items()), refinements).step(0.2, 0.0)
        torch.testing.assert_close(named["normal/1/weight"], before["normal/1/weight"] * (1 - 0.2 * 0.25 * 0.5))


class TestPullToStart:
    def test_cost_and_gradient(self):
        weights, start = list(made().values()), [torch.full(shape, 0.5) for shape in SHAPES.values()]
        cost = pull_to_start(weights, start, 0.3)
        cost.backward()
        expected = 0.3 * sum(float(((weight.detach() - 0.5) ** 2).sum()) for weight in weights)
        assert float(cost.detach()) == pytest.approx(expected, rel=1e-5)
        for weight in weights:
            torch.testing.assert_close(weight.grad, 0.6 * (weight.detach() - 0.5))

    def test_nothing_pulls_at_the_start(self):
        weights = list(made().values())
        cost = pull_to_start(weights, [weight.detach().clone() for weight in weights], 0.3)
        cost.backward()
        assert float(cost.detach()) == 0
        assert all(not weight.grad.any() for weight in weights)


@pytest.mark.parametrize(
    ("epochs", "done", "factor"),
    [(0.0, 0.1, 1.0), (2.0, 0.5, 0.25), (2.0, 2.0, 1.0), (2.0, 7.0, 1.0), (0.5, 0.25, 0.5)],
)
def test_warm_up_rises_linearly_to_the_full_rate(epochs, done, factor):
    assert warm_up_factor(epochs, done) == factor


@pytest.mark.parametrize(
    ("reference", "batch_size", "factor"), [(None, 7, 1.0), (10, 10, 1.0), (10, 5, 0.5), (8, 64, 8)]
)
def test_rates_are_proportional_to_the_batch_size(reference, batch_size, factor):
    assert batch_factor(reference, batch_size) == factor
