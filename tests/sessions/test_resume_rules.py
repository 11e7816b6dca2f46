"""Which command goes on with a session, starts it anew, is refused, or finds nothing to do; in every dialect."""

from __future__ import annotations

import shutil

import pytest
import torch

from deepmedic import checkpoints
from deepmedic.sessions.training.checkpointing import CheckpointWriter

QUICK = {"numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}


def same_parameters(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def initial(study, run):
    """A saved, untrained model."""
    assert run("-newModel", study.folder / "model.cfg").code == 0
    [path] = (study.out / "cnnModels").glob("net.initial.*.save")
    return path


@pytest.fixture
def trained(study, run, initial):
    """A model that another session, `other`, trained for one epoch."""
    config = study.train("other", sessionName="other", numberOfEpochs=1, **QUICK)
    assert run("-train", config, "-model", initial).code == 0
    [path] = study.saved("net.other.final.*.save", "other")
    return path


@pytest.fixture
def stateless(study, trained):
    """A trained model without optimiser state."""
    path = study.folder / "stateless.save"
    content = {**checkpoints.load(trained), "training": None}
    checkpoints.save(path, {key: value for key, value in content.items() if key not in ("session", "counter")})
    return path


def stop_after(study, monkeypatch, epochs) -> None:
    """Make the next command end, as if it were killed, once the checkpoint of so many epochs is written."""
    write = CheckpointWriter.__call__

    def write_and_stop(self, state, extra):
        write(self, state, extra)
        if state.position.epoch >= epochs and state.position.stage == "samples":
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "__call__", write_and_stop)


def as_new_model(study, folder):
    return ["-newModel", folder / "model.cfg"]


def as_model_config(study, folder):
    return ["-model", folder / "model.cfg"]


def as_saved_model(study, folder):
    return ["-model", folder / "start.save"]


def as_loaded_weights(study, folder):
    return ["-model", folder / "model.cfg", "-load", folder / "start.save"]


def as_weights_alone(study, folder):
    return ["-load", folder / "start.save"]


def as_key_of_the_config(study, folder):
    study.train(numberOfEpochs=3, cnnModelFilePath="start.save", **QUICK)
    return []


def as_key_of_the_config_beside_a_model_config(study, folder):
    study.train(numberOfEpochs=3, cnnModelFilePath="start.save", **QUICK)
    return ["-model", folder / "model.cfg"]


def as_folder(study, folder):
    (folder / "models").mkdir()
    shutil.copy(folder / "start.save", folder / "models" / "start.save")
    return ["-model", folder / "models"]


def as_reset_model(study, folder):
    return ["-model", folder / "trained.save", "-resetOptimizer"]


def as_reset_in_the_words_of_tensorflow(study, folder):
    return ["-model", folder / "model.cfg", "-load", folder / "trained.save", "-resetopt"]


@pytest.mark.parametrize(
    "dialect",
    [
        as_new_model,
        as_model_config,
        as_saved_model,
        as_loaded_weights,
        as_weights_alone,
        as_key_of_the_config,
        as_key_of_the_config_beside_a_model_config,
        as_folder,
        as_reset_model,
        as_reset_in_the_words_of_tensorflow,
    ],
)
def test_identical_command_goes_on_and_then_finds_nothing_to_do(study, run, trained, initial, dialect, monkeypatch):
    shutil.copy(initial, study.folder / "start.save")
    shutil.copy(trained, study.folder / "trained.save")
    config = study.train(numberOfEpochs=3, **QUICK)
    command = ["-train", config, *dialect(study, study.folder)]
    with monkeypatch.context() as patch:
        stop_after(study, patch, epochs=2)
        assert run(*command).code == 130
    stopped = study.trained()
    assert (stopped["position"]["epoch"], stopped["finished"]) == (2, False)

    outcome = run(*command)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Going on from {study.checkpoints}" in outcome.out
    assert study.log.count("(Re)Initializing parameters for the optimization") == 1
    finished = study.trained()
    assert (finished["position"]["epoch"], finished["position"]["step"], finished["finished"]) == (3, 3, True)
    assert finished["origin"] == stopped["origin"]

    before = {path: path.stat().st_mtime_ns for path in study.out.rglob("*")}
    outcome = run(*command)
    assert outcome.code == 0
    assert "The session first is finished: its model was trained for 3 epochs" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in study.out.rglob("*")} == before


