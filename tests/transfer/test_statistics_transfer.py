"""Transfer of statistics, of shuffled values, and of weights up to a depth, against the definition of each."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from transfer_models import architecture, fresh, model

from deepmedic.config.initialisation import Initialisation
from deepmedic.errors import ModelError
from deepmedic.transfer.options import TransferOptions
from deepmedic.transfer.statistics_transfer import deepest_kept, drawn_like, initialise, shuffled
from deepmedic.transfer.transplant import transplant

SHAPE = architecture(normal=(3, 4, 4), subsampled=((3, 3, 2),), hidden=(5, 6), activation="prelu")
SOURCE, TARGET = model(SHAPE, "source", seed=3), fresh(SHAPE, "target", seed=4)
DEEPEST = 5
"""3 layers of the parallel pathways, then 2 hidden ones of the FC pathway."""


def started(name, target=TARGET, seed=0, **options):
    return initialise(SOURCE, target, Initialisation.of(name), TransferOptions(**options), seed)


def equal(one, other) -> set[str]:
    """Layers of which all tensors are equal."""
    layers = {name.rpartition("/")[0] for name in one}
    return {
        layer
        for layer in layers
        if all(torch.equal(tensor, other[name]) for name, tensor in one.items() if name.rpartition("/")[0] == layer)
    }


def test_weights_up_to_the_last_hidden_layer_are_the_plain_transfer() -> None:
    plain = transplant(SOURCE, TARGET).model.parameters
    assert deepest_kept(SHAPE) == DEEPEST
    for name in ("WT", f"WT-ST-{DEEPEST}", f"WT-shuffle-{DEEPEST}"):
        found = started(name).model.parameters
        assert all(torch.equal(found[tensor], plain[tensor]) for tensor in plain), name


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("ST", set()),
        ("WT-ST-0", set()),
        ("WT-ST-1", {"normal/1", "subsampled1/1"}),
        ("WT-ST-4", {f"{way}/{layer}" for way in ("normal", "subsampled1") for layer in (1, 2, 3)} | {"fc/1"}),
        ("WT-ST-subsampled1", {f"subsampled1/{layer}" for layer in (1, 2, 3)}),
        ("shuffle", set()),
    ],
)
def test_layers_that_keep_their_weights(name, kept) -> None:
    parameters = started(name).model.parameters
    assert equal(SOURCE.parameters, parameters) == kept
    assert torch.equal(parameters["fc/3/weight"], TARGET.parameters["fc/3/weight"])  # the classifier is always new
    assert torch.equal(parameters["softmax/bias"], TARGET.parameters["softmax/bias"])


def test_batch_norm_is_that_of_a_new_model() -> None:
    parameters = started("WT-ST-1").model.parameters
    names = [name for name in parameters if "/bn_" in name and name.split("/")[1] != "1"]
    assert names
    assert all(torch.equal(parameters[name], TARGET.parameters[name]) for name in names)


def test_draws_have_the_mean_and_the_deviation_of_the_tensor() -> None:
    given = torch.linspace(-1.0, 3.0, 20_000).reshape(20, 10, 10, 10, 1) ** 3
    drawn = drawn_like(given, 7, "normal/1/weight")
    mean, deviation, count = float(given.mean()), float(given.std()), given.numel()
    assert (drawn.shape, drawn.dtype) == (given.shape, given.dtype)
    assert abs(float(drawn.mean()) - mean) < 4 * deviation / count**0.5  # four standard errors
    assert abs(float(drawn.std()) - deviation) < 4 * deviation / (2 * count) ** 0.5
    assert abs(np.corrcoef(drawn.flatten(), given.flatten())[0, 1]) < 4 / count**0.5


def test_every_tensor_is_drawn_from_its_own_statistics() -> None:
    parameters = dict(SOURCE.parameters)
    parameters["normal/2/weight"] = parameters["normal/2/weight"] * 0 + 5.0
    parameters["fc/1/prelu_alpha"] = torch.full_like(parameters["fc/1/prelu_alpha"], 0.3)
    source = model(SHAPE, "source", seed=3)
    source.parameters.update(parameters)
    found = initialise(source, TARGET, Initialisation.of("ST"), TransferOptions(), 0).model.parameters
    assert torch.equal(found["normal/2/weight"], parameters["normal/2/weight"])  # deviation 0
    assert torch.allclose(found["fc/1/prelu_alpha"], torch.tensor(0.3))
    assert float(found["normal/3/weight"].std()) > 0


def test_shuffled_values_are_the_same_in_another_order() -> None:
    given = SOURCE.parameters["normal/2/weight"]
    found = started("shuffle").model.parameters["normal/2/weight"]
    assert torch.equal(found.flatten().sort().values, given.flatten().sort().values)
    assert not torch.equal(found, given)
    assert torch.equal(shuffled(given, 0, "normal/2/weight"), found)


def test_the_seed_decides_the_draws_and_what_is_kept_does_not() -> None:
    one, again, other = (started("ST", seed=seed).model.parameters for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["fc/1/weight"], other["fc/1/weight"])
    partly = started("WT-ST-2", seed=1).model.parameters
    assert torch.equal(partly["fc/1/weight"], one["fc/1/weight"])


def test_a_smaller_model_receives_a_part_of_the_draws() -> None:
    smaller = fresh(architecture(normal=(2, 4, 4), subsampled=((3, 3, 2),), hidden=(5, 6), activation="prelu"), seed=4)
    whole, part = started("ST").model.parameters, started("ST", smaller).model.parameters
    assert torch.equal(part["normal/1/weight"], whole["normal/1/weight"][:2])


def test_layers_that_are_not_transferred_stay_random() -> None:
    parameters = started("ST", layers=(1,)).model.parameters
    assert equal(TARGET.parameters, parameters) >= {"normal/2", "normal/3", "fc/1", "fc/2", "fc/3"}
    assert not torch.equal(parameters["normal/1/weight"], TARGET.parameters["normal/1/weight"])


def test_the_report_and_the_model_say_what_was_taken() -> None:
    result = started("WT-ST-1")
    notes = {layer.name: layer.note for layer in result.report.layers}
    assert notes["normal/1"] == ""
    assert notes["fc/2"].startswith("statistics only")
    assert result.model.provenance["initialisation"] == "WT-ST-1"
    assert "initialisation" not in started("WT").model.provenance


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WT-ST-6", "no layer at depth 6 to keep; allowed are 0 to 5"),
        ("WT-ST-subsampled2", "no pathway subsampled2; it has normal, subsampled1, fc"),
    ],
)
def test_what_the_source_lacks_is_refused(name, message) -> None:
    with pytest.raises(ModelError, match=message):
        started(name)
