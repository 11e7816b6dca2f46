"""The network against numbers from running the original on the same parameters and inputs."""

from __future__ import annotations

import pytest
import torch
from golden_architectures import (
    ALL,
    build_architecture,
    canonical_name,
    golden_parameters,
    inputs,
    read_arrays,
    read_meta,
    without_dropout,
)
from torch import Tensor

from deepmedic.config.training import FreezeConfig
from deepmedic.model import fusion, parameters
from deepmedic.model.network import DeepMedicNet, repeat
from deepmedic.model.pathway import Block

pytestmark = pytest.mark.parametrize("name", ALL)
PROBABILITY = 2e-5


@pytest.fixture(params=["full resolution", "low resolution"])
def _both_fusions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """First FC layer computed either way, where it can be at low resolution."""
    monkeypatch.setattr(Block, "plain_fusion", request.param == "full resolution")
    monkeypatch.setattr(fusion, "_is_faster", lambda *_sizes: True)


def golden_net(name: str, *, dropout: bool) -> DeepMedicNet:
    architecture = build_architecture(read_meta(name))
    net = DeepMedicNet(architecture if dropout else without_dropout(architecture))
    parameters.load_tensors(net, golden_parameters(name))
    return net


def training_cost(net: DeepMedicNet, logits: Tensor, labels: Tensor, settings: dict) -> Tensor:
    """Cross entropy of p + 1e-6 over voxels, plus L1 and L2 of convolution weights."""
    assert settings["losses_and_weights"] == {"xentr": 1.0, "iou": None, "dsc": None}
    probability_of_label = logits.softmax(dim=1).gather(1, labels.long().unsqueeze(1))
    cross_entropy = -(probability_of_label + 1e-6).log().mean()
    weights = parameters.regularized(net)
    l1 = settings["L1_reg"] * sum(weight.abs().sum() for weight in weights)
    l2 = settings["L2_reg"] * sum(weight.square().sum() for weight in weights)
    return cross_entropy + l1 + l2


@pytest.mark.usefixtures("_both_fusions", "with_and_without_numba")
@pytest.mark.parametrize(("dropout", "key"), [(True, "infer.probs"), (False, "infer.probs_dropout_rates_zero")])
def test_inference_gives_the_probabilities_of_the_original(name: str, dropout: bool, key: str) -> None:
    net = golden_net(name, dropout=dropout).eval()
    arrays = read_arrays(name, "io")
    with torch.no_grad():
        probabilities = net(*inputs(arrays, "infer")).softmax(dim=1)
    torch.testing.assert_close(probabilities, arrays[key], rtol=0, atol=PROBABILITY)


@pytest.mark.usefixtures("_both_fusions", "with_and_without_numba")
def test_inference_gives_pathway_outputs_and_logits_of_the_original(name: str) -> None:
    net = golden_net(name, dropout=True).eval()
    arrays = read_arrays(name, "io")
    images = inputs(arrays, "infer")
    close = {"rtol": 1e-4, "atol": 1e-4}
    with torch.no_grad():
        logits = net(*images)
        outputs = [sequence(image) for sequence, image in zip(net.parallel, images, strict=True)]
    bias = net.softmax.bias.detach().view(1, -1, 1, 1, 1)
    torch.testing.assert_close(logits - bias, arrays["infer.logits_before_bias"], **close)
    for index, (output, pathway) in enumerate(zip(outputs, net.architecture.parallel, strict=True)):
        torch.testing.assert_close(output, arrays[f"infer.path{index}_out"], **close)
        if index > 0:
            upsampled = repeat(output, pathway.factor, tuple(outputs[0].shape[2:]))
            torch.testing.assert_close(upsampled, arrays[f"infer.path{index}_out_upsampled_cropped"], **close)


