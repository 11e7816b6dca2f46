"""The training loop: whole iterations against the original, leaving on signals, and what is saved when."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from host_recording import Recorder as HostRecorder
from original_names import canonical, is_saved

from deepmedic.config.load import load_model_config
from deepmedic.config.optimisation import (
    ClassReweighting,
    FreezeConfig,
    LossConfig,
    LossWeights,
    OptimizerConfig,
    ScheduleConfig,
)
from deepmedic.config.training import TrainConfig
from deepmedic.errors import DivergedError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training import recorded_step
from deepmedic.training.early_stopping import initial_state
from deepmedic.training.history import VolumeRecord
from deepmedic.training.interruption import Interrupted, Interruption
from deepmedic.training.optimisers import make_optimiser
from deepmedic.training.recorder import Recorder, RecorderOutputs
from deepmedic.training.state import TrainingState
from deepmedic.training.trainer import Trainer, TrainerParts

GOLDEN = Path(__file__).parents[1] / "golden" / "trainsteps"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Golden:
    """One folder of `tests/golden/trainsteps`."""

    def __init__(self, name: str) -> None:
        folder = GOLDEN / name
        self.meta = json.loads((folder / "steps.json").read_text())
        with np.load(folder / "steps.npz") as arrays:
            self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        self.architecture = load_model_config(folder / "model.cfg").architecture

    def parameters(self, moment: str) -> dict[str, torch.Tensor]:
        return {
            canonical(key.partition(".")[2]): array
            for key, array in self.arrays.items()
            if key.startswith(moment) and is_saved(key)
        }

    def config(self) -> TrainConfig:
        options, names = self.meta["options"], ("normal", "subsampled", "fc")
        frozen = {
            pathway: tuple(block + 1 for block in blocks)
            for pathway, blocks in zip(names, options["frozen"], strict=True)
        }
        beta1, beta2, epsilon = options["b"]
        losses, reweighting = options["losses"], options["rew"] or {"type": None, "schedule": None}
        return TrainConfig(
            folder_for_output=Path("out"),
            epochs=2,
            subepochs=1,
            batch_size=self.meta["batch"],
            schedule=ScheduleConfig(kind="stable"),
            optimizer=OptimizerConfig(
                kind=options["opt"],
                learning_rate=options["lr"],
                momentum=options["mom"],
                nesterov=options["nest"],
                normalized_momentum=options["norm"],
                rms_rho=options["rho"],
                rms_epsilon=options["er"],
                adam_beta1=beta1,
                adam_beta2=beta2,
                adam_epsilon=epsilon,
                l1=options["l1"],
                l2=options["l2"],
            ),
            loss=LossConfig(
                weights=LossWeights(cross_entropy=losses["xentr"], iou=losses["iou"], dice=losses["dsc"]),
                reweighting=ClassReweighting(kind=reweighting["type"], schedule=reweighting["schedule"]),
            ),
            freezing=FreezeConfig(**frozen, batch_norm="moving"),
        )


class GivenBatches:
    """The golden batches, three to an epoch; notes the network's parameters before each step."""

    def __init__(self, golden: Golden, network: DeepMedicNet) -> None:
        self.golden, self.network, self.before_step = golden, network, []

    def subepoch(self, epoch: int, subepoch: int):
        return _GivenSubepoch(self, epoch)


class _GivenSubepoch:
    def __init__(self, batches: GivenBatches, epoch: int) -> None:
        self.batches, self.epoch = batches, epoch

    def __len__(self) -> int:
        return 3

    def __getitem__(self, batch: int):
        step, arrays = self.epoch * 3 + batch, self.batches.golden.arrays
        self.batches.before_step.append(copied(self.batches.network))
        return SimpleNamespace(
            inputs=[arrays["steps.x"][step], arrays["steps.x_sub_0"][step]], labels=arrays["steps.y_gt"][step].long()
        )

    def case_names(self, batch: int) -> list[str]:
        return [f"batch {batch}"]


def copied(network: DeepMedicNet) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in parameters.named_tensors(network).items()}


