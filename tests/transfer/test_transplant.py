"""Transfer between two models: every tensor against the rules written down once more, and every refusal."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from reference_transfer import RefusedError, arrays_of, assert_same, transfer
from transfer_models import A_DOZEN, K1, K3, K331, architecture, fresh, inputs_for, model, probabilities

from deepmedic.errors import DeepMedicError, ModelError
from deepmedic.transfer.transplant import TransferOptions, transplant

SOURCES = {name: model(described, name, seed=3, **names) for name, (described, names) in A_DOZEN.items()}
TARGETS = {name: fresh(described, name, seed=4, **names) for name, (described, names) in A_DOZEN.items()}


def expected(source, target, **options):
    names = tuple((saved.config.channel_names, saved.config.class_names) for saved in (source, target))
    before = (arrays_of(source.parameters), source.architecture, arrays_of(target.parameters), target.architecture)
    return transfer(*before, names=names, **options)


def check_against_the_rules(source, target, layers=None, transfer_classes=False) -> bool:
    """Return whether the transfer is allowed; both implementations must say the same."""
    options = TransferOptions(layers=layers, transfer_classes=transfer_classes)
    try:
        wanted = expected(source, target, depths=layers, classes_too=transfer_classes)
    except RefusedError:
        with pytest.raises(DeepMedicError) as refusal:
            transplant(source, target, options)
        assert refusal.value.exit_code == 5
        return False
    result = transplant(source, target, options)
    assert_same(arrays_of(result.model.parameters), wanted)
    check_report(result.report, source, target, wanted)
    return True


def check_report(report, source, target, wanted) -> None:
    """What the report says of each tensor agrees with where its numbers come from."""
    assert list(report.tensors) == [
        *(name for name in target.parameters if name != "softmax/bias"),
        "softmax/bias",
    ]
    for name, entry in report.tensors.items():
        own, found = target.parameters[name].numpy(), wanted[name]
        assert (entry.shape, entry.size) == (own.shape, own.size)
        assert int((own != found).sum()) <= entry.received
        if entry.status == "new":
            np.testing.assert_array_equal(found, own)
            assert (entry.source, entry.received) == (None, 0)
        elif entry.status == "copied":
            np.testing.assert_array_equal(found, source.parameters[entry.source].numpy())
            assert entry.received == own.size
    assert report.transferred == sum(entry.received for entry in report.tensors.values() if entry.trained)


class TestAllPairs:
    @pytest.mark.parametrize("name", A_DOZEN)
    def test_default(self, name) -> None:
        allowed = {other: check_against_the_rules(SOURCES[name], target) for other, target in TARGETS.items()}
        assert allowed[name]

    @pytest.mark.parametrize("name", A_DOZEN)
    def test_with_the_classes(self, name) -> None:
        allowed = {
            other: check_against_the_rules(SOURCES[name], target, transfer_classes=True)
            for other, target in TARGETS.items()
        }
        assert allowed[name]

    @pytest.mark.parametrize("layers", [(1,), (2, 1), (3,), (1, 2, 4), (4, 5), (6,)])
    def test_layers(self, layers) -> None:
        pairs = itertools.product(SOURCES.values(), TARGETS.values())
        allowed = [check_against_the_rules(source, target, layers) for source, target in pairs]
        assert True in allowed
        assert False in allowed


class TestCorrespondence:
    def test_a_wider_pathway_does_not_shift_the_next_one(self) -> None:
        source = model(architecture((3, 2), ((3, 2),), (2,)))
        target = fresh(architecture((3, 3), ((3, 2),), (2,)))
        weight = transplant(source, target).model.parameters["fc/1/weight"][:, :, 0, 0, 0]
        given = source.parameters["fc/1/weight"][:, :, 0, 0, 0]
        own = target.parameters["fc/1/weight"][:, :, 0, 0, 0]
        assert torch.equal(weight, torch.stack([given[:, 0], given[:, 1], own[:, 2], given[:, 2], given[:, 3]], dim=1))

    def test_additional_pathways_receive_from_the_last_one_but_the_fc_pathway_does_not_listen_as_to_it(self) -> None:
        source, target = SOURCES["base"], fresh(architecture((3, 4), ((3, 3), (3, 3))))
        result = transplant(source, target)
        found = result.model.parameters
        assert torch.equal(found["subsampled2/2/weight"], source.parameters["subsampled1/2/weight"])
        assert torch.equal(found["fc/1/weight"][:, 7:], target.parameters["fc/1/weight"][:, 7:])
        assert result.model.provenance["map"]["subsampled2/1"] == "subsampled1/1"

    def test_depths_of_the_source_reach_layers_at_other_depths_of_the_target(self) -> None:
        """The example of the original's documentation: depth 5 of a 7-layer model is the first FC layer."""
        source = model(architecture((2, 2, 3, 3), ((2, 2, 3, 3),), (4, 4)))
        target = fresh(architecture((3,) * 8, ((3,) * 8,), (5, 5)))
        report = transplant(source, target, TransferOptions(layers=(1, 2, 5))).report
        assert report.layer_map() == {
            "normal/1": "normal/1",
            "normal/2": "normal/2",
            "subsampled1/1": "subsampled1/1",
            "subsampled1/2": "subsampled1/2",
            "fc/1": "fc/1",
        }
        assert next(layer.depth for layer in report.layers if layer.name == "fc/1") == 9

    def test_the_classification_layer_brings_the_softmax_bias(self) -> None:
        source, target = SOURCES["base"], TARGETS["deeper"]
        result = transplant(source, target, TransferOptions(layers=(4,)))
        assert result.report.layer_map() == {"fc/3": "fc/2"}
        assert torch.equal(result.model.parameters["softmax/bias"], source.parameters["softmax/bias"])
        assert torch.equal(result.model.parameters["fc/3/weight"][:, :4], source.parameters["fc/2/weight"][:, :4])

    def test_a_classification_layer_on_the_fused_pathways_has_nothing_for_one_on_hidden_layers(self) -> None:
        result = transplant(SOURCES["no_hidden"], TARGETS["base"], TransferOptions(transfer_classes=True, layers=(1,)))
        weight = result.report.tensors["fc/2/weight"]
        assert (weight.status, weight.note) == ("new", "nothing corresponds")
        assert result.report.tensors["softmax/bias"].status == "copied"

    @pytest.mark.parametrize(("windows", "rows"), [((3, 5), 3), ((5, 2), 5)])
    def test_windows_of_another_length_keep_what_inference_normalises_with(self, windows, rows) -> None:
        source = model(architecture(batch_norm_window=windows[0]))
        target = fresh(architecture(batch_norm_window=windows[1]))
        result = transplant(source, target, TransferOptions(transfer_classes=True))
        found = result.model.parameters["normal/2/bn_var_rolling"]
        assert found.shape == (windows[1], 3)
        torch.testing.assert_close(found.mean(dim=0), source.parameters["normal/2/bn_var_rolling"].mean(dim=0))
        assert result.report.tensors["normal/2/bn_var_rolling"].note == f"every row is the mean of {rows} rows"
        inputs = inputs_for(source.architecture)
        torch.testing.assert_close(
            probabilities(result.model, inputs), probabilities(source, inputs), rtol=0, atol=1e-6
        )

    def test_a_model_transferred_whole_computes_the_same(self) -> None:
        source, target = SOURCES["low_rank"], TARGETS["low_rank"]
        result = transplant(source, target, TransferOptions(transfer_classes=True))
        inputs = inputs_for(source.architecture)
        assert torch.equal(probabilities(result.model, inputs), probabilities(source, inputs))
        assert result.report.share == 1.0
        assert {entry.status for entry in result.report.tensors.values()} == {"copied"}

    def test_low_rank_kernels_have_no_counterpart_in_full_ones(self) -> None:
        result = transplant(model(architecture((3, 6), (), low_rank=(2,))), fresh(architecture((3, 6), ())))
        weight = result.report.tensors["normal/2/weight"]
        assert (weight.status, weight.note) == ("new", "low-rank kernels in one of the models only")
        assert result.report.tensors["normal/2/bn_gamma"].status == "copied"
        assert "normal/2/weight_x" in result.report.unused

    def test_what_only_one_model_has_is_reported(self) -> None:
        report = transplant(SOURCES["base"], TARGETS["no_batch_norm_relu"]).report
        assert report.tensors["normal/2/bias"].note == "the source has none"
        assert {"normal/2/bn_gamma", "normal/2/prelu_alpha"} <= set(report.unused)
        assert report.notes == (
            "the activation is relu in the new model and prelu in the source model",
            "the source model has batch normalisation and the new model has none",
        )

    def test_other_epsilons_and_factors_are_noted(self) -> None:
        target = fresh(architecture(batch_norm_epsilon=1e-5, factors=((5, 5, 5),)))
        assert transplant(SOURCES["base"], target).report.notes == (
            "batchNormEpsilon is 1e-05 in the new model and 1.17549e-38 in the source model",
            "the factor of pathway subsampled1 is [5, 5, 5] in the new model and [3, 3, 3] in the source model",
        )


