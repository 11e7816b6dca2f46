from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepmedic.config.architecture import Architecture
from deepmedic.config.training import FreezeConfig, OptimizerConfig
from deepmedic.errors import ModelError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.optimisers import make_optimiser
from deepmedic.transfer.tensorflow_model import to_saved_model

KINDS = ("SGD", "Adam", "RMSProp")


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("variant", ["basic", "low rank"])
def test_the_optimiser_goes_on(
    kind: int, variant: str, imported: Any, simulated: Any, variants: Any, slots: Any
) -> None:
    architecture = variants[variant]
    saved, _ = simulated(architecture, kind)
    model = imported(architecture, saved)
    assert model.optimiser["kind"] == KINDS[kind]
    assert model.optimiser["steps"] == (140 if kind == 1 else 0)
    order = parameters.optimizer_order(DeepMedicNet(architecture))
    optimiser = make_optimiser(OptimizerConfig(kind=kind), order)
    optimiser.load_state_dict(model.optimiser)
    for slot, base in slots[kind].items():
        for number, (name, _) in enumerate(order):
            expected = saved[f"trainer/{base}_{number}" if number else f"trainer/{base}"]
            np.testing.assert_array_equal(optimiser.state_dict()["slots"][slot][name].numpy(), expected)


class TestFrozenLayers:
    """The original keeps no optimiser state of frozen layers."""

    FROZEN = ("normal/2", "subsampled1/2", "fc/2", "softmax")

    def trained_names(self, basic: Architecture) -> list[str]:
        net = DeepMedicNet(basic)
        parameters.freeze(net, FreezeConfig(normal=(2,), fc=(2,)))
        return [name for name, _ in parameters.optimizer_order(net)]

    def test_with_the_same_layers_frozen(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        saved, _ = simulated(basic, 0, self.FROZEN)
        names = self.trained_names(basic)
        state = imported(basic, saved, names).optimiser
        assert list(state["slots"]["velocity"]) == names
        np.testing.assert_array_equal(state["slots"]["velocity"][names[0]].numpy(), saved["trainer/velocities_for_mom"])
        last = saved[f"trainer/velocities_for_mom_{len(names) - 1}"]
        np.testing.assert_array_equal(state["slots"]["velocity"][names[-1]].numpy(), last)

    def test_with_other_layers_frozen(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        saved, _ = simulated(basic, 2, self.FROZEN)
        model = imported(basic, saved)
        assert model.optimiser is None
        total = len(parameters.optimizer_order(DeepMedicNet(basic)))
        assert (
            f"x.model.ckpt: its RMSProp state is of {len(self.trained_names(basic))} parameters, but {total} are to be "
            "trained; other layers were frozen then (layersToFreezeNormal, ...). Keep the weights and start "
            "optimisation anew with -resetOptimizer." in model.optimiser_problem
        )

    def test_with_as_many_other_parameters(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        saved, _ = simulated(basic, 2, ("normal/2",))
        net = DeepMedicNet(basic)
        parameters.freeze(net, FreezeConfig(subsampled=(2,)))
        model = imported(basic, saved, [name for name, _ in parameters.optimizer_order(net)])
        assert model.optimiser is None
        assert "its RMSProp state trainer/" in model.optimiser_problem
        assert "other layers were frozen then" in model.optimiser_problem


class TestTrainerState:
    def test_initial_checkpoint(self, imported: Any, config_of: Any, basic: Architecture, simulated: Any) -> None:
        saved, _ = simulated(basic)
        model = imported(basic, saved | {"trainer/num_epochs_trained": np.int64(0)})
        assert (model.epochs_trained, model.trained) == (0, False)
        assert model.optimiser is not None
        assert not to_saved_model(model, config_of(basic)).trained

    def test_network_alone(self, imported: Any, config_of: Any, basic: Architecture, simulated: Any) -> None:
        saved, _ = simulated(basic)
        model = imported(basic, {name: array for name, array in saved.items() if name.startswith("net/")})
        assert model.optimiser is None
        assert "holds no state of an optimiser. Keep the weights" in model.optimiser_problem
        assert to_saved_model(model, config_of(basic)).trained

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"trainer/num_epochs_trained": None}, "holds no trainer/num_epochs_trained"),
            ({"trainer/i_adam": None}, "the number of its Adam steps, trainer/i_adam, is missing"),
            ({"trainer/i_adam": np.float32("nan")}, "trainer/i_adam, is nan"),
            (
                {"trainer/vars_of_grads": np.full(2, np.inf, np.float32)},
                "its Adam state holds values that are infinite",
            ),
            ({"trainer/momentum_of_mine": np.ones(3, np.float32)}, "which none of DeepMedic's optimisers does"),
            ({"trainer/vars_of_grads": np.ones(2)}, "trainer/vars_of_grads is float64 [2]"),
        ],
        ids=str,
    )
    def test_states_that_cannot_be_used(
        self, imported: Any, changes: dict[str, Any], message: str, basic: Architecture, simulated: Any
    ) -> None:
        saved, _ = simulated(basic, 1)
        saved = {name: array for name, array in (saved | changes).items() if array is not None}
        model = imported(basic, saved)
        assert model.optimiser is None
        assert message in model.optimiser_problem

    @pytest.mark.parametrize("epochs", [np.int64(-3), np.float32("nan"), np.float64(1.5)])
    def test_impossible_epochs(self, imported: Any, epochs: Any, basic: Architecture, simulated: Any) -> None:
        saved, _ = simulated(basic)
        with pytest.raises(ModelError, match=rf"num_epochs_trained is {epochs}; allowed are whole numbers from 0"):
            imported(basic, saved | {"trainer/num_epochs_trained": epochs})
