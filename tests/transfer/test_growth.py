"""Growth without forgetting: larger networks that compute what smaller ones compute, and why some cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, assume, given, settings

sys.path.insert(0, str(Path(__file__).parent))

from nested_architectures import matching_inputs, pairs
from transfer_models import K1, K3, architecture, fresh, model, probabilities

from deepmedic.config.architecture import Architecture
from deepmedic.errors import ModelError
from deepmedic.transfer.transplant import TransferOptions, TransferResult, transplant


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


EXACT = TransferOptions(grow="exact")


def grow(small: Architecture, large: Architecture, **names) -> TransferResult:
    return transplant(model(small, "small", 5, **names), fresh(large, "large", 6, **names), EXACT)


def check_equal(small: Architecture, large: Architecture) -> TransferResult:
    source = model(small, "small", 5)
    result = transplant(source, fresh(large, "large", 6), EXACT)
    small_inputs, large_inputs = matching_inputs(small, large)
    wanted, found = probabilities(source, small_inputs), probabilities(result.model, large_inputs)
    assert wanted.std() > 1e-4
    # Where logits are large, float32 rounds the small network itself by more than 1e-6.
    precisely = probabilities(source, small_inputs, torch.float64)
    rounding = (wanted - precisely).abs().max().item()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 + 2 * rounding)
    found = probabilities(result.model, large_inputs, torch.float64)
    torch.testing.assert_close(found, precisely, rtol=0, atol=1e-6)
    return result


class TestExactness:
    @settings(max_examples=50, deadline=None, phases=[Phase.generate])
    @given(pair=pairs())
    def test_the_larger_network_computes_what_the_smaller_one_does(self, pair) -> None:
        check_equal(*pair)

    @settings(max_examples=25, deadline=None, phases=[Phase.generate])
    @given(pair=pairs())
    def test_every_new_weight_learns(self, pair) -> None:
        """Zero weights learn in the first step, and what they listen to from then on.

        With stored statistics and without dropout: those of a few voxels can stop gradients in any network, as
        rectifiers can that are off for all of them.
        """
        assume(pair[1].activation != "relu")
        result = grow(*pair)
        network = result.model.network()
        _, inputs = matching_inputs(*pair)
        # Small steps: without batch statistics some of these random networks diverge with large ones.
        optimizer = torch.optim.SGD(network.parameters(), lr=0.002)
        for _ in range(4):
            logits = network(*inputs)
            labels = torch.randint(3, (logits.shape[0], *logits.shape[2:]), generator=torch.Generator().manual_seed(1))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        for pathway, layer, block in network.named_blocks():
            for weight in block.convolution.parameters():
                maps = weight.grad.abs().sum(dim=(1, 2, 3, 4))
                assert (maps > 0).all(), f"{pathway.name}/{layer}"

    def test_wider(self) -> None:
        check_equal(architecture(), architecture((5, 6), ((4, 5),), (7,)))

    def test_deeper_keeps_layers_at_their_index(self) -> None:
        report = check_equal(architecture(), architecture((3, 4, 4), ((3, 3, 3),), (5, 5))).report
        assert report.layer_map() == {
            "normal/1": "normal/1",
            "normal/2": "normal/2",
            "subsampled1/1": "subsampled1/1",
            "subsampled1/2": "subsampled1/2",
            "fc/1": "fc/1",
            "fc/3": "fc/2",
        }
        notes = {layer.name: layer.note for layer in report.layers if layer.source is None}
        assert notes == dict.fromkeys(("normal/3", "subsampled1/3", "fc/2"), "inserted, passes its input on")

    def test_deeper_by_flat_kernels_in_the_middle(self) -> None:
        kernels = (K3, (1, 3, 1), K3)
        report = check_equal(architecture(), architecture((3, 4, 4), ((3, 3, 3),), (5,), kernels=kernels)).report
        assert report.layer_map()["normal/3"] == "normal/2"

    def test_deeper_with_residuals_whatever_the_activation(self) -> None:
        small = architecture((3, 4), ((3, 3),), activation="elu")
        report = check_equal(small, architecture((3, 4, 2, 5), ((3, 3, 7, 4),), activation="elu", residual=(4,))).report
        assert [layer.note for layer in report.layers if layer.name in ("normal/3", "normal/4")] == [
            "inserted, under a residual connection",
            "inserted, adds nothing at first",
        ]

    def test_more_pathways_keep_to_those_of_their_factor(self) -> None:
        small = architecture((3, 4), ((3, 3),), factors=((5, 5, 5),))
        large = architecture((3, 4), ((4, 4), (5, 5)), factors=((3, 3, 3), (5, 5, 5)))
        report = check_equal(small, large).report
        assert report.layer_map()["subsampled2/1"] == "subsampled1/1"
        note = next(layer.note for layer in report.layers if layer.name == "subsampled1/2")
        assert note == "the FC pathway does not listen to this pathway at first"

    def test_layers_before_the_first_fc_layer(self) -> None:
        small = architecture(hidden=(5,), fc_kernels=(K3, K1), fc_paddings=("zero", "valid"))
        large = architecture(hidden=(9, 5), fc_kernels=(K1, K3, K1), fc_paddings=("valid", "zero", "valid"))
        assert check_equal(small, large).report.layer_map()["fc/2"] == "fc/1"

    def test_an_unpadded_fc_layer_on_the_grid_of_the_low_resolution_pathway(self) -> None:
        small = architecture(hidden=(5,), factors=((2, 2, 2),))
        five = (5, 5, 5)
        large = architecture(hidden=(5, 5), factors=((2, 2, 2),), fc_kernels=(K1, five, K1))
        check_equal(small, large)

    def test_residuals_of_growing_width(self) -> None:
        """New channels of the earlier layer must not reach what the small network's residual leaves alone."""
        small = architecture((3, 3, 4, 5), (), residual=(3, 4))
        for maps in ((5, 5, 6, 7), (5, 5, 5, 5), (3, 5, 4, 5), (6, 3, 4, 9)):
            check_equal(small, architecture(maps, (), residual=(3, 4)))

    def test_silent_kernels_learn_through_the_residual(self) -> None:
        small, large = architecture((3, 4, 5), (), residual=(3,)), architecture((5, 4, 5), (), residual=(3,))
        result = check_equal(small, large)
        weight = result.model.parameters["normal/1/weight"]
        assert not weight[3:].any()
        network = result.model.network().train()
        network(*matching_inputs(small, large)[1]).square().sum().backward()
        assert network.parallel[0].blocks[0].convolution.weight.grad[3:].abs().sum(dim=(1, 2, 3, 4)).gt(0).all()

    def test_low_rank_layers(self) -> None:
        small = architecture((4, 7), ((3, 5),), low_rank=(2,))
        check_equal(small, architecture((5, 11), ((5, 8),), low_rank=(2,)))
        check_equal(small, architecture((5, 11, 12), ((5, 9, 9),), low_rank=(2, 3)))

    def test_relu_and_linear_are_slopes_of_prelu(self) -> None:
        for activation, slope in (("relu", 0.0), ("linear", 1.0)):
            result = check_equal(architecture(activation=activation), architecture((4, 5)))
            alpha = result.model.parameters["normal/2/prelu_alpha"]
            assert alpha[:3].tolist() == [slope] * 3
            assert alpha[3] == pytest.approx(0.01)

    def test_dropout_rates_are_made_up_for(self) -> None:
        small = architecture(fc_dropout=(0.0, 0.5))
        result = check_equal(small, architecture(hidden=(6,), fc_dropout=(0.2, 0.0)))
        assert result.report.tensors["fc/2/weight"].note == "times 0.5 for the dropout rate"
        assert result.report.tensors["fc/1/weight"].note == "times 1.25 for the dropout rate"

    def test_constant_feature_maps_pass(self) -> None:
        source = model(architecture(), "small")
        source.parameters["fc/1/bn_var_rolling"][:, 2] = 0
        result = transplant(source, fresh(architecture((3, 4, 4), ((3, 3, 3),))), EXACT)
        small_inputs, large_inputs = matching_inputs(source.architecture, result.model.architecture)
        torch.testing.assert_close(
            probabilities(result.model, large_inputs), probabilities(source, small_inputs), rtol=0, atol=1e-6
        )
        assert (result.model.parameters["normal/3/bn_var_rolling"] > 0).all()

    def test_inserted_batch_norms_know_the_statistics_of_their_input(self) -> None:
        source = model(architecture(), "small")
        result = transplant(source, fresh(architecture((3, 4, 5), ((3, 3, 3),))), EXACT)
        found, given = result.model.parameters, source.parameters
        assert torch.equal(found["normal/3/bn_mean_rolling"], given["fc/1/bn_mean_rolling"][:, :4])
        assert torch.equal(found["subsampled1/3/bn_var_rolling"], given["fc/1/bn_var_rolling"][:, 4:])

    def test_channels_and_classes_by_name_in_another_order(self) -> None:
        source = model(architecture(), "small", channel_names=("T1", "T2"), class_names=("background", "lesion"))
        target = fresh(
            architecture((4, 4), channels=3),
            channel_names=("T2", "FLAIR", "T1"),
            class_names=("lesion", "background"),
        )
        result = transplant(source, target, EXACT)
        inputs = matching_inputs(source.architecture, target.architecture)[1]
        wanted = probabilities(source, [images[:, [2, 0]] for images in inputs])
        torch.testing.assert_close(probabilities(result.model, inputs), wanted.flip(1), rtol=0, atol=1e-6)

    def test_provenance(self) -> None:
        result = transplant(
            model(architecture(), "small"), fresh(architecture((4, 4)), seed=9), replace(EXACT, source_sha256="5a1e")
        )
        assert result.report.kind == "grown"
        assert {key: result.model.provenance[key] for key in ("kind", "source", "grow", "seed")} == {
            "kind": "pretrained",
            "source": "5a1e",
            "grow": "exact",
            "seed": 9,
        }