def test_session_goes_on_without_a_model_being_named(study, run, monkeypatch):
    config = study.train(**QUICK)
    with monkeypatch.context() as patch:
        stop_after(study, patch, epochs=1)
        run("-train", config, "-newModel", study.folder / "model.cfg")
    assert run("-train", config).code == 0
    assert study.trained()["position"]["epoch"] == 2


def test_start_model_may_be_gone_when_the_session_goes_on(study, run, initial, monkeypatch):
    config = study.train(**QUICK)
    with monkeypatch.context() as patch:
        stop_after(study, patch, epochs=1)
        run("-train", config, "-model", initial)
    initial.unlink()
    assert run("-train", config, "-model", initial).code == 0


def test_folder_and_the_model_in_it_are_the_same_start(study, run, initial, monkeypatch):
    config = study.train(**QUICK)
    with monkeypatch.context() as patch:
        stop_after(study, patch, epochs=1)
        run("-train", config, "-model", initial)
    (study.folder / "models").mkdir()
    shutil.copy(initial, study.folder / "models")
    assert run("-train", config, "-model", study.folder / "models").code == 0


class TestOtherOrigins:
    @pytest.fixture(autouse=True)
    def session(self, study, run, trained):
        self.config = study.train(**QUICK)
        assert run("-train", self.config, "-newModel", study.folder / "model.cfg").code == 0
        self.files = study.files()

    @pytest.mark.parametrize("words", [[], ["-resetOptimizer"]])
    def test_another_model_is_refused_naming_both(self, study, run, trained, words):
        outcome = run("-train", self.config, "-model", trained, *words)
        assert outcome.code == 5
        assert f"{study.checkpoints}: this session was started from a new model 'net' (SHA-256 " in outcome.err
        assert f"but the command starts from {trained} (SHA-256 " in outcome.err
        assert "choose another sessionName, or add -overwrite" in outcome.err
        assert study.files() == self.files

    def test_another_model_config_is_refused_with_the_difference(self, study, run):
        other = study.model("other_model", numberFMsPerLayerNormal=[3, 5])
        outcome = run("-train", self.config, "-newModel", other)
        assert outcome.code == 5
        assert "architecture.normal.feature_maps: [3, 4] -> [3, 5]" in outcome.err
        assert study.files() == self.files

    def test_another_seed_is_refused(self, study, run):
        outcome = run("-train", self.config, "-newModel", study.folder / "model.cfg", "-seed", "3")
        assert outcome.code == 5
        assert "seed 0" in outcome.err
        assert "seed 3" in outcome.err

    def test_another_seed_is_refused_when_no_model_is_named(self, study, run):
        outcome = run("-train", self.config, "-seed", "3")
        assert outcome.code == 5
        assert "draws its samples with -seed 0, the command says -seed 3" in outcome.err

    def test_overwrite_starts_anew_and_removes_the_earlier_checkpoints(self, study, run, trained):
        before = set(study.checkpoints.iterdir())
        outcome = run("-train", self.config, "-model", trained, "-resetOptimizer", "-overwrite")
        assert outcome.code == 0
        assert not before - {study.newest()} & set(study.checkpoints.iterdir())
        assert study.trained()["origin"]["named"] == str(trained)
        assert study.metrics.count("\n0,0,training,all") == 1

    def test_overwriting_with_another_name_of_the_model_leaves_no_mixture(self, study, run):
        other = study.model("other_model", modelName="wider", numberFMsPerLayerNormal=[3, 5])
        assert run("-train", self.config, "-newModel", other, "-overwrite").code == 0
        assert {path.name.split(".")[0] for path in study.checkpoints.iterdir()} == {"wider"}


