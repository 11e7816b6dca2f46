"""The moving average of weights against the formula by hand, and the network that borrows it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.optimisation import FreezeConfig
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training import network_weights
from deepmedic.training.averaging import WeightAverage


def small_network() -> DeepMedicNet:
    layers = {"paddings": ("valid",), "dropout_rates": (0.0,)}
    normal = Pathway("normal", (2,), ((3, 3, 3),), **layers)
    return DeepMedicNet(Architecture(1, 2, normal, (), Pathway("fc", (2,), ((1, 1, 1),), **layers)))


def move(network: DeepMedicNet, seed: int) -> None:
    """Change the trained parameters, as a step does, and the rolling statistics."""
    generator = torch.Generator().manual_seed(seed)
    trained = {name for name, _ in parameters.optimizer_order(network)}
    with torch.no_grad():
        for name, tensor in parameters.named_tensors(network).items():
            if name in trained or name.endswith("_rolling"):
                tensor.add_(torch.rand(tensor.shape, generator=generator))


def copied(network: DeepMedicNet) -> dict[str, torch.Tensor]:
    return network_weights.copy_of(network)["parameters"]


@settings(max_examples=10, deadline=None)
@given(decay=st.floats(0.01, 0.99), steps=st.integers(0, 25))
def test_average_follows_the_formula(decay, steps):
    network = small_network()
    average = WeightAverage(network, decay)
    expected = {name: tensor.double() for name, tensor in copied(network).items()}
    for step in range(1, steps + 1):
        move(network, step)
        average.update()
        kept = min(decay, step / (step + 9))
        expected = {name: kept * expected[name] + (1 - kept) * tensor for name, tensor in copied(network).items()}
    with average.applied():
        for name, tensor in copied(network).items():
            if not name.endswith("_rolling"):
                torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_statistics_and_frozen_layers_are_those_of_the_network():
    network = small_network()
    parameters.freeze(network, FreezeConfig(normal=(1,)))
    average = WeightAverage(network, 0.5)
    move(network, 1)
    average.update()
    own = copied(network)
    with average.applied():
        lent = copied(network)
    changed = {name for name in own if not torch.equal(own[name], lent[name])}
    assert changed == {name for name, _ in parameters.optimizer_order(network)}
    assert all(name.startswith(("fc/", "softmax/")) for name in changed)


def test_network_has_its_own_weights_again_whatever_happens():
    network = small_network()
    average = WeightAverage(network, 0.9)
    move(network, 1)
    before = copied(network)
    with pytest.raises(KeyboardInterrupt), average.applied():
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in copied(network).items())


def test_restored_average_goes_on_to_the_bit():
    results = []
    for interrupted in (False, True):
        network = small_network()
        average = WeightAverage(network, 0.9)
        for step in range(6):
            if interrupted and step == 3:
                state = average.state_dict()
                average = WeightAverage(network, 0.9)
                average.load_state_dict(state)
            move(network, step)
            average.update()
        with average.applied():
            results.append(copied(network))
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_a_parameter_that_was_frozen_before_starts_its_average_now():
    network = small_network()
    average = WeightAverage(network, 0.9)
    move(network, 1)
    later = WeightAverage(network, 0.9)
    state = average.state_dict()
    del state["averages"]["softmax/bias"]
    later.load_state_dict(state)
    assert torch.equal(later.state_dict()["averages"]["softmax/bias"], network.softmax.bias)
    assert torch.equal(later.state_dict()["averages"]["fc/1/weight"], state["averages"]["fc/1/weight"])