BASE = architecture()


class TestRefusals:
    @pytest.mark.parametrize(
        ("small", "large", "reason"),
        [
            (
                BASE,
                architecture((2, 4)),
                "pathway normal: layer 1: among its 2 feature maps there is no place for feature "
                "map 2 of the source model",
            ),
            (BASE, architecture((5,), ((3,),)), "pathway normal: it has 1 layers, and the source model's has 2"),
            (BASE, architecture(classes=3), "it has 3 classes and the source model has 2"),
            (BASE, architecture(channels=1), "it lacks image channels of the source model: number 1 (counted from 0)"),
            (BASE, architecture(activation="elu"), "its activation is elu and that of the source model prelu"),
            (BASE, architecture(batch_norm_window=0), "the source model has batch normalisation and it has none"),
            (architecture(batch_norm_window=0), BASE, "it has batch normalisation and the source model has none"),
            (
                BASE,
                architecture(batch_norm_epsilon=0.001),
                "its batchNormEpsilon is 0.001 and the source model's 1.17549e",
            ),
            (
                BASE,
                architecture(factors=((2, 2, 2),)),
                "it has no low-resolution pathway for the source model's with factor [3, 3, 3]",
            ),
            (BASE, architecture(subsampled=()), "it has no low-resolution pathway"),
            (
                BASE,
                architecture(kernels=((3, 3, 1), K3)),
                "pathway normal: layer 1: its kernels are 3x3x1 and those of layer 1 of the source model 3x3x3",
            ),
            (
                BASE,
                architecture((3, 6), ((3, 6),), low_rank=(2,)),
                "layer 2: it has low-rank kernels, and layer 2 of the source model has none",
            ),
            (
                architecture((3, 3)),
                architecture((3, 3), residual=(2,)),
                "layer 2: it has a residual connection, and layer 2 of the source model has none",
            ),
            (
                architecture(activation="relu"),
                architecture((3, 4, 4), ((3, 3, 3),), activation="relu"),
                "pathway normal: layer 3: a layer with activation relu cannot be inserted, because it cannot pass its "
                "input on unchanged; use prelu, or insert two layers with a residual connection over both",
            ),
            (
                BASE,
                architecture((3, 4, 3), ((3, 3, 3),)),
                "layer 3: it has 3 feature maps and must pass on 4 of the source",
            ),
            (
                BASE,
                architecture((3, 4, 9), ((3, 3, 3),), kernels=(K3, K3, (2, 2, 2))),
                "layer 3: the inserted layer's kernels of 2x2x2 have no voxel in their middle",
            ),
            (
                BASE,
                architecture((3, 4, 4), ((3, 3, 3),), residual=(3,)),
                "layer 3: an inserted layer cannot have a residual connection that reaches over a mapped one",
            ),
            (
                architecture(activation="relu"),
                architecture((3, 4, 5, 3), ((3, 3, 3, 3),), residual=(4,), activation="relu"),
                "layer 3: its residual connection passes 3 of 4 feature maps on",
            ),
            (
                architecture((3, 5), (), low_rank=(2,)),
                architecture((3, 6), (), low_rank=(2,)),
                "layer 2: among its 6 feature "
                "maps there is no place of the same group of low-rank kernels for feature map 4 of the source model",
            ),
            (
                BASE,
                architecture(hidden=(5, 5), fc_kernels=(K1, K3, K1)),
                "inserted layers of the FC pathway take (1, 1, 1) "
                "voxels off each side, which moves the grid of pathway subsampled1 with factor (3, 3, 3); pad them",
            ),
            (
                BASE,
                architecture(fc_paddings=("mirror", "valid"), fc_kernels=(K3, K1)),
                "pathway fc: layer 1: its kernels are 3x3x3 and those of layer 1 of the source model 1x1x1",
            ),
            (
                architecture(fc_paddings=("mirror", "valid"), fc_kernels=(K3, K1)),
                architecture(fc_paddings=("zero", "valid"), fc_kernels=(K3, K1)),
                'its padding is "zero" and that of layer 1 of the source model "mirror"',
            ),
            (
                architecture(subsampled=(), fc_paddings=("mirror", "valid"), fc_kernels=(K3, K1)),
                architecture(
                    subsampled=(), hidden=(5, 5), fc_paddings=("mirror", "valid", "valid"), fc_kernels=(K3, K3, K1)
                ),
                "layer 2: the inserted layer's unpadded kernels of 3x3x3 would move borders that layers before it pad",
            ),
            (
                architecture((3, 4), ((3, 3),)),
                architecture((3, 4, 4), ((3, 3),)),
                "inserted layers take (0, 0, 0) voxels off "
                "pathway subsampled1 and (2, 2, 2) off the normal pathway; they must take off the same",
            ),
            (
                architecture((3, 3, 4), (), channels=2, residual=(2,)),
                architecture((3, 3, 4), (), channels=3, residual=(2,)),
                "pathway normal: layer 2: among its 3 feature maps there is no place for feature map 2 of the source "
                "model without a residual that the source model does not add",
            ),
        ],
    )
    def test_says_why(self, small, large, reason) -> None:
        with pytest.raises(ModelError) as refusal:
            grow(small, large)
        message = str(refusal.value)
        assert message.startswith("-grow exact: model large cannot compute exactly what model small computes: ")
        assert reason in message
        assert message.endswith("Change its config, or transfer single layers without -grow")

    def test_names(self) -> None:
        source = model(BASE, "small", channel_names=("T1", "T2"), class_names=("background", "lesion"))
        with pytest.raises(ModelError, match=r"it lacks image channels of the source model: T2\. Change"):
            transplant(source, fresh(BASE, channel_names=("T1", "CT")), EXACT)
        with pytest.raises(
            ModelError, match="its classes are background, core, and those of the source model background, l"
        ):
            transplant(source, fresh(BASE, class_names=("background", "core")), EXACT)

    def test_impossible_depths_are_refused_quickly(self) -> None:
        """The search does not try every way to insert ten layers."""
        small = architecture((3,) * 10, (), kernels=(K1,) * 9 + (K3,))
        with pytest.raises(ModelError, match="layer"):
            grow(small, architecture((3,) * 20, (), kernels=(K1,) * 20))