class TestNewModel:
    def test_neither_model_is_changed(self) -> None:
        source, target = model(architecture()), fresh(architecture((5, 6)))
        before = [arrays_of(saved.parameters) for saved in (source, target)]
        transplant(source, target, TransferOptions(transfer_classes=True, class_frequencies=(0.9, 0.1)))
        transplant(source, target, TransferOptions(grow="exact"))
        for saved, arrays in zip((source, target), before, strict=True):
            assert_same(arrays_of(saved.parameters), arrays)
            assert saved.provenance["kind"] == "new"

    def test_it_is_untrained_and_knows_what_it_was_made_from(self) -> None:
        source = SOURCES["base"]
        result = transplant(source, TARGETS["wider"], TransferOptions(layers=(1,), source_sha256="5a1e"))
        assert not result.model.trained
        assert result.model.provenance == {
            "kind": "pretrained",
            "source": "5a1e",
            "map": {"normal/1": "normal/1", "subsampled1/1": "subsampled1/1"},
            "seed": 4,
        }

    def test_a_damaged_source_is_refused(self) -> None:
        source = model(architecture())
        del source.parameters["fc/1/weight"]
        with pytest.raises(ModelError, match=r"missing: fc/1/weight \[5, 7, 1, 1, 1\]"):
            transplant(source, TARGETS["base"])


