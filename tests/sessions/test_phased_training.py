"""Training in phases from the command line: what is trained when, what is logged and kept, and going on with it."""

from __future__ import annotations

import csv
import io
import json
from copy import deepcopy
from typing import Any, ClassVar

import pytest
import torch
from study_fixtures import signal_at

from deepmedic import checkpoints, cli
from deepmedic.model import parameters
from deepmedic.model_files import saved_files
from deepmedic.plots.history_files import read_history
from deepmedic.training.optimisers import Optimiser
from deepmedic.training.state import TrainingState
from deepmedic.training.trainer import Trainer

QUICK = {"numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 8}
ON_SAMPLES = {"validate": True, "performFullInferenceOnValidationImagesEveryFewEpochs": False}
A, B = {"name": "A", "numberOfEpochs": 2}, {"name": "B", "numberOfEpochs": 2}
FC_ONLY = {"layersToFreezeNormal": [1, 2], "layersToFreezeSubsampled": [1, 2]}


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
def command(study):
    """The command of a session from the new model."""

    def words(**changes):
        return ["-newModel", study.folder / "model.cfg", "-train", study.train(**{**QUICK, **changes})]

    return words


@pytest.fixture
def train(study, run, command):
    """Run a session, and return what its newest checkpoint holds."""

    def train(code: int = 0, **changes):
        outcome = run(*command(**changes))
        assert outcome.code == code, outcome.err
        return study.content(
            study.folder / changes.get("folderForOutput", "out") / "cnnModels/first/net.first.latest.save"
        )

    return train


@pytest.fixture
def scores(monkeypatch):
    """Let validation give these scores, epoch by epoch."""
    given: list[float] = []
    monkeypatch.setattr(Trainer, "_score", lambda self: given[self.state.position.epoch])
    return given


@pytest.fixture
def steps(monkeypatch):
    """Of each step the rate, the trainer's optimiser, and the network's tensors and rows after it."""
    made = []
    original = Trainer._step

    def noted(self, batch, rate, momentum):
        result = original(self, batch, rate, momentum)
        tensors = {name: tensor.detach().clone() for name, tensor in parameters.named_tensors(self.network).items()}
        made.append((rate, self.optimiser, tensors, parameters.rolling_rows(self.network)))
        return result

    monkeypatch.setattr(Trainer, "_step", noted)
    return made


def test_one_phase_trains_as_without_phases(train):
    plain = train()
    phase = train(folderForOutput="phase", numberOfEpochs=99, phase=[{"numberOfEpochs": 2}])
    for part in ("parameters", "rolling_rows"):
        assert same(plain[part], phase[part])
    for part in ("optimiser", "schedule", "position", "finished"):
        assert same(plain["training"][part], phase["training"][part])


def test_frozen_layers_and_their_statistics_stay_to_the_bit(train, steps):
    train(phase=[A, {**B, **FC_ONLY}])
    [_, _, before, rows], [_, optimiser, after, rows_after] = steps[3], steps[-1]
    for name in before:
        is_frozen = not name.startswith(("fc/", "softmax/"))
        assert torch.equal(before[name], after[name]) == is_frozen, name
    assert {layer for layer in rows if rows[layer] != rows_after[layer]} == {"fc/1", "fc/2"}
    assert {name.partition("/")[0] for name in optimiser.names} == {"fc", "softmax"}


def test_rates_of_each_phase_follow_its_own_schedule(train, steps):
    train(
        learningRate=0.01,
        typeOfLearningRateSchedule="stable",
        phase=[
            {"numberOfEpochs": 2, "typeOfLearningRateSchedule": "predef", "predefinedSchedule": [0]},
            {"numberOfEpochs": 2, "learningRate": 0.2, "warmUpEpochs": 1},
            {"numberOfEpochs": 2, "typeOfLearningRateSchedule": "poly", "numEpochsToWaitBeforeLoweringLr": 0},
        ],
    )
    poly = 0.01 * (1 - 1 / 2) ** 0.9
    expected = [0.01, 0.01, 0.005, 0.005, 0.1, 0.2, 0.2, 0.2, 0.01, 0.01, poly, poly]
    assert [rate for rate, *_ in steps] == pytest.approx(expected)


@pytest.mark.parametrize("reset", [True, False])
def test_optimiser_is_new_unless_its_state_is_kept(train, steps, reset):
    content = train(phase=[{**A, **FC_ONLY}, {**B, "resetOptimizer": reset}])
    first, second = steps[0][1], steps[-1][1]
    assert first is not second
    assert content["training"]["optimiser"]["steps"] == second.steps == (4 if reset else 8)
    assert content["training"]["position"] == {"epoch": 4, "subepoch": 0, "stage": "samples", "batch": 0, "step": 8}


def test_kept_state_is_that_of_parameters_in_both_phases(train, monkeypatch):
    adopted = []
    original = Optimiser.adopt

    def noted(self, other):
        original(self, other)
        adopted.append(deepcopy((self.state_dict(), other.state_dict())))

    monkeypatch.setattr(Optimiser, "adopt", noted)
    train(phase=[{**A, **FC_ONLY, "numberOfEpochs": 1}, {**B, "numberOfEpochs": 1, "resetOptimizer": False}])
    [(new, old)] = adopted
    for slot, tensors in new["slots"].items():
        assert all(name.startswith(("fc/", "softmax/")) == (name in old["slots"][slot]) for name in tensors)
        assert same({name: tensors[name] for name in old["slots"][slot]}, old["slots"][slot])


class TestEarlyStopping:
    @pytest.fixture(autouse=True)
    def given(self, scores):
        scores += [0.5, 0.7, 0.6, 0.6, 0.65, 0.8, 0.7, 0.7, 0.7]

    def test_it_ends_the_phase_and_the_next_begins_with_the_best_weights(self, study, train, steps):
        phases = [{"name": "A", "earlyStoppingPatience": 2, "earlyStoppingRestoreBest": True}, B]
        content = train(numberOfEpochs=8, learningRate=0.01, phase=phases, **ON_SAMPLES)
        training = content["training"]
        assert (training["position"]["epoch"], training["finished"]) == (6, True)
        expected = {"index": 1, "first_epoch": 4, "start_score": 0.7, "last_score": 0.8}
        assert {key: training["phase"][key] for key in expected} == expected
        assert "The phase ends early, after epoch #3: the validation score has not risen by more than 0" in study.log
        assert "The next phase begins with the weights of epoch #1, the best one of its phase." in study.log
        assert "== Phase 1 of 2 (A), from epoch #0: at most 8 epochs, cost cross entropy, RMSProp" in study.log
        assert "Validation score at its start: N/A, at its end: 0.7000. ==" in study.log
        assert "== Phase 2 of 2 (B), from epoch #4: at most 2 epochs, cost cross entropy, RMSProp" in study.log
        assert (
            "== Phase 2 of 2 (B) is over after epoch #5. Validation score at its start: 0.7000, at its end: 0.8000, a "
            "change of +0.1000. ==" in study.log
        )
        # Before the first step of B the network has the weights after the last one of epoch 1, so that its change is
        # smaller than that of all the steps between.
        best, last = steps[3][2], steps[7][2]
        first_of_b = steps[8][2]
        assert distance(first_of_b, best) < distance(first_of_b, last)

    def test_a_depth_that_does_not_help_is_undone_and_ends_the_training(self, study, train, steps):
        keys = {"recipe": "gradual", "recipeEpochs": [2, 2], "earlyStoppingPatience": 9, **ON_SAMPLES}
        # head: 0.5 0.7; depth 1: 0.6 0.6, no better than 0.7.
        content = train(**keys)
        training = content["training"]
        assert (training["phase"]["index"], training["position"]["epoch"], training["finished"]) == (1, 4, True)
        assert same(content["parameters"], steps[3][2])
        assert same(training["live"]["parameters"], steps[7][2])
        assert "a change of -0.1000, less than the 0.001 required. ==" in study.log
        assert "The phase is undone: the weights that it began with are restored." in study.log

    def test_a_depth_that_helps_is_kept(self, study, train, scores, steps):
        scores[:] = [0.1, 0.2, 0.3, 0.4, 0.4005, 0.4]
        keys = {"recipe": "gradual", "recipeEpochs": [2], "earlyStoppingPatience": 9, **ON_SAMPLES}
        content = train(**keys)
        assert (content["training"]["phase"]["index"], content["training"]["position"]["epoch"]) == (2, 6)
        assert same(content["parameters"], steps[7][2])  # those after depth 1, though depth 2 was better by 0.0005


class TestBestOfAPhase:
    """A phase ends with its own best weights, even if those of an earlier phase had a better score."""

    KEYS: ClassVar[dict[str, Any]] = {
        "phase": [{"name": "A", "numberOfEpochs": 2}, {"name": "B", "numberOfEpochs": 4}],
        "earlyStoppingPatience": 9,
        "earlyStoppingRestoreBest": True,
        "keepLastCheckpoints": 1,
        "learningRate": 0.01,
        **ON_SAMPLES,
    }

    @pytest.fixture(autouse=True)
    def given(self, scores):
        scores += [0.5, 0.9, 0.6, 0.7, 0.65, 0.66]

    @staticmethod
    def files(study) -> dict[str, int]:
        """Counters of the session's files, by their tag; the latest is left out."""
        found = saved_files(study.checkpoints)[0]
        return {file.tag: file.header.counter for file in found if file.tag != "latest"}

    def test_the_final_model_has_them_and_the_best_one_is_that_of_the_session(self, study, train, steps):
        content = train(**self.KEYS)
        assert same(content["parameters"], steps[7][2])  # after epoch 3, the second one of B
        assert same(content["training"]["live"]["parameters"], steps[11][2])
        assert "The next phase begins with the weights of epoch #1, the best one of its phase." not in study.log
        assert "The final model holds the weights of epoch #3, the best one of its phase." in study.log
        change = "Validation score at its start: 0.9000, at its end: 0.7000, a change of -0.2000. =="
        assert f"== Phase 2 of 2 (B) is over after epoch #5. {change}" in study.log
        # Counters: 1 before the first step, then one per epoch.
        assert self.files(study) == {"": 7, "best": 3, "bestOfPhase": 5, "final": 7}
        [best] = study.saved("*.best.*.save")
        assert same(study.content(best)["parameters"], steps[3][2])

    def test_one_that_is_the_best_of_the_session_is_kept_once_and_the_earlier_one_goes(self, study, train, scores):
        scores[2:] = [0.6, 0.95, 0.65, 0.66]
        train(**self.KEYS)
        assert self.files(study) == {"": 7, "best": 5, "final": 7}

    def test_nothing_is_kept_for_phases_that_do_not_restore(self, study, train):
        train(**{**self.KEYS, "earlyStoppingRestoreBest": False})
        assert self.files(study) == {"": 7, "best": 3, "final": 7}

    @pytest.mark.parametrize("step", [4, 8, 11])
    def test_interrupted_it_ends_the_same_to_the_bit(self, study, train, step):
        whole = train(folderForOutput="whole", **self.KEYS)
        with signal_at(step):
            train(code=143, **self.KEYS)
        resumed = train(**self.KEYS)
        for part in ("parameters", "rolling_rows"):
            assert same(resumed[part], whole[part])
        for part in ("optimiser", "history", "live", "stopping", "position"):
            assert same(resumed["training"][part], whole["training"][part])
        assert resumed["training"]["phase"]["best"]["epoch"] == 3
        assert set(self.files(study)) == {"", "best", "bestOfPhase", "final"}

    def test_going_on_with_more_epochs_forgets_nothing(self, study, train, scores, steps):
        scores += [0.5, 0.5]
        train(**self.KEYS)
        more = [{"name": "A", "numberOfEpochs": 2}, {"name": "B", "numberOfEpochs": 6}]
        content = train(**{**self.KEYS, "phase": more})
        assert content["training"]["position"]["epoch"] == 8
        assert same(content["parameters"], steps[7][2])

    def test_a_state_of_before_phases_had_a_best_one_takes_that_of_the_session(self, train):
        plain = train(**self.KEYS)["training"]
        del plain["phase"]["best"], plain["phase"]["restores_best"]
        assert plain["best"]["epoch"] == 1
        assert TrainingState.from_plain(plain).phase["best"] is None  # which began in epoch 2
        plain["phase"] |= {"index": 0, "first_epoch": 0}
        assert TrainingState.from_plain(plain).phase["best"] == plain["best"]


def distance(one, other) -> float:
    return sum(float((one[name] - other[name]).square().sum()) for name in one if name.endswith("weight"))


def test_history_names_the_phase_of_every_row_and_plots_draw_its_border(study, train):
    train(phase=[A, {**B, "numberOfEpochs": 1}], **ON_SAMPLES)
    rows = list(csv.DictReader(io.StringIO(study.metrics)))
    assert {(row["epoch"], row["phase"]) for row in rows} == {("0", "A"), ("1", "A"), ("2", "B")}
    assert list(rows[0])[-1] == "phase"
    for path in (study.out / "logs" / "first.metrics.csv", study.newest()):
        assert read_history(path).phase_borders() == [(2, "B")]


def test_plot_says_how_the_validation_changed_in_each_later_phase(study, capsys, train):
    phases = [A, {**B, "numberOfEpochs": 1}, {"name": "C", "numberOfEpochs": 1}]
    training = train(phase=phases, learningRate=0.01, validate=True)["training"]
    dice = {epoch: foreground for epoch, _, foreground in training["history"]["volumes"]}
    printed = plot(study, capsys)
    for name, before, after in (("B", 1, 2), ("C", 2, 3)):
        change = f"{name}: {dice[before]:.4f} -> {dice[after]:.4f} ({dice[after] - dice[before]:+.4f})"
        assert f"Session first: validation Dice before and at the end of phase {change}\n" in printed


def test_plot_of_a_session_validated_on_samples_takes_the_mean_over_classes(study, capsys, train):
    train(phase=[A, {**B, "numberOfEpochs": 1}], learningRate=0.05, typeOfSamplingForVal=3, **ON_SAMPLES)
    rows = list(csv.DictReader(io.StringIO(study.metrics)))
    dice = {
        (row["epoch"], row["class"]): float(row["dice"])
        for row in rows
        if row["role"] == "validation" and not row["subepoch"] and row["dice"]
    }
    before, after = ((dice[epoch, "1"] + dice[epoch, "2"]) / 2 for epoch in "12")
    assert f"of phase B: {before:.4f} -> {after:.4f}" in plot(study, capsys)


def plot(study, capsys) -> str:
    """Draw the curves of the session, and return what the command printed."""
    capsys.readouterr()
    assert cli.main(["-plot", str(study.newest()), "-output", str(study.folder / "curves.png"), "-detailed"]) == 0
    assert (study.folder / "curves.png").stat().st_size > 0
    return capsys.readouterr().out


def test_without_phases_the_history_has_no_such_column(study, train):
    train(numberOfEpochs=1)
    assert "phase" not in study.metrics.splitlines()[0]
    assert "phases" not in study.trained()["history"]


def test_rate_of_every_parameter_group_is_logged_each_epoch(study, train):
    train(numberOfEpochs=1, learningRate=0.01, typeOfLearningRateSchedule="stable", learningRateDecayPerLayer=0.5)
    for line in (
        "Trainer: Learning rate of normal/1, subsampled1/1: 0.00125",
        "Trainer: Learning rate of normal/2, subsampled1/2: 0.0025",
        "Trainer: Learning rate of fc/1: 0.005",
        "Trainer: Learning rate of fc/2, softmax: 0.01",
    ):
        assert line in study.log
    events = [json.loads(line) for line in (study.out / "logs" / "first.jsonl").read_text().splitlines()]
    [epoch] = [event for event in events if event["event"] == "epoch"]
    assert epoch["learning_rates"]["fc/2, softmax"] == 0.01


def test_check_prints_the_phases(study, run, command):
    outcome = run(*command(recipe="dual", recipeEpochs=[3, 2], **ON_SAMPLES), "-check")
    assert outcome.code == 0, outcome.err
    assert "all layers: at most 3 epochs, cost cross entropy, RMSProp with a new state" in outcome.out
    assert "FC pathway: at most 2 epochs" in outcome.out
    assert "for 10 steps" in outcome.out
    assert not study.out.exists()


@pytest.mark.parametrize("step", [0, 3, 4, 5])
def test_interrupted_session_ends_the_same_to_the_bit(study, train, step):
    keys = {
        "phase": [
            {**A, "earlyStoppingPatience": 1, "earlyStoppingRestoreBest": True},
            {**B, **FC_ONLY, "typeOfLearningRateSchedule": "plateau", "requiredImprovement": 0.5},
        ],
        "weightAveraging": 0.5,
        **ON_SAMPLES,
    }
    whole = train(folderForOutput="whole", **keys)
    with signal_at(step):
        train(code=143, **keys)
    resumed = train(**keys)
    for part in ("parameters", "rolling_rows", "start_parameters"):
        assert same(resumed[part], whole[part])
    for content in (resumed, whole):
        del content["training"]["phase"]["best"]["save_index"]  # the interruption saves once more
    for part in ("optimiser", "history", "averaging", "schedule", "stopping", "position", "phase", "phaseStart"):
        assert same(resumed["training"][part], whole["training"][part])
    assert study.metrics == (study.folder / "whole" / "logs" / "first.metrics.csv").read_text()


class TestChangedConfig:
    @pytest.fixture(autouse=True)
    def in_phase_b(self, train):
        """A session that ended in its second phase."""
        train(phase=[A, B])

    def test_finished_session_says_so_and_goes_on_with_a_further_phase(self, study, run, command, train):
        outcome = run(*command(phase=[A, B]))
        assert "was trained for 4 epochs, and its 2 phases have at most 4. Nothing was done." in outcome.out
        training = train(phase=[A, B, {"name": "C", "numberOfEpochs": 1, "learningRate": 1e-5}])["training"]
        assert (training["phase"]["index"], training["phase"]["first_epoch"], training["position"]["epoch"]) == (
            2,
            4,
            5,
        )
        assert "Changed since the checkpoint: phase.3: not set -> " in study.log

    def test_change_of_a_phase_that_is_not_over_is_listed(self, study, train):
        training = train(phase=[A, {**B, "numberOfEpochs": 3, "learningRate": 0.01}])["training"]
        assert training["position"]["epoch"] == 5
        assert "Changed since the checkpoint: phase.2.learningRate: 0.001 -> 0.01" in study.log

    @pytest.mark.parametrize(
        ("phases", "message"),
        [
            (
                [{**A, "learningRate": 0.5}, B],
                "phase 1 (A) of this training is over and cannot be changed any more: learningRate: 0.001 -> 0.5. Put "
                "it back; what is to hold for later phases can stand in their tables.",
            ),
            ([A], "this training is in its phase 2 (B), but the config has 1 phases. Give it the phases it was begun"),
            (None, "this training is in its phase 2 (B), but the config has no phases. Give it the phases"),
            ([A, {**B, **FC_ONLY, "numberOfEpochs": 9}], "were other layers frozen? continue with the settings of the"),
        ],
    )
    def test_what_cannot_go_on_is_refused(self, run, command, phases, message):
        outcome = run(*command(phase=phases))
        assert outcome.code == 5
        assert message in outcome.err

    def test_other_session_goes_on_in_its_phase(self, study, run):
        [final] = study.saved("net.first.final*")
        config = study.train(**QUICK, sessionName="second", phase=[A, {**B, "numberOfEpochs": 3}])
        assert run("-model", final, "-train", config).code == 0
        [final_of_second] = study.saved("net.second.final*", "second")
        assert study.trained(final_of_second)["position"]["epoch"] == 5
        config = study.train(**QUICK, sessionName="third", phase=[{**A, "numberOfEpochs": 9}])
        outcome = run("-model", final, "-train", config)
        assert outcome.code == 5
        assert (
            "this model is in phase 2 of its training, and the config has 1 phases. Add -resetOptimizer" in outcome.err
        )


def test_session_without_phases_goes_on_with_some(study, train):
    train()
    training = train(phase=[A, {**B, "numberOfEpochs": 1, **FC_ONLY}])["training"]
    assert (training["phase"]["index"], training["position"]["epoch"], training["finished"]) == (1, 3, True)


def test_recipe_of_a_saved_model_fits_its_depth(study, run, source):
    config = study.train(**QUICK, recipe="headFirst", recipeEpochs=[1, 1], **ON_SAMPLES)
    assert run("-model", source, "-resetOptimizer", "-train", config).code == 0
    before, after = checkpoints.load(source)["parameters"], study.content()["parameters"]
    changed = {name.rpartition("/")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"fc/2", "softmax"} <= changed <= {"fc/2", "softmax", "fc/1", "normal/2", "subsampled1/2"}
    assert "Frozen layers, whose parameters do not change: normal/1, subsampled1/1" in study.log
