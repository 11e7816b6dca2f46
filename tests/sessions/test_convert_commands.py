"""Models brought in from elsewhere: `-convert`, arrays in `.npz` files, and the pickles of the Theano version."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmedic import checkpoints
from deepmedic.files import sha256_of

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint" / "tiny"
CHECKPOINT = GOLDEN / "ckpt" / "tinyE2E.model.ckpt"
Arrays = dict[str, np.ndarray]


@pytest.fixture
def original(tmp_path) -> Path:
    """The config of the original's model, in a folder that can be written."""
    return Path(shutil.copyfile(GOLDEN / "model.cfg", tmp_path / "original.cfg"))


class TestTensorFlow:
    """That converted models compute and train as the checkpoint is in `test_tensorflow_sessions.py`."""

    def test_it_writes_a_model_that_knows_where_it_came_from(self, original, run):
        outcome = run("-convert", CHECKPOINT, original)
        assert (outcome.code, outcome.err) == (0, "")
        [path] = (original.parent / "output" / "cnnModels").iterdir()
        assert re.fullmatch(r"tinyE2E\.converted\.\d{4}-\d\d-\d\d\.\d\d\.\d\d\.\d\d\.\d{6}\.save", path.name)
        assert f"Converted model (epochs trained: 1): {path}" in outcome.out
        assert f"deepmedic -test TEST.cfg -model {path}" in outcome.out
        content = checkpoints.load(path)
        assert content["dialect"] == "tensorflow"
        assert content["training"]["position"]["epoch"] == 1
        provenance = content["provenance"]
        assert (provenance["kind"], provenance["checkpoint"]) == ("tensorflow", CHECKPOINT.name)
        assert provenance["sha256"] == {
            f"{CHECKPOINT.name}.{part}": sha256_of(CHECKPOINT.with_name(f"{CHECKPOINT.name}.{part}"))
            for part in ("index", "data-00000-of-00001")
        }
        with np.load(GOLDEN / "params.npz") as golden:
            weight = content["parameters"]["normal/1/weight"].numpy()
            np.testing.assert_array_equal(weight, golden["path0.normal.block0.conv_W"])

    def test_the_file_may_be_named(self, original, run, tmp_path):
        path = tmp_path / "models" / "mine.save"
        assert run("-convert", CHECKPOINT, original, "-output", path).code == 0
        assert f"file: {path}" in run("-inspect", path).out
        assert not (tmp_path / "output").exists()

    def test_an_optimiser_that_cannot_be_used_is_left_out_with_the_reason(self, original, run, tmp_path, monkeypatch):
        monkeypatch.setattr("deepmedic.transfer.tensorflow_optimiser._ACCUMULATORS", {})
        outcome = run("-convert", CHECKPOINT, original, "-output", tmp_path / "mine.save")
        assert outcome.code == 0
        assert "Converted without the state of its optimiser" in outcome.err
        content = checkpoints.load(tmp_path / "mine.save")
        assert content["training"] is None
        assert content["start_parameters"] is not None  # it counts as trained all the same

    @pytest.mark.parametrize(
        ("named", "message"),
        [
            ("nothing.model.ckpt", r"nothing\.model\.ckpt\.index: there is no such file"),
            ("A.save", r"A\.save: is a saved model of this program already; use it with -model .*A\.save"),
            ("models", r"models: is a saved model of this program already"),
            ("images", r"images: holds no TensorFlow checkpoint"),
            ("train.cfg", r"train\.cfg: is a text file with settings"),
        ],
    )
    def test_what_is_no_checkpoint_is_refused(self, study, source, run, named, message):
        (study.folder / "models").mkdir()
        shutil.copy(source, study.folder / "models")
        outcome = run("-convert", study.folder / named, study.folder / "model.cfg")
        assert outcome.code == 5
        assert re.search(message, outcome.err)
        assert not study.out.exists()

    def test_existing_files_are_not_replaced(self, original, run, tmp_path):
        (tmp_path / "mine.save").write_bytes(b"precious")
        outcome = run("-convert", CHECKPOINT, original, "-output", tmp_path / "mine.save")
        assert outcome.code == 8
        assert "this file exists; choose another name, or remove it" in outcome.err
        assert (tmp_path / "mine.save").read_bytes() == b"precious"

    def test_the_name_must_be_that_of_a_model(self, original, run, tmp_path):
        outcome = run("-convert", CHECKPOINT, original, "-output", tmp_path / "mine.pt")
        assert (outcome.code, "a model's name must end in .save" in outcome.err) == (2, True)

    def test_somewhere_to_write_to_is_needed(self, original, run):
        original.write_text(original.read_text().replace("folderForOutput", "# folderForOutput"))
        outcome = run("-convert", CHECKPOINT, original)
        assert outcome.code == 3
        assert "folderForOutput is missing; add it, or name the file with -output FILE.save" in outcome.err