class TestRefusals:
    def refusal(self, source, target, **options) -> str:
        with pytest.raises(DeepMedicError) as refusal:
            transplant(source, target, TransferOptions(**options))
        assert refusal.value.exit_code == 5
        return str(refusal.value)

    def test_kernels_of_another_shape(self) -> None:
        source, target = model(architecture(subsampled=())), fresh(architecture(subsampled=(), kernels=(K3, K331)))
        assert self.refusal(source, target) == (
            "pathway normal, layer 2: kernels are 3x3x1 in the new model and 3x3x3 in the source model (normal/2); "
            "transferred kernels must have the same shape. Give the new model the source's kernels, or name with "
            "-layers only layers whose kernels agree"
        )

    def test_kernels_in_every_pathway_are_listed_together(self) -> None:
        message = self.refusal(SOURCES["base"], TARGETS["flat_kernels"], layers=(1,))
        assert "2 problems were found" in message
        assert "pathway normal, layer 1" in message
        assert "pathway subsampled1, layer 1" in message

    def test_a_source_that_is_too_shallow(self) -> None:
        message = self.refusal(model(architecture(subsampled=())), fresh(architecture((3, 4, 4), (), (5, 4))))
        assert message == (
            "the source model is not deep enough: pathway normal of the new model has 3 layers, pathway normal of the "
            "source model, which it would receive from, has 2; pathway fc of the new model has 3 layers, pathway fc of "
            "the source model, which it would receive from, has 2. Name the layers to transfer with -layers, by their "
            "depth in the source model: 1 to 2 are in its parallel pathways, 3 to 4 in its FC pathway, where 4 is the "
            "classification layer; these two models allow -layers 1 2 3. Or take all of the source over into a larger "
            "model with -grow exact"
        )

    @pytest.mark.parametrize("depth", [0, -1, 5])
    def test_a_depth_that_the_source_lacks(self, depth) -> None:
        assert self.refusal(SOURCES["base"], TARGETS["base"], layers=(1, depth)) == (
            f"-layers {depth}: the source model has no layer at depth {depth}; allowed are 1 to 4: 1 to 2 in its "
            "parallel pathways, 3 to 4 in its FC pathway, where 4 is the classification layer"
        )

    def test_a_depth_without_counterpart(self) -> None:
        assert self.refusal(SOURCES["deeper"], TARGETS["base"], layers=(3, 5)) == (
            "2 problems were found; nothing was started:\n"
            "  1. -layers 3: this is layer 3 of the source's parallel pathways, and no parallel pathway of the new "
            "model is that deep (layers: normal 2, subsampled1 2); leave 3 out, or give the new model more layers\n"
            "  2. -layers 5: this is hidden layer 2 of the source's FC pathway, and the new model's has 1 hidden "
            "layer; leave 5 out, or give the new model more layers in numberFMsPerLayerFC"
        )

    def test_no_depth_at_all(self) -> None:
        assert "names no layer" in self.refusal(SOURCES["base"], TARGETS["base"], layers=())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"new_channels": "random"}, 'newChannels is "random"; allowed are "keep", "zero", "mean" and "repeat"'),
            ({"grow": "roughly"}, '-grow is "roughly"; the only kind of growth is "exact"'),
            ({"grow": "exact", "layers": (1,)}, "-grow exact takes all layers of the source model over"),
            (
                {"grow": "exact", "new_channels": "mean"},
                "-grow exact starts new image channels from zero, and newChannels",
            ),
            ({"class_frequencies": (1.0,)}, "1 class frequencies are given; the new model has 2 classes"),
            ({"class_frequencies": (1.0, 0.0)}, "the frequency of class 1 is 0; allowed are finite numbers above 0"),
            ({"class_frequencies": (float("nan"), 1.0)}, "the frequency of class 0 is nan; allowed are finite"),
        ],
    )
    def test_options(self, options, message) -> None:
        assert message in self.refusal(SOURCES["base"], TARGETS["base"], **options)


