"""Checkpoints of the original's TensorFlow version through the command line, compared with what the original made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from study_fixtures import quick

from deepmedic import checkpoints, cli
from deepmedic.sessions.training.checkpointing import CheckpointWriter

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"
FILES = {"tiny": "tinyE2E.model.ckpt", "threepath": "threeE2E.model.ckpt"}
SESSIONS = [(model, session) for model in FILES for session in ("testRoi", "testPlain")]
TIE = 1e-5
"""Difference of the two best probabilities below which another class may win."""

TRAIN = """\
sessionName = "goOn"
folderForOutput = "./output"
channelsTraining = ["./lists/ch0.cfg", "./lists/ch1.cfg"]
gtLabelsTraining = "./lists/gt.cfg"
roiMasksTraining = "./lists/roi.cfg"
numberOfEpochs = 3
numberOfSubepochs = 1
numberTrainingSegmentsLoadedOnGpuPerSubep = 4
batchsize_train = 2
typeOfLearningRateSchedule = "poly"
norm_zscore_prms = {"apply_to_all_channels": True}
"""


@dataclass(frozen=True)
class Original:
    """A copy of the original's files in a folder of the test's own."""

    folder: Path
    name: str

    @property
    def checkpoint(self) -> Path:
        return self.folder / "ckpt" / FILES[self.name]

    @property
    def data(self) -> Path:
        return self.folder / "ckpt" / f"{FILES[self.name]}.data-00000-of-00001"

    @property
    def index(self) -> Path:
        return self.folder / "ckpt" / f"{FILES[self.name]}.index"

    @property
    def config(self) -> Path:
        return self.folder / "model.cfg"

    @property
    def models(self) -> Path:
        return self.folder / "output" / "cnnModels"

    def train(self, **changes: Any) -> Path:
        path = self.folder / "train.cfg"
        path.write_text(TRAIN + "".join(f"{key} = {value!r}\n" for key, value in changes.items()))
        return path

    def saved(self, pattern: str = "*.goOn.2*.save") -> list[Path]:
        return sorted((self.models / "goOn").glob(pattern))

    def log(self, session: str = "goOn") -> str:
        return (self.folder / "output" / "logs" / f"{session}.txt").read_text()


def copy_of(name: str, folder: Path) -> Original:
    shutil.copytree(GOLDEN / name, folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Original(folder, name)


@pytest.fixture
def tiny(tmp_path) -> Original:
    return copy_of("tiny", tmp_path / "tiny")


def golden_optimiser(original: Original) -> dict[str, list[np.ndarray]]:
    """Slots of the original's optimiser, each with an array per trained parameter in their order."""
    count = len(json.loads((original.folder / "variables.json").read_text())["optimiser_parameter_order"])
    names = {"mean_square": "accu_grad_squared", "velocity": "velocities_for_mom"}
    with np.load(original.folder / "trainer_state.npz") as arrays:
        return {
            slot: [arrays[f"trainer.{name}_{number}" if number else f"trainer.{name}"] for number in range(count)]
            for slot, name in names.items()
        }


# Segmenting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segmented:
    """What an inference session wrote from a model of the original."""

    original: Original
    session: str

    def image(self, name: str) -> nib.Nifti1Image:
        folder = "features" if "pathway" in name else "predictions"
        return nib.load(self.original.folder / "output" / "predictions" / self.session / folder / f"{name}.nii.gz")

    def voxels(self, name: str) -> np.ndarray:
        return np.asarray(self.image(name).dataobj)

    def expected(self, name: str) -> np.ndarray:
        path = GOLDEN / self.original.name / "expected" / self.session / f"{name}.nii.gz"
        return np.asarray(nib.load(path).dataobj)

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((GOLDEN / self.original.name / "expected" / "results.json").read_text())[self.session]

    @property
    def names(self) -> list[str]:
        """All images that the original saved."""
        return [name.removesuffix(".nii.gz") for name in self.results["files"]]


@pytest.fixture(scope="module", params=SESSIONS, ids="-".join)
def kind(request) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module", params=["loaded", "converted"])
def segmented(request, kind, tmp_path_factory) -> Segmented:
    """The original's own command line, or the same with the checkpoint converted first."""
    name, session = kind
    original = copy_of(name, tmp_path_factory.mktemp("original") / name)
    config = original.folder / f"{session}.cfg"
    # All maps, so that a label that differs can be seen to be a tie.
    config.write_text(config.read_text().replace("[False, True, False]", "[True, True, True]"))
    words: list[Any] = ["-model", original.config, "-test", config, "-load", original.checkpoint]
    with quick():
        if request.param == "converted":
            saved = original.folder / "converted.save"
            assert command("-convert", original.checkpoint, original.config, "-output", saved) == 0
            shutil.rmtree(original.folder / "ckpt")
            words = ["-test", config, "-model", saved]
        assert command(*words, "-dev", "cpu") == 0
    return Segmented(original, session)