class TestReset:
    def test_reset_that_is_not_part_of_the_origin_starts_optimisation_anew(self, study, run, initial):
        config = study.train(**QUICK)
        assert run("-train", config, "-model", initial).code == 0
        weights = study.content()["parameters"]
        # The session is finished; a reset of its own newest checkpoint trains on from these weights.
        command = ["-train", config, "-model", study.newest(), "-resetOptimizer"]
        outcome = run(*command)
        assert outcome.code == 0
        assert "Uninitialized: [False], Reset requested: [True]" in outcome.out
        state = study.trained()
        assert (state["position"]["step"], state["origin"]["reset"]) == (2, True)
        assert same_parameters(study.content()["start_parameters"], weights)
        # Once more it is the identical command: the reset is part of the origin now.
        assert "is finished" in run(*command).out

    def test_repeated_reset_goes_on(self, study, run, initial, monkeypatch):
        config = study.train(**QUICK)
        assert run("-train", config, "-model", initial).code == 0
        command = ["-train", config, "-model", study.checkpoints, "-resetOptimizer"]
        with monkeypatch.context() as patch:
            stop_after(study, patch, epochs=1)
            assert run(*command).code == 130
        outcome = run(*command)
        assert (outcome.code, "Going on from" in outcome.out) == (0, True)
        assert study.trained()["position"]["step"] == 2

    def test_reset_from_the_start_model_starts_anew(self, study, run, trained):
        config = study.train(numberOfEpochs=3, **QUICK)
        assert run("-train", config, "-model", trained).code == 0
        assert study.trained()["position"]["step"] == 3
        assert run("-train", config, "-model", trained, "-resetOptimizer").code == 0
        assert study.trained()["origin"]["reset"] is True

    @pytest.mark.parametrize("option", ["-resetOptimizer", "-resetopt"])
    def test_reset_without_weights_is_refused(self, study, run, initial, option):
        config = study.train(**QUICK)
        for words in ([], ["-model", study.folder / "model.cfg"]):
            outcome = run("-train", config, option, *words)
            assert outcome.code == 2
            assert f"{option} keeps the weights of a model, but none is named" in outcome.err
        assert not study.checkpoints.exists()

    def test_reset_of_a_never_trained_model_is_a_start(self, study, run, initial):
        outcome = run("-train", study.train(**QUICK), "-model", initial, "-resetOptimizer")
        assert outcome.code == 0
        assert "Uninitialized: [True], Reset requested: [True]" in outcome.out


class TestTrainedModels:
    def test_trained_model_goes_on_where_it_was(self, study, run, trained):
        outcome = run("-train", study.train(numberOfEpochs=3, **QUICK), "-model", trained)
        assert outcome.code == 0
        assert "Epoch #0" not in study.log
        assert "Starting new Epoch! Epoch #1/3" in study.log
        assert study.trained()["position"]["step"] == 3

    def test_model_that_is_trained_far_enough_is_left_alone(self, study, run, trained):
        outcome = run("-train", study.train(numberOfEpochs=1, **QUICK), "-model", trained)
        assert (outcome.code, "is finished" in outcome.out) == (0, True)
        assert not study.checkpoints.exists()

    def test_trained_model_without_optimiser_state_needs_a_reset(self, study, run, stateless):
        config = study.train(**QUICK)
        outcome = run("-train", config, "-model", stateless)
        assert outcome.code == 5
        assert f"{stateless}: this model is trained but holds no optimiser state to go on from" in outcome.err
        assert "Add -resetOptimizer" in outcome.err
        assert not study.checkpoints.exists()
        assert run("-train", config, "-model", stateless, "-resetOptimizer").code == 0

    def test_another_optimiser_is_refused_before_anything_is_written(self, study, run, trained):
        outcome = run("-train", study.train(sgd0orAdam1orRms2=1, numberOfEpochs=3, **QUICK), "-model", trained)
        assert outcome.code == 5
        assert f"{trained}: the saved optimiser state is of RMSProp, but sgd0orAdam1orRms2 asks for Adam" in outcome.err
        assert not study.checkpoints.exists()

    def test_provenance_keeps_what_came_before(self, study, run, trained):
        assert run("-train", study.train(**QUICK), "-model", trained, "-resetOptimizer").code == 0
        provenance = study.content()["provenance"]
        assert (provenance["kind"], provenance["named"]) == ("trained from", str(trained))
        assert provenance["before"]["kind"] == "trained from"
        assert provenance["before"]["before"] == {"kind": "new", "seed": 0}

    def test_config_beside_the_weights_must_have_their_architecture(self, study, run, initial):
        other = study.model("other_model", numberFMsPerLayerNormal=[3, 5])
        outcome = run("-train", study.train(**QUICK), "-model", other, "-load", initial)
        assert outcome.code == 5
        assert f"{initial}: this model has another architecture than the .cfg beside it" in outcome.err
        assert "normal.feature_maps: the .cfg says [3, 5], the model has [3, 4]" in outcome.err
        mismatched = "mismatched: normal/2/weight is [4, 3, 3, 3, 3] in the model and would be [5, 3, 3, 3, 3]"
        assert mismatched in outcome.err

    def test_missing_and_unexpected_parameters_are_listed(self, study, run, initial):
        other = study.model("other_model", numberFMsPerLayerFC=[5, 6], useSubsampledPathway=False)
        outcome = run("-train", study.train(**QUICK), "-model", other, "-load", initial)
        assert outcome.code == 5
        assert "missing: fc/3/weight [3, 6, 1, 1, 1]" in outcome.err
        assert "unexpected: subsampled1/1/weight [3, 2, 3, 3, 3]" in outcome.err

    def test_config_beside_the_weights_gives_names_and_sizes_of_segments(self, study, run, initial):
        other = study.model("other_model", modelName="renamed", segmentsDimTrain=[11, 11, 11])
        assert run("-train", study.train(**QUICK), "-model", other, "-load", initial).code == 0
        [final] = study.saved("renamed.first.final.*.save")
        assert study.content(final)["config"]["segment_size_train"] == [11, 11, 11]