class Session:
    """A trainer on golden batches, and what it handed over to be saved."""

    def __init__(self, golden: Golden, *, validate_volumes=None, **changes) -> None:
        config = golden.config()
        self.network = DeepMedicNet(golden.architecture)
        parameters.load_tensors(self.network, golden.parameters("before."))
        parameters.freeze(self.network, config.freezing)
        self.batches = GivenBatches(golden, self.network)
        self.recorder = Recorder(config, ["a"] * golden.architecture.classes, RecorderOutputs())
        self.interruption = Interruption()
        self.saved = []
        self.state = TrainingState(session="golden", seed=0, origin={}, settings={})
        parts = TrainerParts(
            config=config,
            device=CPU,
            network=self.network,
            optimiser=make_optimiser(config.optimizer, parameters.optimizer_order(self.network)),
            training=self.batches,
            validation=None,
            validate_volumes=validate_volumes,
            recorder=self.recorder,
            save=lambda state, extra: self.saved.append((json.loads(json.dumps(state.to_plain())), extra)),
            interruption=self.interruption,
        )
        self.trainer = Trainer(parts, self.state)

    def positions(self) -> list[tuple]:
        keys = ("epoch", "subepoch", "stage", "batch", "step")
        return [tuple(state["position"][key] for key in keys) for state, _ in self.saved]


@pytest.fixture(scope="module", params=["rmsprop_all_trained", "adam_frozen_layers"])
def golden(request) -> Golden:
    return Golden(request.param)


class TestAgainstTheOriginal:
    @pytest.fixture(autouse=True)
    def trained(self, golden, with_and_without_numba, monkeypatch):
        self.session, self.costs = Session(golden), []
        watch = self.session.trainer._guard.watch
        monkeypatch.setattr(
            self.session.trainer._guard, "watch", lambda step: (self.costs.append(step.cost.item()), watch(step))
        )
        self.session.trainer.run()

    def test_costs(self, golden):
        assert self.costs == pytest.approx(golden.meta["costs_per_step"], rel=1e-4)

    def test_counts_of_training_predictions(self, golden):
        counted = np.array(golden.meta["rp_rn_tp_tn_per_class_per_step"]).reshape(2, 3, -1, 4).sum(axis=1)
        for epoch in range(2):
            [record] = self.session.recorder.history.subepochs("training", epoch)
            assert np.array(record.counts).tolist() == counted[epoch].tolist()

    @pytest.mark.parametrize(("moment", "steps", "tolerance"), [("after_step1.", 1, 1e-5), ("after_step6.", 6, 2e-4)])
    def test_parameters(self, golden, moment, steps, tolerance):
        found = [*self.session.batches.before_step, copied(self.session.network)][steps]
        expected = golden.parameters(moment)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            rolling = name.endswith("_rolling")
            close = {"rtol": 1e-4, "atol": 1e-5} if rolling else {"rtol": 0, "atol": tolerance}
            close["atol"] += self.noise(golden, name, steps, expected)
            torch.testing.assert_close(found[name], tensor, **close, msg=lambda text, name=name: f"{name}: {text}")

    @staticmethod
    def noise(golden, name, steps, expected) -> float:
        """How far Adam may have moved biases whose gradient is rounding noise, and the means that contain them."""
        pathway, _, place = name.partition("/")
        if f"{pathway}/1/bias" not in map(canonical, golden.meta["gradient_is_zero_analytically"]):
            return 0.0
        moved = golden.meta["options"]["lr"] * steps
        if place == "1/bias":
            return moved
        if place == "2/bn_mean_rolling":
            return moved * float(expected[f"{pathway}/1/weight"].abs().sum(dim=(1, 2, 3, 4)).max())
        return 0.0

    def test_frozen_layers_stay_but_their_statistics_move(self, golden):
        before, after = golden.parameters("before."), copied(self.session.network)
        trained = {canonical(name) for name in golden.meta["optimised_in_order"]}
        still = {name for name in before if torch.equal(before[name], after[name])}
        frozen = {name for name in before if not name.endswith("_rolling")} - trained
        without_gradient = {canonical(name) for name in golden.meta["gradient_is_zero_analytically"]}
        assert frozen <= still <= frozen | without_gradient


@pytest.fixture
def session() -> Session:
    return Session(Golden("rmsprop_all_trained"))