def command(*words: Any) -> int:
    return cli.main([str(word) for word in words])


class TestSegmenting:
    def test_probabilities_and_feature_maps_are_those_of_the_original(self, segmented):
        compared = [name for name in segmented.names if not name.endswith("Segm")]
        assert len(compared) >= 1
        for name in compared:
            expected, found = segmented.expected(name), segmented.voxels(name)
            assert found.dtype == np.float32
            largest = np.abs(expected).max() if "pathway" in name else 1.0
            np.testing.assert_allclose(found, expected, atol=2e-5 * max(largest, 1.0), rtol=0, err_msg=name)

    def test_labels_are_those_of_the_original_but_for_ties(self, segmented):
        for name in segmented.names:
            if not name.endswith("Segm"):
                continue
            maps = [segmented.voxels(name.replace("Segm", f"ProbMapClass{number}")) for number in range(3)]
            best, second = np.sort(np.stack(maps), axis=0)[::-1][:2]
            differ = segmented.voxels(name) != segmented.expected(name)
            assert (best - second)[differ].max(initial=0) < TIE

    def test_dice_in_the_log_is_that_of_the_original(self, segmented):
        log = segmented.original.log(segmented.session)
        *cases, mean = segmented.results["dice_from_log"]
        for case in cases:
            line = f"subject with index #{case['subject']} equal:"
            assert_dice(case, next(found for found in log.splitlines() if line in found))
        assert_dice(mean, log.partition("average DICE Coefficients over all subjects are:")[2])


def assert_dice(expected: dict[str, Any], line: str) -> None:
    for kind in ("DICE1", "DICE2", "DICE3"):
        found = re.search(rf"{kind}=\[ ([0-9. ]+) \]", line)
        assert found is not None
        assert [float(number) for number in found[1].split()] == pytest.approx(expected[kind], abs=1.001e-4)


def test_every_name_of_a_checkpoint_gives_the_same(tiny, run):
    config, models = tiny.folder / "testPlain.cfg", []
    for number, name in enumerate([tiny.checkpoint, tiny.index, tiny.data, tiny.folder / "ckpt"]):
        config.write_text(config.read_text() + (f"cnnModelFilePath = '{name}'\n" if number == 0 else ""))
        weights = [] if number == 0 else ["-load", name]
        assert run("-model", tiny.config, "-test", config, *weights, "-overwrite").code == 0
        record = tiny.folder / "output" / "predictions" / "testPlain" / "predictions" / "pred_case0.json"
        models.append(json.loads(record.read_text())["model"])
    assert len(set(models)) == 1


# Going on with the training -----------------------------------------------------------------------------------------