@pytest.mark.usefixtures("_both_fusions", "with_and_without_numba")
def test_training_gives_probabilities_statistics_cost_and_gradients_of_the_original(name: str) -> None:
    meta, arrays, gradients = read_meta(name), read_arrays(name, "io"), read_arrays(name, "train_grads")
    net = golden_net(name, dropout=False).train()
    logits = net(*inputs(arrays, "train"))
    torch.testing.assert_close(logits.softmax(dim=1), arrays["train.probs"], rtol=0, atol=PROBABILITY)

    cost = training_cost(net, logits, arrays["train.y_gt"], meta["train_cost"])
    assert cost.item() == pytest.approx(meta["train_cost"]["value"], rel=1e-5)
    cost.backward()
    trained = dict(parameters.optimizer_order(net))
    assert len(gradients) == len(trained)
    for key, expected in gradients.items():
        gradient = trained[canonical_name(key.removeprefix("grad."), meta)].grad
        largest = expected.abs().max().item()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-3 * largest + 1e-6, msg=lambda m, k=key: k + m)

    tensors = parameters.named_tensors(net)
    statistics = [key for key in arrays if key.startswith("train.batchstat.")]
    assert len(statistics) == 2 * len(parameters.rolling_rows(net))
    for key in statistics:
        block, _, kind = key.removeprefix("train.batchstat.").rpartition(".")
        rolling = tensors[canonical_name(f"{block}.bn_roll_{kind}", meta)][0]
        variance = arrays[f"train.batchstat.{block}.var"]
        scale = variance if kind == "var" else arrays[key].abs() + variance.sqrt()
        assert ((rolling - arrays[key]).abs() <= 1e-5 * scale).all(), key


def test_every_tensor_of_the_original_has_a_canonical_name_and_shape(name: str) -> None:
    net = golden_net(name, dropout=True)
    tensors = parameters.named_tensors(net)
    expected = golden_parameters(name)
    assert {key: tensor.shape for key, tensor in tensors.items()} == {key: t.shape for key, t in expected.items()}
    derived = parameters.derived_tensors(net)
    expected = golden_parameters(name, derived=True)
    assert derived.keys() == expected.keys()
    for key, tensor in derived.items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-6, atol=1e-7)


def test_the_order_of_optimised_parameters_is_that_of_the_original(name: str) -> None:
    meta = read_meta(name)
    net = golden_net(name, dropout=True)
    names = [key for key, _ in parameters.optimizer_order(net)]
    assert names == [canonical_name(key, meta) for key in meta["trainable_params_in_optimizer_order"]]
    trained = {id(parameter): key for key, parameter in parameters.optimizer_order(net)}
    regularized = [trained[id(weight)] for weight in parameters.regularized(net)]
    assert regularized == [canonical_name(key, meta) for key in meta["l1_l2_regularised_params"]]


def test_sizes_are_those_of_the_original(name: str) -> None:
    meta = read_meta(name)
    architecture = build_architecture(meta)
    assert architecture.receptive_field == tuple(meta["receptive_field_cnn"])
    assert [list(pathway.receptive_field) for pathway in architecture.pathways] == meta["receptive_field_per_path"]
    for stage in ("train", "infer"):
        *sizes, _ = meta["input_dims_per_path"][stage]
        assert [list(size) for size in architecture.input_sizes(tuple(sizes[0]))] == sizes
        assert list(architecture.output_size(tuple(sizes[0]))) == meta["output_dims"][stage]
        assert [list(sides) for sides in architecture.margins(tuple(sizes[0]))] == meta["unpredicted_margin"][stage]


def test_freezing_everything_leaves_nothing_to_optimise(name: str) -> None:
    net = golden_net(name, dropout=True)
    depths = [pathway.depth for pathway in net.architecture.pathways]
    everything = [tuple(range(1, depth + 1)) for depth in depths]
    config = FreezeConfig(normal=everything[0], subsampled=tuple(everything[1:-1]), fc=everything[-1])
    assert len(parameters.freeze(net, config)) == sum(depths)
    assert parameters.optimizer_order(net) == []
