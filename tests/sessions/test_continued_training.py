"""A training of the original that goes on here from its checkpoint, beside the original that goes on with it.

`tests/golden/continued/README.md` says how the numbers were made. Here the commands of a user run, with the original's
own config files; only the segments are given, as they were given there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from original_names import canonical
from study_fixtures import quick

from deepmedic import checkpoints, cli
from deepmedic.data.source import SegmentSource
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.training.trainer import Trainer

GOLDEN = Path(__file__).parents[1] / "golden"
CONTINUED = GOLDEN / "continued"
STEPS, STEPS_PER_SUBEPOCH, FIRST_EPOCH = 8, 2, 2
SLOTS = {
    "accu_grad_squared": "mean_square",
    "velocities_for_mom": "velocity",
    "means_of_grads": "mean",
    "vars_of_grads": "mean_square",
}


class Expected:
    """What the original computed with one optimiser."""

    def __init__(self, optimiser: str) -> None:
        with np.load(CONTINUED / f"{optimiser}.npz") as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays by canonical name of their parameter."""
        return {
            canonical(name.removeprefix(prefix)): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """The optimiser's state after the last step, as in a saved model."""
        prefix, slots = "slot_after_step8.", {}
        for name in self.arrays:
            if name.startswith(prefix):
                slot = name.removeprefix(prefix).partition(".")[0]
                slots[SLOTS[slot]] = self.named(f"{prefix}{slot}.")
        return slots


@dataclass
class Session:
    """What was seen of a session of this program, step by step, and what it wrote."""

    optimiser: str
    folder: Path
    expected: Expected
    words: list[str]
    code: int = -1
    costs: list[float] = field(default_factory=list)
    rates: list[tuple[int, float, float]] = field(default_factory=list)
    """Epoch, learning rate and momentum of each step."""
    after: list[dict[str, torch.Tensor]] = field(default_factory=list)
    """Parameters after each step."""

    def saved(self) -> dict[str, Any]:
        """The newest model that it wrote."""
        _, content, _ = checkpoints.newest_valid(self.folder / "output" / "cnnModels" / f"{self.optimiser}After")
        return content


def given_batches(epoch: int, subepoch: int) -> list[Any]:
    """The batches that the original was given in a sub-epoch."""
    first = ((epoch - FIRST_EPOCH) * 2 + subepoch) * STEPS_PER_SUBEPOCH
    with np.load(CONTINUED / "batches.npz") as arrays:
        inputs = [torch.from_numpy(arrays[name]).float() / 2 for name in ("halves_x", "halves_x_sub_0")]
        labels = torch.from_numpy(arrays["y_gt"]).long()
    steps = range(first, first + STEPS_PER_SUBEPOCH)
    return [SimpleNamespace(inputs=[of_path[step] for of_path in inputs], labels=labels[step]) for step in steps]


class GivenSubepoch(list[Any]):
    def case_names(self, batch: int) -> list[str]:
        return [f"batch {batch}"]


def prepare(optimiser: str, folder: Path) -> Session:
    """A folder with the original's files, and images for the session to check and to read."""
    shutil.copytree(CONTINUED, folder)
    for name in ("lists", "data"):
        shutil.copytree(GOLDEN / "checkpoint" / "tiny" / name, folder / name)
    if optimiser == "adam":  # frozen layers have moving statistics in the original
        with (folder / "adam.cfg").open("a") as config:
            config.write("batchNormOfFrozenLayers = 'moving'\n")
    words = ["-model", str(folder / "model.cfg"), "-train", str(folder / f"{optimiser}.cfg")]
    words += ["-load", str(folder / "ckpt" / f"{optimiser}.model.ckpt")]
    return Session(optimiser, folder, Expected(optimiser), words)


@pytest.fixture(scope="module", params=["rmsprop", "adam", "sgd"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session that went on from the checkpoint of the original."""
    session = prepare(request.param, tmp_path_factory.mktemp("continued") / request.param)
    step = Trainer._step

    def observed(trainer: Trainer, batch: Any, rate: float, momentum: float) -> Any:
        cost, counts = step(trainer, batch, rate, momentum)
        session.costs.append(cost.item())
        session.rates.append((trainer.state.position.epoch, rate, momentum))
        named = parameters.named_tensors(trainer.network)
        session.after.append({name: tensor.detach().clone() for name, tensor in named.items()})
        return cost, counts

    threads = torch.get_num_threads()
    with quick(), pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        patch.setattr(
            SegmentSource, "subepoch", lambda source, epoch, subepoch: GivenSubepoch(given_batches(epoch, subepoch))
        )
        patch.setattr(Trainer, "_step", observed)
        session.code = cli.main([*session.words, "-dev", "cpu"])
    yield session
    torch.set_num_threads(threads)


def test_it_makes_the_steps_that_are_left_and_ends(session):
    assert session.code == 0
    assert len(session.costs) == STEPS
    training = session.saved()["training"]
    assert training["finished"]
    assert training["position"]["epoch"] == 4


def test_the_schedule_goes_on(session):
    expected = session.expected.arrays
    for epoch, rate, momentum in session.rates:
        [at] = np.flatnonzero(expected["epochs"] == epoch)
        assert rate == pytest.approx(float(expected["rates"][at]), rel=1e-5)
        if session.optimiser != "adam":
            assert momentum == pytest.approx(float(expected["momenta"][at]), rel=1e-6)
    assert [epoch for epoch, _, _ in session.rates] == [2] * 4 + [3] * 4


def test_costs(session):
    assert session.costs == pytest.approx(session.expected.arrays["costs"].tolist(), rel=1e-4)


def test_counts_of_training_predictions(session):
    expected = session.expected.arrays["rp_rn_tp_tn"].reshape(4, STEPS_PER_SUBEPOCH, 3, 4).sum(axis=1)
    samples = session.saved()["training"]["history"]["samples"]
    found = [counts for role, _, _, _, counts in samples if role == "training"]
    assert found == expected.tolist()


@pytest.mark.parametrize(("steps", "tolerance"), [(1, 1e-5), (STEPS, 2e-4)])
def test_parameters_and_rolling_statistics(session, steps, tolerance):
    expected, found = session.expected.named(f"after_step{steps}."), session.after[steps - 1]
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        rolling = name.endswith("_rolling")
        relative, absolute = (1e-4, 1e-5) if rolling else (0.0, tolerance)
        np.testing.assert_allclose(found[name].numpy(), array, rtol=relative, atol=absolute, err_msg=name)


def test_the_optimiser_ends_in_the_same_state(session):
    state, slots = session.saved()["training"]["optimiser"], session.expected.slots()
    assert state["slots"].keys() == slots.keys()
    for slot, named in slots.items():
        assert state["slots"][slot].keys() == named.keys()
        for name, array in named.items():
            found = state["slots"][slot][name].numpy()
            scale = float(np.abs(array).max())
            np.testing.assert_allclose(found, array, rtol=0, atol=2e-4 * scale + 1e-7, err_msg=f"{slot} of {name}")


def test_every_tensor_that_is_trained_has_moved(session):
    before, after = session.saved()["start_parameters"], session.after[-1]
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    frozen = {name for name in after if name.startswith(("normal/1/", "subsampled1/1/"))}
    assert still == (frozen if session.optimiser == "adam" else set())


def test_the_model_that_it_saves_predicts_what_the_model_of_the_original_does(session):
    model = SavedModel.from_content(session.saved(), "the newest")
    network: DeepMedicNet = model.network().eval()
    [_, batch] = given_batches(3, 1)
    with torch.inference_mode():
        probabilities = torch.softmax(network(*batch.inputs), dim=1)
    np.testing.assert_allclose(probabilities, session.expected.arrays["probabilities_after_step8"], atol=2e-4)


class TestAnotherRateInTheConfig:
    """The original goes on with the rate and momentum of the checkpoint; here the config holds, and says so."""

    CHANGED = "was trained with learningRate = 0.004, the config says 0.002, which holds from now on"

    @pytest.mark.parametrize("converted", [False, True], ids=["loaded", "converted"])
    def test_it_is_told(self, tmp_path, run, converted):
        session = prepare("rmsprop", tmp_path / "session")
        config, words = session.folder / "rmsprop.cfg", session.words
        config.write_text(config.read_text().replace("0.004", "0.002"))
        if converted:
            saved = session.folder / "converted.save"
            assert run("-convert", words[5], words[1], "-output", saved).code == 0
            words = [*words[2:4], "-model", str(saved)]
        outcome = run(*words, "-check")
        assert outcome.code == 0, outcome.err
        assert self.CHANGED in outcome.out
        assert outcome.out.count("was trained with") == 1

    def test_nothing_is_told_of_equal_ones_nor_of_the_momentum_that_adam_does_not_use(self, tmp_path, run):
        session = prepare("adam", tmp_path / "session")
        with (session.folder / "adam.cfg").open("a") as config:
            config.write("momentumValue = 0.5\n")
        outcome = run(*session.words, "-check")
        assert outcome.code == 0, outcome.err
        assert "was trained with" not in outcome.out