class TestTraining:
    def test_it_goes_on_at_the_epoch_and_with_the_optimiser_of_the_checkpoint(self, tiny, run):
        outcome = run("-model", tiny.config, "-train", tiny.train(), "-load", tiny.checkpoint)
        assert outcome.code == 0, outcome.err
        epochs = re.findall(r"Starting new Epoch! Epoch #(\d)/3", tiny.log())
        assert epochs == ["1", "2"]
        assert "Compiling the Training Function" not in tiny.log()
        begun = checkpoints.load(tiny.saved()[0])
        assert begun["training"]["position"]["epoch"] == 1
        imported, golden = begun["training"]["optimiser"], golden_optimiser(tiny)
        assert (imported["kind"], imported["slots"].keys()) == ("RMSProp", golden.keys())
        for slot, arrays in golden.items():
            for (name, tensor), array in zip(imported["slots"][slot].items(), arrays, strict=True):
                np.testing.assert_array_equal(tensor.numpy(), array, err_msg=f"{slot} of {name}")
        assert checkpoints.load(tiny.saved()[-1])["training"]["finished"]

    def test_a_converted_checkpoint_goes_on_in_the_same_way(self, tiny, run):
        assert run("-model", tiny.config, "-train", tiny.train(), "-load", tiny.checkpoint).code == 0
        assert run("-convert", tiny.checkpoint, tiny.config).code == 0
        [converted] = tiny.models.glob("tinyE2E.converted.*.save")
        expected = checkpoints.load(tiny.saved()[-1])
        shutil.rmtree(tiny.models / "goOn")
        assert run("-train", tiny.train(), "-model", converted).code == 0
        assert_same_training(checkpoints.load(tiny.saved()[-1]), expected)

    def test_killed_and_repeated_it_ends_as_if_nothing_had_happened(self, tiny, run, monkeypatch):
        words = ["-model", tiny.config, "-train", tiny.train(), "-load", tiny.checkpoint]
        assert run(*words).code == 0
        expected = checkpoints.load(tiny.saved()[-1])
        shutil.rmtree(tiny.models / "goOn")
        with monkeypatch.context() as patch:
            stop_after(patch, epochs=2)
            assert run(*words).code == 130
        outcome = run(*words)
        assert (outcome.code, "Going on from" in outcome.out) == (0, True)
        assert_same_training(checkpoints.load(tiny.saved()[-1]), expected)
        assert "is finished" in run(*words).out

    @pytest.mark.parametrize("option", ["-resetopt", "-resetOptimizer"])
    def test_a_reset_keeps_the_weights_and_begins_at_epoch_0(self, tiny, run, option):
        assert run("-model", tiny.config, "-train", tiny.train(), "-load", tiny.checkpoint, option).code == 0
        assert re.findall(r"Starting new Epoch! Epoch #(\d)/3", tiny.log()) == ["0", "1", "2"]
        assert "Reason: Uninitialized: [False], Reset requested: [True]" in tiny.log()
        start = checkpoints.load(tiny.saved()[-1])["start_parameters"]
        with np.load(tiny.folder / "params.npz") as golden:
            np.testing.assert_array_equal(start["softmax/bias"].numpy(), golden["softmax.bias_b"])
            np.testing.assert_array_equal(start["fc/1/bn_mean_rolling"].numpy(), golden["path2.fc.block0.bn_roll_mean"])

    def test_other_frozen_layers_have_no_state_to_go_on_from(self, tiny, run):
        words = ["-model", tiny.config, "-train", tiny.train(layersToFreezeNormal=[1]), "-load", tiny.checkpoint]
        outcome = run(*words)
        assert outcome.code == 5
        assert "other layers were frozen then" in outcome.err
        assert not (tiny.folder / "output").exists()
        assert run(*words, "-resetopt").code == 0

    def test_the_dry_run_says_where_it_goes_on_and_makes_nothing(self, tiny, run):
        outcome = run("-model", tiny.config, "-train", tiny.train(), "-load", tiny.checkpoint, "-check")
        assert (outcome.code, outcome.out.splitlines()[0]) == (0, "OK")
        assert f"begins: starts from {tiny.checkpoint}" in outcome.out
        assert not (tiny.folder / "output").exists()


