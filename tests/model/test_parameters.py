"""Names, strict loading, freezing and counting of parameters."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from random_architectures import random_inputs, small_architecture, with_random_statistics

from deepmedic.config.training import FreezeConfig
from deepmedic.errors import ConfigError, ModelError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet

SEGMENT = (9, 10, 9)


def make_net(**changes) -> DeepMedicNet:
    return with_random_statistics(DeepMedicNet(small_architecture(**changes)))


def snapshot(net: DeepMedicNet) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in parameters.named_tensors(net).items()}


def train(net: DeepMedicNet, steps: int = 3) -> None:
    net.train()
    optimizer = torch.optim.SGD([parameter for _, parameter in parameters.optimizer_order(net)], lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        logits = net(*random_inputs(net.architecture, SEGMENT, seed=step))
        l2 = sum(weight.square().sum() for weight in parameters.regularized(net))
        (logits.square().mean() + 0.01 * l2).backward()
        optimizer.step()


WITHOUT_EFFECT = {"normal/1/bias", "subsampled1/1/bias", "subsampled2/1/bias"}
"""What these add, the batch norm after the first convolution takes away again: their gradient is rounding noise."""


def moved(net: DeepMedicNet, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in snapshot(net).items() if not torch.equal(tensor, before[name])} - WITHOUT_EFFECT


class TestNames:
    def test_all_roles_of_a_network(self) -> None:
        assert list(parameters.named_tensors(make_net(subsampled=()))) == [
            *("normal/1/bias", "normal/1/weight"),
            *("normal/2/bn_gamma", "normal/2/bn_beta", "normal/2/prelu_alpha"),
            *("normal/2/weight_x", "normal/2/weight_y", "normal/2/weight_z"),
            *("normal/2/bn_mean_rolling", "normal/2/bn_var_rolling"),
            *("normal/3/bn_gamma", "normal/3/bn_beta", "normal/3/prelu_alpha", "normal/3/weight"),
            *("normal/3/bn_mean_rolling", "normal/3/bn_var_rolling"),
            *("fc/1/bn_gamma", "fc/1/bn_beta", "fc/1/prelu_alpha", "fc/1/weight"),
            *("fc/1/bn_mean_rolling", "fc/1/bn_var_rolling"),
            *("fc/2/bn_gamma", "fc/2/bn_beta", "fc/2/prelu_alpha", "fc/2/weight"),
            *("fc/2/bn_mean_rolling", "fc/2/bn_var_rolling"),
            "softmax/bias",
        ]

    def test_every_number_of_a_network_has_a_name(self) -> None:
        net = make_net()
        named = {id(tensor) for tensor in parameters.named_tensors(net).values()}
        others = [name for name, tensor in (*net.named_parameters(), *net.named_buffers()) if id(tensor) not in named]
        assert all(name.endswith(".next_row") for name in others)
        assert len(others) == len(parameters.rolling_rows(net))

    def test_derived_statistics_are_means_over_the_rows(self) -> None:
        net = make_net()
        derived, tensors = parameters.derived_tensors(net), parameters.named_tensors(net)
        assert len(derived) == 2 * len(parameters.rolling_rows(net))
        assert torch.equal(derived["fc/2/bn_var"], tensors["fc/2/bn_var_rolling"].mean(dim=0))
        assert torch.equal(derived["subsampled1/3/bn_mean"], tensors["subsampled1/3/bn_mean_rolling"].mean(dim=0))


class TestLoading:
    def test_copies_all_values(self) -> None:
        source, target = make_net(), DeepMedicNet(small_architecture(), seed=9)
        parameters.load_tensors(target, parameters.named_tensors(source))
        inputs = random_inputs(source.architecture, SEGMENT)
        assert torch.equal(source.eval()(*inputs), target.eval()(*inputs))
        train(source)
        assert not torch.equal(source.softmax.bias, target.softmax.bias)

    def test_refusal_lists_all_names_and_shapes_and_changes_nothing(self) -> None:
        net = make_net()
        before, tensors = snapshot(net), {name: tensor + 1 for name, tensor in snapshot(net).items()}
        del tensors["fc/2/prelu_alpha"]
        tensors["fc/3/weight"] = torch.zeros(2, 3, 1, 1, 1)
        tensors["normal/1/weight"] = torch.zeros(4, 1, 3, 3, 3)
        with pytest.raises(ModelError) as refusal:
            parameters.load_tensors(net, tensors)
        assert str(refusal.value) == (
            "the saved parameters do not fit this network:\n"
            "  missing: fc/2/prelu_alpha [7]\n"
            "  unexpected: fc/3/weight [2, 3, 1, 1, 1]\n"
            "  mismatched: normal/1/weight is [4, 1, 3, 3, 3], this network needs [4, 2, 3, 3, 3]\n"
            "Use the architecture they were saved with, or transfer the layers that fit with -pretrained."
        )
        assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(net).items())

    def test_parameters_of_another_architecture_are_refused(self) -> None:
        other = make_net(activation="relu", batch_norm_window=5)
        with pytest.raises(ModelError) as refusal:
            parameters.load_tensors(make_net(), parameters.named_tensors(other))
        assert "missing: subsampled2/3/prelu_alpha [4]" in str(refusal.value)
        assert "mismatched: fc/1/bn_mean_rolling is [5, 15], this network needs [3, 15]" in str(refusal.value)


class TestRollingRows:
    def test_count_training_batches_modulo_the_window(self) -> None:
        net = make_net()
        assert set(parameters.rolling_rows(net).values()) == {0}
        train(net, steps=4)
        rows = parameters.rolling_rows(net)
        parallel = [f"{pathway}/{layer}" for pathway in ("normal", "subsampled1", "subsampled2") for layer in (2, 3)]
        assert rows == dict.fromkeys([*parallel, "fc/1", "fc/2"], 1)
        restored = make_net()
        parameters.set_rolling_rows(restored, rows)
        assert parameters.rolling_rows(restored) == rows

    def test_other_layers_and_rows_are_refused(self) -> None:
        net = make_net()
        rows = parameters.rolling_rows(net)
        with pytest.raises(ModelError, match="row of layer fc/2 is 3; allowed are 0 to 2"):
            parameters.set_rolling_rows(net, rows | {"normal/2": 1, "fc/2": 3})
        assert set(parameters.rolling_rows(net).values()) == {0}
        del rows["fc/1"]
        with pytest.raises(ModelError, match=r"missing for \['fc/1'\], unexpected for \['normal/1'\]"):
            parameters.set_rolling_rows(net, rows | {"normal/1": 0})

    def test_network_without_batch_norm_has_none(self) -> None:
        net = make_net(batch_norm_window=0)
        parameters.set_rolling_rows(net, {})
        assert parameters.rolling_rows(net) == {}


class TestFreezing:
    CONFIG = FreezeConfig(normal=(1, 2), subsampled=((3,), ()), fc=(2,))
    FROZEN = ("normal/1", "normal/2", "subsampled1/3", "fc/2")

    def belongs_to_frozen(self, name: str) -> bool:
        return name.rpartition("/")[0] in (*self.FROZEN, "softmax")

    def test_frozen_layers_do_not_move_at_all(self) -> None:
        net = make_net()
        assert parameters.freeze(net, self.CONFIG) == list(self.FROZEN)
        before = snapshot(net)
        train(net, steps=2)
        assert moved(net, before) == {name for name in before if not self.belongs_to_frozen(name)} - WITHOUT_EFFECT
        rows = parameters.rolling_rows(net)
        assert (rows["normal/2"], rows["fc/2"], rows["fc/1"]) == (0, 0, 2)

    def test_frozen_layers_normalise_with_stored_statistics_in_training(self) -> None:
        net = make_net()
        parameters.freeze(net, FreezeConfig(normal=(2,)))
        block = net.parallel[0].blocks[1]
        images = 5 + torch.randn(2, 4, 5, 5, 5, generator=torch.Generator().manual_seed(0))
        in_training = block.normalization.train()(images)
        assert torch.equal(in_training, block.normalization.eval()(images))

    def test_moving_statistics_on_request(self) -> None:
        net = make_net()
        parameters.freeze(net, replace(self.CONFIG, batch_norm="moving"))
        before = snapshot(net)
        train(net)
        expected = {name for name in before if name.endswith("rolling") or not self.belongs_to_frozen(name)}
        assert moved(net, before) == expected - WITHOUT_EFFECT

    def test_frozen_parameters_are_not_optimised(self) -> None:
        net = make_net()
        everything = [name for name, _ in parameters.optimizer_order(net)]
        parameters.freeze(net, self.CONFIG)
        expected = [name for name in everything if not name.startswith((*self.FROZEN, "softmax"))]
        assert [name for name, _ in parameters.optimizer_order(net)] == expected
        assert len(parameters.regularized(net)) == sum("/weight" in name for name in everything)

    def test_freezing_again_starts_anew(self) -> None:
        net = make_net()
        parameters.freeze(net, self.CONFIG)
        assert parameters.freeze(net, FreezeConfig(fc=(1,), subsampled=())) == ["fc/1"]
        frozen = {
            name.rpartition("/")[0] for name, tensor in parameters.named_tensors(net).items() if is_frozen(tensor)
        }
        assert frozen == {"fc/1"}
        norms = [block.normalization for _, _, block in net.named_blocks()]
        assert [getattr(norm, "stored_statistics_only", False) for norm in norms] == [False] * 9 + [True, False]

    @pytest.mark.parametrize(
        ("subsampled", "expected"),
        [
            (None, ["subsampled1/1", "subsampled1/3", "subsampled2/1", "subsampled2/3"]),
            ((), []),
            ((2,), ["subsampled1/2", "subsampled2/2"]),
            (((2, 1), (3,)), ["subsampled1/1", "subsampled1/2", "subsampled2/3"]),
        ],
    )
    def test_lists_of_low_resolution_pathways(self, subsampled, expected: list[str]) -> None:
        frozen = parameters.freeze(make_net(), FreezeConfig(normal=(1, 3), subsampled=subsampled))
        assert frozen == ["normal/1", "normal/3", *expected]

    def test_inherited_list_leaves_out_what_a_shallower_pathway_lacks(self) -> None:
        shallow = replace(
            small_architecture().subsampled[0],
            feature_maps=(4, 4),
            kernels=((3, 3, 3), (3, 5, 3)),
            paddings=("valid",) * 2,
            dropout_rates=(0.0,) * 2,
            residual_layers=(),
        )
        frozen = parameters.freeze(make_net(subsampled=(shallow,)), FreezeConfig(normal=(2, 3)))
        assert frozen == ["normal/2", "normal/3", "subsampled1/2"]

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                FreezeConfig(normal=(1, 4, -1)),
                "layersToFreezeNormal = [1, 4, -1]: pathway normal has no layer 4, -1; allowed are 1 to 3",
            ),
            (FreezeConfig(fc=(0,)), "layersToFreezeFC = [0]: pathway fc has no layer 0; allowed are 1 to 2"),
            (
                FreezeConfig(subsampled=((1,), (5,))),
                "layersToFreezeSubsampled = [5]: pathway subsampled2 has no layer 5; allowed are 1 to 3",
            ),
            (
                FreezeConfig(subsampled=((1,), (1,), (1,))),
                "layersToFreezeSubsampled = [[1], [1], [1]]: this model has 2 low-resolution pathways; "
                "give one list of layers for all of them, or one list of layers for each",
            ),
        ],
    )
    def test_layers_that_do_not_exist_are_refused(self, config: FreezeConfig, message: str) -> None:
        net = make_net()
        with pytest.raises(ConfigError) as refusal:
            parameters.freeze(net, config)
        assert str(refusal.value) == message
        assert not any(is_frozen(tensor) for tensor in net.parameters())

    def test_low_resolution_layers_of_a_network_without_any_are_refused(self) -> None:
        net = make_net(subsampled=())
        with pytest.raises(ConfigError, match=r"layersToFreezeSubsampled = \[1\]: this model has 0 low-resolution"):
            parameters.freeze(net, FreezeConfig(subsampled=(1,)))
        assert parameters.freeze(net, FreezeConfig(normal=(1,), subsampled=())) == ["normal/1"]


def is_frozen(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad


class TestTable:
    def test_describes_every_layer(self) -> None:
        net = make_net(subsampled=small_architecture().subsampled[:1])
        parameters.freeze(net, FreezeConfig(normal=(2,), subsampled=(), fc=(2,)))
        rows = [
            (row.pathway, row.layer, row.kernel, row.feature_maps, row.receptive_field, row.parameters, row.frozen)
            for row in parameters.layer_table(net)
        ]
        assert rows == [
            ("normal", 1, (3, 3, 3), 4, (3, 3, 3), 2 + 4 * 2 * 27, False),
            ("normal", 2, (3, 3, 1), 5, (5, 5, 3), 3 * 4 + 4 * (1 * 9 + 1 * 3 + 3 * 3), True),
            ("normal", 3, (1, 3, 3), 6, (5, 7, 5), 3 * 5 + 6 * 5 * 9, False),
            ("subsampled1", 1, (3, 3, 3), 4, (3, 3, 3), 2 + 4 * 2 * 27, False),
            ("subsampled1", 2, (3, 3, 1), 4, (5, 5, 3), 3 * 4 + 4 * 4 * 9, False),
            ("subsampled1", 3, (1, 3, 3), 4, (5, 7, 5), 3 * 4 + 4 * 4 * 9, False),
            ("fc", 1, (3, 3, 3), 7, (7, 9, 7), 3 * 10 + 7 * 10 * 27, False),
            ("fc", 2, (1, 1, 1), 3, (7, 9, 7), 3 * 7 + 3 * 7 + 3, True),
        ]
        assert parameters.count_parameters(net) == sum(row[5] for row in rows)

    def test_of_an_architecture_is_that_of_its_network(self) -> None:
        architecture = small_architecture()
        assert parameters.layer_table(architecture) == parameters.layer_table(DeepMedicNet(architecture))

    def test_copies_of_a_network_are_described_alike(self) -> None:
        net = make_net()
        parameters.freeze(net, FreezeConfig(fc=(2,)))
        assert parameters.layer_table(copy.deepcopy(net)) == parameters.layer_table(net)