class TestOwnCheckpoints:
    @pytest.fixture(autouse=True)
    def session(self, study, run, initial):
        self.config = study.train(numberOfEpochs=4, keepLastCheckpoints=9, **QUICK)
        assert run("-train", self.config, "-model", initial).code == 0
        self.uninterrupted = study.content()["parameters"]
        self.after_epoch = {study.trained(path)["position"]["epoch"]: path for path in study.saved()}

    def test_earlier_one_is_gone_on_from(self, study, run):
        outcome = run("-train", self.config, "-model", self.after_epoch[2])
        assert outcome.code == 0
        assert f"Going on from {self.after_epoch[2]}: epoch #2" in outcome.out
        assert same_parameters(study.content()["parameters"], self.uninterrupted)
        assert "is finished" in run("-train", self.config, "-model", self.after_epoch[2]).out

    def test_identical_command_goes_on_from_the_newest(self, study, run, monkeypatch):
        command = ["-train", self.config, "-model", self.after_epoch[1]]
        with monkeypatch.context() as patch:
            stop_after(study, patch, epochs=3)
            assert run(*command).code == 130
        self.after_epoch[1].unlink()  # it might have been pruned
        outcome = run(*command)
        assert (outcome.code, ": epoch #3" in outcome.out) == (0, True)
        assert same_parameters(study.content()["parameters"], self.uninterrupted)

    def test_it_is_the_newest_by_counter_whatever_the_clock_says(self, study, run, monkeypatch):
        with monkeypatch.context() as patch:
            stop_after(study, patch, epochs=2)
            run("-train", self.config, "-model", self.after_epoch[1])
        assert study.trained()["position"]["epoch"] == 2
        assert study.trained()["save_index"] == study.trained(self.after_epoch[4])["save_index"] + 1

    def test_missing_one_is_refused(self, study, run):
        missing = study.checkpoints / "net.first.2020-01-01.save"
        outcome = run("-train", self.config, "-model", missing)
        assert outcome.code == 5
        assert f"{missing}: there is no such file or folder" in outcome.err

    @pytest.mark.parametrize("name", ["latest", "final"])
    def test_undated_names_stand_for_the_newest(self, study, run, name):
        [path] = study.saved(f"net.first.{name}*.save")
        assert "is finished" in run("-train", self.config, "-model", path).out

    def test_raising_the_number_of_epochs_trains_on(self, study, run):
        config = study.train(numberOfEpochs=5, keepLastCheckpoints=9, **QUICK)
        outcome = run("-train", config, "-model", study.checkpoints)
        assert outcome.code == 0
        assert "Changed since the checkpoint: numberOfEpochs: 4 -> 5" in outcome.err
        assert len(study.saved("net.first.final.*.save")) == 1
        assert study.trained()["position"]["epoch"] == 5


def test_folder_with_files_of_two_models_is_refused(study, run, initial, trained):
    (study.folder / "models").mkdir()
    for path in (initial, trained):
        shutil.copy(path, study.folder / "models")
    outcome = run("-train", study.train(**QUICK), "-model", study.folder / "models")
    assert outcome.code == 5
    assert "holds saved models of several models or sessions" in outcome.err
    assert initial.name in outcome.err


def test_train_without_any_model_is_refused(study, run):
    outcome = run("-train", study.train())
    assert outcome.code == 2
    assert "-train needs a model to start from: -newModel MODEL.cfg, -model X.save" in outcome.err
    assert not study.out.exists()