class TestImageChannels:
    """First-layer weights; inputs of the new model show what the source's channels show."""

    def stem(self, channels, source_channels=2, names=(None, None), **options):
        source = model(architecture(channels=source_channels), channel_names=names[0])
        target = fresh(architecture(channels=channels), channel_names=names[1])
        result = transplant(source, target, TransferOptions(transfer_classes=True, **options))
        return source, result

    def test_by_default_new_channels_keep_their_random_weights(self) -> None:
        source, result = self.stem(3)
        weight = result.model.parameters["normal/1/weight"]
        assert torch.equal(weight[:, :2], source.parameters["normal/1/weight"])
        assert torch.equal(weight[:, 2], fresh(architecture(channels=3)).parameters["normal/1/weight"][:, 2])

    def test_zero_changes_nothing_whatever_the_new_channels_show(self) -> None:
        source, result = self.stem(4, new_channels="zero")
        inputs = inputs_for(result.model.architecture)
        old = [images[:, :2] for images in inputs]
        torch.testing.assert_close(probabilities(result.model, inputs), probabilities(source, old), rtol=0, atol=1e-6)
        assert result.report.tensors["normal/1/weight"].note == "image channel 2 from zero; image channel 3 from zero"

    @pytest.mark.parametrize("channels", [3, 4, 5])
    def test_repeated_channels_that_show_the_same_give_what_the_source_gives(self, channels) -> None:
        source, result = self.stem(channels, new_channels="repeat")
        old = inputs_for(source.architecture)
        repeated = [images[:, [channel % 2 for channel in range(channels)]] for images in old]
        torch.testing.assert_close(probabilities(result.model, repeated), probabilities(source, old), rtol=0, atol=1e-5)

    def test_repeated_weights_are_shared_among_the_copies(self) -> None:
        source, result = self.stem(4, new_channels="repeat")
        given = source.parameters["subsampled1/1/weight"]
        assert torch.equal(result.model.parameters["subsampled1/1/weight"], given.repeat(1, 2, 1, 1, 1) / 2)
        assert result.report.tensors["subsampled1/1/weight"].status == "sliced"

    @pytest.mark.parametrize("channels", [1, 3, 5])
    def test_mean_gives_what_the_source_gives_when_all_channels_show_the_same(self, channels) -> None:
        source, result = self.stem(channels, source_channels=1, new_channels="mean")
        old = inputs_for(source.architecture)
        same = [images.repeat(1, channels, 1, 1, 1) for images in old]
        torch.testing.assert_close(probabilities(result.model, same), probabilities(source, old), rtol=0, atol=1e-5)

    def test_mean_of_two(self) -> None:
        source, result = self.stem(3, new_channels="mean")
        given = source.parameters["normal/1/weight"]
        wanted = torch.cat([given, given.mean(dim=1, keepdim=True)], dim=1) * 2 / 3
        torch.testing.assert_close(result.model.parameters["normal/1/weight"], wanted)
        assert result.model.parameters["normal/1/bias"][2] == source.parameters["normal/1/bias"].mean()
        assert result.report.tensors["normal/1/weight"].note == (
            "image channel 2 from the mean of the source's; weights times 0.667"
        )

    def test_low_rank_first_layers_are_made_part_by_part(self) -> None:
        source = model(architecture((4, 4), (), low_rank=(1,)))
        target = fresh(architecture((7, 4), (), low_rank=(1,), channels=3))
        found = transplant(source, target, TransferOptions(new_channels="mean")).model.parameters
        for role in ("weight_x", "weight_y", "weight_z"):
            given, own = source.parameters[f"normal/1/{role}"], target.parameters[f"normal/1/{role}"]
            wanted = torch.cat([given, given.mean(dim=1, keepdim=True)], dim=1) * 2 / 3
            torch.testing.assert_close(found[f"normal/1/{role}"][: len(given)], wanted)
            assert torch.equal(found[f"normal/1/{role}"][len(given) :], own[len(given) :])

    def test_channels_are_matched_by_name(self) -> None:
        source, result = self.stem(2, 3, (("T1", "T2", "FLAIR"), ("FLAIR", "T1")))
        given = source.parameters["normal/1/weight"]
        assert torch.equal(result.model.parameters["normal/1/weight"], given[:, [2, 0]])
        assert torch.equal(result.model.parameters["normal/1/bias"], source.parameters["normal/1/bias"][[2, 0]])

    def test_names_on_one_side_alone_mean_position(self) -> None:
        source, result = self.stem(2, 2, (None, ("FLAIR", "T1")))
        assert torch.equal(result.model.parameters["normal/1/weight"], source.parameters["normal/1/weight"])

    @pytest.mark.parametrize("new_channels", ["zero", "mean", "repeat"])
    def test_the_same_channels_in_another_order_are_not_rescaled(self, new_channels) -> None:
        source, result = self.stem(2, 2, (("T1", "T2"), ("T2", "T1")), new_channels=new_channels)
        assert torch.equal(result.model.parameters["normal/1/weight"], source.parameters["normal/1/weight"].flip(1))

    def test_weights_make_up_for_missing_channels(self) -> None:
        source, result = self.stem(1, 2, new_channels="zero")
        given = source.parameters["normal/1/weight"]
        assert torch.equal(result.model.parameters["normal/1/weight"], 2 * given[:, :1])
        assert result.report.tensors["normal/1/weight"].note == "weights times 2"

    def test_zero_without_any_channel_in_common_is_refused(self) -> None:
        with pytest.raises(
            ModelError, match=r"no image channel of the new model is one of the source model.*channelNames"
        ):
            self.stem(2, 2, (("T1", "T2"), ("CT", "PET")), new_channels="zero")


