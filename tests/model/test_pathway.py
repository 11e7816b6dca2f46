"""Blocks and pathways against a slow float64 oracle in numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_architectures import without_dropout
from random_architectures import ACTIVATIONS, Size3, small_architecture, with_random_statistics
from scipy import ndimage

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.pathway import Block

ONES, VALID, NONE = ((1, 1, 1),), ("valid",), (0.0,)


def make_block(activation: str, kernel: Size3, padding: str, *, window: int = 2, rate: float = 0) -> Block:
    """The second layer of a normal pathway, with 3 channels in and 4 out."""
    normal = Pathway("normal", (3, 4), (*ONES, kernel), ("valid", padding), (0.0, rate))
    fc = Pathway("fc", (2,), ONES, VALID, NONE)
    net = DeepMedicNet(Architecture(1, 2, normal, (), fc, activation, batch_norm_window=window, batch_norm_epsilon=0.1))
    return with_random_statistics(net).parallel[0].blocks[1]


def activate(name: str, x: np.ndarray, slopes: np.ndarray | None) -> np.ndarray:
    negative = np.minimum(x, 0)
    match name:
        case "linear":
            return x
        case "relu":
            return np.maximum(x, 0)
        case "prelu":
            return np.maximum(x, 0) + slopes.reshape(1, -1, 1, 1, 1) * negative
        case "elu":
            return np.maximum(x, 0) + np.expm1(negative)
    return 1.0507009873554805 * (np.maximum(x, 0) + 1.6732632423543772 * np.expm1(negative))


def correlate(images: np.ndarray, weight: np.ndarray, padding: str) -> np.ndarray:
    """scipy centres an even kernel one voxel later than this network; its "reflect" repeats the edge voxel."""
    origin = [-1 if width % 2 == 0 else 0 for width in weight.shape[2:]]
    mode = {"mirror": "reflect", "zero": "constant", "valid": "constant"}[padding]
    output = np.zeros((len(images), len(weight), *images.shape[2:]))
    for segment, kernels in np.ndindex(output.shape[:2]):
        for image, kernel in zip(images[segment], weight[kernels], strict=True):
            output[segment, kernels] += ndimage.correlate(image, kernel, mode=mode, origin=origin)
    if padding == "valid":
        spans = [slice((w - 1) // 2, n - w // 2) for w, n in zip(weight.shape[2:], images.shape[2:], strict=True)]
        output = output[:, :, spans[0], spans[1], spans[2]]
    return output


def oracle(block: Block, images: np.ndarray, name: str, padding: str, *, training: bool) -> np.ndarray:
    values = {key.rpartition(".")[2]: tensor.double().numpy() for key, tensor in block.state_dict().items()}

    def spread(numbers: np.ndarray) -> np.ndarray:
        return numbers.reshape(1, -1, 1, 1, 1)

    if "bias" in values:
        x = images + spread(values["bias"])
    else:
        axes = (0, 2, 3, 4)
        mean = images.mean(axes) if training else values["bn_mean_rolling"].mean(0)
        variance = images.var(axes) if training else values["bn_var_rolling"].mean(0)
        x = (images - spread(mean)) / np.sqrt(spread(variance) + 0.1)
        x = spread(values["bn_gamma"]) * x + spread(values["bn_beta"])
    x = activate(name, x, values.get("prelu_alpha"))
    if not training:
        x = x * (1 - block.dropout.rate)
    return correlate(x, values["weight"], padding)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kernel", "padding"), [((3, 3, 3), "valid"), ((4, 2, 3), "mirror"), ((2, 5, 4), "zero")])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_block_equals_the_oracle(activation: str, kernel: Size3, padding: str, training: bool) -> None:
    block = make_block(activation, kernel, padding, rate=0.0 if training else 0.3).train(training)
    images = 1 + 2 * torch.randn(2, 3, 6, 5, 7, generator=torch.Generator().manual_seed(3))
    expected = oracle(block, images.double().numpy(), activation, padding, training=training)
    np.testing.assert_allclose(block(images).detach().numpy(), expected, atol=5e-5)


def test_block_without_batch_norm_has_a_bias() -> None:
    block = make_block("relu", (2, 2, 2), "mirror", window=0)
    images = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    expected = oracle(block, images.double().numpy(), "relu", "mirror", training=True)
    np.testing.assert_allclose(block(images).detach().numpy(), expected, atol=1e-5)


def test_first_blocks_of_parallel_pathways_have_a_bias_and_no_activation() -> None:
    names = list(parameters.named_tensors(DeepMedicNet(small_architecture())))
    first_layers = {f"{pathway}/1" for pathway in ("normal", "subsampled1", "subsampled2", "fc")}
    roles = {layer: [name.rpartition("/")[2] for name in names if name.startswith(layer)] for layer in first_layers}
    batch_norm = ["bn_gamma", "bn_beta", "prelu_alpha", "weight", "bn_mean_rolling", "bn_var_rolling"]
    assert roles.pop("fc/1") == batch_norm
    assert list(roles.values()) == [["bias", "weight"]] * 3


def test_residual_adds_the_input_of_the_previous_layer() -> None:
    """1x1x1 kernels that copy: each layer's output is its input, so sums can be followed by hand."""
    normal = Pathway("normal", (1, 1, 1, 1), ONES * 4, VALID * 4, NONE * 4, residual_layers=(2, 3))
    fc = Pathway("fc", (1,), ONES, VALID, NONE)
    net = DeepMedicNet(Architecture(1, 1, normal, (), fc, "linear", batch_norm_window=0))
    for _, _, block in net.named_blocks():
        torch.nn.init.ones_(block.convolution.weight)
    watched: list[float] = []
    output = net.parallel[0](torch.ones(1, 1, 1, 1, 1), lambda layer, images: watched.append(images.item()))
    # layer 1: 1; layer 2: 1 + 1 (input of layer 1) = 2; layer 3: 2 + 1 (input of layer 2) = 3; layer 4: 3
    assert watched == [1, 1, 2, 3]
    assert output.item() == 3