class TestArrays:
    """Parameters out with `-exportParameters`, and in again."""

    @pytest.fixture
    def exported(self, study, source, run) -> Path:
        path = study.folder / "P.npz"
        assert run("-inspect", source, "-exportParameters", path).code == 0
        return path

    @pytest.fixture
    def changed(self, exported) -> Callable[[Callable[[Arrays], Any]], Path]:
        """Write the exported arrays anew after a change."""

        def changed(change: Callable[[Arrays], Any]) -> Path:
            with np.load(exported) as file:
                arrays = dict(file)
            change(arrays)
            np.savez(exported, **arrays)
            return exported

        return changed

    @pytest.fixture
    def segmented(self, study, run) -> Callable[..., np.ndarray]:
        """Probabilities [class, x, y, z] that `-test` computes with a model."""

        def segmented(*words: Any) -> np.ndarray:
            config = study.test(saveProbMapsForEachClass=[True, True, True])
            assert run("-test", config, *words, "-overwrite").code == 0
            folder = study.out / "predictions" / "segment" / "predictions"
            maps = [nib.load(folder / f"case2_ProbMapClass{number}.nii.gz") for number in range(3)]
            return np.stack([np.asarray(found.dataobj) for found in maps])

        return segmented

    def test_names_and_values_are_those_of_the_model(self, exported, source):
        parameters = checkpoints.load(source)["parameters"]
        with np.load(exported) as arrays:
            assert {name for name in arrays.files if not re.search(r"/bn_(mean|var)$", name)} == parameters.keys()
            for name, tensor in parameters.items():
                np.testing.assert_array_equal(arrays[name], tensor.numpy(), err_msg=name, strict=True)
            mean = parameters["normal/2/bn_mean_rolling"].mean(dim=0).numpy()
            np.testing.assert_allclose(arrays["normal/2/bn_mean"], mean, rtol=1e-6)

    def test_a_converted_file_is_the_same_model(self, study, source, exported, run, segmented):
        assert run("-convert", exported, study.folder / "model.cfg", "-output", study.folder / "back.save").code == 0
        content, expected = checkpoints.load(study.folder / "back.save"), checkpoints.load(source)
        assert content["parameters"].keys() == expected["parameters"].keys()
        for name, tensor in expected["parameters"].items():
            assert torch.equal(content["parameters"][name], tensor), name
        assert content["provenance"] == {"kind": "arrays", "file": "P.npz", "sha256": sha256_of(exported)}
        probabilities = segmented("-model", source)
        np.testing.assert_array_equal(segmented("-model", study.folder / "back.save"), probabilities)
        np.testing.assert_array_equal(segmented("-model", study.folder / "model.cfg", "-load", exported), probabilities)

    def test_means_and_variances_stand_for_the_rolling_arrays(self, study, source, changed, run, segmented):
        def without_rolling(arrays: Arrays) -> None:
            for name in [name for name in arrays if name.endswith("_rolling")]:
                del arrays[name]

        path = changed(without_rolling)
        assert run("-convert", path, study.folder / "model.cfg", "-output", study.folder / "back.save").code == 0
        content = checkpoints.load(study.folder / "back.save")["parameters"]
        with np.load(path) as arrays:
            expected = np.tile(arrays["fc/1/bn_var"], (5, 1))
        np.testing.assert_array_equal(content["fc/1/bn_var_rolling"].numpy(), expected)
        found = segmented("-model", study.folder / "back.save")
        np.testing.assert_allclose(found, segmented("-model", source), atol=1e-6)

    def test_a_new_model_of_the_same_architecture_needs_no_other_config(self, study, source, exported, run):
        config = study.model(transferClasses=True)
        outcome = run("-newModel", config, "-pretrained", exported)
        assert outcome.code == 0, outcome.err
        assert "1091 of 1091 parameters (100.0%) of model net come from model net." in outcome.out
        [path] = (study.out / "cnnModels").glob("net.initial.pretrained.*.save")
        content = checkpoints.load(path)
        expected = checkpoints.load(source)["parameters"]
        assert all(torch.equal(content["parameters"][name], expected[name]) for name in expected)
        assert content["provenance"]["source"] == sha256_of(exported)

    def test_a_new_model_of_another_architecture_needs_the_config_of_the_arrays(self, study, exported, run):
        larger = study.model("larger", modelName="larger", numberFMsPerLayerNormal=[4, 6])
        outcome = run("-newModel", larger, "-pretrained", exported)
        assert outcome.code == 5
        assert "mismatched: normal/1/weight is [3, 2, 3, 3, 3], this network needs [4, 2, 3, 3, 3]" in outcome.err
        assert "add its config: -pretrainedConfig MODEL.cfg" in outcome.err
        assert not study.out.exists()
        words = ["-newModel", larger, "-pretrained", exported, "-pretrainedConfig", study.folder / "model.cfg"]
        outcome = run(*words)
        assert outcome.code == 0, outcome.err
        assert "come from model net." in outcome.out

    def test_there_is_no_optimiser_to_go_on_with(self, study, exported, run):
        words = ["-model", study.folder / "model.cfg", "-load", exported, "-train", study.train(numberOfEpochs=1)]
        outcome = run(*words)
        assert outcome.code == 5
        assert "Add -resetOptimizer to keep its weights and start optimisation anew" in outcome.err
        assert not study.out.exists()
        assert run(*words, "-resetOptimizer").code == 0
        assert "Epoch #0/1" in study.log

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda arrays: arrays.pop("normal/2/weight"), "missing: normal/2/weight"),
            (lambda arrays: arrays.update(extra=np.zeros(3, np.float32)), "unexpected: extra"),
            (
                lambda arrays: arrays.update({"fc/1/bias2": np.zeros(3), "softmax/bias": np.zeros(4)}),
                r"mismatched: softmax/bias is \[4\], this network needs \[3\]",
            ),
            (
                lambda arrays: arrays.update({"softmax/bias": np.array([0.0, np.nan, np.inf])}),
                "2 of the 3 numbers of softmax/bias are infinite, not a number, or too large",
            ),
            (
                lambda arrays: arrays.update({"softmax/bias": np.array([0.0, 1e300, 0.0])}),
                "1 of the 3 numbers of softmax/bias are infinite, not a number, or too large",
            ),
            (
                lambda arrays: arrays.update({"softmax/bias": np.zeros(3, np.int64)}),
                "softmax/bias must hold floating-point numbers; found int64",
            ),
            (
                lambda arrays: arrays.update({"softmax/bias": np.array([{"a": 1}, None, "b"], dtype=object)}),
                "cannot be read as an .npz file of numbers .*Object arrays cannot be loaded",
            ),
            (
                lambda arrays: arrays.update({"fc/1/bn_var_rolling": -np.ones_like(arrays["fc/1/bn_var_rolling"])}),
                "fc/1/bn_var_rolling holds negative numbers, down to -1",
            ),
        ],
    )
    def test_arrays_that_are_not_the_parameters_are_refused(self, study, changed, run, change, message):
        path = changed(change)
        for words in (
            ["-convert", path, study.folder / "model.cfg"],
            ["-newModel", study.model(), "-pretrained", path],
        ):
            outcome = run(*words)
            assert (outcome.code, str(path) in outcome.err) == (5, True)
            assert re.search(message, outcome.err)
        assert not study.out.exists()

    @pytest.mark.parametrize("compress", [False, True])
    @pytest.mark.parametrize("damage", ["cut short", "altered"])
    def test_damaged_files_are_refused(self, study, exported, run, compress, damage):
        with np.load(exported) as file:
            arrays = dict(file)
        (np.savez_compressed if compress else np.savez)(exported, **arrays)
        content = bytearray(exported.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 20] = bytes(20)
        exported.write_bytes(content if damage == "altered" else content[:middle])
        outcome = run("-convert", exported, study.folder / "model.cfg")
        assert (outcome.code, "Traceback" in outcome.err) == (5, False)
        assert f"{exported}: cannot be read as an .npz file of numbers" in outcome.err

    def test_arrays_of_impossible_size_are_refused(self, study, exported, run):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**10)})
        with zipfile.ZipFile(exported, "a") as archive:
            archive.writestr("huge.npy", header.getvalue())
        outcome = run("-convert", exported, study.folder / "model.cfg")
        assert (outcome.code, "cannot be read as an .npz file of numbers" in outcome.err) == (5, True)


