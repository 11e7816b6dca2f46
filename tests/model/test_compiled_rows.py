"""Normalisation, activation and dropout by compiled loops against the plain formula in double precision."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from deepmedic.model import compilation, compiled_rows
from deepmedic.model.compiled_rows import Normalization
from deepmedic.model.kernel_numbers import rounded

ALL_BUT_CHANNELS = (0, 2, 3, 4)
EPSILON = 1e-3
TYPES = [torch.float32, torch.bfloat16]
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 4, 5, 6, 7),
    (3, 2, 4, 5, 4),  # a whole row
    (1, 600, 3, 1, 5),  # more channels than a row has numbers elsewhere
    (2, 7, 20, 21, 17),  # several blocks, the last row shorter
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)


class Parameters(NamedTuple):
    """[C] each, float32."""

    gamma: Tensor
    beta: Tensor
    slope: Tensor

    @classmethod
    def random(cls, channels: int) -> Parameters:
        gamma, beta, slope = (noise(channels, seed=seed) for seed in (1, 2, 3))
        return cls(*(values.requires_grad_() for values in (1 + 0.3 * gamma, beta, 0.1 * slope)))


def exact(
    images: Tensor, parameters: Parameters, mask: Tensor | None, stored: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The formula, with statistics of the images where none are stored; all in double precision."""
    if stored is None:
        mean = images.mean(ALL_BUT_CHANNELS)
        variance = (images - per_channel(mean)).square().mean(ALL_BUT_CHANNELS)
    else:
        mean, variance = stored
    scaled = (images - per_channel(mean)) / per_channel(variance + EPSILON).sqrt()
    normalized = scaled * per_channel(parameters.gamma) + per_channel(parameters.beta)
    rectified = torch.where(normalized > 0, normalized, normalized * per_channel(parameters.slope))
    if mask is None:
        return rectified
    batch, channels, *size = images.shape
    return rectified * mask.view(batch, *size, channels).permute(0, 4, 1, 2, 3)


