"""What a block does before its convolution: in one compiled pass the same as layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from deepmedic.config.architecture import ActivationName
from deepmedic.model import compilation, compiled_rows
from deepmedic.model.activation import BlockLayers, activated, normalized_and_activated
from deepmedic.model.layers import Bias, Convolution, Dropout, build_activation
from deepmedic.model.normalization import RollingBatchNorm, Statistics

CHANNELS = 5
TYPES = [torch.float32, torch.bfloat16]
RECTIFIERS = ("linear", "relu", "prelu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images_of(dtype: torch.dtype = torch.float32) -> Tensor:
    images = (3 + 2 * noise(2, CHANNELS, 9, 8, 7)).to(dtype)
    return images.contiguous(memory_format=torch.channels_last_3d).requires_grad_()


def layers_of(activation: ActivationName, rate: float = 0.0, normalization: nn.Module | None = None) -> BlockLayers:
    normalization = normalization or RollingBatchNorm(CHANNELS, 2, 1e-3)
    layers = BlockLayers(
        normalization,
        build_activation(activation, CHANNELS),
        Dropout(rate),
        Convolution(CHANNELS, 1, (1, 1, 1), "valid"),
    )
    with torch.no_grad():
        for seed, values in enumerate(parameters_of(layers), 1):
            values.copy_(values + 0.3 * noise(CHANNELS, seed=seed))
    return layers


def parameters_of(layers: BlockLayers) -> list[Tensor]:
    return [values for layer in layers[:3] for values in layer.parameters()]


@contextmanager
def torch_alone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "is_possible", lambda: False)
        yield


@contextmanager
def passes() -> Iterator[list[int]]:
    """Numbers of images that are computed in one pass inside the block."""
    seen: list[int] = []
    in_one_pass = compiled_rows.normalize_and_rectify

    def note(images: Tensor, *others: Tensor) -> Tensor:
        seen.append(len(images))
        return in_one_pass(images, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_rows, "normalize_and_rectify", note)
        yield seen


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype, what: str = "") -> None:
    """Layer by layer, numbers are rounded to their type after each."""
    found, expected = found.double(), expected.double()
    difference = (found - expected).norm() / max(1e-6, expected.norm())
    assert difference < (1e-5 if dtype == torch.float32 else 1e-2), what


class TestBothWays:
    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("rate", [0.0, 0.5])
    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("activation", RECTIFIERS)
    def test_give_the_same(self, activation: ActivationName, frozen: bool, rate: float, dtype: torch.dtype) -> None:
        found = []
        for way in (passes, torch_alone):
            layers, images = layers_of(activation, rate), images_of(dtype)
            layers.normalization.stored_statistics_only = frozen
            torch.manual_seed(11)
            with way() as seen:
                values = activated(layers, images)
                if seen is not None:
                    assert seen == [2]
            upstream = noise(*values.shape, seed=9).to(dtype)
            gradients = torch.autograd.grad(values, (images, *parameters_of(layers)), upstream)
            after = torch.rand(1)
            found.append([values, *gradients, *layers.normalization.buffers(), after])
        for number, (mine, other) in enumerate(zip(*found, strict=True)):
            assert mine.dtype == other.dtype
            assert_near(mine, other, dtype, f"number {number}")
        if rate:
            dropped = [values == 0 for values, *_ in found]
            # ReLU makes zeros as well, of numbers whose sign rounding may change.
            assert (dropped[0] != dropped[1]).float().mean() < (1e-3 if activation == "relu" else 1e-9)
            assert 0.4 < dropped[0].float().mean() < 0.8

    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("activation", RECTIFIERS)
    def test_give_the_same_at_inference(self, activation: ActivationName, dtype: torch.dtype) -> None:
        layers, images = layers_of(activation, 0.5), images_of(dtype)
        activated(layers, images)
        for layer in layers:
            layer.eval()
        with torch.no_grad(), passes() as seen:
            mine = activated(layers, images)
        with torch.no_grad(), torch_alone():
            assert_near(mine, activated(layers, images), dtype)
        assert seen == [2]

    @pytest.mark.parametrize("activation", RECTIFIERS)
    def test_give_the_same_for_some_channels(self, activation: ActivationName) -> None:
        """As the first FC layer is applied to the outputs of one pathway after the other."""
        layers, part = layers_of(activation), slice(1, 4)
        mean, variance = noise(3, seed=5), 1 + noise(3, seed=6).square()
        found = []
        for way in (passes, torch_alone):
            images = images_of()
            with way():
                values = normalized_and_activated(
                    layers, images[:, part], Statistics(mean, variance, of_batch=False), part
                )
            found.append([values, *torch.autograd.grad(values.square().sum(), (images, *parameters_of(layers)))])
        for mine, other in zip(*found, strict=True):
            assert_near(mine, other, torch.float32)
        assert found[0][1][:, 0].abs().max() == 0


class TestLayerByLayer:
    """What cannot be computed in one pass, or is looked at in between, goes through the layers."""

    @pytest.mark.parametrize("activation", ["elu", "selu"])
    def test_other_activations(self, activation: ActivationName) -> None:
        layers, images = layers_of(activation), images_of()
        with passes() as seen:
            values = activated(layers, images)
        expected = layers.activation(layers.normalization(images))
        assert_near(values, expected, torch.float32)
        assert seen == []

    def test_double_precision_and_nothing(self) -> None:
        layers, images = layers_of("prelu"), images_of()
        for layer in layers:
            layer.double()
        with passes() as seen:
            assert activated(layers, images.double()).dtype == torch.float64
        assert seen == []

    def test_bias(self) -> None:
        layers, images = layers_of("relu", normalization=Bias(CHANNELS)), images_of()
        with passes() as seen:
            values = activated(layers, images)
        assert torch.equal(values, (images + layers.normalization.bias.view(1, -1, 1, 1, 1)).relu())
        assert seen == []
        with pytest.raises(TypeError, match="a bias has no statistics"):
            normalized_and_activated(layers, images, Statistics(torch.zeros(5), torch.ones(5), of_batch=False))

    @pytest.mark.parametrize("number", [0, 1, 2])
    @pytest.mark.parametrize(
        "register",
        [
            nn.Module.register_forward_hook,
            nn.Module.register_forward_pre_hook,
            nn.Module.register_full_backward_hook,
            nn.Module.register_full_backward_pre_hook,
        ],
    )
    def test_somebody_watches(self, number: int, register) -> None:
        layers, images, calls = layers_of("prelu", 0.5), images_of(), []
        torch.manual_seed(3)
        expected = activated(layers, images)
        handle = register(layers[number], lambda *_: calls.append(1))
        torch.manual_seed(3)
        values = activated(layers, images)
        values.sum().backward()
        assert calls == [1]
        assert_near(values, expected, torch.float32)
        handle.remove()
        with passes() as seen:
            activated(layers, images)
        assert (seen, calls) == ([2], [1])

    @pytest.mark.parametrize("frozen", [False, True])
    def test_operations_are_recorded_to_be_done_again(self, frozen: bool) -> None:
        layers = layers_of("prelu")
        layers.normalization.stored_statistics_only = frozen

        def values_of(images: Tensor) -> Tensor:
            return activated(layers, images)

        recorded = make_fx(values_of)(images_of().detach())
        others = images_of().detach().square()
        assert_near(recorded(others), values_of(others), torch.float32)


@pytest.mark.parametrize("activation", RECTIFIERS)
def test_one_pass_keeps_less_memory_for_the_gradient(activation: ActivationName) -> None:
    """Bytes of images that the graph keeps until the backward pass, each storage once."""
    kept = []
    for way in (passes, torch_alone):
        storages: dict[int, int] = {}

        def note(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with way(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            values = activated(layers_of(activation, 0.5), images_of())
        kept.append(sum(size for size in storages.values() if size >= values.numel()))
        del values
    assert kept[0] <= kept[1]