@pytest.mark.parametrize(("maps", "kernel"), [((2, 5), 2), ((5, 2), 3), ((3, 3), 4)])
def test_residual_is_cropped_centrally_and_filled_or_cut_in_channels(maps: tuple[int, int], kernel: int) -> None:
    normal = Pathway("normal", (*maps, 1), (*ONES, (kernel,) * 3, *ONES), VALID * 3, NONE * 3, residual_layers=(2,))
    fc = Pathway("fc", (1,), ONES, VALID, NONE)
    net = DeepMedicNet(Architecture(maps[0], 1, normal, (), fc, "linear", batch_norm_window=0))
    images = torch.randn(1, maps[0], 7, 6, 9, generator=torch.Generator().manual_seed(0))
    inputs_of: dict[int, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}
    for _, layer, block in list(net.named_blocks())[:3]:
        block.register_forward_pre_hook(lambda _m, args, key=layer: inputs_of.update({key: args[0]}))
        block.register_forward_hook(lambda _m, _args, output, key=layer: outputs.update({key: output}))
    net.parallel[0](images)
    added = inputs_of[3] - outputs[2]
    starts = [(n - 1) // 2 - (n - kernel) // 2 for n in (7, 6, 9)]  # middle of the whole minus middle of the part
    x, y, z = (slice(start, start + n - kernel + 1) for start, n in zip(starts, (7, 6, 9), strict=True))
    shared = min(maps)
    torch.testing.assert_close(added[:, :shared], images[:, :shared, x, y, z], rtol=0, atol=1e-5)
    assert (added[:, shared:] == 0).all()


def test_dropout_rates_of_the_architecture_reach_the_blocks() -> None:
    architecture = small_architecture()
    rates = [block.dropout.rate for _, _, block in DeepMedicNet(architecture).named_blocks()]
    assert rates == [0.0, 0.2, 0.0] * 3 + [0.0, 0.5]
    assert {block.dropout.rate for _, _, block in DeepMedicNet(without_dropout(architecture)).named_blocks()} == {0.0}
