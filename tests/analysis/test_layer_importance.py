"""Replaced layers: which tensors are, what the network loses, and that it is as before afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_architectures import small_architecture

from deepmedic.analysis.layer_importance import drawn_anew, layer_importance, units_of
from deepmedic.analysis.layer_units import layer_of, layers_of, replaced
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import tensors_of


@pytest.fixture
def network() -> DeepMedicNet:
    return DeepMedicNet(small_architecture(), seed=1).eval()


@pytest.fixture
def start() -> dict[str, torch.Tensor]:
    return tensors_of(DeepMedicNet(small_architecture(), seed=2))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[bool]:
    return [torch.equal(one[name], other[name]) for name in one]


class TestReplaced:
    def test_all_tensors_of_the_layer_and_no_other(self, network) -> None:
        before = tensors_of(network)
        other = {name: tensor + 1.0 for name, tensor in before.items()}
        with replaced(network, ["subsampled1/2"], other):
            inside = tensors_of(network)
        for name in before:
            expected = other if name.startswith("subsampled1/2/") else before
            assert torch.equal(inside[name], expected[name])
        assert any(name.endswith("bn_var_rolling") and name.startswith("subsampled1/2/") for name in before)
        assert all(same(before, tensors_of(network)))

    def test_layer_1_is_not_layer_10(self) -> None:
        names = ["normal/1/weight", "normal/10/weight", "normal/11/bn_gamma"]
        assert [layer_of(small_architecture(), name) for name in names] == ["normal/1", "normal/10", "normal/11"]

    def test_what_was_kept_comes_back_after_an_error(self, network, start) -> None:
        before = tensors_of(network)
        with pytest.raises(RuntimeError, match="segmenting failed"), replaced(network, ["normal/1"], start):
            raise RuntimeError("segmenting failed")
        assert all(same(before, tensors_of(network)))


class TestUnits:
    def test_layers_cumulative_units_pathways_and_all(self) -> None:
        architecture = small_architecture()
        units = {unit.name: unit.layers for unit in units_of(architecture)}
        assert units["normal/1-2"] == ("normal/1", "normal/2")
        assert units["normal/2-3"] == ("normal/2", "normal/3")
        assert units["normal"] == ("normal/1", "normal/2", "normal/3")
        assert units["all layers"] == layers_of(architecture)
        assert len(units) == len(set(units.values())) or architecture.fc.depth == 1
        assert set(layers_of(architecture)) <= set(units)


class TestImportance:
    def test_a_start_equal_to_the_trained_network_loses_nothing(self, network) -> None:
        def score(one: DeepMedicNet) -> float:
            return float(sum(tensor.detach().double().sum() for tensor in parameters.named_tensors(one).values()))

        found = list(layer_importance(network, tensors_of(network), score, 1, 0))
        assert {one.criticality for one in found} == {0.0}

    def test_drops_of_a_score_that_is_known(self, network, start) -> None:
        trained = tensors_of(network)

        def score(one: DeepMedicNet) -> float:
            """The share of tensors that are as trained."""
            return float(np.mean(same(trained, tensors_of(one))))

        changed = {name for name in trained if not torch.equal(trained[name], start[name])}
        for one in layer_importance(network, start, score, 3, 0):
            lost = [name for name in changed if layer_of(small_architecture(), name) in one.unit.layers]
            assert one.reference == 1.0
            assert one.criticality == pytest.approx(len(lost) / len(trained))
            assert len(one.rerandomised) == (3 if one.unit.kind in ("layer", "pathway") else 0)
        assert all(same(trained, tensors_of(network)))

    def test_mean_and_deviation_of_draws(self, network, start) -> None:
        scores = iter([0.8, 0.5, 0.7, 0.4, 0.1])
        [found] = layer_importance(network, start, lambda _: next(scores), 3, 0, units_of(network.architecture)[:1])
        assert found.criticality == pytest.approx(0.3)
        assert found.random_drop == pytest.approx((0.4, 0.3))


class TestDrawnAnew:
    def test_mean_and_deviation_are_those_of_the_tensor(self) -> None:
        values = torch.from_numpy(np.random.default_rng(0).gamma(2.0, 0.1, (40, 30, 3, 3, 3))).float()
        drawn = drawn_anew({"normal/2/weight": values}, 0, 0)["normal/2/weight"]
        assert (drawn.shape, drawn.dtype) == (values.shape, values.dtype)
        assert float(drawn.mean()) == pytest.approx(float(values.mean()), rel=0.02)
        assert float(drawn.std()) == pytest.approx(float(values.std()), rel=0.02)
        assert abs(float(torch.corrcoef(torch.stack([drawn.flatten(), values.flatten()]))[0, 1])) < 0.02

    def test_draws_differ_by_number_seed_and_name_and_repeat(self, start) -> None:
        one = drawn_anew(start, 0, 0)
        assert all(same(one, drawn_anew(dict(reversed(start.items())), 0, 0)))
        assert not torch.equal(one["fc/1/weight"], drawn_anew(start, 0, 1)["fc/1/weight"])
        assert not torch.equal(one["fc/1/weight"], drawn_anew(start, 1, 0)["fc/1/weight"])

    def test_statistics_of_batch_norm_are_not_drawn(self, start) -> None:
        left = set(start) - set(drawn_anew(start, 0, 0))
        assert left == {name for name in start if name.endswith(("bn_mean_rolling", "bn_var_rolling"))}
        assert left
