"""Sessions with what the original does not have: effects, log lines, and going on to the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from study_fixtures import signal_at

from deepmedic import checkpoints
from deepmedic.model import parameters
from deepmedic.sessions.training import checkpointing
from deepmedic.sessions.training.volume_validation import VolumeValidation
from deepmedic.training.trainer import Trainer

QUICK = {"numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 8}
ON_SAMPLES = {"validate": True, "performFullInferenceOnValidationImagesEveryFewEpochs": False}
STOPPING = {"earlyStoppingPatience": 2, "numberOfEpochs": 6, **ON_SAMPLES}
ALL = {
    "gradientClipping": 0.05,
    "warmUpEpochs": 1.5,
    "weightDecay": 0.1,
    "scaleLearningRateWithBatch": 2,
    "typeOfLearningRateSchedule": "plateau",
    "numEpochsToWaitBeforeLoweringLr": 1,
    "lowestLearningRate": 1e-5,
    "weightAveraging": 0.9,
    "l2ToStart": 0.1,
    "learningRateDecayPerLayer": 0.8,
    "earlyStoppingPatience": 2,
    "earlyStoppingMinimumChange": 0.001,
    "earlyStoppingRestoreBest": True,
}


def same(one, other) -> bool:
    """Whether two parts of checkpoints hold the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture
def train(study, run):
    """Run a session from the new model, and return what its newest checkpoint holds."""

    def train(code: int = 0, **changes):
        outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train(**{**QUICK, **changes}))
        assert outcome.code == code, outcome.err
        [newest] = (study.folder / changes.get("folderForOutput", "out")).glob("cnnModels/first/*latest*")
        return checkpoints.load(newest)

    return train


@pytest.fixture
def scores(monkeypatch):
    """Let validation give these scores, epoch by epoch."""
    given: list[float] = []
    monkeypatch.setattr(Trainer, "_score", lambda self: given[self.state.position.epoch])
    return given


@pytest.fixture
def steps(monkeypatch):
    """The learning rate of each step, and the network's parameters after it."""
    made: list[tuple[float, dict[str, torch.Tensor]]] = []
    original = Trainer._step

    def noted(self, batch, rate, momentum):
        result = original(self, batch, rate, momentum)
        named = parameters.named_tensors(self.network)
        made.append((rate, {name: tensor.detach().clone() for name, tensor in named.items()}))
        return result

    monkeypatch.setattr(Trainer, "_step", noted)
    return made


@pytest.mark.parametrize("key", ["gradientClipping", "weightDecay", "l2ToStart", "learningRateDecayPerLayer"])
def test_each_refinement_changes_what_is_learnt(train, key):
    plain = train(numberOfEpochs=1)
    refined = train(numberOfEpochs=1, folderForOutput="refined", **{key: ALL[key]})
    assert not same(plain["parameters"], refined["parameters"])
    assert same(plain["start_parameters"], refined["start_parameters"])


def test_refinements_that_are_off_leave_no_trace(train):
    training = train(numberOfEpochs=1)["training"]
    assert "live" not in training
    assert "averaging" not in training


def test_strong_pull_holds_the_kernels_at_the_start(train):
    free, held = train(), train(folderForOutput="held", l2ToStart=1e4)

    def moved(content):
        names = [name for name in content["parameters"] if name.endswith("weight")]
        return sum(float((content["parameters"][name] - content["start_parameters"][name]).norm()) for name in names)

    assert moved(held) < 0.5 * moved(free)


def test_rate_warms_up_step_by_step_and_scales_with_the_batch(train, steps):
    train(
        typeOfLearningRateSchedule="stable",
        learningRate=0.01,
        warmUpEpochs=1.5,
        scaleLearningRateWithBatch=2,
        numberOfEpochs=3,
    )
    assert [rate for rate, _ in steps] == pytest.approx([0.02 * min(1, step / 3) for step in range(1, 7)])


def test_recorded_rate_is_that_of_the_last_step_of_each_epoch(train, steps):
    training = train(learningRate=0.01, warmUpEpochs=2)["training"]
    assert [rate for _, rate, _ in training["history"]["epochs"]] == [steps[1][0], steps[3][0]]


