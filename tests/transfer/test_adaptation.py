"""Models adapted to other classes and image channels."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from transfer_models import A_DOZEN, architecture, inputs_for, model, probabilities

from deepmedic.errors import ModelError
from deepmedic.model.saved import DataDescription, SavedModel
from deepmedic.transfer.adaptation import adapt_model

CHANNELS, CLASSES = ("T1", "T2"), ("background", "oedema", "core")


def trained(**others) -> SavedModel:
    """A model that looks as if it had been trained on two channels and three classes."""
    saved = model(architecture(classes=3, **others), channel_names=CHANNELS, class_names=CLASSES, seed=2)
    saved.start_parameters = {name: tensor.clone() for name, tensor in saved.parameters.items()}
    saved.training = {"session": "s", "save_index": 3}
    saved.rolling_rows = {name.rpartition("/")[0]: 2 for name in saved.parameters if name.endswith("mean_rolling")}
    saved.data = DataDescription(spacing=(1.0, 1.0, 1.0), zscore={"cutoff_percents": [5, 95]}, intensities=[{}, {}])
    saved.dialect = "tensorflow"
    return saved


class TestSameClasses:
    @pytest.mark.parametrize(
        "request_",
        [
            {},
            {"n_classes": 3},
            {"class_names": CLASSES},
            {"class_names": list(CLASSES), "n_classes": 3, "channel_names": CHANNELS, "n_channels": 2},
            {"class_frequencies": (0.9, 0.05, 0.05)},
        ],
    )
    def test_the_output_is_the_same_bit_by_bit(self, request_) -> None:
        source = trained()
        result = adapt_model(source, **request_)
        inputs = inputs_for(source.architecture)
        assert torch.equal(probabilities(result.model, inputs), probabilities(source, inputs))
        assert result.report.share == 1.0
        assert result.model.config == source.config
        assert result.model.data == source.data
        assert result.model.rolling_rows == source.rolling_rows

    @pytest.mark.parametrize("name", A_DOZEN)
    def test_of_every_architecture(self, name) -> None:
        described, names = A_DOZEN[name]
        source = model(described, **names)
        result = adapt_model(source, n_classes=described.classes)
        inputs = inputs_for(described)
        assert torch.equal(probabilities(result.model, inputs), probabilities(source, inputs))

    def test_the_result_is_untrained_and_knows_its_source(self) -> None:
        result = adapt_model(trained(), n_classes=3, source_sha256="5a1e")
        assert not result.model.trained
        assert result.model.training is None
        assert result.model.dialect == "tensorflow"
        provenance = result.model.provenance
        assert (provenance["kind"], provenance["source"]) == ("adapted", "5a1e")
        assert provenance["map"]["fc/2"] == "fc/2"
        assert set(provenance) == {"kind", "source", "map"}

    def test_classes_in_another_order_exchange_their_probabilities(self) -> None:
        source = trained()
        result = adapt_model(source, class_names=("core", "background", "oedema"))
        inputs = inputs_for(source.architecture)
        wanted = probabilities(source, inputs)[:, [2, 0, 1]]
        torch.testing.assert_close(probabilities(result.model, inputs), wanted, rtol=0, atol=1e-7)


class TestNewClasses:
    @pytest.mark.parametrize(
        "request_",
        [{"n_classes": 4}, {"class_names": ("a", "b", "c", "d")}, {"n_classes": 4, "channel_names": ("T2", "CT")}],
    )
    def test_a_new_layer_predicts_the_class_frequencies(self, request_) -> None:
        frequencies = (0.7, 0.2, 0.07, 0.03)
        result = adapt_model(trained(), class_frequencies=frequencies, **request_)
        found = probabilities(result.model, inputs_for(result.model.architecture))
        for number, frequency in enumerate(frequencies):
            np.testing.assert_allclose(found[:, number], frequency, rtol=0, atol=1e-6)
        assert result.model.config.class_names == request_.get("class_names")
        assert result.model.architecture.classes == result.model.architecture.fc.feature_maps[-1] == 4

    def test_without_frequencies_all_are_equal(self) -> None:
        result = adapt_model(trained(), n_classes=5)
        found = probabilities(result.model, inputs_for(result.model.architecture))
        np.testing.assert_allclose(found, 0.2, rtol=1e-6)

    def test_counts_serve_as_frequencies(self) -> None:
        result = adapt_model(trained(), n_classes=2, class_frequencies=(300, 100))
        np.testing.assert_allclose(result.model.parameters["softmax/bias"].exp(), [0.75, 0.25], rtol=1e-6)

    def test_its_weights_learn(self) -> None:
        result = adapt_model(trained(), n_classes=2)
        network = result.model.network().train()
        for _, _, block in network.named_blocks():
            block.dropout.rate = 0.0  # of the few voxels here, it may hide all that a feature map gives
        inputs = inputs_for(result.model.architecture)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            logits = network(*inputs)
            labels = (torch.arange(logits[:, 0].numel()).view_as(logits[:, 0]) % 3 == 0).long()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        weights = [weight for _, _, block in network.named_blocks() for weight in block.convolution.parameters()]
        assert all((weight.grad.abs().sum(dim=(1, 2, 3, 4)) > 0).all() for weight in weights)
        assert (weights[-1] != 0).all()

    def test_layers_below_are_kept(self) -> None:
        source = trained()
        result = adapt_model(source, n_classes=2)
        for name, tensor in source.parameters.items():
            if name not in ("fc/2/weight", "softmax/bias"):
                assert torch.equal(result.model.parameters[name], tensor)
                assert result.report.tensors[name].status == "copied"
        assert result.report.tensors["fc/2/weight"].status == "new"

    def test_classes_known_by_name_keep_their_rows(self) -> None:
        source = trained()
        wanted = ("background", "core", "bleeding", "oedema")
        result = adapt_model(source, class_names=wanted, class_frequencies=(0.9, 0.04, 0.01, 0.05))
        weight, bias = result.model.parameters["fc/2/weight"], result.model.parameters["softmax/bias"]
        assert torch.equal(weight[[0, 1, 3]], source.parameters["fc/2/weight"][[0, 2, 1]])
        assert torch.equal(bias[[0, 1, 3]], source.parameters["softmax/bias"][[0, 2, 1]])
        assert not weight[2].any()
        assert bias[2].item() == pytest.approx(math.log(0.01))
        assert result.report.tensors["fc/2/weight"].note == "class 2 from zero"
        assert result.report.tensors["softmax/bias"].note == "log frequency of class 2"

    def test_names_say_nothing_of_the_classes_of_a_model_without_names(self) -> None:
        source = model(architecture(classes=3))
        result = adapt_model(source, class_names=CLASSES)
        assert result.report.tensors["fc/2/weight"].status == "new"

    def test_one_hidden_layer_less(self) -> None:
        source = model(architecture(hidden=()))
        found = adapt_model(source, n_classes=3).model
        np.testing.assert_allclose(probabilities(found, inputs_for(found.architecture)), 1 / 3, rtol=1e-6)


class TestNewChannels:
    def test_new_ones_change_nothing_at_first(self) -> None:
        source = trained()
        result = adapt_model(source, channel_names=("FLAIR", "T2", "T1"))
        inputs = inputs_for(result.model.architecture)
        wanted = probabilities(source, [images[:, [2, 1]] for images in inputs])
        torch.testing.assert_close(probabilities(result.model, inputs), wanted, rtol=0, atol=1e-6)
        assert result.model.config.channel_names == ("FLAIR", "T2", "T1")
        assert result.model.config.class_names == CLASSES
        assert result.report.tensors["normal/1/weight"].note == "image channel 0 from zero"

    def test_by_position_without_names(self) -> None:
        source = trained()
        result = adapt_model(source, n_channels=3)
        assert torch.equal(result.model.parameters["normal/1/weight"][:, :2], source.parameters["normal/1/weight"])
        assert not result.model.parameters["subsampled1/1/weight"][:, 2].any()
        assert result.model.config.channel_names is None

    def test_fewer_are_rescaled(self) -> None:
        source = trained()
        result = adapt_model(source, channel_names=("T2",))
        assert torch.equal(result.model.parameters["normal/1/weight"], 2 * source.parameters["normal/1/weight"][:, 1:])

    def test_what_is_known_of_single_channels_is_dropped(self) -> None:
        data = adapt_model(trained(), n_channels=3).model.data
        assert data == DataDescription(spacing=(1.0, 1.0, 1.0))

    def test_names_for_the_channels_of_a_model_without(self) -> None:
        source = model(architecture())
        result = adapt_model(source, channel_names=("T1", "CT"))
        assert torch.equal(result.model.parameters["normal/1/weight"], source.parameters["normal/1/weight"])
        assert result.model.config.channel_names == ("T1", "CT")


def file_of(saved: SavedModel) -> bytes:
    file = io.BytesIO()
    torch.save(saved.to_content(), file)
    return file.getvalue()


@pytest.mark.parametrize("request_", [{"n_classes": 3}, {"n_classes": 2, "n_channels": 1, "class_frequencies": (3, 1)}])
def test_the_source_is_never_modified(request_) -> None:
    source = trained()
    before = file_of(source)
    adapted = adapt_model(source, **request_).model
    for tensor in adapted.parameters.values():
        tensor.add_(1.0)
    adapted.rolling_rows.clear()
    adapted.data.spacing = None
    for values in (adapted.data.zscore, adapted.data.intensities):
        if values is not None:
            values.clear()
    assert file_of(source) == before


class TestRefusals:
    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            ({"n_classes": 1}, "1 class cannot be told apart; a model needs at least 2, with the background"),
            ({"n_classes": 0}, "0 classes cannot be told apart"),
            ({"class_names": ("lesion",)}, "1 class cannot be told apart"),
            ({"class_names": "lesion"}, "class names are one text, 'lesion'; give a list of names"),
            ({"class_names": ("a", "b", "a")}, "class names are a, b, a; a stands there twice"),
            ({"class_names": ("a", "b"), "n_classes": 3}, "2 class names (a, b) do not agree with a number of 3"),
            ({"n_channels": 0}, "0 image channels; a model needs at least 1"),
            ({"channel_names": ("T1",), "n_channels": 2}, "1 channel names (T1) do not agree with a number of 2"),
            (
                {"channel_names": ("CT", "PET")},
                "none of the channels CT, PET is one of the model's, T1, T2; name at least",
            ),
            ({"class_frequencies": (0.5, 0.5)}, "2 class frequencies are given; the new model has 3 classes"),
            ({"n_classes": 2, "class_frequencies": (1.0, 0.0)}, "the frequency of class 1 is 0"),
        ],
    )
    def test_says_why(self, request_, message) -> None:
        with pytest.raises(ModelError) as refusal:
            adapt_model(trained(), **request_)
        assert message in str(refusal.value)
