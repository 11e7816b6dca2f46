"""The first FC layer at low resolution against the same layer on repeated and concatenated feature maps."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_architectures import ACTIVATIONS, random_inputs, small_architecture, with_random_statistics
from torch import Tensor

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.options import Size3
from deepmedic.model import fusion
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.normalization import RollingBatchNorm
from deepmedic.model.outputs import PathwayOutputs, repeat
from deepmedic.model.pathway import Block

SEGMENT = (15, 14, 13)


@st.composite
def fused_architectures(draw: st.DrawFn) -> Architecture:
    """Two layers per pathway, up to two low resolutions, all FC layers that need not be at full resolution."""
    kernels = ((3, 2, 1), (1, 2, 3))
    factors = draw(st.lists(st.tuples(*[st.integers(1, 5)] * 3), min_size=1, max_size=2))
    fc_kernel = draw(st.tuples(*[st.sampled_from([1, 3, 3])] * 3))
    padding = draw(st.sampled_from(["valid", "mirror"] if 3 in fc_kernel else ["valid", "zero", "mirror"]))
    depth = draw(st.integers(1, 2))

    def parallel(name: str, maps: int, factor: tuple[int, int, int]) -> Pathway:
        return Pathway(name, (3, maps), kernels, ("valid",) * 2, (0.0, 0.0), factor=factor)

    return Architecture(
        input_channels=2,
        classes=3,
        normal=parallel("normal", 4, (1, 1, 1)),
        subsampled=tuple(parallel(f"subsampled{i}", 2 + i, factor) for i, factor in enumerate(factors, 1)),
        fc=Pathway(
            "fc",
            (5, 3)[2 - depth :],
            (fc_kernel, (1, 1, 1))[:depth],
            (padding, "valid")[:depth],
            (0.0, 0.0)[:depth],
            residual_layers=draw(st.sampled_from([(), (2,)])) if depth == 2 else (),
        ),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        batch_norm_window=draw(st.sampled_from([0, 2])),
    )


def plain_and_fused(architecture: Architecture, dtype: torch.dtype = torch.float32) -> list[DeepMedicNet]:
    fused = with_random_statistics(DeepMedicNet(architecture)).to(dtype)
    plain = copy.deepcopy(fused)
    plain.fc.blocks[0].plain_fusion = True
    return [plain, fused]


def train_step(net: DeepMedicNet, inputs: list[Tensor], direction: Tensor) -> Tensor:
    """One of a cost whose gradient differs from voxel to voxel."""
    logits = net.train()(*inputs)
    (logits * direction).sum().backward()
    return logits.detach()


def assert_near(found: Tensor, expected: Tensor, relative: float, what: str = "") -> None:
    scale = max(expected.abs().max().item(), 1e-3)
    assert (found - expected).abs().max().item() <= relative * scale, what


def assert_equal_steps(architecture: Architecture, segment, dtype: torch.dtype, forward: float, backward: float):
    plain, fused = plain_and_fused(architecture, dtype)
    inputs = [images.to(dtype) for images in random_inputs(architecture, segment)]
    with torch.no_grad():
        assert_near(fused.eval()(*inputs), plain.eval()(*inputs), forward)
    size = (2, architecture.classes, *architecture.output_size(segment))
    direction = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert_near(train_step(fused, inputs, direction), train_step(plain, inputs, direction), forward)
    largest = max(parameter.grad.abs().max().item() for parameter in plain.parameters())
    for (name, mine), other in zip(fused.named_parameters(), plain.parameters(), strict=True):
        scale = max(
            other.grad.abs().max().item(), 1e-2 * largest
        )  # some are 0 but for rounding, as of what comes before batch norm
        assert (mine.grad - other.grad).abs().max().item() <= backward * scale, name
    for (name, mine), other in zip(fused.named_buffers(), plain.named_buffers(), strict=True):
        assert_near(mine, other[1], forward, name)


class TestAgainstFullResolution:
    @settings(max_examples=60, deadline=None)
    @given(architecture=fused_architectures(), extra=st.tuples(*[st.integers(0, 6)] * 3))
    def test_random_networks_in_double_precision(self, architecture: Architecture, extra) -> None:
        segment = tuple(field + more for field, more in zip(architecture.receptive_field, extra, strict=True))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fusion, "_is_faster", lambda *_sizes: True)
            outputs = PathwayOutputs(
                tuple(torch.empty(1, 3, *size) for size in fc_input_sizes(architecture, segment)),
                tuple(pathway.factor for pathway in architecture.parallel),
            )
            assert DeepMedicNet(architecture).fc.blocks[0].prefers(outputs)
            assert_equal_steps(architecture, segment, torch.float64, forward=1e-9, backward=1e-8)

    @pytest.mark.usefixtures("with_and_without_numba")
    @pytest.mark.parametrize("padding", ["valid", "mirror"])
    @pytest.mark.parametrize("window", [0, 3])
    def test_float32(self, padding: str, window: int) -> None:
        fc = replace(small_architecture().fc, paddings=(padding, "valid"), dropout_rates=(0.0, 0.0))
        architecture = small_architecture(fc=fc, batch_norm_window=window)
        parallel = [replace(pathway, dropout_rates=(0.0,) * 3) for pathway in architecture.parallel]
        architecture = replace(architecture, normal=parallel[0], subsampled=tuple(parallel[1:]))
        assert_equal_steps(architecture, SEGMENT, torch.float32, forward=1e-5, backward=1e-4)

    @pytest.mark.usefixtures("with_and_without_numba")
    def test_bfloat16(self) -> None:
        architecture = small_architecture()
        inputs = random_inputs(architecture, SEGMENT)
        plain, fused = plain_and_fused(architecture)
        expected = plain.eval()(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = [net.eval()(*inputs) for net in (plain, fused)]
        assert [output.dtype for output in logits] == [torch.bfloat16] * 2
        errors = [(output.float() - expected).abs().mean().item() for output in logits]
        assert errors[1] < 2 * errors[0]
        assert errors[1] < 0.02 * expected.abs().mean().item()

    @pytest.mark.usefixtures("with_and_without_numba")
    def test_frozen_statistics(self) -> None:
        architecture = small_architecture(fc=replace(small_architecture().fc, dropout_rates=(0.0, 0.0)))
        inputs = random_inputs(architecture, SEGMENT)
        logits = []
        for net in plain_and_fused(architecture):
            norm = net.fc.blocks[0].normalization
            assert isinstance(norm, RollingBatchNorm)
            norm.stored_statistics_only, before = True, norm.bn_mean_rolling.clone()
            torch.manual_seed(0)
            logits.append(net.train()(*inputs))
            assert torch.equal(norm.bn_mean_rolling, before)
        assert_near(logits[1], logits[0], 1e-5)

    def test_feature_maps_and_hooks_of_the_block(self) -> None:
        architecture = small_architecture()
        inputs = random_inputs(architecture, SEGMENT)
        seen, features = [], []
        for net in plain_and_fused(architecture):
            net.eval().fc.blocks[0].register_forward_hook(lambda _block, _given, output: seen.append(output))
            features.append(net.forward_features(*inputs, wanted={0: {2: (0, 2)}, 1: {1: (0, 9)}, 3: {0: (0, 9)}})[1])
        assert_near(seen[1], seen[0], 1e-5)
        assert features[0].keys() == features[1].keys() == {(0, 2), (1, 1), (3, 0)}
        for key, expected in features[0].items():
            assert_near(features[1][key], expected, 1e-5)

    def test_compiles_as_one_graph(self) -> None:
        normal = Pathway("normal", (3,), ((1, 1, 1),), ("valid",), (0.0,))
        fc = Pathway("fc", (3,), ((3, 1, 1),), ("mirror",), (0.0,))
        subsampled = (replace(normal, name="subsampled1", factor=(3, 2, 1)),)
        architecture = small_architecture(normal=normal, subsampled=subsampled, fc=fc)
        net = DeepMedicNet(architecture)
        inputs = random_inputs(architecture, (8, 4, 3))
        compiled = torch.compile(copy.deepcopy(net), backend="aot_eager", fullgraph=True)
        logits = [network(*inputs) for network in (net, compiled)]
        assert_near(logits[1], logits[0], 1e-5)
        for output in logits:
            output.square().mean().backward()
        for mine, other in zip(compiled.parameters(), net.parameters(), strict=True):
            assert_near(mine.grad, other.grad, 1e-4)


class TestBatchStatistics:
    @pytest.mark.parametrize(("skip", "size"), [((0, 0, 0), (5, 4, 3)), ((2, 0, 1), (2, 6, 2)), ((1, 2, 0), (4, 3, 4))])
    def test_count_voxels_not_cells(self, skip, size) -> None:
        """The first and the last cells cover fewer than 3 x 3 x 2 voxels."""
        generator = torch.Generator().manual_seed(0)
        images = 7 + torch.randn(2, 3, 2, 2, 2, generator=generator)
        repeated = repeat(images, (3, 3, 2), size, skip).double().numpy()
        assert repeated.shape == (2, 3, *size)
        outputs = PathwayOutputs((torch.zeros(2, 1, *size), images), ((1, 1, 1), (3, 3, 2)), ((0, 0, 0), skip))
        mean, variance = fusion._counted_statistics(images, fusion._counts(list(outputs.parts())[1], size))
        np.testing.assert_allclose(mean.numpy(), repeated.mean(axis=(0, 2, 3, 4)), rtol=1e-6)
        np.testing.assert_allclose(variance.numpy(), repeated.var(axis=(0, 2, 3, 4)), rtol=1e-5)

    def test_channels_that_are_constant_become_beta_and_pass_no_gradient(self) -> None:
        net = plain_and_fused(small_architecture(fc=replace(small_architecture().fc, dropout_rates=(0.0, 0.0))))[1]
        block = net.fc.blocks[0]
        images = [torch.randn(2, 6, 6, 6, 6), torch.full((2, 4, 2, 2, 3), 0.1), torch.randn(2, 5, 3, 2, 2)]
        outputs = PathwayOutputs(
            tuple(part.requires_grad_() for part in images), tuple(p.factor for p in net.architecture.parallel)
        )
        assert block.prefers(outputs)
        block(outputs).square().sum().backward()
        assert torch.equal(block.normalization.bn_var_rolling[0, 6:10], torch.zeros(4))
        assert torch.equal(images[1].grad, torch.zeros_like(images[1]))
        assert images[2].grad.abs().min() > 0
        assert torch.isfinite(images[2].grad).all()


@pytest.mark.usefixtures("with_and_without_numba")
class TestConvolution:
    def test_by_hand_along_one_axis(self) -> None:
        """Kernel 1 10 100 on cells 1 and 2, the second cut to 2 of its 4 voxels."""
        net = convolution_only((3, 1, 1), "mirror", factor=(4, 1, 1))
        net.convolution.weight.data[0, :, :, 0, 0] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 10.0, 100.0]])
        cells = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1, 1)
        found = net(PathwayOutputs((torch.zeros(1, 1, 6, 1, 1), cells), ((1, 1, 1), (4, 1, 1))))
        assert found.flatten().tolist() == [111.0, 111.0, 111.0, 211.0, 221.0, 222.0]

    def test_unpadded_output_begins_at_the_second_voxel(self) -> None:
        net = convolution_only((3, 1, 1), "valid", factor=(2, 1, 1))
        net.convolution.weight.data[0, :, :, 0, 0] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 10.0, 100.0]])
        cells = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1, 1)
        found = net(PathwayOutputs((torch.zeros(1, 1, 6, 1, 1), cells), ((1, 1, 1), (2, 1, 1))))
        assert found.flatten().tolist() == [211.0, 221.0, 322.0, 332.0]


class TestBoxes:
    @settings(max_examples=40, deadline=None)
    @given(
        size=st.tuples(*[st.integers(1, 11)] * 3),
        factor=st.tuples(*[st.integers(1, 5)] * 3),
        corners=st.lists(st.tuples(*[st.floats(0, 0.99)] * 3), min_size=4, max_size=4),
    )
    def test_a_box_of_a_box_holds_the_voxels_of_the_whole(self, size, factor, corners) -> None:
        cells = [-(-length // times) for length, times in zip(size, factor, strict=True)]
        images = (torch.randn(1, 2, *size), torch.randn(1, 3, *cells))
        outputs = PathwayOutputs(images, ((1, 1, 1), factor))
        expected = outputs.full_resolution()
        for first, last in (corners[:2], corners[2:]):
            ends = [sorted((int(a * n), int(b * n))) for a, b, n in zip(first, last, outputs.size, strict=True)]
            (x, y, z), (width, height, depth) = zip(*((low, high - low + 1) for low, high in ends), strict=True)
            outputs = outputs.box((x, y, z), (width, height, depth))
            expected = expected[..., x : x + width, y : y + height, z : z + depth]
            assert torch.equal(outputs.full_resolution(), expected)


class TestChoice:
    @pytest.mark.parametrize("padding", ["mirror", "valid"])
    def test_low_resolution_where_cells_are_few(self, padding: str) -> None:
        assert convolution_only((3, 3, 3), padding).prefers(example_outputs())

    def test_full_resolution_for_kernels_paddings_and_ranks_not_covered(self) -> None:
        outputs = example_outputs()
        assert not convolution_only((3, 3, 3), "zero").prefers(outputs)
        assert not convolution_only((5, 1, 1), "mirror").prefers(outputs)
        assert not convolution_only((3, 3, 3), "mirror", low_rank_layers=(1,)).prefers(outputs)
        assert convolution_only((1, 1, 1), "zero").prefers(outputs)

    def test_full_resolution_where_dropout_draws_for_each_voxel(self) -> None:
        block = convolution_only((3, 3, 3), "mirror", dropout_rates=(0.5,))
        assert not block.train().prefers(example_outputs())
        assert block.eval().prefers(example_outputs())

    @pytest.mark.parametrize(
        ("kernel", "factor", "faster"),
        [
            ((3, 3, 3), (2, 2, 2), True),
            ((3, 3, 3), (2, 2, 1), False),
            ((3, 3, 3), (1, 1, 8), False),
            ((3, 3, 1), (2, 2, 1), False),
            ((3, 3, 1), (4, 4, 1), True),
            ((1, 1, 1), (2, 2, 1), True),
            ((1, 1, 1), (2, 1, 1), False),
        ],
    )
    def test_depends_on_kernel_and_factor(self, kernel, factor, faster: bool) -> None:
        cells = torch.zeros(1, 1, *(8 // times for times in factor))
        outputs = PathwayOutputs((torch.zeros(1, 1, 8, 8, 8), cells), ((1, 1, 1), factor))
        assert convolution_only(kernel, "mirror", factor=factor).prefers(outputs) is faster

    def test_full_resolution_where_no_cell_covers_several_voxels(self) -> None:
        voxel, block = torch.zeros(1, 1, 1, 1, 1), convolution_only((3, 3, 3), "mirror")
        assert not block.prefers(PathwayOutputs((voxel, voxel), ((1, 1, 1), (3, 3, 3))))
        assert not block.prefers(PathwayOutputs((voxel,), ((1, 1, 1),)))

    def test_full_resolution_on_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Block, "plain_fusion", True)
        assert not convolution_only((3, 3, 3), "mirror").prefers(example_outputs())


def convolution_only(kernel, padding: str, factor=(3, 3, 3), **fc_changes) -> Block:
    """The first FC block of one feature map per pathway, that does nothing but convolve."""
    normal = Pathway("normal", (1,), ((1, 1, 1),), ("valid",), (0.0,))
    fc = replace(Pathway("fc", (3,), (kernel,), (padding,), (0.0,)), **fc_changes)
    architecture = Architecture(
        input_channels=1,
        classes=3,
        normal=normal,
        subsampled=(replace(normal, name="subsampled1", factor=factor),),
        fc=replace(fc, feature_maps=(1,)) if not fc.low_rank_layers else fc,
        activation="linear",
        batch_norm_window=0,
    )
    return DeepMedicNet(architecture).fc.blocks[0]


def example_outputs() -> PathwayOutputs:
    return PathwayOutputs((torch.zeros(1, 1, 7, 7, 7), torch.zeros(1, 1, 3, 3, 3)), ((1, 1, 1), (3, 3, 3)))


def fc_input_sizes(architecture: Architecture, segment) -> list[tuple[int, int, int]]:
    sizes = architecture.input_sizes(segment)
    return [pathway.output_size(size) for pathway, size in zip(architecture.parallel, sizes, strict=True)]


@pytest.mark.parametrize("skip", [(0, 0, 0), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("factor", [(3, 3, 3), (3, 1, 5), (1, 2, 3)])
def test_repeating_on_a_cpu_and_its_gradient(factor: Size3, skip: Size3) -> None:
    cells = torch.randn(1, 2, 4, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    skip = tuple(min(first, times - 1) for first, times in zip(skip, factor, strict=True))
    size = tuple(count * times - 1 - first for count, times, first in zip((4, 3, 4), factor, skip, strict=True))
    expected = cells
    for axis, times in enumerate(factor, 2):
        expected = expected.repeat_interleave(times, dim=axis)
    box = tuple(slice(first, first + length) for first, length in zip(skip, size, strict=True))
    expected = expected[(..., *box)]
    assert torch.equal(repeat(cells, factor, size, skip), expected)
    assert torch.autograd.gradcheck(lambda values: repeat(values, factor, size, skip), cells.requires_grad_())