def assert_same_training(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, tensor in expected["parameters"].items():
        assert torch.equal(found["parameters"][name], tensor), name
    for key in ("position", "history"):
        assert found["training"][key] == expected["training"][key]


def stop_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Make the next command end, as if it were killed, once the checkpoint of so many epochs is written."""
    write = CheckpointWriter.__call__

    def write_and_stop(self, state, extra):
        write(self, state, extra)
        if state.position.epoch >= epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "__call__", write_and_stop)


# A new model from a checkpoint --------------------------------------------------------------------------------------


class TestPretrained:
    @pytest.fixture
    def larger(self, tiny) -> Path:
        """A config with one class and two feature maps more."""
        path = tiny.folder / "larger.cfg"
        text = tiny.config.read_text().replace("tinyE2E", "larger").replace("[5, 6, 7]", "[7, 8, 9]")
        path.write_text(text.replace("numberOfOutputClasses = 3", "numberOfOutputClasses = 4"))
        return path

    def test_a_new_model_receives_what_the_original_learnt(self, tiny, larger, run):
        outcome = run("-newModel", larger, "-pretrained", tiny.checkpoint, "-pretrainedConfig", tiny.config)
        assert outcome.code == 0, outcome.err
        [path] = tiny.models.glob("larger.initial.pretrained.*.save")
        parameters = checkpoints.load(path)["parameters"]
        with np.load(tiny.folder / "params.npz") as golden:
            weight = parameters["subsampled1/2/weight"][:6, :5].numpy()
            np.testing.assert_array_equal(weight, golden["path1.subsampled.block1.conv_W"])
            rolling = parameters["normal/3/bn_var_rolling"][:, :6].numpy()
            np.testing.assert_array_equal(rolling, golden["path0.normal.block2.bn_roll_var"])

    def test_created_and_trained_at_once_and_repeated(self, tiny, larger, run):
        words = ["-newModel", larger, "-pretrained", tiny.checkpoint, "-pretrainedConfig", tiny.config]
        words += ["-train", tiny.train()]
        outcome = run(*words)
        assert outcome.code == 0, outcome.err
        assert re.findall(r"Starting new Epoch! Epoch #(\d)/3", tiny.log()) == ["0", "1", "2"]
        assert "is finished" in run(*words).out
        larger.write_text(larger.read_text() + "transferClasses = True\n")
        outcome = run(*words)
        assert (outcome.code, f"pretrained from {tiny.checkpoint}" in outcome.err) == (5, True)

    def test_its_architecture_must_be_named(self, tiny, larger, run):
        outcome = run("-newModel", larger, "-pretrained", tiny.checkpoint)
        assert outcome.code == 5
        assert "a TensorFlow checkpoint holds no architecture; name the model config it was made from" in outcome.err
        assert "-pretrainedConfig MODEL.cfg" in outcome.err
        outcome = run("-newModel", larger, "-pretrained", tiny.checkpoint, "-pretrainedConfig", larger)
        assert outcome.code == 5
        assert "does not fit the architecture of model 'larger'" in outcome.err
        assert not (tiny.folder / "output").exists()


# Refusals -----------------------------------------------------------------------------------------------------------


class TestRefusals:
    @pytest.fixture(params=["test", "train", "pretrained", "convert"])
    def refused(self, request, tiny, run) -> Callable[[], str]:
        """Run a command on the checkpoint; return its refusal."""
        words = {
            "test": ["-model", tiny.config, "-test", tiny.folder / "testRoi.cfg", "-load", tiny.checkpoint],
            "train": ["-model", tiny.config, "-train", tiny.train(), "-load", tiny.checkpoint],
            "pretrained": [
                *("-newModel", tiny.config, "-pretrained", tiny.checkpoint),
                *("-pretrainedConfig", tiny.config),
            ],
            "convert": ["-convert", tiny.checkpoint, tiny.config],
        }[request.param]

        def refused() -> str:
            outcome = run(*words)
            assert outcome.code == 5
            assert "Traceback" not in outcome.err
            assert not (tiny.folder / "output").exists()
            return outcome.err

        return refused

    def test_cut_short(self, tiny, refused):
        tiny.data.write_bytes(tiny.data.read_bytes()[:-100])
        assert f"{tiny.data}: is damaged or cut short" in refused()

    def test_one_bit_changed(self, tiny, refused):
        content = bytearray(tiny.data.read_bytes())
        content[1000] ^= 1
        tiny.data.write_bytes(content)
        assert f"{tiny.data}: is damaged" in refused()

    def test_index_altered(self, tiny, refused):
        content = bytearray(tiny.index.read_bytes())
        content[500] ^= 8
        tiny.index.write_bytes(content)
        assert f"{tiny.index}: is damaged" in refused()

    def test_data_file_missing(self, tiny, refused):
        tiny.data.unlink()
        assert "there is no such file" in refused()

    def test_checkpoint_of_another_network(self, tiny, refused):
        other = GOLDEN / "threepath" / "ckpt" / FILES["threepath"]
        for path, suffix in ((tiny.data, "data-00000-of-00001"), (tiny.index, "index")):
            shutil.copyfile(f"{other}.{suffix}", path)
        message = refused()
        assert "does not fit the architecture of model 'tinyE2E'" in message
        assert "variables that differ: " in message

    def test_foreign_index(self, tiny, refused):
        tiny.index.write_bytes(b"no table at all " * 20)
        assert str(tiny.index) in refused()

    @pytest.mark.parametrize("session", ["-test", "-train"])
    @pytest.mark.parametrize("option", ["-load", "-model"])
    def test_without_its_config(self, tiny, run, session, option):
        config = tiny.folder / "testRoi.cfg" if session == "-test" else tiny.train()
        outcome = run(session, config, option, tiny.checkpoint)
        assert outcome.code == 5
        assert "a TensorFlow checkpoint holds no architecture" in outcome.err
        assert f"-model MODEL.cfg -load {tiny.checkpoint}" in outcome.err
        assert not (tiny.folder / "output").exists()

    @pytest.mark.parametrize("words", [["-inspect"], ["-classes", "4", "-adapt"]])
    def test_commands_that_need_a_saved_model_say_how_to_make_one(self, tiny, run, words):
        outcome = run(*words, tiny.checkpoint)
        assert outcome.code == 5
        assert "is a TensorFlow checkpoint" in outcome.err
        assert "-convert X.model.ckpt MODEL.cfg" in outcome.err
