"""Winograd's convolutions against torch's own in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_marks import needs_own_convolutions
from torch import Tensor
from torch.nn import functional

from deepmedic.model import compilation, cpu_convolution, winograd

pytestmark = needs_own_convolutions

CASES = [
    # images, maps in and out, kernel, size: tiles of 4 planes, of 3, of both
    (1, 3, 5, (3, 3, 3), (10, 6, 7)),
    (3, 4, 2, (3, 3, 3), (5, 8, 6)),
    (2, 5, 7, (3, 3, 3), (11, 5, 4)),
    (4, 2, 3, (3, 2, 4), (15, 9, 8)),
    (2, 26, 30, (3, 3, 3), (9, 7, 5)),
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stored_channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last_3d)


def assert_agree(found: Tensor, exact: Tensor) -> None:
    """As far as sums of numbers of both signs can: beside the largest number, not each beside itself."""
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-6 * exact.detach().abs().max().item())


def plain_gradients(upstream: Tensor, images: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    tensors = [tensor.double().requires_grad_() for tensor in (images, weight)]
    return torch.autograd.grad(functional.conv3d(*tensors), tensors, upstream.double())


@pytest.fixture(params=[True, False], ids=["numba", "torch"], autouse=True)
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Combine planes in both ways."""
    assert compilation.is_possible(), "the environment of the tests has numba"
    monkeypatch.setattr(compilation, "is_possible", lambda: request.param)
    return request.param


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of any size take this way."""
    monkeypatch.setattr(winograd, "_FEWEST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "_FEWEST_PRODUCTS", 0)


@pytest.mark.parametrize("bytes_at_once", [1, 3000, 2**30], ids=["one row", "some", "all"])
@pytest.mark.parametrize(("batch", "channels", "maps", "kernel", "size"), CASES)
def test_output_and_gradients_are_those_of_torch(batch, channels, maps, kernel, size, bytes_at_once, monkeypatch):
    monkeypatch.setattr(winograd, "_BYTES_AT_ONCE", bytes_at_once)
    images = stored_channels_last(noise(batch, channels, *size))
    weight = noise(maps, channels, *kernel, seed=1)
    output, expected = winograd.convolve(images, weight), functional.conv3d(images.double(), weight.double())
    assert_agree(output, expected)
    assert output.is_contiguous(memory_format=torch.channels_last_3d)
    upstream = stored_channels_last(noise(*output.shape, seed=2))
    gradients = winograd.gradients(upstream, images, weight, (True, True))
    for gradient, reference in zip(gradients, plain_gradients(upstream, images, weight), strict=True):
        assert_agree(gradient, reference)
    assert gradients[0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("columns", [5, 6])
def test_planes_times_a_matrix(columns, threads, added):
    """Of planes apart from each other in memory, longer than what is computed at once, to planes apart from others."""
    matrix, planes, target = noise(4, columns), noise(3, 8, 5000, seed=1)[:, 1 : columns + 1, 7:], noise(3, 6, 4995)
    before = target.clone()
    expected = torch.einsum("rc,icn->irn", matrix.double(), planes.double()) + added * before[:, 1:5, 2:].double()
    before_test = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for sources in (planes, list(planes.unbind(1))):
            target.copy_(before)
            winograd._multiply(matrix, sources, target[:, 1:5, 2:], added=added)
            torch.testing.assert_close(target[:, 1:5, 2:].double(), expected, rtol=1e-5, atol=1e-5)
            target[:, 1:5, 2:] = before[:, 1:5, 2:]
            assert torch.equal(target, before), "written beside the target"
    finally:
        torch.set_num_threads(before_test)


def test_only_wanted_gradients_are_computed():
    images, weight = stored_channels_last(noise(2, 3, 8, 5, 5)), noise(4, 3, 3, 3, 3, seed=1)
    upstream = stored_channels_last(noise(2, 4, 6, 3, 3, seed=2))
    both = winograd.gradients(upstream, images, weight, (True, True))
    of_images, nothing = winograd.gradients(upstream, images, weight, (True, False))
    assert nothing is None
    assert torch.equal(of_images, both[0])
    nothing, of_weight = winograd.gradients(upstream, images, weight, (False, True))
    assert nothing is None
    torch.testing.assert_close(of_weight, both[1])


@pytest.mark.parametrize("width", range(1, 60))
def test_tiles_fill_any_width_that_they_can(width: int):
    tiles = winograd._tiles(width)
    if not tiles:
        assert width in (1, 2, 5)
        return
    covered = [plane for first, planes in tiles for plane in range(first, first + planes)]
    assert covered == list(range(width))
    sizes = [planes for _, planes in tiles]
    assert set(sizes) <= {3, 4}
    assert sizes.count(3) <= 3  # four tiles of 3 are three of 4


@pytest.mark.parametrize("planes", [3, 4])
def test_matrices_give_the_cross_correlation(planes: int):
    combine, kernel, results = (matrix.double().numpy() for matrix in winograd._transform(planes))
    generator = np.random.default_rng(0)
    line, taps = generator.normal(size=planes + 2), generator.normal(size=3)
    computed = results @ ((kernel @ taps) * (combine @ line))
    np.testing.assert_allclose(computed, np.correlate(line, taps, mode="valid"), atol=1e-6)  # matrices are float32


def test_error_is_about_that_of_float32():
    """Beside the plain float32 convolution: at most 3 times its error, in the output and in both gradients."""
    images, weight = stored_channels_last(noise(2, 32, 14, 12, 12)), noise(40, 32, 3, 3, 3, seed=1)
    upstream = stored_channels_last(noise(2, 40, 12, 10, 10, seed=2))
    plain = (
        functional.conv3d(images, weight),
        *torch.ops.aten.convolution_backward(
            *(upstream, images, weight, None, (1, 1, 1), (0, 0, 0), (1, 1, 1), False, (0, 0, 0), 1),
            [True, True, False],
        )[:2],
    )
    exact = functional.conv3d(images.double(), weight.double()), *plain_gradients(upstream, images, weight)
    own = winograd.convolve(images, weight), *winograd.gradients(upstream, images, weight, (True, True))
    for mine, theirs, reference in zip(own, plain, exact, strict=True):
        assert (mine - reference).square().mean() <= 9 * (theirs - reference).square().mean()


@pytest.mark.usefixtures("always")
class TestWhatItIsUsedFor:
    def test_layers_with_few_channels_are_not(self, monkeypatch):
        images, weight = noise(1, 8, 8, 8, 8), noise(8, 8, 3, 3, 3, seed=1)
        assert winograd.pays(images, weight)
        monkeypatch.setattr(winograd, "_FEWEST_CHANNELS", 9)
        assert not winograd.pays(images, weight)

    def test_small_layers_are_not_and_what_is_small_depends_on_the_threads(self, monkeypatch):
        images, weight = noise(2, 8, 8, 8, 8), noise(8, 8, 3, 3, 3, seed=1)
        products_of_a_thread = 2 * 6 * 6 * 8 * 8 * 9 // torch.get_num_threads()
        monkeypatch.setattr(winograd, "_FEWEST_PRODUCTS", products_of_a_thread)
        assert winograd.pays(images, weight)
        monkeypatch.setattr(winograd, "_FEWEST_PRODUCTS", products_of_a_thread + 1)
        assert not winograd.pays(images, weight)

    @pytest.mark.parametrize("kernel", [(1, 3, 3), (2, 3, 3), (5, 3, 3), (3, 1, 3), (3, 1, 1)])
    def test_kernels_of_other_shapes_are_not(self, kernel):
        assert not winograd.pays(noise(1, 8, 12, 8, 8), noise(8, 8, *kernel, seed=1))

    @pytest.mark.parametrize("width", [3, 4, 7])
    def test_widths_that_tiles_cannot_fill_are_not(self, width):
        assert not winograd.pays(noise(1, 8, width, 8, 8), noise(8, 8, 3, 3, 3, seed=1))

    def test_constant_images_are_not(self):
        """Rounding depends on where in a tile a voxel is, and batch norm would scale such noise up."""
        constant, weight = noise(1, 8, 1, 1, 1).expand(3, 8, 9, 8, 8), noise(8, 8, 3, 3, 3, seed=1)
        assert not winograd.pays(constant, weight)
        output = cpu_convolution.convolve(constant, weight)
        assert torch.equal(output, output[:1, :, :1, :1, :1].expand_as(output))
        assert winograd.pays(constant + noise(3, 1, 9, 8, 8), weight)

    def test_layers_with_a_bias_are_not(self, monkeypatch):
        monkeypatch.setattr(winograd, "convolve", lambda *_: pytest.fail("not with a bias"))
        images, weight, bias = noise(2, 8, 8, 8, 8), noise(8, 8, 3, 3, 3, seed=1), noise(8, seed=2)
        expected = functional.conv3d(images, weight, bias)
        torch.testing.assert_close(cpu_convolution.convolve(images, weight, bias), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=["contiguous", "last"])
@pytest.mark.parametrize("frozen", [None, "images", "weight"])
def test_layers_take_it_with_their_gradients(layout, frozen, monkeypatch):
    used = []
    convolve = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *tensors: used.append(len(tensors)) or convolve(*tensors))
    values = {"images": noise(2, 6, 9, 7, 6).contiguous(memory_format=layout), "weight": noise(4, 6, 3, 3, 3, seed=1)}
    tensors = {name: value.requires_grad_(name != frozen) for name, value in values.items()}
    exact = {name: value.detach().double().requires_grad_(name != frozen) for name, value in values.items()}
    output, expected = cpu_convolution.convolve(**tensors), functional.conv3d(exact["images"], exact["weight"])
    assert_agree(output, expected)
    upstream = noise(*output.shape, seed=3).contiguous(memory_format=layout)
    output.backward(upstream)
    expected.backward(upstream.double())
    for name, tensor in tensors.items():
        if name == frozen:
            assert tensor.grad is None
        else:
            assert_agree(tensor.grad, exact[name].grad)
    assert used == [2]


@pytest.mark.usefixtures("always")
def test_training_goes_on_from_matrices_that_inference_made():
    """A session validates before its first step, and tensors made in inference mode cannot take part in gradients."""
    winograd._transform.cache_clear()
    images, weight = noise(2, 6, 9, 7, 6).requires_grad_(), noise(4, 6, 3, 3, 3, seed=1).requires_grad_()
    with torch.inference_mode():
        before = cpu_convolution.convolve(images, weight)
    output = cpu_convolution.convolve(images, weight)
    torch.testing.assert_close(output, before, rtol=0, atol=0)
    upstream = noise(*output.shape, seed=3)
    gradients = torch.autograd.grad(output, (images, weight), upstream)
    for gradient, exact in zip(gradients, plain_gradients(upstream, images.detach(), weight.detach()), strict=True):
        assert_agree(gradient, exact)