class TestAveraging:
    @pytest.fixture(autouse=True)
    def session(self, train, steps, monkeypatch):
        self.validated = []
        original = VolumeValidation.__call__

        def noted(validation, network, epoch):
            named = parameters.named_tensors(network)
            self.validated.append({name: tensor.detach().clone() for name, tensor in named.items()})
            return original(validation, network, epoch)

        monkeypatch.setattr(VolumeValidation, "__call__", noted)
        self.content = train(validate=True, weightAveraging=0.3)
        self.made = steps
        self.steps = [state for _, state in steps]

    def averaged(self) -> dict[str, np.ndarray]:
        """The averages after all steps, in double precision."""
        average = {name: tensor.double().numpy() for name, tensor in self.content["start_parameters"].items()}
        for number, state in enumerate(self.steps, 1):
            kept = min(0.3, number / (number + 9))
            average = {name: kept * average[name] + (1 - kept) * state[name].double().numpy() for name in state}
        return average

    def test_saved_parameters_are_the_averages(self):
        for name, expected in self.averaged().items():
            if name.endswith("_rolling"):
                assert torch.equal(self.content["parameters"][name], self.steps[-1][name])
            else:
                np.testing.assert_allclose(self.content["parameters"][name].numpy(), expected, rtol=1e-4, atol=1e-6)

    def test_weights_to_go_on_from_are_those_of_the_last_step(self):
        assert same(self.content["training"]["live"]["parameters"], self.steps[-1])
        assert not same(self.content["parameters"], self.steps[-1])

    def test_validation_uses_the_averages(self):
        assert len(self.validated) == 2
        assert same(self.validated[-1], self.content["parameters"])

    def test_averages_are_dropped_when_no_longer_asked_for(self, train):
        content = train(validate=True, numberOfEpochs=3)
        assert "live" not in content["training"]
        assert len(self.made) == 6
        assert same(content["parameters"], self.made[-1][1])


def test_averaging_does_not_change_the_training_itself(train):
    plain = train(**ON_SAMPLES)
    averaged = train(folderForOutput="averaged", weightAveraging=0.9, **ON_SAMPLES)
    assert same(averaged["training"]["live"]["parameters"], plain["parameters"])
    assert same(averaged["training"]["optimiser"], plain["training"]["optimiser"])


def test_plateau_follows_the_score(train, scores):
    scores += [0.5, 0.6, 0.6, 0.6, 0.6]
    history = train(
        numberOfEpochs=5,
        typeOfLearningRateSchedule="plateau",
        numEpochsToWaitBeforeLoweringLr=1,
        learningRate=0.01,
        whenDecreasingDivideLrBy=10.0,
        lowestLearningRate=0.0005,
        **ON_SAMPLES,
    )["training"]["history"]
    assert [rate for _, rate, _ in history["epochs"]] == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.0005])


def test_plateau_of_a_session_that_had_another_schedule_begins_now(train, scores):
    scores += [0.9, 0.5, 0.5, 0.6]
    train(numberOfEpochs=2, typeOfLearningRateSchedule="auto", **ON_SAMPLES)
    state = train(numberOfEpochs=4, typeOfLearningRateSchedule="plateau", **ON_SAMPLES)["training"]["schedule"]
    assert state == {"best_accuracy": 0.6, "best_epoch": 3, "last_reduction": 2, "reductions": 0}


def test_plateau_that_goes_on_from_another_session_begins_now(study, run, train, scores):
    scores += [0.9, 0.5, 0.5, 0.6]
    train(numberOfEpochs=2, typeOfLearningRateSchedule="auto", **ON_SAMPLES)
    [final] = study.saved("net.first.final*")
    keys = {"typeOfLearningRateSchedule": "plateau", "numberOfEpochs": 4, "sessionName": "second", **ON_SAMPLES}
    assert run("-model", final, "-train", study.train(**QUICK, **keys)).code == 0
    [final] = study.saved("net.second.final*", "second")
    assert study.trained(final)["schedule"]["last_reduction"] == 2