class TestTheano:
    """Its saved models are pickles, which can run any program; they are recognised and never read."""

    @pytest.fixture(params=[gzip.compress, bytes], ids=["zipped", "plain"])
    def pickled(self, request, study) -> Path:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.system, (f"touch {study.folder}/lists/pwned",)

        path = study.folder / "theano.save"
        path.write_bytes(request.param(pickle.dumps({"cnn3d": Evil()}, protocol=2)))
        return path

    @pytest.mark.parametrize(
        "command",
        [
            "-train train.cfg -model theano.save",
            "-train train.cfg -model model.cfg -load theano.save",
            "-test test.cfg -model theano.save",
            "-newModel model.cfg -pretrained theano.save",
            "-convert theano.save model.cfg",
            "-adapt theano.save -classes 4",
            "-inspect theano.save",
        ],
    )
    def test_it_is_refused_with_the_way_to_bring_its_weights_in(self, study, run, pickled, command, monkeypatch):
        monkeypatch.chdir(study.folder)
        before = study.files()
        outcome = run(*command.split())
        assert outcome.code == 5
        assert "theano.save: is a Python pickle, as the Theano version of DeepMedic saved its models" in outcome.err
        assert "-convert PARAMETERS.npz MODEL.cfg" in outcome.err
        assert "-newModel MODEL.cfg -pretrained PARAMETERS.npz" in outcome.err
        assert study.files() == before


