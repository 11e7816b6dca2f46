"""Batch norm against numpy, the plain formula and hand-made numbers, with and without loops that numba compiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepmedic.model.normalization import RollingBatchNorm

pytestmark = pytest.mark.usefixtures("with_and_without_numba")

TINY = 1.1754943508222875e-38
ALL_BUT_CHANNELS = (0, 2, 3, 4)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_batch_norm(channels: int, window: int, epsilon: float = TINY) -> RollingBatchNorm:
    layer = RollingBatchNorm(channels, window, epsilon)
    with torch.no_grad():
        layer.bn_gamma.copy_(1 + 0.3 * noise(channels, seed=1))
        layer.bn_beta.copy_(noise(channels, seed=2))
    return layer


def normalize(images: np.ndarray, layer: RollingBatchNorm, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    def spread(values: np.ndarray) -> np.ndarray:
        return values.reshape(1, -1, 1, 1, 1)

    gamma, beta = (parameter.detach().double().numpy() for parameter in (layer.bn_gamma, layer.bn_beta))
    scaled = (images - spread(mean)) / np.sqrt(spread(variance) + layer.epsilon)
    return spread(gamma) * scaled + spread(beta)


class TestRollingBatchNorm:
    def test_training_normalises_with_batch_statistics(self) -> None:
        layer, images = random_batch_norm(4, 3, epsilon=0.01), 2 + 3 * noise(2, 4, 3, 4, 5)
        exact = images.double().numpy()
        expected = normalize(exact, layer, exact.mean(ALL_BUT_CHANNELS), exact.var(ALL_BUT_CHANNELS))
        np.testing.assert_allclose(layer(images).detach().numpy(), expected, atol=1e-5)

    def test_inference_normalises_with_the_mean_over_the_rows(self) -> None:
        layer, images = random_batch_norm(3, 2), noise(2, 3, 2, 2, 2)
        layer.bn_mean_rolling.copy_(torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]))
        layer.bn_var_rolling.copy_(torch.tensor([[1.0, 0.5, 4.0], [3.0, 1.5, 4.0]]))
        expected = normalize(images.double().numpy(), layer, np.array([2.0, 3, 4]), np.array([2.0, 1, 4]))
        np.testing.assert_allclose(layer.eval()(images).detach().numpy(), expected, atol=1e-6)
        assert layer.bn_mean.tolist() == [2, 3, 4]
        assert layer.bn_var.tolist() == [2, 1, 4]

    def test_training_overwrites_one_row_after_the_other(self) -> None:
        layer = RollingBatchNorm(1, window=2, epsilon=TINY)
        assert layer.bn_mean_rolling.tolist() == [[0], [0]]
        assert layer.bn_var_rolling.tolist() == [[1], [1]]
        for mean in (10.0, 20.0, 30.0):
            layer(mean + torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1))
        assert layer.bn_mean_rolling.tolist() == [[30], [20]]
        assert layer.bn_var_rolling.tolist() == [[1], [1]]
        assert layer.next_row.tolist() == [1]
        layer.eval()(torch.zeros(1, 1, 1, 1, 1))
        assert layer.next_row.tolist() == [1]

    def test_gradient_is_that_of_the_plain_formula(self) -> None:
        layer = random_batch_norm(3, 2, epsilon=1e-3).double()
        images = noise(2, 3, 2, 3, 2).double().requires_grad_()
        tensors = (images, layer.bn_gamma, layer.bn_beta)

        def plain(images: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
            mean = images.mean(ALL_BUT_CHANNELS, keepdim=True)
            variance = (images - mean).square().mean(ALL_BUT_CHANNELS, keepdim=True)
            scaled = (images - mean) / (variance + 1e-3).sqrt()
            return gamma.view(1, -1, 1, 1, 1) * scaled + beta.view(1, -1, 1, 1, 1)

        upstream = noise(2, 3, 2, 3, 2, seed=5).double()
        gradients = torch.autograd.grad(layer(images), tensors, upstream)
        expected = torch.autograd.grad(plain(*tensors), tensors, upstream)
        for gradient, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, reference)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
    @pytest.mark.parametrize("constant", [0.0, 0.1, -1 / 3, 1e-30, 1e6, 1e30, 16777217.0])
    def test_constant_channel_becomes_beta_without_gradient(
        self, constant: float, memory_format: torch.memory_format
    ) -> None:
        layer = random_batch_norm(3, 1)
        images = noise(3, 3, 7, 9, 11)
        images[:, 1] = constant
        images = images.contiguous(memory_format=memory_format).requires_grad_()
        normalized = layer(images)
        assert (normalized[:, 1] == layer.bn_beta[1]).all()
        (normalized * noise(3, 3, 7, 9, 11, seed=7)).sum().backward()
        assert (images.grad[:, 1] == 0).all()
        assert layer.bn_gamma.grad[1] == 0
        assert layer.bn_beta.grad[1] != 0
        assert all(torch.isfinite(tensor.grad).all() for tensor in (images, layer.bn_gamma, layer.bn_beta))
        assert images.grad[:, 0].abs().max() > 0
        assert layer.bn_var[1] == 0

    def test_constant_up_to_rounding_counts_as_constant(self) -> None:
        layer = RollingBatchNorm(1, 1, TINY)
        images = torch.full((2, 1, 5, 5, 5), 0.1)
        images[0, 0, 0, 0, 0] = float(np.nextafter(np.float32(0.1), np.float32(1)))
        assert (layer(images) == 0).all()
        assert layer.bn_var.tolist() == [0]

    def test_small_variation_on_a_large_mean_is_not_constant(self) -> None:
        layer = RollingBatchNorm(1, 1, TINY)
        images = 1e6 + torch.tensor([0.0, 1.0]).repeat(50).view(100, 1, 1, 1, 1)
        torch.testing.assert_close(layer(images).flatten()[:2], torch.tensor([-1.0, 1.0]), atol=0.2, rtol=0)
        assert layer.bn_var.item() == pytest.approx(0.25, rel=0.1)

    def test_single_voxel_is_constant(self) -> None:
        layer = random_batch_norm(2, 1)
        images = noise(1, 2, 1, 1, 1).requires_grad_()
        normalized = layer(images)
        normalized.sum().backward()
        assert normalized.flatten().tolist() == layer.bn_beta.tolist()
        assert (images.grad == 0).all()

    def test_stored_variance_of_zero_gives_beta_at_inference(self) -> None:
        layer = random_batch_norm(1, 1).eval()
        layer.bn_mean_rolling.fill_(0.1)
        layer.bn_var_rolling.zero_()
        images = torch.tensor([0.1, 5.0]).view(1, 1, 2, 1, 1)
        assert layer(images).flatten().tolist() == [layer.bn_beta.item()] * 2

    def test_stored_statistics_only_normalises_as_inference_and_moves_nothing(self) -> None:
        layer, images = random_batch_norm(2, 2), 5 + noise(2, 2, 3, 3, 3)
        layer(images)
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        layer.stored_statistics_only = True
        in_training = layer(2 * images)
        assert torch.equal(in_training, layer.eval()(2 * images))
        assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())

    def test_statistics_are_float32_under_autocast(self) -> None:
        layer, images = random_batch_norm(2, 1), (100 + noise(4, 2, 8, 8, 8)).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            normalized = layer(images.requires_grad_())
            normalized.float().square().sum().backward()
        exact = images.detach().double().numpy()
        assert layer.bn_mean_rolling.dtype == torch.float32
        np.testing.assert_allclose(layer.bn_mean.numpy(), exact.mean(ALL_BUT_CHANNELS), rtol=1e-6)
        np.testing.assert_allclose(layer.bn_var.numpy(), exact.var(ALL_BUT_CHANNELS), rtol=1e-4)
        assert normalized.dtype == images.grad.dtype == torch.bfloat16
        assert layer.bn_gamma.grad.dtype == torch.float32

    def test_gradients_of_bfloat16_are_those_of_the_same_numbers_in_double_precision(self) -> None:
        layer = random_batch_norm(5, 1)
        images, upstream = (noise(3, 5, 9, 8, 7, seed=seed).bfloat16() for seed in (1, 2))
        layer(images.requires_grad_()).backward(upstream)
        exact = images.detach().double().requires_grad_()
        gamma, beta = (value.detach().double().requires_grad_() for value in (layer.bn_gamma, layer.bn_beta))
        normalized = functional.batch_norm(exact, None, None, gamma, beta, training=True, eps=layer.epsilon)
        normalized.backward(upstream.double())
        torch.testing.assert_close(images.grad.double(), exact.grad, rtol=2**-8 + 1e-6, atol=1e-5)
        torch.testing.assert_close(layer.bn_gamma.grad.double(), gamma.grad, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(layer.bn_beta.grad.double(), beta.grad, rtol=1e-4, atol=1e-3)


def test_batch_statistics_on_a_cpu_equal_those_in_double_precision() -> None:
    values = 100.0 + torch.randn(3, 4, 9, 8, 7, generator=torch.Generator().manual_seed(6))
    layer = RollingBatchNorm(4, window=1, epsilon=1e-38).train()
    layer(values)
    variance, mean = torch.var_mean(values.double(), dim=(0, 2, 3, 4), correction=0)
    torch.testing.assert_close(layer.bn_mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.bn_var.double(), variance, rtol=1e-4, atol=0)


@pytest.mark.parametrize("channels", [4, 15, 20])
def test_gradients_of_batch_norm_equal_those_of_torch(channels: int) -> None:
    """Few channels have a backward pass of their own on a CPU."""
    layer, images, gradient = (
        RollingBatchNorm(channels, 3, 1e-5),
        noise(2, channels, 5, 4, 3),
        noise(2, channels, 5, 4, 3),
    )
    with torch.no_grad():
        layer.bn_gamma.copy_(noise(channels, seed=1))
        layer.bn_beta.copy_(noise(channels, seed=2))
    images = (3 * images + 2).requires_grad_()
    layer(images).backward(gradient)
    expected = [images.detach().double(), layer.bn_gamma.detach().double(), layer.bn_beta.detach().double()]
    for tensor in expected:
        tensor.requires_grad_()
    values, gamma, beta = expected
    nn.functional.batch_norm(values, None, None, gamma, beta, training=True, eps=1e-5).backward(gradient.double())
    for own, reference in zip((images, layer.bn_gamma, layer.bn_beta), expected, strict=True):
        assert own.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(own.grad.double(), reference.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_seen_in_all_of_its_channel(dtype: torch.dtype, value: float) -> None:
    layer, images = random_batch_norm(3, 1), noise(2, 3, 5, 4, 3).to(dtype)
    images[1, 2, 4, 3, 2] = value
    normalized = layer(images)
    assert normalized.isnan().all(dim=(0, 2, 3, 4)).tolist() == [False, False, True]
    assert torch.isfinite(normalized[:, :2]).all()
    assert layer.bn_var.isnan().tolist() == [False, False, True]


def test_double_precision_has_statistics_in_double_precision() -> None:
    layer, images = random_batch_norm(3, 1).double(), 1e6 + noise(2, 3, 5, 4, 3).double()
    layer(images)
    variance, mean = torch.var_mean(images, dim=ALL_BUT_CHANNELS, correction=0)
    torch.testing.assert_close(layer.bn_mean, mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(layer.bn_var, variance, rtol=1e-9, atol=0)
