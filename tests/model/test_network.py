"""Sizes, symmetries, determinism and refusals of whole networks."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_architectures import without_dropout
from hypothesis import HealthCheck, given, settings
from random_architectures import architectures, random_inputs, small_architecture, with_random_statistics

from deepmedic.config.architecture import ActivationName, Architecture, Pathway
from deepmedic.errors import ConfigError, ModelError
from deepmedic.model import compilation
from deepmedic.model.network import DeepMedicNet, repeat

SEGMENT = (13, 14, 12)


class TestSizes:
    @settings(max_examples=40, deadline=None)
    @given(architecture=architectures())
    def test_output_has_the_size_that_the_architecture_says(self, architecture: Architecture) -> None:
        segment = tuple(field + extra for field, extra in zip(architecture.receptive_field, (0, 2, 3), strict=True))
        logits = DeepMedicNet(architecture).eval()(*random_inputs(architecture, segment))
        assert logits.shape == (2, architecture.classes, *architecture.output_size(segment))
        assert torch.isfinite(logits).all()

    @pytest.mark.parametrize("factor", [(1, 1, 1), (2, 3, 1), (5, 4, 3)])
    def test_repetition_is_cropped_at_the_far_end(self, factor: tuple[int, int, int]) -> None:
        images = torch.arange(2 * 3 * 2 * 3 * 4.0).view(2, 3, 2, 3, 4)
        repeated = images.numpy()
        for axis, times in enumerate(factor, 2):
            repeated = np.repeat(repeated, times, axis=axis)
        size = tuple(n - min(times - 1, 1) for n, times in zip(repeated.shape[2:], factor, strict=True))
        expected = repeated[:, :, : size[0], : size[1], : size[2]]
        for memory_format in (torch.contiguous_format, torch.channels_last_3d):
            given_images = images.contiguous(memory_format=memory_format)
            np.testing.assert_array_equal(repeat(given_images, factor, size).numpy(), expected)


class TestTranslation:
    @settings(max_examples=25, deadline=None)
    @given(architecture=architectures(padded=False))
    def test_shifted_inputs_give_shifted_outputs(self, architecture: Architecture) -> None:
        """A shift by one voxel of each low-resolution grid, which is one factor in the normal pathway."""
        architecture = replace(architecture, subsampled=architecture.subsampled[:1])
        factor = architecture.subsampled[0].factor if architecture.subsampled else (1, 1, 1)
        field = architecture.receptive_field
        segment = tuple(size + 2 * step for size, step in zip(field, factor, strict=True))
        sizes = architecture.input_sizes(segment)
        steps = [factor, (1, 1, 1)][: len(sizes)]
        larger = tuple(size + step for size, step in zip(segment, factor, strict=True))
        whole = [images.double() for images in random_inputs(architecture, larger, batch=1)]
        net = with_random_statistics(DeepMedicNet(architecture)).double().eval()

        def part(index: int, shifted: bool) -> torch.Tensor:
            x, y, z = steps[index] if shifted else (0, 0, 0)
            width, height, depth = sizes[index]
            return whole[index][:, :, x : x + width, y : y + height, z : z + depth]

        first, second = (net(*(part(index, shifted) for index in range(len(sizes)))) for shifted in (False, True))
        x, y, z = factor
        overlap = tuple(n - step for n, step in zip(first.shape[2:], factor, strict=True))
        torch.testing.assert_close(first[:, :, x:, y:, z:], second[:, :, : overlap[0], : overlap[1], : overlap[2]])


class TestInitialization:
    def test_depends_on_the_seed_alone(self) -> None:
        architecture = small_architecture()
        torch.manual_seed(1)
        first = DeepMedicNet(architecture, seed=5)
        state = torch.random.get_rng_state()
        second = DeepMedicNet(architecture, seed=5)
        assert torch.equal(torch.random.get_rng_state(), state)
        other = DeepMedicNet(architecture, seed=6)
        for mine, same, different in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, same)
            assert mine.dim() == 1 or not torch.equal(mine, different)

    @pytest.mark.parametrize(("kind", "number"), [("fanIn", 2.0), ("fanIn", 1.0), ("normal", 0.01)])
    def test_deviation_follows_the_config(self, kind: str, number: float) -> None:
        small = small_architecture().normal
        normal = replace(small, feature_maps=(30, 30, 30), kernels=((3, 4, 2),) * 3, low_rank_layers=())
        architecture = replace(small_architecture(), normal=normal, subsampled=(), weights_init=(kind, number))
        weight = DeepMedicNet(architecture).parallel[0].blocks[1].convolution.weight
        expected = math.sqrt(number / (30 * 3 * 4 * 2)) if kind == "fanIn" else number
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
        assert abs(weight.mean().item()) < 0.1 * expected

    def test_everything_else_starts_neutral(self) -> None:
        for name, tensor in DeepMedicNet(small_architecture()).named_parameters():
            value = {"bias": 0.0, "bn_gamma": 1.0, "bn_beta": 0.0, "prelu_alpha": 0.01}.get(name.rpartition(".")[2])
            assert value is None or (tensor == value).all()

    def test_unknown_initialisation_is_refused(self) -> None:
        with pytest.raises(ConfigError, match='unknown initialisation "xavier"; allowed are "fanIn" and "normal"'):
            DeepMedicNet(small_architecture(weights_init=("xavier", 1.0)))

    def test_meta_device_needs_no_memory_and_no_values(self) -> None:
        """A training step without values: nothing in it may read a number back from the device."""
        architecture = small_architecture()
        with torch.device("meta"):
            net = DeepMedicNet(architecture)
            logits = net(*(torch.empty(2, 2, *size) for size in architecture.input_sizes(SEGMENT)))
        logits.sum().backward()
        assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"meta"}
        assert logits.shape == (2, 3, *architecture.output_size(SEGMENT))


class TestForward:
    @pytest.mark.usefixtures("with_and_without_numba")
    def test_dropout_follows_the_global_seed(self) -> None:
        architecture = small_architecture()
        net, inputs = DeepMedicNet(architecture), random_inputs(architecture, SEGMENT)
        outputs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(net(*inputs))
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])

    @pytest.mark.usefixtures("with_and_without_numba")
    def test_inference_changes_nothing(self) -> None:
        architecture = small_architecture()
        net, inputs = DeepMedicNet(architecture).eval(), random_inputs(architecture, SEGMENT)
        before = copy.deepcopy(net.state_dict())
        assert torch.equal(net(*inputs), net(*inputs))
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())

    @pytest.mark.usefixtures("with_and_without_numba")
    def test_segments_of_a_batch_do_not_mix_at_inference(self) -> None:
        architecture = small_architecture()
        net = with_random_statistics(DeepMedicNet(architecture)).eval()
        inputs = random_inputs(architecture, SEGMENT, batch=3)
        alone = torch.cat([net(*(images[i : i + 1] for images in inputs)) for i in range(3)])
        torch.testing.assert_close(net(*inputs), alone, rtol=1e-5, atol=1e-5)

    @pytest.mark.usefixtures("with_and_without_numba")
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(architecture=architectures())
    def test_what_needs_no_gradient_is_computed_to_the_same_result(self, architecture: Architecture) -> None:
        """Without gradients residuals are added in place, padding copies once and dropout scales the weights."""
        net = with_random_statistics(DeepMedicNet(architecture).eval())
        segment = tuple(field + 2 for field in architecture.receptive_field)
        inputs = random_inputs(architecture, segment)
        plain = net(*inputs)
        everything = {number: {0: (0, 99), 1: (0, 99)} for number in range(len(architecture.pathways))}
        with torch.no_grad():
            for logits in (net(*inputs), net.forward_features(*inputs, wanted=everything)[0]):
                torch.testing.assert_close(logits, plain.detach(), rtol=1e-4, atol=1e-5)

    @pytest.mark.usefixtures("with_and_without_numba")
    def test_bfloat16_stays_close_to_float32_with_statistics_in_float32(self) -> None:
        architecture = without_dropout(small_architecture())
        inputs = random_inputs(architecture, SEGMENT)
        reference, net = DeepMedicNet(architecture), DeepMedicNet(architecture)
        expected = reference(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(*inputs)
            logits.float().square().mean().backward()
        assert logits.dtype == torch.bfloat16
        assert ((logits.float() - expected).abs().mean() / expected.abs().mean()).item() < 0.05
        for mine, other in zip(net.buffers(), reference.buffers(), strict=True):
            assert mine.dtype == other.dtype
            torch.testing.assert_close(mine, other, rtol=0.05, atol=0.05)
        assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())

    def test_compiles_as_one_graph(self) -> None:
        normal, fc = small_architecture().normal, small_architecture().fc
        normal = replace(normal, kernels=((1, 1, 1),) * 3, dropout_rates=(0.0,) * 3, residual_layers=(2,))
        fc = replace(fc, feature_maps=(3,), kernels=((2, 2, 2),), paddings=("mirror",), dropout_rates=(0.0,))
        architecture = small_architecture(normal=normal, subsampled=(), fc=fc)
        inputs = random_inputs(architecture, (3, 3, 3))
        net = DeepMedicNet(architecture)
        compiled = copy.deepcopy(net)
        run_compiled = torch.compile(compiled, backend="aot_eager", fullgraph=True)
        outputs = [net(*inputs), run_compiled(*inputs)]
        torch.testing.assert_close(*outputs)
        for output in outputs:
            output.square().mean().backward()
        for mine, other in zip(net.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5)
        for mine, other in zip(net.buffers(), compiled.buffers(), strict=True):
            torch.testing.assert_close(mine, other)


class TestWithAndWithoutNumba:
    """Compiled loops give what torch alone gives: one training step, and inference after it."""

    WIDE = Pathway("normal", (20, 24, 30), ((3, 3, 3),) * 3, ("valid",) * 3, (0.0, 0.5, 0.25), residual_layers=(3,))

    def architecture(self, activation: ActivationName) -> Architecture:
        """With layers for Winograd's method, a layer at two resolutions, and dropout in every pathway."""
        fc = Pathway("fc", (32, 3), ((3, 3, 3), (1, 1, 1)), ("mirror", "valid"), (0.0, 0.5))
        subsampled = (replace(self.WIDE, name="subsampled1", factor=(3, 3, 3)),)
        return small_architecture(normal=self.WIDE, subsampled=subsampled, fc=fc, activation=activation)

    def step(self, architecture: Architecture, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        net = with_random_statistics(DeepMedicNet(architecture)).train()
        net.parallel[0].blocks[1].normalization.stored_statistics_only = True
        inputs = random_inputs(architecture, (17, 15, 16))
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = net(*inputs)
            upstream = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
            (logits.float() * upstream).sum().backward()
            found = {"logits": logits.detach()}
            found |= {name: parameter.grad for name, parameter in net.named_parameters()}
            with torch.inference_mode():
                found["inference"] = net.eval()(*inputs)
        return {name: tensor.float() for name, tensor in (*found.items(), *net.named_buffers())}

    def both_ways(self, architecture: Architecture, dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
        found = [self.step(architecture, dtype)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compilation, "is_possible", lambda: False)
            found.append(self.step(architecture, dtype))
        return found

    @pytest.mark.parametrize("activation", ["prelu", "relu"])
    def test_in_float32(self, activation: ActivationName) -> None:
        compiled, plain = self.both_ways(self.architecture(activation), torch.float32)
        largest = max(tensor.abs().max().item() for tensor in plain.values())
        for name, expected in plain.items():
            # Some gradients are 0 but for rounding, as of what comes before batch norm.
            scale = max(expected.abs().max().item(), 1e-2 * largest)
            assert (compiled[name] - expected).abs().max().item() < 1e-4 * scale, name
        assert not torch.equal(compiled["logits"], plain["logits"])  # otherwise one way was taken twice

    def test_in_bfloat16(self) -> None:
        """Both ways are as near to float32; rounding decides by chance which numbers near 0 are rectified."""
        architecture = self.architecture("prelu")
        expected = self.step(architecture, torch.float32)
        compiled, plain = (
            {name: (tensor - expected[name]).norm().item() for name, tensor in found.items()}
            for found in self.both_ways(architecture, torch.bfloat16)
        )
        largest = max(tensor.norm().item() for tensor in expected.values())
        for name, error in compiled.items():
            assert error < 1.5 * plain[name] + 1e-3 * largest, name
        for name in ("logits", "inference"):
            assert 0 < compiled[name] < 1.1 * plain[name] < 0.01 * expected[name].norm().item(), name
        assert compiled["logits"] != plain["logits"]


class TestFeatureMaps:
    def test_are_outputs_before_the_residual_of_the_predicted_box(self) -> None:
        fc = replace(small_architecture().fc, paddings=("valid", "valid"))
        architecture = small_architecture(fc=fc)
        net = with_random_statistics(DeepMedicNet(architecture)).eval()
        inputs = random_inputs(architecture, SEGMENT)
        outputs: dict[str, torch.Tensor] = {}
        for pathway, layer, block in net.named_blocks():
            block.register_forward_hook(
                lambda _module, _inputs, output, key=f"{pathway.name}/{layer}": outputs.update({key: output})
            )
        wanted = {0: {0: (1, 3), 2: (0, 9999)}, 2: {2: (4, 5)}, 3: {0: (0, 2)}}
        logits, features = net.forward_features(*inputs, wanted=wanted)
        assert torch.equal(logits, net(*inputs))
        assert features.keys() == {(0, 0), (0, 2), (2, 2), (3, 0)}
        x, y, z = architecture.output_size(SEGMENT)
        assert (x, y, z) == (7, 6, 6)
        # normal: 13 14 12 -> 11 12 10 -> 9 10 10 -> 9 8 8 -> FC 7 6 6; low resolution: 4x5x6 -> 5 2 3 of which 4 2 2
        assert torch.equal(features[0, 0], outputs["normal/1"][:, 1:3, 2:9, 3:9, 2:8])
        assert torch.equal(features[0, 2], outputs["normal/3"][:, :, 1:8, 1:7, 1:7])
        low = outputs["subsampled2/3"]
        assert low.shape[2:] == (5, 2, 3)
        central = low[:, 4:5, 0:4, 0:2, 0:2].detach().numpy()
        repeated = central.repeat(2, axis=2).repeat(5, axis=3).repeat(3, axis=4)[:, :, :x, :y, :z]
        np.testing.assert_array_equal(features[2, 2].detach().numpy(), repeated)
        assert torch.equal(features[3, 0], outputs["fc/1"][:, :2])


class TestRefusals:
    def test_number_of_inputs(self) -> None:
        net = DeepMedicNet(small_architecture())
        with pytest.raises(ModelError, match=r"takes 3 inputs.*\(normal, subsampled1, subsampled2\); found 1"):
            net(torch.zeros(1, 2, *SEGMENT))

    def test_segment_too_small(self) -> None:
        net = DeepMedicNet(small_architecture())
        inputs = [torch.zeros(1, 2, 4, 9, 9)] * 3
        with pytest.raises(ModelError, match=r"segment of \(4, 9, 9\) voxels is too small.*field is \(7, 9, 7\)"):
            net(*inputs)
        with pytest.raises(ModelError, match="too small"):
            net.forward_features(*inputs, wanted={})

    def test_channels_and_sizes(self) -> None:
        architecture = small_architecture()
        net, inputs = DeepMedicNet(architecture), random_inputs(architecture, SEGMENT)
        message = r"pathway subsampled1 is \[2, 2, 9, 9, 9\].*\(13, 14, 12\) voxels it must be .* \[any, 2, 7, 9, 8\]"
        with pytest.raises(ModelError, match=message):
            net(inputs[0], torch.zeros(2, 2, 9, 9, 9), inputs[2])
        with pytest.raises(ModelError, match=r"pathway normal is \[2, 1, 13, 14, 12\]"):
            net(inputs[0][:, :1], *inputs[1:])