class TestStrip:
    def test_everything_but_the_state_of_training_stays(self, study, run):
        assert run("-newModel", study.folder / "model.cfg", "-train", study.train(numberOfEpochs=1)).code == 0
        trained, stripped = study.newest(), study.folder / "small.save"
        outcome = run("-strip", trained, "-output", stripped)
        assert outcome.code == 0
        assert f"Stripped model: {stripped} (" in outcome.out
        assert f"deepmedic -segment {stripped} -images FILE... -output labels.nii.gz" in outcome.out
        before, after = study.content(trained), study.content(stripped)
        assert after["training"] is None
        assert after["provenance"]["stripped"]["sha256"] == sha256_of(trained)
        assert after["provenance"]["stripped"]["position"]["epoch"] == 1
        for name in ("config", "data", "rolling_rows", "dialect", "formatVersion"):
            assert after[name] == before[name]
        for name in ("parameters", "start_parameters"):
            assert all(torch.equal(tensor, after[name][key]) for key, tensor in before[name].items())
        assert stripped.stat().st_size < trained.stat().st_size
        assert run("-test", study.folder / "test.cfg", "-model", stripped).code == 0
        outcome = run("-train", study.train("more", sessionName="more"), "-model", stripped)
        assert (outcome.code, "-resetOptimizer" in outcome.err) == (5, True)

    def test_an_existing_file_is_not_replaced(self, study, run):
        assert run("-newModel", study.folder / "model.cfg").code == 0
        [initial] = (study.out / "cnnModels").glob("*.save")
        assert run("-strip", initial, "-output", initial).code == 8
        assert run("-strip", study.folder / "none.save").code == 5
