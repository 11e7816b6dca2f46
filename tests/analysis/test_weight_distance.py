"""Distances of weights, on tensors whose norms are known, and on networks of which one layer changed."""

from __future__ import annotations

import math

import pytest
import torch
from random_architectures import small_architecture

from deepmedic.analysis.layer_units import layer_of, layers_of
from deepmedic.analysis.weight_distance import distance, total_l2, weight_distances
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import tensors_of


class TestDistance:
    def test_by_hand(self) -> None:
        first = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])  # moved by 4
        second = torch.zeros(3), torch.tensor([0.0, 0.0, 3.0])  # moved by 3
        found = distance([first, second])
        assert found.l2 == pytest.approx((4 / 2 + 3 / 3) / 2)
        assert found.relative == pytest.approx(5 / math.sqrt(18))
        assert found.cosine == pytest.approx(9 / (5 * math.sqrt(18)))

    def test_what_is_not_defined(self) -> None:
        nothing, one = torch.zeros(2), torch.ones(2)
        assert math.isnan(distance([]).l2)
        assert distance([(nothing, nothing)]) == distance([(one, one)])
        assert distance([(one, one)]).cosine == 1.0
        from_zero = distance([(one, nothing)])
        assert (from_zero.relative, math.isnan(from_zero.cosine)) == (math.inf, True)
        assert math.isnan(distance([(nothing, one)]).cosine)


class TestLayers:
    @pytest.mark.parametrize("role", ["weight", "bn_beta", "bn_var_rolling"])
    def test_only_the_layer_that_changed_has_a_distance_in_only_its_column(self, role) -> None:
        architecture = small_architecture()
        start = tensors_of(DeepMedicNet(architecture))
        name = next(name for name in start if name.startswith("normal/3/") and name.endswith(role))
        rows = weight_distances(architecture, {**start, name: start[name] + 1.0}, start)
        assert [row.layer for row in rows] == list(layers_of(architecture))
        assert [row.layer for row in rows if not row.unchanged] == ["normal/3"]
        [changed] = [row for row in rows if not row.unchanged]
        columns = {"weight": "weights", "bn_beta": "batch_norm", "bn_var_rolling": "statistics"}
        moved = [column for column in columns.values() if getattr(changed, column).l2 > 0]
        assert moved == [columns[role]]

    def test_the_total_is_the_mean_over_layers(self) -> None:
        architecture = small_architecture()
        start = tensors_of(DeepMedicNet(architecture))
        trained = {**start, "fc/1/weight": start["fc/1/weight"] + 1.0}
        rows = weight_distances(architecture, trained, start)
        assert total_l2(rows) == pytest.approx(sum(row.weights.l2 for row in rows) / len(rows))
        assert total_l2(rows) > 0

    def test_the_softmax_bias_belongs_to_the_last_layer(self) -> None:
        architecture = small_architecture()
        last = f"fc/{architecture.fc.depth}"
        assert layer_of(architecture, "softmax/bias") == last
        start = tensors_of(DeepMedicNet(architecture))
        rows = weight_distances(architecture, {**start, "softmax/bias": start["softmax/bias"] + 1.0}, start)
        assert [row.layer for row in rows if not row.unchanged] == [last]