class TestClasses:
    NAMES = (("background", "oedema", "core"), ("background", "core", "stroke", "oedema"))

    def result(self, **options):
        source = model(architecture(classes=3), class_names=self.NAMES[0])
        target = fresh(architecture(classes=4), class_names=self.NAMES[1])
        return source, target, transplant(source, target, TransferOptions(**options))

    @pytest.mark.parametrize("options", [{"transfer_classes": True}, {"layers": (1, 4)}])
    def test_rows_of_classes_that_both_know_are_kept(self, options) -> None:
        source, target, result = self.result(**options)
        found = result.model.parameters
        for role in ("fc/2/weight", "softmax/bias"):
            assert torch.equal(found[role][[0, 1, 3]], source.parameters[role][[0, 2, 1]])
            assert torch.equal(found[role][2], target.parameters[role][2])

    def test_new_classes_start_at_their_log_frequency(self) -> None:
        source, _, result = self.result(transfer_classes=True, class_frequencies=(0.5, 0.2, 0.1, 0.2))
        bias = result.model.parameters["softmax/bias"]
        assert bias[2].item() == pytest.approx(np.log(0.1))
        assert torch.equal(bias[[0, 1, 3]], source.parameters["softmax/bias"][[0, 2, 1]])
        assert result.report.tensors["softmax/bias"].note == "log frequency of class 2"

    def test_a_new_classification_layer_starts_at_the_frequencies_given_as_counts(self) -> None:
        *_, result = self.result(class_frequencies=(90, 5, 3, 2))
        np.testing.assert_allclose(result.model.parameters["softmax/bias"].exp(), [0.9, 0.05, 0.03, 0.02], rtol=1e-6)
        assert result.report.tensors["softmax/bias"].status == "new"

    def test_without_names_classes_correspond_by_position(self) -> None:
        source, target = model(architecture(classes=3)), fresh(architecture(classes=2))
        found = transplant(source, target, TransferOptions(transfer_classes=True)).model.parameters
        assert torch.equal(found["softmax/bias"], source.parameters["softmax/bias"][:2])


def test_fc_kernels_are_compared_too() -> None:
    source = model(architecture(fc_kernels=(K3, K1), fc_paddings=("mirror", "valid")))
    with pytest.raises(ModelError, match="pathway fc, layer 1: kernels are 1x1x1 in the new model and 3x3x3"):
        transplant(source, TARGETS["base"])