@pytest.mark.parametrize(("reset", "kept"), [((), "live"), (("-resetOptimizer",), "averages")])
def test_other_session_goes_on_from_the_live_weights_and_starts_anew_from_the_averages(study, run, train, reset, kept):
    content = train(weightAveraging=0.5)
    [final] = study.saved("net.first.final*")
    config = study.train(**QUICK, numberOfEpochs=3, sessionName="second", keepLastCheckpoints=9)
    assert run("-model", final, "-train", config, *reset).code == 0
    before_the_first_step = study.content(study.saved("net.second.2*", "second")[0])
    expected = content["training"]["live"]["parameters"] if kept == "live" else content["parameters"]
    assert same(before_the_first_step["parameters"], expected)


class TestEarlyStopping:
    @pytest.fixture(autouse=True)
    def given(self, scores):
        scores += [0.5, 0.6, 0.6, 0.5, 0.7, 0.5]

    def test_it_ends_the_session_and_says_why(self, study, run, train):
        training = train(**STOPPING)["training"]
        assert (training["position"]["epoch"], training["finished"]) == (4, True)
        assert (
            "The training ends early, after epoch #3: the validation score has not risen by more than 0 since epoch "
            "#1, where it was 0.6000."
        ) in study.log
        before = study.newest().stat().st_mtime_ns
        outcome = run("-train", study.folder / "train.cfg")
        assert outcome.code == 0
        assert "trained for 4 epochs, and numberOfEpochs is 6, but early stopping ended it." in outcome.out
        assert "To train on, raise earlyStoppingPatience;" in outcome.out
        assert study.newest().stat().st_mtime_ns == before

    def test_more_patience_goes_on(self, train, steps):
        train(**STOPPING)
        training = train(**{**STOPPING, "earlyStoppingPatience": 5})["training"]
        assert training["position"]["epoch"] == 6
        assert training["best"]["epoch"] == 4
        assert len(steps) == 12

    @pytest.mark.parametrize("averaging", [None, 0.5])
    def test_best_weights_are_restored_and_the_last_kept_to_go_on_from(self, study, train, steps, averaging):
        keys = {**STOPPING, "earlyStoppingRestoreBest": True, "weightAveraging": averaging}
        content = train(**keys)
        [best] = study.saved("net.first.best*")
        [final] = study.saved("net.first.final*")
        assert study.trained(best)["position"]["epoch"] == 2
        assert study.trained(final)["position"]["epoch"] == 4
        for part in ("parameters", "rolling_rows"):
            assert same(study.content(final)[part], study.content(best)[part])
        assert same(content["training"]["live"]["parameters"], steps[-1][1])
        assert "The final model holds the weights of epoch #1, the best one." in study.log

        going_on = train(**{**keys, "earlyStoppingPatience": 5, "earlyStoppingRestoreBest": None})
        at_once = train(**{**keys, "earlyStoppingPatience": 5, "earlyStoppingRestoreBest": None}, folderForOutput="b")
        assert same(going_on["parameters"], at_once["parameters"])
        assert same(going_on["training"]["optimiser"], at_once["training"]["optimiser"])

    def test_best_weights_end_a_session_that_ran_to_its_last_epoch(self, study, train):
        keys = {**STOPPING, "earlyStoppingRestoreBest": True, "numberOfEpochs": 3}
        content = train(**keys)
        [best] = study.saved("net.first.best*")
        assert content["training"]["position"]["epoch"] == 3
        assert same(content["parameters"], study.content(best)["parameters"])

    def test_going_on_from_another_session_restores_the_best_of_the_own_epochs(self, study, run, train, scores, steps):
        scores[:] = [0.9, 0.5, 0.6, 0.4, 0.5]
        restoring = {**STOPPING, "earlyStoppingRestoreBest": True}
        first = train(**restoring, keepLastCheckpoints=9)["training"]
        assert (first["position"]["epoch"], first["phase"]["best"]["save_index"]) == (3, 2)
        [final] = study.saved("net.first.final*")
        config = study.train(**QUICK, **restoring, sessionName="second", keepLastCheckpoints=9)
        scores += [0.3]
        assert run("-model", final, "-train", config).code == 0
        [final] = study.saved("net.second.final*", "second")
        content = study.content(final)
        assert content["training"]["phase"]["best"]["epoch"] == 4
        assert same(content["parameters"], steps[9][1])  # two steps per epoch

    @pytest.mark.parametrize("epoch", [0, 1])
    def test_going_back_restores_the_best_of_all_epochs_so_far(self, study, run, train, scores, steps, epoch):
        scores[:] = [0.5, 0.6, 0.9, 0.4]
        keys = {**STOPPING, "earlyStoppingRestoreBest": True, "numberOfEpochs": 4, "keepLastCheckpoints": 9}
        train(**keys)
        after = {study.trained(path)["position"]["epoch"]: path for path in study.saved()}
        scores[:] = [0.5, 0.7, 0.1, 0.2]
        outcome = run("-train", study.folder / "train.cfg", "-model", after[epoch])
        assert outcome.code == 0, outcome.err
        [final] = study.saved("net.first.final*")
        content = study.content(final)
        assert content["training"]["phase"]["best"]["epoch"] == 2
        assert same(content["parameters"], steps[5][1])  # two steps per epoch

    def test_going_back_forgets_a_best_that_is_gone(self, study, run, train, scores, steps):
        scores[:] = [0.5, 0.9, 0.6, 0.4]
        keys = {**STOPPING, "earlyStoppingRestoreBest": True, "numberOfEpochs": 4, "keepLastCheckpoints": 9}
        train(**keys)
        after = {study.trained(path)["position"]["epoch"]: path for path in study.saved()}
        for path in [after[2], *study.saved("net.first.best*")]:
            path.unlink()
        scores[3] = 0.7
        assert run("-train", study.folder / "train.cfg", "-model", after[3]).code == 0
        [final] = study.saved("net.first.final*")
        assert study.trained(final)["phase"]["best"]["epoch"] == 3
        assert same(study.content(final)["parameters"], steps[-1][1])
        assert "is gone" not in study.log

    def test_last_weights_stay_when_the_best_checkpoint_is_gone(self, study, train, steps, monkeypatch):
        monkeypatch.setattr(checkpointing.CheckpointFolder, "find", lambda self, counter: None)
        content = train(**STOPPING, earlyStoppingRestoreBest=True)
        assert "The checkpoint of the best epoch #1 is gone: the last weights are kept." in study.log
        assert same(content["parameters"], steps[-1][1])