def compiled(
    images: Tensor, parameters: Parameters, mask: Tensor | None, stored: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    statistics = compiled_rows.mean_and_variance(images) if stored is None else stored
    normalization = Normalization(*parameters[:2], *statistics, EPSILON, of_batch=stored is None)
    return compiled_rows.normalize_and_rectify(images, normalization, parameters.slope, mask)


def assert_equals_the_formula(
    images: Tensor, *, masked: bool = False, stored: bool = False, layout: torch.memory_format | None = None
) -> None:
    """Values and all gradients; numbers that are rounded to bfloat16 may be one rounding off."""
    parameters = Parameters.random(images.shape[1])
    mask = (noise(images.numel(), seed=4) > 0).to(torch.uint8) if masked else None
    statistics = (noise(images.shape[1], seed=5), 0.5 + noise(images.shape[1], seed=6).square()) if stored else None
    upstream = noise(*images.shape, seed=7).to(images.dtype)
    if layout is not None:
        images, upstream = (tensor.contiguous(memory_format=layout) for tensor in (images, upstream))
    images.requires_grad_()
    assert compiled_rows.takes(images)
    result = compiled(images, parameters, mask, statistics)
    gradients = torch.autograd.grad(result, (images, *parameters), upstream)

    precise_images = images.detach().double().requires_grad_()
    precise = Parameters(*(values.detach().double().requires_grad_() for values in parameters))
    precise_statistics = None if statistics is None else (statistics[0].double(), statistics[1].double())
    expected = exact(precise_images, precise, mask, precise_statistics)
    references = torch.autograd.grad(expected, (precise_images, *precise), upstream.double())

    assert result.dtype == gradients[0].dtype == images.dtype
    assert {gradient.dtype for gradient in gradients[1:]} == {torch.float32}
    rounding = 2**-8 if images.dtype == torch.bfloat16 else 0.0
    torch.testing.assert_close(result.double(), expected, rtol=1e-5 + rounding, atol=1e-5)
    for gradient, reference, relative in zip(gradients, references, (1e-5 + rounding, 1e-5, 1e-5, 1e-5), strict=True):
        largest = reference.abs().max().item()
        torch.testing.assert_close(gradient.double(), reference, rtol=relative, atol=1e-5 * (1 + largest))


class TestAgainstTheFormula:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("stored", [False, True])
    def test_values_and_gradients(self, shape, dtype: torch.dtype, masked: bool, stored: bool) -> None:
        layout = torch.channels_last_3d
        assert_equals_the_formula((2 + noise(*shape)).to(dtype), masked=masked, stored=stored, layout=layout)

    @settings(max_examples=60, deadline=None)
    @given(
        batch=st.integers(1, 4),
        channels=st.integers(1, 70),
        size=st.tuples(*[st.integers(1, 9)] * 3),
        dtype=st.sampled_from(TYPES),
        masked=st.booleans(),
        stored=st.booleans(),
        layout=st.sampled_from([torch.contiguous_format, torch.channels_last_3d]),
    )
    def test_any_sizes_and_layouts(self, batch, channels, size, dtype, masked, stored, layout) -> None:
        images = 3 * noise(batch, channels, *size) - 1
        assert_equals_the_formula(images.to(dtype), masked=masked, stored=stored, layout=layout)

    def test_parts_of_larger_images(self) -> None:
        images = noise(3, 9, 8, 7, 9).contiguous(memory_format=torch.channels_last_3d)
        assert_equals_the_formula(images[1:, 2:7, :, 1:, 3:])

    def test_a_gradient_of_one_number_repeated_needs_no_loops_of_its_own(self) -> None:
        images, parameters = noise(2, 3, 4, 5, 6).requires_grad_(), Parameters.random(3)
        compiled(images, parameters, None).backward(torch.ones(images.shape))
        reference, images.grad = images.grad, None
        kernels = [compiled_rows._kernels().sums, compiled_rows._kernels().gradients]
        before = [len(kernel._compiled.overloads) for kernel in kernels]
        compiled(images, parameters, None).sum().backward()
        assert torch.equal(images.grad, reference)
        assert [len(kernel._compiled.overloads) for kernel in kernels] == before


class TestStatistics:
    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("offset", [0.0, 300.0, 1e6])
    def test_are_those_in_double_precision(self, dtype: torch.dtype, shape, offset: float) -> None:
        deviation = 1.0 if dtype == torch.float32 else 1 + offset / 100  # neighbours in bfloat16 are far apart
        images = (offset + deviation * noise(*shape)).to(dtype)
        mean, variance = compiled_rows.mean_and_variance(images)
        assert mean.dtype == variance.dtype == torch.float32
        expected_variance, expected_mean = torch.var_mean(images.double(), dim=ALL_BUT_CHANNELS, correction=0)
        torch.testing.assert_close(mean.double(), expected_mean, rtol=2e-7, atol=1e-6)
        torch.testing.assert_close(variance.double(), expected_variance, rtol=2e-6, atol=0)

    @pytest.mark.parametrize("constant", [0.0, 0.1, -1 / 3, 1e-30, 1e30, 16777217.0])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_of_a_constant_are_exact(self, constant: float, shape) -> None:
        mean, variance = compiled_rows.mean_and_variance(torch.full(shape, constant))
        assert mean.tolist() == [torch.tensor(constant).item()] * shape[1]
        assert variance.tolist() == [0] * shape[1]

    def test_of_constant_channels_beside_others(self) -> None:
        images = noise(3, 4, 7, 9, 11)
        images[:, 2] = 0.1
        parameters = Parameters.random(4)
        images.requires_grad_()
        mean, variance = compiled_rows.mean_and_variance(images)
        normalization = Normalization(*parameters[:2], mean, variance, 1.1754944e-38, of_batch=True)
        result = compiled_rows.normalize_and_rectify(images, normalization, torch.ones(4), None)
        assert (result[:, 2] == parameters.beta[2]).all()
        result.backward(noise(3, 4, 7, 9, 11, seed=8))
        assert (images.grad[:, 2] == 0).all()
        assert parameters.gamma.grad[2] == 0
        assert parameters.beta.grad[2] != 0
        assert torch.isfinite(images.grad).all()
        assert images.grad[:, 1].abs().min() > 0

    def test_of_float32_that_is_stored_as_bfloat16_are_the_same(self) -> None:
        images = (3 + noise(2, 5, 9, 8, 7)).bfloat16()
        for found, expected in zip(
            compiled_rows.mean_and_variance(images), compiled_rows.mean_and_variance(images.float()), strict=True
        ):
            assert torch.equal(found, expected)


class TestSameBytes:
    @pytest.mark.parametrize("dtype", TYPES)
    def test_with_any_number_of_threads_and_every_time(self, dtype: torch.dtype) -> None:
        values, upstream = (noise(2, 5, 30, 31, 29, seed=seed).to(dtype) for seed in (1, 2))
        mask = (noise(values.numel(), seed=3) > 0).to(torch.uint8)
        found = []
        for threads in (1, 2, 2, 1):
            torch.set_num_threads(threads)
            images, parameters = values.clone().requires_grad_(), Parameters.random(5)
            result = compiled(images, parameters, mask)
            found.append((result, *torch.autograd.grad(result, (images, *parameters), upstream)))
        for others in found[1:]:
            assert all(map(torch.equal, others, found[0]))


class TestNotANumber:
    @pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
    @pytest.mark.parametrize("dtype", TYPES)
    def test_passes_through_where_it_is(self, slope: float, dtype: torch.dtype) -> None:
        images = noise(2, 3, 4, 5, 6).to(dtype)
        images[1, 2, 3, 4, 5] = torch.nan
        parameters = Parameters(torch.ones(3), torch.zeros(3), torch.full((3,), slope))
        result = compiled(images, parameters, None, (torch.zeros(3), torch.ones(3)))
        assert result.isnan().nonzero().tolist() == [[1, 2, 3, 4, 5]]
        mask = torch.zeros(images.numel(), dtype=torch.uint8)
        assert compiled(images, parameters, mask, (torch.zeros(3), torch.ones(3))).isnan().sum() == 1

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("where", [0, -1])
    def test_spoils_the_statistics_of_its_channel_alone(self, value: float, where: int) -> None:
        images = noise(2, 3, 20, 21, 17)
        images[where, 1, where, where, where] = value
        _, variance = compiled_rows.mean_and_variance(images)
        assert variance.isnan().tolist() == [False, True, False]
        result = compiled(images, Parameters.random(3), None)
        assert result.isnan().all(dim=(0, 2, 3, 4)).tolist() == [False, True, False]
        assert not result[:, ::2].isnan().any()

    @pytest.mark.parametrize("dtype", TYPES)
    def test_infinity_passes_through_and_is_never_taken_for_a_number(self, dtype: torch.dtype) -> None:
        images = torch.tensor([torch.inf, -torch.inf]).view(1, 1, 2, 1, 1).to(dtype)

        def rectified(slope: float) -> list[float]:
            parameters = Parameters(torch.ones(1), torch.zeros(1), torch.tensor([slope]))
            return compiled(images, parameters, None, (torch.zeros(1), torch.ones(1))).flatten().tolist()

        assert rectified(0.1) == rectified(1.0) == [torch.inf, -torch.inf]
        positive, negative = rectified(0.0)
        assert positive == torch.inf
        assert np.isnan(negative)  # torch's ReLU would hide it behind a 0

    @pytest.mark.parametrize("dtype", TYPES)
    def test_of_an_upstream_gradient_reaches_all_gradients(self, dtype: torch.dtype) -> None:
        images, parameters = noise(2, 3, 4, 5, 6).to(dtype).requires_grad_(), Parameters.random(3)
        upstream = torch.ones(images.shape, dtype=dtype)
        upstream[0, 1, 2, 3, 4] = torch.nan
        statistics = torch.zeros(3), torch.ones(3)
        result = compiled(images, parameters, None, statistics)
        of_images, of_gamma, of_beta, _ = torch.autograd.grad(result, (images, *parameters), upstream)
        assert of_images.isnan().nonzero().tolist() == [[0, 1, 2, 3, 4]]
        assert of_gamma.isnan().tolist() == of_beta.isnan().tolist() == [False, True, False]


def _round_each(numbers, result) -> None:
    for index in numba.prange(len(numbers)):
        result[index] = rounded(numbers[index], result[index])


round_each = compilation.Kernel(_round_each)


class TestRounding:
    def test_every_bfloat16_stays_as_it_is(self) -> None:
        images = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).view(1, 1, 64, 32, 32)
        same = Parameters(torch.ones(1), torch.zeros(1), torch.ones(1))
        normalization = Normalization(*same[:2], torch.zeros(1), torch.ones(1), 0.0, of_batch=False)
        result = compiled_rows.normalize_and_rectify(images, normalization, same.slope)
        numbers = ~images.isnan()
        assert numbers.sum() == 2**16 - 2 * 127
        assert torch.equal(result[numbers], images[numbers])
        assert result[~numbers].isnan().all()

    def test_what_lies_between_two_neighbours_is_rounded_as_by_torch(self) -> None:
        """All neighbours: next to the lower, just below the middle, there, just above, and next to the upper one."""
        upper = torch.arange(2**16, dtype=torch.int64)[:, None] << 16
        bits = upper + torch.tensor([0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
        numbers = torch.where(bits < 2**31, bits, bits - 2**32).to(torch.int32).view(torch.float32).flatten()
        result = torch.empty(len(numbers), dtype=torch.bfloat16)
        round_each(numbers, result)
        expected = numbers.bfloat16()
        assert torch.equal(result.isnan(), numbers.isnan())
        known = ~numbers.isnan()
        assert torch.equal(result[known].view(torch.int16), expected[known].view(torch.int16))


class TestGradientsThatNobodyNeeds:
    @pytest.mark.parametrize("frozen", ["gamma", "beta", "slope"])
    @pytest.mark.parametrize("is_stored", [False, True])
    def test_of_frozen_parameters(self, frozen: str, is_stored: bool) -> None:
        images, parameters = noise(2, 3, 4, 5, 6).requires_grad_(), Parameters.random(3)
        statistics = (torch.zeros(3), torch.ones(3)) if is_stored else None
        expected = torch.autograd.grad(compiled(images, parameters, None, statistics).square().sum(), images)[0]
        getattr(parameters, frozen).requires_grad_(False)
        compiled(images, parameters, None, statistics).square().sum().backward()
        assert torch.equal(images.grad, expected)
        has_gradient = {name for name, values in parameters._asdict().items() if values.grad is not None}
        assert has_gradient == set(Parameters._fields) - {frozen}

    def test_all_parameters_frozen_and_stored_statistics(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiled_rows, "_sums", lambda *_: pytest.fail("sums that nobody needs"))
        images = noise(2, 3, 4, 5, 6).requires_grad_()
        parameters = Parameters(*(values.detach() for values in Parameters.random(3)))
        stored_statistics = noise(3, seed=5), 1 + noise(3, seed=6).square()
        compiled(images, parameters, None, stored_statistics).sum().backward()
        precise = images.detach().double().requires_grad_()
        exact(
            precise, Parameters(*(v.double() for v in parameters)), None, tuple(v.double() for v in stored_statistics)
        ).sum().backward()
        torch.testing.assert_close(images.grad.double(), precise.grad, rtol=1e-5, atol=1e-6)

    def test_of_the_images(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kernels = compiled_rows._kernels()
        monkeypatch.setattr(kernels, "gradients", lambda *_: pytest.fail("a gradient that nobody needs"))
        parameters = Parameters.random(3)
        compiled(noise(2, 3, 4, 5, 6), parameters, None).sum().backward()
        assert all(values.grad is not None for values in parameters)


class TestWhatIsTaken:
    def test_float32_and_bfloat16_on_a_cpu(self) -> None:
        images = noise(2, 3, 4, 5, 6)
        assert compiled_rows.takes(images)
        assert compiled_rows.takes(images.bfloat16())
        for other in (images.double(), images.half(), images.to("meta"), images[:0], images[:, :0]):
            assert not compiled_rows.takes(other)

    def test_with_and_without_gradients(self) -> None:
        images, parameters = noise(2, 3, 4, 5, 6), Parameters.random(3)
        expected = compiled(images, parameters, None)
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                own = images.clone()  # one that belongs to inference mode
                assert torch.equal(compiled(own, parameters, None), expected)
        assert torch.equal(compiled(own, Parameters(*(v.detach() for v in parameters)), None), expected)

    @pytest.mark.filterwarnings("ignore")
    def test_nothing_whose_operations_are_recorded(self) -> None:
        class Own(Tensor):
            pass

        images = noise(2, 3, 4, 5, 6)
        with FlopCounterMode(display=False):
            assert not compiled_rows.takes(images)
        taken = []

        def note(images: Tensor) -> Tensor:
            taken.append(compiled_rows.takes(images))
            return images * 2

        make_fx(note)(images)
        torch.jit.trace(note, images, check_trace=False)
        assert taken == [False, False]
        assert not compiled_rows.takes(images.as_subclass(Own))
        assert compiled_rows.takes(torch.nn.Parameter(images))


def test_the_graph_keeps_the_images_and_the_mask_alone() -> None:
    images, parameters = noise(2, 3, 4, 5, 6).requires_grad_(), Parameters.random(3)
    mask = torch.ones(images.numel(), dtype=torch.uint8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        compiled(images, parameters, mask)
    large = [tensor.data_ptr() for tensor in kept if tensor.numel() >= images.numel()]
    assert sorted(large) == sorted([images.data_ptr(), mask.data_ptr()])