def test_checkpoints_are_written_at_the_start_and_after_each_epoch(session):
    session.trainer.run()
    assert session.positions() == [
        (0, 0, "samples", 0, 0),
        (1, 0, "samples", 0, 3),
        (2, 0, "samples", 0, 6),
    ]
    assert [state["finished"] for state, _ in session.saved] == [False, False, True]
    assert [state["save_index"] for state, _ in session.saved] == [1, 2, 3]


def test_resumed_session_has_no_checkpoint_at_its_start(session):
    session.trainer.run(save_first=False)
    assert len(session.saved) == 2


def test_signal_saves_the_state_with_the_sums_of_the_subepoch(session):
    original = session.trainer._step

    def interrupted(*arguments):
        if session.state.position.step == 4:
            session.interruption.requested = 15
        return original(*arguments)

    session.trainer._step = interrupted
    with pytest.raises(Interrupted) as raised:
        session.trainer.run()
    assert raised.value.exit_code == 143
    state, extra = session.saved[-1]
    assert session.positions()[-1] == (1, 0, "train", 2, 5)
    assert extra["tally"]["costs_added"] == 2
    assert state["finished"] is False


class TestVolumes:
    @pytest.fixture
    def dices(self):
        return [0.5, 0.25]

    @pytest.fixture
    def session(self, dices):
        return Session(
            Golden("rmsprop_all_trained"), validate_volumes=lambda network, epoch: VolumeRecord({}, dices[epoch])
        )

    def test_state_is_saved_before_and_after_the_validation(self, session):
        session.trainer.run()
        assert [position[2] for position in session.positions()] == [
            "samples",
            "volumes",
            "samples",
            "volumes",
            "samples",
        ]

    @pytest.mark.parametrize(
        ("dices", "best"), [([0.5, 0.25], 0), ([0.25, 0.5], 1), ([0.5, 0.5], 0), ([0.5, float("nan")], 0)]
    )
    def test_best_is_the_first_epoch_with_the_highest_dice(self, session, dices, best):
        session.trainer.run()
        assert session.state.best == {"dice": 0.5, "kind": "volumes", "epoch": best, "save_index": 3 + 2 * best}
        assert session.positions()[2 + 2 * best][0] == best + 1

    def test_what_was_best_on_samples_is_forgotten(self, session):
        session.state.best = {"dice": 0.9, "kind": "samples", "epoch": 0, "save_index": 1}
        session.state.stopping = {"score": 0.9, "epoch": 0, "stopped": False}
        session.trainer.run()
        assert session.state.best == {"dice": 0.5, "kind": "volumes", "epoch": 0, "save_index": 3}
        assert session.state.stopping == initial_state()

    def test_validation_that_was_interrupted_is_repeated_alone(self, session):
        steps = len(session.batches.before_step)
        session.state.position.epoch, session.state.position.stage = 1, "volumes"
        session.trainer.run(save_first=False)
        assert len(session.batches.before_step) == steps
        assert list(session.recorder.history.volumes) == [1]


class TestDivergence:
    def test_infinite_cost_stops_before_anything_is_saved(self, session):
        session.batches.golden.arrays["steps.x"][1] = torch.inf
        with pytest.raises(
            DivergedError, match=r"The training cost became nan at step 1 \(learning rate 0.003, cases batch 1\)"
        ):
            session.trainer.run()
        assert len(session.saved) == 1

    def test_spoilt_parameter_is_not_saved(self, session):
        with torch.no_grad():
            session.network.softmax.bias[1] = torch.nan
        with pytest.raises(DivergedError, match="The parameters softmax/bias are not finite at the start"):
            session.trainer.run()
        assert session.saved == []


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_training_by_recorded_steps_is_the_same(monkeypatch):
    recorder = HostRecorder()
    monkeypatch.setattr(recorded_step, "record", recorder)
    plain, repeated = (Session(Golden("rmsprop_all_trained")) for _ in range(2))
    recorder.network = repeated.network
    repeated.trainer._training_step._possible = True
    for session in (plain, repeated):
        session.trainer.run()
    assert_same(copied(plain.network), copied(repeated.network))
    assert [graph.repeated for graph in recorder.made] == [3]
    slots = [session.saved[-1][1]["optimiser"]["slots"] for session in (plain, repeated)]
    for name in slots[0]:
        assert_same(slots[0][name], slots[1][name])