@pytest.mark.parametrize("step", [0, 2, 5])
def test_interrupted_session_with_everything_on_ends_the_same_to_the_bit(study, train, step):
    keys = {**ALL, **ON_SAMPLES, "numberOfEpochs": 4}
    whole = train(folderForOutput="whole", **keys)
    with signal_at(step):
        train(code=143, **keys)
    resumed = train(**keys)
    for part in ("parameters", "rolling_rows", "start_parameters"):
        assert same(resumed[part], whole[part])
    for part in ("optimiser", "history", "averaging", "schedule", "stopping", "position", "finished"):
        assert same(resumed["training"][part], whole["training"][part])
    assert study.metrics == (study.folder / "whole" / "logs" / "first.metrics.csv").read_text()


def test_log_tells_what_is_on(study, train):
    train(**ALL, **ON_SAMPLES, numberOfEpochs=2)
    for line in (
        "Largest norm of the gradient: 0.05",
        "The learning rate rises over the first 1.5 epochs",
        "Decoupled weight decay of convolution kernels: 0.1",
        "Learning rates are for batches of 2 and scaled to 4",
        "Weights are averaged with decay 0.9: validation and saved models use the averages",
        "COST: Using L2 pull to the starting weights with weight: 0.1",
        "Learning rate per layer below the classification layer: times 0.8",
        "The training ends after 2 epochs without a rise of the validation score by more than 0.001",
    ):
        assert line in study.log
