"""Features of voxels: aligned with the network's predictions, the same for the same seed, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from random_architectures import architectures, random_inputs, small_architecture, with_random_statistics

from deepmedic.analysis.features import (
    LOGITS,
    ChannelMoments,
    FeatureSettings,
    bytes_per_voxel,
    stream_features,
)
from deepmedic.analysis.taps import PENULTIMATE, all_layers, at_voxels, hidden_layers, pathway_of, watched
from deepmedic.analysis.voxels import VoxelSettings
from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.errors import ModelError
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_volume
from deepmedic.model.network import DeepMedicNet

SEGMENT = (11, 11, 11)
VOXELS = VoxelSettings(12, 7)


def asked(*layers: str, **others) -> FeatureSettings:
    return FeatureSettings(VOXELS, layers=layers or None, **others)


def single(network, data, settings, segment=SEGMENT):
    [case] = stream_features({"net": network}, data, segment, settings)
    return case, case.features["net"]


def identity_network(factor) -> DeepMedicNet:
    """Every layer passes on the voxel in the middle of its kernel, so that features are intensities."""
    kernels, valid, none = ((3, 3, 3), (3, 3, 3)), ("valid",) * 2, (0.0,) * 2
    normal = Pathway("normal", (1, 1), kernels, valid, none)
    low = Pathway("subsampled1", (1, 1), kernels, valid, none, factor=factor)
    fc = Pathway("fc", (2, 3), ((1, 1, 1), (1, 1, 1)), valid, none)
    net = DeepMedicNet(Architecture(1, 3, normal, (low,), fc, activation="linear", batch_norm_window=0))
    with torch.no_grad():
        for _, _, block in net.named_blocks():
            [weight] = block.convolution.parameters()
            weight.zero_()
            middle = tuple(size // 2 for size in weight.shape[2:])
            for channel in range(min(weight.shape[:2])):
                weight[(channel, channel, *middle)] = 1.0
    return net.eval()


class TestAlignment:
    @pytest.mark.parametrize("factor", [(3, 3, 3), (5, 1, 3), (1, 3, 5)], ids=str)
    def test_features_of_an_identity_network_are_the_intensities_at_the_voxels(
        self, make_case, in_memory, factor
    ) -> None:
        case = make_case((41, 41, 41), channels=1)
        intensities = torch.arange(41.0**3).view(1, 41, 41, 41)
        case = replace(case, channels=intensities, labels=case.labels.roll((14, 14, 14), (0, 1, 2)))
        found, features = single(identity_network(factor), in_memory(case), asked(*hidden_layers_of(factor)))
        voxels = found.voxels
        own = intensities[(0, *voxels.positions.T)]
        for layer in ("normal/1", "normal/2"):
            assert torch.equal(features[layer][:, 0], own)
        # A cell of low resolution begins at every factor-th voxel of the predicted box and shows its first voxel,
        # unless the low-resolution segment, which begins up to 8 voxels before the normal one, leaves the image.
        step = torch.tensor(factor)
        x, y, z = (voxels.positions - voxels.offsets + voxels.offsets // step * step).T
        cells = intensities[0, x, y, z]
        inside = (voxels.starts >= 8).all(dim=1)[voxels.segments]
        assert inside.sum() > 10
        assert torch.equal(features["subsampled1/2"][inside, 0], cells[inside])
        assert torch.equal(features["fc/1"][inside], torch.stack([own, cells], dim=1)[inside])

    @settings(max_examples=25)
    @given(architecture=architectures())
    def test_every_voxel_of_the_box_agrees_with_the_feature_maps_that_inference_saves(self, architecture) -> None:
        segment = tuple(field + extra for field, extra in zip(architecture.receptive_field, (1, 3, 2), strict=True))
        network = with_random_statistics(DeepMedicNet(architecture)).eval()
        inputs = random_inputs(architecture, segment)
        names = all_layers(architecture)
        with torch.inference_mode(), watched(network, names) as outputs:
            network(*inputs)
        pathways = architecture.pathways
        wanted = {number: dict.fromkeys(range(pathway.depth), (0, 99)) for number, pathway in enumerate(pathways)}
        with torch.inference_mode():
            _, maps = network.forward_features(*inputs, wanted=wanted)
        size = architecture.output_size(segment)
        offsets = torch.cartesian_prod(*map(torch.arange, size)).view(-1, 3)
        for number, pathway in enumerate(pathways):
            for layer in set(range(1, pathway.depth + 1)) - set(pathway.residual_layers):
                output = outputs[f"{pathway.name}/{layer}"]
                second = torch.ones(len(offsets), dtype=torch.int64)
                found = at_voxels(output, pathway, size, second, offsets)
                expected = maps[number, layer - 1][1].flatten(1).T
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_residuals_are_part_of_a_layer(self) -> None:
        architecture = small_architecture(subsampled=())
        network = with_random_statistics(DeepMedicNet(architecture)).eval()
        [images] = random_inputs(architecture, SEGMENT)
        with torch.inference_mode(), watched(network, ["normal/2", "normal/3"]) as outputs:
            network(images)
            sequence = network.parallel[0]
            assert torch.equal(sequence(images), outputs["normal/3"])
            before = sequence.blocks[2](outputs["normal/2"])
        assert not torch.equal(before, outputs["normal/3"])

    @pytest.mark.parametrize("hidden", [True, False], ids=["hidden FC layers", "classification layer only"])
    def test_penultimate_features_times_the_classifier_give_the_logits(self, make_case, in_memory, hidden) -> None:
        architecture = small_architecture()
        if not hidden:
            architecture = replace(architecture, fc=Pathway("fc", (3,), ((1, 1, 1),), ("valid",), (0.5,)))
        network = with_random_statistics(DeepMedicNet(architecture)).eval()
        _, features = single(network, in_memory(make_case()), asked(PENULTIMATE, LOGITS, "fc/2" if hidden else "fc/1"))
        [weight] = network.fc.blocks[-1].convolution.parameters()
        logits = features[PENULTIMATE] @ weight[:, :, 0, 0, 0].T
        torch.testing.assert_close(logits + network.softmax.bias, features[LOGITS], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, features["fc/2" if hidden else "fc/1"], rtol=1e-4, atol=1e-5)

    def test_logits_are_those_of_inference_at_the_positions(self, make_case, in_memory) -> None:
        """Without low-resolution pathways a prediction does not depend on the tile it is made in."""
        architecture = small_architecture(subsampled=())
        fc = replace(architecture.fc, kernels=((1, 1, 1), (1, 1, 1)))
        network = with_random_statistics(DeepMedicNet(replace(architecture, fc=fc))).eval()
        case = make_case()
        found, features = single(network, in_memory(case), asked(LOGITS))
        probabilities = predict_volume(network, case, InferenceSettings(segment=SEGMENT)).probabilities
        x, y, z = found.voxels.positions.T
        torch.testing.assert_close(features[LOGITS].softmax(dim=1), probabilities[:, x, y, z].T, rtol=1e-4, atol=1e-5)


def hidden_layers_of(factor) -> tuple[str, ...]:
    return hidden_layers(identity_network(factor).architecture)


class TestStream:
    def test_all_networks_see_the_same_voxels_of_every_usable_case(self, make_case, in_memory) -> None:
        data = in_memory(make_case(name="a"), None, make_case(name="b", seed=1))
        networks = {
            "one": DeepMedicNet(small_architecture(), seed=1),
            "two": DeepMedicNet(small_architecture(), seed=2),
        }
        calls = []
        found = list(stream_features(networks, data, SEGMENT, asked(), lambda *call: calls.append(call)))
        assert [case.name for case in found] == ["a", "b"]
        assert calls == [("a", 1, 3), ("unusable", 2, 3), ("b", 3, 3)]
        for case in found:
            for features in case.features.values():
                assert tuple(features) == hidden_layers(small_architecture())
                assert {len(values) for values in features.values()} == {len(case.labels)}

    def test_batches_change_rounding_only_and_a_repetition_nothing(self, make_case, in_memory) -> None:
        network, data = DeepMedicNet(small_architecture(), seed=1), in_memory(make_case())
        _, first = single(network, data, asked())
        _, again = single(network, data, asked())
        _, one_by_one = single(network, data, asked(batch_memory=1))
        for layer, values in first.items():
            assert torch.equal(values, again[layer])
            torch.testing.assert_close(values, one_by_one[layer], rtol=1e-4, atol=1e-5)

    def test_bytes_per_voxel_are_those_of_the_tensors(self, make_case, in_memory) -> None:
        network = DeepMedicNet(small_architecture())
        found, features = single(network, in_memory(make_case()), asked(*all_layers(network.architecture), LOGITS))
        held = sum(values.nbytes for values in features.values())
        assert bytes_per_voxel(network.architecture, tuple(features)) * len(found.labels) == held

    def test_moments_are_those_of_what_batch_norm_sees(self, make_case, in_memory) -> None:
        """In training mode a single batch leaves its mean and variance in the window of each layer."""
        architecture = small_architecture(batch_norm_window=1)
        architecture = replace(architecture, fc=replace(architecture.fc, dropout_rates=(0.0, 0.0)))
        kernels = architecture.normal.kernels
        without = {"dropout_rates": (0.0,) * len(kernels)}
        parallel = [replace(pathway, **without) for pathway in architecture.parallel]
        architecture = replace(architecture, normal=parallel[0], subsampled=tuple(parallel[1:]))
        network = with_random_statistics(DeepMedicNet(architecture)).eval()
        found, _ = single(network, in_memory(make_case()), asked("normal/1", moments_of=("net",)))
        first = found.moments["net"]["normal/2"]
        images = normal_inputs(network, make_case(), found.voxels.starts)
        seen = network.parallel[0].blocks[0](images)
        torch.testing.assert_close(first.mean.float(), seen.mean(dim=(0, 2, 3, 4)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            first.variance.float(), seen.var(dim=(0, 2, 3, 4), correction=0), rtol=1e-4, atol=1e-5
        )
        assert "normal/1" not in found.moments["net"]

    def test_moments_of_parts_add_up(self) -> None:
        images = torch.randn(4, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
        whole, parts = ChannelMoments.of(images), ChannelMoments.of(images[:1]) + ChannelMoments.of(images[1:])
        torch.testing.assert_close(whole.mean, parts.mean)
        torch.testing.assert_close(whole.variance, parts.variance)

    def test_networks_that_predict_other_voxels_are_refused(self, make_case, in_memory) -> None:
        networks = {"A": DeepMedicNet(small_architecture()), "B": DeepMedicNet(small_architecture(subsampled=()))}
        with pytest.raises(ModelError, match="models A and B do not see and predict the same voxels"):
            list(stream_features(networks, in_memory(make_case()), SEGMENT, asked()))

    def test_segments_that_are_too_small_are_refused(self, make_case, in_memory) -> None:
        with pytest.raises(ModelError, match=r"segments of \(3, 3, 3\) voxels are too small for model A"):
            list(stream_features({"A": DeepMedicNet(small_architecture())}, in_memory(), (3, 3, 3), asked()))


def normal_inputs(network, case, starts) -> torch.Tensor:
    """The normal pathway's segments, cut one by one."""
    return torch.stack([case.channels[:, x : x + 11, y : y + 11, z : z + 11] for x, y, z in starts.tolist()]).float()


def test_layers_without_a_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layer fc/9: the model has the layers normal/1, .*, penultimate, fc/2"):
        bytes_per_voxel(small_architecture(), ("fc/9",))
    assert pathway_of(small_architecture(), PENULTIMATE).name == "fc"
