"""Layers against numpy, scipy and hand-made numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepmedic.errors import ConfigError
from deepmedic.model.layers import Bias, Convolution, Dropout, LowRankConvolution, PReLU, build_activation


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestActivation:
    VALUES = torch.tensor([-3.0, -0.5, 0.0, 0.25, 2.0])

    @pytest.mark.parametrize(
        ("name", "formula"),
        [
            ("linear", lambda x: x),
            ("relu", lambda x: max(x, 0.0)),
            ("prelu", lambda x: x if x > 0 else 0.01 * x),
            ("elu", lambda x: x if x > 0 else math.exp(x) - 1),
            ("selu", lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1))),
        ],
    )
    def test_follows_its_formula(self, name: str, formula) -> None:
        activated = build_activation(name, 1)(self.VALUES.view(1, 1, -1, 1, 1)).flatten()
        torch.testing.assert_close(activated, torch.tensor([formula(x) for x in self.VALUES.tolist()]))

    def test_prelu_has_one_slope_per_channel(self) -> None:
        layer = PReLU(2)
        with torch.no_grad():
            layer.prelu_alpha.copy_(torch.tensor([0.5, -2.0]))
        activated = layer(torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]).view(1, 2, 2, 1, 1))
        assert activated.flatten().tolist() == [-0.5, 1.0, 2.0, 1.0]

    def test_unknown_name_is_refused(self) -> None:
        with pytest.raises(ConfigError, match='unknown activation "tanh"; allowed are linear, relu, prelu, elu, selu'):
            build_activation("tanh", 1)


class TestDropout:
    def test_training_zeroes_without_scaling(self) -> None:
        torch.manual_seed(0)
        dropped = Dropout(0.3)(torch.full((20, 5, 10, 10, 10), 2.0))
        assert set(dropped.unique().tolist()) == {0.0, 2.0}
        assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)

    def test_inference_multiplies_by_what_is_kept(self) -> None:
        images = noise(1, 2, 3, 3, 3)
        assert torch.equal(Dropout(0.25).eval()(images), images * 0.75)

    @pytest.mark.parametrize("training", [True, False])
    def test_rates_below_a_thousandth_are_ignored(self, training: bool) -> None:
        images = noise(2, 2, 9, 9, 9)
        assert Dropout(0.00099).train(training)(images) is images

    def test_numbers_come_from_the_global_generator(self) -> None:
        images = torch.ones(1, 1, 9, 9, 9)
        dropped = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            dropped.append(Dropout(0.5)(images))
        assert torch.equal(dropped[0], dropped[1])
        assert not torch.equal(dropped[0], dropped[2])


def direct_convolution(images: np.ndarray, weight: np.ndarray, padding: str) -> np.ndarray:
    """Loops over kernel offsets, with numpy's own padding."""
    if padding != "valid":
        sides = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in weight.shape[2:]]
        images = np.pad(images, [(0, 0), (0, 0), *sides], mode={"mirror": "symmetric", "zero": "constant"}[padding])
    size = [n - k + 1 for n, k in zip(images.shape[2:], weight.shape[2:], strict=True)]
    total = np.zeros((images.shape[0], weight.shape[0], *size))
    for i, j, k in np.ndindex(*weight.shape[2:]):
        part = images[:, :, i : i + size[0], j : j + size[1], k : k + size[2]]
        total += np.einsum("bixyz,oi->boxyz", part, weight[:, :, i, j, k])
    return total


kernels = st.tuples(*[st.integers(1, 5)] * 3)


class TestConvolution:
    @settings(max_examples=40, deadline=None)
    @given(kernel=kernels, padding=st.sampled_from(["valid", "zero", "mirror"]), seed=st.integers(0, 99))
    def test_equals_direct_sums(self, kernel, padding, seed) -> None:
        layer = Convolution(2, 3, kernel, padding)
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(seed))
        images = noise(2, 2, 5, 6, 7, seed=seed)
        expected = direct_convolution(images.double().numpy(), layer.weight.detach().double().numpy(), padding)
        np.testing.assert_allclose(layer(images).detach().numpy(), expected, atol=2e-4)

    def test_mirror_padding_repeats_the_edge(self) -> None:
        layer = Convolution(1, 1, (1, 1, 5), "mirror")
        nn.init.ones_(layer.weight)
        # 2 1 | 1 2 3 4 | 4 3
        assert layer(torch.tensor([1.0, 2, 3, 4]).view(1, 1, 1, 1, 4)).flatten().tolist() == [9, 11, 14, 16]

    @settings(max_examples=25, deadline=None)
    @given(kernel=kernels, padding=st.sampled_from(["valid", "zero", "mirror"]), maps=st.integers(3, 8))
    def test_low_rank_equals_full_kernels_that_are_zero_outside_a_plane(self, kernel, padding, maps) -> None:
        layer = LowRankConvolution(2, maps, kernel, padding)
        for number, weight in enumerate(layer.parameters()):
            nn.init.normal_(weight, generator=torch.Generator().manual_seed(number))
        full = np.zeros((maps, 2, *kernel))
        middle = [(k - 1) // 2 for k in kernel]
        third = maps // 3
        full[:third, :, :, :, middle[2]] = layer.weight_x.detach().squeeze(4).numpy()
        full[third : 2 * third, :, middle[0]] = layer.weight_y.detach().squeeze(2).numpy()
        full[2 * third :, :, :, middle[1]] = layer.weight_z.detach().squeeze(3).numpy()
        images = noise(1, 2, 6, 5, 7)
        expected = direct_convolution(images.double().numpy(), full, padding)
        np.testing.assert_allclose(layer(images).detach().numpy(), expected, atol=2e-4)

    def test_low_rank_with_fewer_maps_than_planes_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="a low-rank layer needs at least 3 feature maps, this one has 2"):
            LowRankConvolution(1, 2, (3, 3, 3), "valid")


def test_bias_adds_one_number_per_channel() -> None:
    layer = Bias(2)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, -2.0]))
    assert layer(torch.zeros(1, 2, 1, 1, 2)).flatten().tolist() == [1, 1, -2, -2]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_the_fast_backward_pass_of_prelu_equals_that_of_torch(memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(2, 3, 5, 4, 6, generator=generator)
    values[0, 0, 0, 0, 0] = 0.0
    images = values.clone(memory_format=memory_format).requires_grad_()
    reference = values.clone().requires_grad_()
    upstream = torch.randn(values.shape, generator=generator)
    layer = PReLU(3)
    alpha = layer.prelu_alpha.detach().clone().requires_grad_()
    layer(images).backward(upstream)
    torch.nn.functional.prelu(reference, alpha).backward(upstream)
    torch.testing.assert_close(images.grad, reference.grad, rtol=1e-6, atol=0, check_stride=False)
    torch.testing.assert_close(layer.prelu_alpha.grad, alpha.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [5, 9, 24])
def test_convolution_without_gradients_equals_that_with_them(size: int) -> None:
    """Single images of few voxels are convolved by other means when no gradient is needed."""
    layer, images = Convolution(3, 7, (3, 3, 3), "mirror"), noise(1, 3, size, 4, 6)
    with torch.no_grad():
        layer.weight.copy_(noise(7, 3, 3, 3, 3, seed=1))
        plain = layer(images)
    with torch.enable_grad():
        torch.testing.assert_close(plain, layer(images).detach(), rtol=1e-5, atol=1e-5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(layer.double()(images.double()).float(), plain, rtol=1e-4, atol=1e-4)
