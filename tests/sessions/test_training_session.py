"""What a training session writes, says and keeps, and how it deals with cases, signals and changed settings."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import nibabel as nib
import numba
import numpy as np
import pytest
import torch
from study_fixtures import signal_at

from deepmedic.config.load import load_train_config
from deepmedic.config.plain import to_plain
from deepmedic.inference import predictor
from deepmedic.model import compilation
from deepmedic.sessions.training.resume import _DECIDE_BATCHES
from deepmedic.training.trainer import Trainer

QUICK = {"numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}


def same_tensors(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestWhatIsWritten:
    @pytest.fixture(autouse=True)
    def session(self, study, run):
        config = study.train(validate=True, numberOfEpochs=4, saveProbMapsForEachClassVal=[False, True, False])
        self.outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
        assert self.outcome.code == 0

    def test_checkpoints_have_the_promised_names(self, study):
        date = r"\d{4}-\d\d-\d\d\.\d\d\.\d\d\.\d\d\.\d{6}"
        assert len(list((study.out / "cnnModels").glob("net.initial.*.save"))) == 1
        names = sorted(path.name for path in study.checkpoints.iterdir())
        expected = [rf"net\.first\.{date}\.save"] * 3
        expected += [rf"net\.first\.{tag}\.{date}\.save" for tag in ("best", "final")] + [r"net\.first\.latest\.save"]
        for name, pattern in zip(names, expected, strict=True):
            assert re.fullmatch(pattern, name)

    def test_last_checkpoints_are_kept_and_the_newest_has_three_names(self, study):
        epochs = [study.trained(path)["position"]["epoch"] for path in study.saved()]
        assert epochs == [2, 3, 4]
        newest = study.saved()[-1]
        [final] = study.saved("net.first.final*")
        assert newest.samefile(study.newest())
        assert newest.samefile(final)

    def test_best_checkpoint_is_that_of_the_best_dice_on_whole_volumes(self, study):
        [best] = study.saved("net.first.best*")
        dice = {
            int(row["epoch"]): float(row["dice"])
            for row in csv.DictReader(study.metrics.splitlines())
            if (row["role"], row["class"]) == ("volumes", "all")
        }
        assert len(dice) == 4
        state = study.trained(best)
        assert state["position"]["epoch"] - 1 == max(dice, key=dice.__getitem__)
        assert state["best"] == {
            "dice": max(dice.values()),
            "epoch": state["position"]["epoch"] - 1,
            "kind": "volumes",
            "save_index": state["save_index"],
        }

    def test_results_of_validation_are_those_asked_for(self, study):
        folder = study.out / "predictions" / "first"
        names = {path.name for path in (folder / "predictions").iterdir()}
        assert names == {"case2_Segm.nii.gz", "case2_ProbMapClass1.nii.gz", "case2.json"}
        assert {"metrics.csv", "metrics.json"} <= {path.name for path in folder.iterdir()}

    def test_log_has_the_promised_phrases(self, study):
        block = [
            "=========== Compiling the Training Function ===========",
            "(Re)Initializing parameters for the optimization. Reason: Uninitialized: [True], Reset requested: [False]",
            "...Initializing attributes for the optimization...",
        ]
        positions = [study.log.index(line) for line in block]
        assert positions == sorted(positions)
        for epoch in range(4):
            assert f"Starting new Epoch! Epoch #{epoch}/4" in study.log
        assert "TRAINING: Epoch #3, Overall:" in study.log
        assert "VALIDATION: Epoch #0, Subepoch #1, Overall:" in study.log
        assert "[TRAINING] Processed 2/2 batches for this subepoch..." in study.log
        assert "ACCURACY: (Validation) The Per-Class average DICE Coefficients over all subjects are:" in study.log

    def test_command_ends_with_what_it_wrote_and_the_next_one(self, study):
        assert f"Models: {study.checkpoints}" in self.outcome.out
        assert self.outcome.out.endswith(f"  deepmedic -test TEST.cfg -model {study.checkpoints}\n")

    def test_events_are_json_objects(self, study):
        lines = (study.out / "logs" / "first.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events.count("epoch") == 4
        assert events[-1] == "session_finished"

    def test_saved_model_describes_its_data_and_its_start(self, study):
        content = study.content()
        assert content["data"]["axis_order"] == "RAS"
        assert content["data"]["spacing"] == pytest.approx((1, 1, 1.2))
        assert content["data"]["zscore"]["all_channels"] is True
        assert len(content["data"]["intensities"]) == 2
        [initial] = (study.out / "cnnModels").glob("net.initial.*")
        assert same_tensors(content["start_parameters"], study.content(initial)["parameters"])
        assert not same_tensors(content["start_parameters"], content["parameters"])

    def test_no_lock_and_no_temporary_is_left(self, study):
        assert not [path for path in study.out.rglob("*") if path.name.startswith(".")]


def test_step_zero_checkpoint_precedes_training(study, run, monkeypatch):
    monkeypatch.setattr(Trainer, "_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("-newModel", study.folder / "model.cfg", "-train", study.train()).code == 130
    state = study.trained()
    assert (state["position"]["step"], state["save_index"]) == (0, 1)


def test_seed_decides_parameters_and_samples(study, run):
    found = []
    for seed, folder in (("0", "a"), ("0", "b"), ("7", "c")):
        config = study.train(folderForOutput=folder, numberOfEpochs=1, **QUICK)
        assert run("-newModel", study.folder / "model.cfg", "-train", config, "-seed", seed).code == 0
        [path] = (study.folder / folder / "cnnModels" / "first").glob("*final*")
        found.append(study.content(path)["parameters"])
    assert same_tensors(found[0], found[1])
    assert not torch.equal(found[0]["normal/1/weight"], found[2]["normal/1/weight"])


def test_best_is_chosen_on_samples_where_volumes_are_not_segmented(study, run):
    config = study.train(validate=True, performFullInferenceOnValidationImagesEveryFewEpochs=False)
    assert run("-newModel", study.folder / "model.cfg", "-train", config).code == 0
    [best] = study.saved("net.first.best*")
    assert study.trained(best)["best"]["epoch"] == study.trained(best)["position"]["epoch"] - 1
    assert not (study.out / "predictions").exists()


def test_volumes_are_validated_every_few_epochs(study, run):
    config = study.train(
        validate=True,
        numberOfEpochs=5,
        numberOfEpochsBetweenFullInferenceOnValImages=2,
        saveSegmentationVal=False,
        **QUICK,
    )
    assert run("-newModel", study.folder / "model.cfg", "-train", config).code == 0
    rows = [row for row in csv.DictReader(study.metrics.splitlines()) if row["role"] == "volumes"]
    assert {row["epoch"] for row in rows} == {"1", "3"}


def test_frozen_layers_do_not_move(study, run):
    config = study.train(layersToFreezeNormal=[1], layersToFreezeSubsampled=[], **QUICK)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
    assert (outcome.code, "Frozen layers, whose parameters do not change: normal/1" in outcome.out) == (0, True)
    content = study.content()
    moved = {
        name.rpartition("/")[0]
        for name, start in content["start_parameters"].items()
        if not torch.equal(start, content["parameters"][name])
    }
    assert "normal/1" not in moved
    assert {"normal/2", "subsampled1/1", "fc/1", "softmax"} <= moved


class TestUnusableCases:
    """An empty ROI (C17), or a file that turns out bad when its voxels are read."""

    @pytest.fixture(params=["empty ROI", "damaged file"])
    def fault(self, study, request):
        if request.param == "empty ROI":
            study.write_image(1, "roi", np.zeros((20, 18, 16), np.uint8))
            return "case1_t1: no segment can be drawn from it: its ROI is empty"
        path = study.image(1, "t2")
        path.write_bytes(path.read_bytes()[:-500])
        return f"{path}"

    def test_training_stops_before_the_first_step(self, study, run, fault):
        outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train(numOfCasesLoadedPerSubepoch=1))
        assert outcome.code == 4
        assert fault in outcome.err
        assert not (study.out / "cnnModels").exists()

    def test_training_goes_on_without_it_where_that_is_allowed(self, study, run, fault):
        command = ["-newModel", study.folder / "model.cfg", "-train", study.train(allowSkippedCases=True, **QUICK)]
        outcome = run(*command)
        assert outcome.code == 9
        assert "1 case was left out: case1_t1" in outcome.err
        assert fault in study.trained()["skipped"]["case1_t1"]
        assert "is finished" in (again := run(*command)).out
        assert again.code == 9

    def test_it_is_found_when_not_everything_fits_into_memory(self, study, run, fault):
        config = study.train(numOfCasesLoadedPerSubepoch=1, memoryBudget=0.00015, numberOfEpochs=4, **QUICK)
        outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
        assert outcome.code == 4
        assert fault in outcome.err
        # A damaged file is among the first, which are read for the model's description of its data.
        assert study.checkpoints.exists() == ("t2" not in fault)

    def test_validation_case_is_found_before_the_first_step(self, study, run, fault):
        study.list_cases("train", [0, 2])
        study.list_cases("val", [1])
        for samples in (True, False):
            config = study.train(validate=True, performValidationOnSamplesThroughoutTraining=samples, **QUICK)
            outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
            if samples or "t2" in fault:
                assert outcome.code == 4
                assert not study.checkpoints.exists()
            else:
                # Volumes with an empty ROI are segmented all the same: everything is background.
                assert outcome.code == 0
                assert "the ROI mask is empty, so the result is background everywhere" in outcome.err

    def test_unusable_validation_case_is_skipped_where_that_is_allowed(self, study, run, fault):
        study.list_cases("train", [0])
        study.list_cases("val", [1, 2])
        config = study.train(validate=True, allowSkippedCases=True, **QUICK)
        outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
        assert outcome.code == 9
        assert "1 case was left out: case1" in outcome.err


def test_all_cases_unusable_is_refused_even_if_cases_may_be_skipped(study, run):
    for case in (0, 1):
        study.write_image(case, "roi", np.zeros((20, 18, 16), np.uint8))
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train(allowSkippedCases=True))
    assert outcome.code == 4
    assert "None of the 2 cases (train) has a voxel on which a segment" in outcome.err


def test_volumes_that_do_not_fit_into_memory_are_refused_before_anything_is_written(study, run):
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train(memoryBudget=0.00015))
    assert outcome.code == 6
    assert "training: the 2 largest cases, which one subepoch may draw from, need 206.3 KiB of memory" in outcome.err
    assert "157.3 KiB may be used" in outcome.err
    assert not study.out.exists()


def test_small_images_are_padded(study, run):
    for case in range(3):
        for kind in ("t1", "t2", "labels", "roi"):
            voxels = np.random.default_rng(case).integers(0, 2, (4, 5, 20)).astype(np.uint8)
            study.write_image(case, kind, voxels if kind in ("labels", "t1", "t2") else np.ones_like(voxels))
    config = study.train(validate=True, **QUICK)
    assert run("-newModel", study.folder / "model.cfg", "-train", config).code == 0


def test_un_normalised_intensities_are_told_once_naming_the_key(study, run):
    config = study.train(norm_zscore_prms=None, validate=True, **QUICK)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
    assert outcome.err.count("INTENSITIES ARE NOT NORMALISED") == 2
    assert "norm_zscore_prms = {apply_to_all_channels = true}" in outcome.err


class TestSharedImages:
    @pytest.fixture(autouse=True)
    def shared(self, study):
        link = study.image(7, "t1")
        link.symlink_to(study.image(0, "t1"))
        (study.folder / "lists" / "val_t1.cfg").write_text("../images/case7_t1.nii.gz\n")

    def test_they_are_named_in_a_warning(self, study, run):
        outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train(validate=True, **QUICK))
        assert outcome.code == 0
        assert f"{study.image(0, 't1')} is used in training" in outcome.err
        assert f"{study.image(0, 't1')} is used in training" in study.log

    def test_they_are_refused_with_strict_splits(self, study, run):
        config = study.train(validate=True, strictSplits=True)
        outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
        assert outcome.code == 4
        assert "take it out of one of the sets, or set strictSplits = false" in outcome.err
        assert not study.out.exists()


class TestSignals:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
    @pytest.mark.parametrize("step", [0, 3])
    def test_state_is_saved_at_the_next_step(self, study, run, number, code, step):
        with signal_at(step, number):
            outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train())
        assert outcome.code == code
        assert "the state is saved. Repeat the same command to go on where it stopped" in outcome.err
        assert study.trained()["position"]["step"] == step + 1

    def test_validation_is_repeated(self, study, run, monkeypatch):
        config = study.train(validate=True, folderForOutput="undisturbed", **QUICK)
        assert run("-newModel", study.folder / "model.cfg", "-train", config).code == 0
        original, calls = predictor._Stitched.write, []

        def interrupted(self, *arguments):
            calls.append(os.kill(os.getpid(), signal.SIGTERM) if not calls else None)
            return original(self, *arguments)

        monkeypatch.setattr(predictor._Stitched, "write", interrupted)
        command = ["-newModel", study.folder / "model.cfg", "-train", study.train(validate=True, **QUICK)]
        assert run(*command).code == 143
        state = study.trained()
        assert (state["position"]["epoch"], state["position"]["stage"]) == (0, "volumes")
        assert run(*command).code == 0
        undisturbed = study.folder / "undisturbed"
        [final] = (undisturbed / "cnnModels" / "first").glob("*final*")
        assert same_tensors(study.content()["parameters"], study.content(final)["parameters"])
        assert study.metrics == (undisturbed / "logs" / "first.metrics.csv").read_text()
        assert len(study.saved()) == 3


class TestChangedSettings:
    @pytest.fixture(autouse=True)
    def interrupted(self, study, run):
        """A session that was interrupted after the first of the two steps of its second subepoch."""
        self.command = ["-newModel", study.folder / "model.cfg", "-train"]
        with signal_at(2):
            assert run(*self.command, study.train()).code == 143
        position = study.trained()["position"]
        assert (position["subepoch"], position["batch"], position["step"]) == (1, 1, 3)

    def test_harmless_changes_are_listed_and_nothing_is_repeated(self, study, run):
        outcome = run(*self.command, study.train(learningRate=0.0005, keepLastCheckpoints=1))
        assert outcome.code == 0
        assert "Changed since the checkpoint: learningRate: 0.001 -> 0.0005" in outcome.err
        assert "Changed since the checkpoint: keepLastCheckpoints: 3 -> 1" in outcome.err
        assert study.trained()["position"]["step"] == 8
        assert len(study.saved()) == 1

    def test_settings_without_effect_on_the_training_leave_it_as_it_was(self, study, run):
        assert run(*self.command, study.train(keepLastCheckpoints=5)).code == 0
        undisturbed = study.train(folderForOutput="undisturbed")
        assert run(*self.command, undisturbed).code == 0
        [final] = (study.folder / "undisturbed" / "cnnModels" / "first").glob("*final*")
        assert same_tensors(study.content()["parameters"], study.content(final)["parameters"])
        assert study.metrics == (study.folder / "undisturbed" / "logs" / "first.metrics.csv").read_text()

    @pytest.mark.parametrize(
        ("change", "steps"),
        [({"batchsize_train": 2}, 2 + 3 * 4), ({"typeOfSamplingForTraining": 0}, 8), ({"numberOfSubepochs": 3}, 6 + 6)],
    )
    def test_subepoch_with_other_batches_is_repeated_from_its_first(self, study, run, change, steps):
        outcome = run(*self.command, study.train(**change))
        assert (outcome.code, next(iter(change)) in outcome.err) == (0, True)
        assert study.trained()["position"]["step"] == steps
        rows = list(csv.DictReader(study.metrics.splitlines()))
        voxels = [row for row in rows if (row["epoch"], row["subepoch"], row["class"]) == ("0", "1", "all")]
        assert len(voxels) == 1
        history = {tuple(sample[:3]): sample for sample in study.trained()["history"]["samples"]}
        counted = sum(history["training", 0, 1][4][0][:2])
        assert counted == 8 * 5**3

    def test_changed_lists_of_cases_are_noticed(self, study, run):
        study.list_cases("train", [0])
        outcome = run(*self.command, study.train())
        assert outcome.code == 0
        assert "Changed since the checkpoint: trainingCases.channel 1:" in outcome.err

    def test_other_threads_are_told_to_change_the_numbers(self, study, run):
        torch.set_num_threads(2)
        outcome = run(*self.command, study.train())
        assert outcome.code == 0
        assert "Changed since the checkpoint: computedWith.threads: 1 -> 2" in outcome.err
        assert "goes on to the very same numbers only with the same device, torch, numba and threads" in outcome.err

    def test_going_on_without_numba_is_told_and_recorded(self, study, run, monkeypatch):
        monkeypatch.setattr(compilation, "is_possible", lambda: False)
        outcome = run(*self.command, study.train())
        assert outcome.code == 0
        assert f'Changed since the checkpoint: computedWith.numba: "{numba.__version__}" -> none' in outcome.err
        assert "goes on to the very same numbers only with the same" in outcome.err
        events = map(json.loads, (study.out / "logs" / "first.jsonl").read_text().splitlines())
        used = [event["versions"]["numba"] for event in events if event["event"] == "session"]
        assert used == [numba.__version__, "not used"]

    @pytest.mark.parametrize("kind", [0, 1])
    def test_another_optimiser_is_refused_before_anything_is_written(self, study, run, kind):
        before = {path: path.stat().st_mtime_ns for path in study.checkpoints.iterdir()}
        outcome = run(*self.command, study.train(sgd0orAdam1orRms2=kind))
        assert outcome.code == 5
        assert "the saved optimiser state is of RMSProp" in outcome.err
        assert "-resetOptimizer" in outcome.err
        assert {path: path.stat().st_mtime_ns for path in study.checkpoints.iterdir()} == before
        assert study.log.count("the saved optimiser state is of RMSProp") == 1

    def test_other_frozen_layers_are_refused(self, study, run):
        outcome = run(*self.command, study.train(layersToFreezeNormal=[1]))
        assert outcome.code == 5
        assert "were other layers frozen?" in outcome.err

    def test_fewer_epochs_than_trained_are_refused_as_finished(self, study, run):
        assert run(*self.command, study.train(numberOfEpochs=1)).code == 0
        assert "is finished: its model was trained for 1 epoch" in run(*self.command, study.train(numberOfEpochs=1)).out


def test_settings_that_decide_batches_exist(study):
    known = set(to_plain(load_train_config(study.folder / "train.cfg"))) | {"trainingCases", "segment_size_train"}
    assert set(_DECIDE_BATCHES) <= known


class TestDivergence:
    def test_it_stops_naming_step_rate_and_cases_and_keeps_the_checkpoint(self, study, run):
        config = study.train(learningRate=1e30, numberOfEpochs=9)
        outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
        assert outcome.code == 7
        assert "became" in outcome.err
        assert "(learning rate 1e+30, cases case0_t1, case1_t1)" in outcome.err
        assert "The last checkpoint holds finite parameters and is untouched. Lower learningRate" in outcome.err
        assert outcome.err.splitlines()[-1].removeprefix("deepmedic: ") in study.log
        assert all(torch.isfinite(tensor).all() for tensor in study.content()["parameters"].values())

    def test_parameters_that_the_last_step_spoilt_are_not_saved(self, study, run, monkeypatch):
        original = Trainer._step

        def spoil(self, *arguments):
            cost = original(self, *arguments)
            with torch.no_grad():
                self.network.softmax.bias[0] = torch.inf
            return cost

        monkeypatch.setattr(Trainer, "_step", spoil)
        config = study.train(numberOfEpochs=1, **QUICK)
        outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
        assert outcome.code == 7
        assert (
            "The parameters softmax/bias became infinite or not a number at step 0 (learning rate 0.001" in outcome.err
        )
        assert study.trained()["position"]["step"] == 0


def test_damaged_newest_checkpoint_is_passed_over(study, run):
    command = ["-newModel", study.folder / "model.cfg", "-train", study.train(numberOfEpochs=3, **QUICK)]
    with signal_at(2):
        assert run(*command).code == 143
    earlier, newest = study.saved()[-2:]
    newest.write_bytes(newest.read_bytes()[:-200])  # the undated name is a link to it
    outcome = run(*command)
    assert outcome.code == 0
    assert f"Passed over: {newest}: is damaged or cut short" in outcome.err
    assert f"Passed over: {newest}: is damaged or cut short" in study.log
    assert f"Going on from {earlier}" in outcome.out


def test_all_checkpoints_damaged_is_refused(study, run):
    config = study.train(**QUICK)
    assert run("-newModel", study.folder / "model.cfg", "-train", config).code == 0
    for path in study.checkpoints.iterdir():
        path.write_bytes(b"PK\x03\x04nothing")
    outcome = run("-train", config)
    assert outcome.code == 5
    assert "none of its 5 saved models can be used" in outcome.err


@pytest.mark.parametrize("lost", ["latest", "final", "best"])
def test_names_that_a_kill_left_undone_are_given_later(study, run, lost):
    command = ["-newModel", study.folder / "model.cfg", "-train", study.train(validate=True, **QUICK)]
    assert run(*command).code == 0
    [path] = study.saved(f"net.first.{lost}*")
    content = path.read_bytes()
    path.unlink()
    outcome = run(*command)
    assert (outcome.code, "is finished" in outcome.out) == (0, True)
    [path] = study.saved(f"net.first.{lost}*")
    assert path.read_bytes() == content


def test_logs_may_be_deleted_during_training(study, run, monkeypatch):
    original = Trainer._epoch

    def delete(self):
        shutil.rmtree(study.out / "logs")
        original(self)

    monkeypatch.setattr(Trainer, "_epoch", delete)
    assert run("-newModel", study.folder / "model.cfg", "-train", study.train(**QUICK)).code == 0
    assert "Epoch #1/2" in study.log
    assert "\n0,0,training,all" in study.metrics


def test_tensorboard_events_agree_with_the_history_after_a_resume(study, run):
    from tensorboard.backend.event_processing import event_accumulator  # slow to import

    command = ["-newModel", study.folder / "model.cfg", "-train", study.train(tensorboard_log=True)]
    with signal_at(4):
        assert run(*command).code == 143
    assert run(*command).code == 0
    events = event_accumulator.EventAccumulator(str(study.out / "tensorboard" / "first" / "train"))
    events.Reload()
    costs = [(event.step, event.value) for event in events.Scalars("samples: cost/Class-all")]
    rows = [
        row
        for row in csv.DictReader(study.metrics.splitlines())
        if row["subepoch"] and (row["role"], row["class"]) == ("training", "all")
    ]
    expected = [(2 * int(row["epoch"]) + int(row["subepoch"]), pytest.approx(float(row["cost"]))) for row in rows]
    assert costs == expected


def test_next_command_can_be_copied_from_a_path_with_spaces(study, run):
    config = study.train(folderForOutput="my results", numberOfEpochs=1, **QUICK)
    command = ["-newModel", study.folder / "model.cfg", "-train", config]
    outcome = run(*command)
    assert outcome.code == 0
    assert shlex.split(outcome.out.splitlines()[-1])[-1] == str(study.folder / "my results" / "cnnModels" / "first")
    again = run(*command).out
    assert Path(shlex.split(again.strip())[-1]).is_file()


def test_running_out_of_memory_is_a_refusal(study, run, monkeypatch):
    def exhausted(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr(Trainer, "_step", exhausted)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train())
    assert outcome.code == 6
    assert "Memory ran out on cpu: CUDA out of memory" in outcome.err
    assert "Lower memoryBudget, numOfCasesLoadedPerSubepoch, batchsize_train or segmentsDimTrain" in outcome.err


class TestDataThatDiffer:
    """Between training and validation, and between a checkpoint and the data it goes on with."""

    def test_validation_in_another_axis_order_is_refused(self, study, run):
        flip(study, 2)
        study.list_cases("val", [2])
        outcome = run("-newModel", study.folder / "model.cfg", "-train", study.train(validate=True))
        assert outcome.code == 4
        assert "the cases are stored with different axis orders" in outcome.err
        assert not study.out.exists()

    def test_images_turned_before_resuming_are_refused(self, study, run):
        study.list_cases("train", [0])
        command = ["-newModel", study.folder / "model.cfg", "-train"]
        assert run(*command, study.train(numberOfEpochs=1)).code == 0
        flip(study, 0)
        outcome = run(*command, study.train(numberOfEpochs=2))
        assert outcome.code == 4
        assert "those of the training images ran" in outcome.err

    def test_freezing_everything_is_refused(self, study, run):
        config = study.train(layersToFreezeNormal=[1, 2], layersToFreezeSubsampled=[1, 2], layersToFreezeFC=[1, 2])
        outcome = run("-newModel", study.folder / "model.cfg", "-train", config)
        assert outcome.code == 3
        assert "freezes every layer: nothing is left to train" in outcome.err


def flip(study, case: int) -> None:
    """Store all images of a case with the first axis the other way round; they still show the same."""
    for path in study.folder.rglob(f"case{case}_*.nii.gz"):
        image = nib.load(path)
        affine = image.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
        affine[:3, 3] = (image.affine @ [image.shape[0] - 1.0, 0.0, 0.0, 1.0])[:3]
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), affine), path)
