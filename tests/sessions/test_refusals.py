"""Exit codes and messages of what cannot be run, through the command line; a refused run creates nothing."""

from __future__ import annotations

import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmedic import checkpoints, cli
from deepmedic.config.load import load_model_config
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.training import training_plan


@pytest.fixture
def refused(study, run):
    """Run a command, check that it is refused without a traceback and that nothing was made; return the message."""

    def refused(code, *words) -> str:
        before = study.files()
        outcome = run(*words)
        assert (outcome.code, outcome.out) == (code, "")
        assert outcome.err.startswith("deepmedic: ")
        assert "Traceback" not in outcome.err
        assert study.files() == before
        return outcome.err

    return refused


@pytest.fixture
def train_command(study):
    return ["-newModel", study.folder / "model.cfg", "-train", study.folder / "train.cfg"]


@pytest.fixture
def model(study):
    """A saved model, never trained."""
    path = study.folder / "model.save"
    checkpoints.save(path, SavedModel.new(load_model_config(study.folder / "model.cfg"), 0).to_content())
    return path


class TestConfigs:
    def test_problems_of_both_files_are_listed_together(self, study, refused, train_command):
        study.model(numberOfOutputClasses="3", numbrOfInputChannels=2)
        study.train(numberOfEpochs=0, learningRate=-1, numberOfEpochz=3)
        message = refused(3, *train_command)
        assert "5 problems were found; nothing was started" in message
        for place in ("model.cfg:3:", "model.cfg:14:", "train.cfg:6:", "train.cfg:12:", "train.cfg:13:"):
            assert f"{study.folder}/{place}" in message
        assert "numberOfEpochs" in message.split("numberOfEpochz", 1)[1]

    def test_syntax_error_shows_the_line(self, study, refused, train_command):
        (study.folder / "train.cfg").write_text('sessionName = "first"\nnumberOfEpochs = [1,\n')
        message = refused(3, *train_command)
        assert f"{study.folder}/train.cfg:2" in message

    @pytest.mark.parametrize("option", ["-newModel", "-train"])
    def test_missing_file_and_folder_are_refused(self, study, refused, option):
        words = {"-newModel": study.folder / "model.cfg", "-train": study.folder / "train.cfg"}
        missing = study.folder / "no.cfg"
        message = refused(3, *(word for pair in (words | {option: missing}).items() for word in pair))
        assert f"{missing}: there is no such config file; {study.folder} has model.cfg, test.cfg, train.cfg" in message
        message = refused(3, *(word for pair in (words | {option: study.folder}).items() for word in pair))
        assert f"{study.folder}: is a folder" in message

    def test_code_in_an_old_config_is_not_run(self, study, refused, train_command):
        (study.folder / "train.cfg").write_text(f'x = __import__("os").system("touch {study.folder}/lists/pwned")\n')
        assert f"{study.folder}/train.cfg:1" in refused(3, *train_command)

    def test_config_that_does_not_fit_the_model_is_refused_with_the_data(self, study, refused, train_command):
        study.train(typeOfSamplingForTraining=3, proportionOfSamplesToExtractPerCategoryTraining=[0.5, 0.5])
        study.image(0, "t1").unlink()
        message = refused(3, *train_command)
        assert "proportionOfSamplesToExtractPerCategoryTraining: found 2 shares; allowed: 3" in message


class TestConfigsAndData:
    """What is wrong with configs and with the data that they list is told in one run."""

    def test_all_in_one_list(self, study, refused):
        study.model(numberOfOutputClasses=1)
        study.train(validate=True, numberOfEpochs=0, learninRate=0.1)
        study.image(0, "t2").unlink()
        study.write_image(1, "roi", np.ones((20, 18, 15), np.uint8))
        (study.folder / "lists" / "val_labels.cfg").write_text("")
        message = refused(3, "-newModel", study.folder / "model.cfg", "-train", study.folder / "train.cfg")
        assert message.startswith("deepmedic: 6 problems were found; nothing was started")
        told = (
            "numberOfOutputClasses: found 1;",
            "numberOfEpochs: found 0;",
            "learninRate: is not a key of the train config; did you mean learningRate?",
            f"{study.folder}/lists/train_t2.cfg:1: {study.image(0, 't2')}",
            "case case1_t1",
            "val_labels.cfg: the listing of labels is empty",
        )
        for text in told:
            assert text in message

    def test_of_an_inference(self, study, refused, model):
        study.image(2, "t1").write_text("no image")
        message = refused(3, "-test", study.test(batchsize=0), "-model", model)
        assert message.startswith("deepmedic: 2 problems were found")
        assert "batchsize: found 0;" in message
        assert f"{study.image(2, 't1')}" in message

    @pytest.mark.parametrize("option", ["-findLr", "-analyseLayers"])
    def test_of_other_commands(self, study, refused, model, option):
        study.image(0, "t1").unlink()
        study.image(2, "t1").unlink()
        config = study.train(batchsize_train=0) if option == "-findLr" else study.test(batchsize=0)
        message = refused(3, option, config, "-model", model)
        assert message.startswith("deepmedic: 2 problems were found")
        assert "found 0;" in message
        assert f"{study.image(0 if option == '-findLr' else 2, 't1')}" in message

    def test_validation_cases_count_where_they_are_used(self, study, refused, model):
        study.image(2, "t1").unlink()
        for validate, words, told in (
            (False, (), False),
            (True, (), True),
            (True, ("-split", "0.5", "0.5"), False),
        ):
            config = study.train(validate=validate, numberOfEpochs=0)
            message = refused(3, "-train", config, "-model", model, *words)
            assert (str(study.image(2, "t1")) in message) is told

    def test_where_a_key_of_the_data_is_refused_only_configs_are_told(self, study, refused, model):
        study.image(0, "t1").unlink()
        for changes in ({"channelsTraining": 3}, {"affineTolerance": -1}, {"gtLabelsTraining": ["a", "b"]}):
            message = refused(3, "-train", study.train(**changes), "-model", model)
            assert str(study.image(0, "t1")) not in message
            assert f"{next(iter(changes))}: found " in message

    def test_labels_that_are_not_listed_are_told_once(self, study, refused, model):
        study.image(0, "t1").unlink()
        message = refused(3, "-train", study.train(gtLabelsTraining=None), "-model", model)
        assert message.count("gtLabelsTraining") == 2  # the key, and the example in its message
        assert str(study.image(0, "t1")) in message

    def test_a_config_of_another_kind_or_that_cannot_be_read_is_told_alone(self, study, refused, model):
        study.image(0, "t1").unlink()
        study.image(2, "t1").unlink()
        (study.folder / "broken.cfg").write_text("numberOfEpochs = [")
        for words in (("-train", study.folder / "test.cfg"), ("-train", study.folder / "broken.cfg")):
            message = refused(3, *words, "-model", model)
            assert "problems were found" not in message
            assert ".nii.gz" not in message


class TestListings:
    def test_all_missing_files_are_listed(self, study, refused, train_command):
        study.list_cases("train", range(50))
        for case in range(50):
            for kind in ("t1", "t2", "labels", "roi"):
                if not study.image(case, kind).exists():
                    study.image(case, kind).symlink_to(study.image(0, kind))
        for case in (3, 17, 41):
            study.image(case, "t2").unlink()
        message = refused(4, *train_command)
        assert "3 of 50 files of channel 2 cannot be read" in message
        for case in (3, 17, 41):
            assert f"{study.folder}/lists/train_t2.cfg:{case + 1}: {study.image(case, 't2')}" in message

    def test_problems_of_model_data_and_device_are_listed_together(self, study, refused, run, monkeypatch):
        study.image(0, "t1").unlink()
        study.image(2, "labels").unlink()
        outcome = run("-train", study.train(validate=True), "-model", study.folder / "no.save")
        assert outcome.code == 5
        for text in ("no.save: there is no such file", "files of channel 1 cannot be read", "files of labels cannot"):
            assert text in outcome.err

    def test_lists_of_different_length(self, study, refused, train_command):
        (study.folder / "lists" / "train_t2.cfg").write_text("../images/case0_t2.nii.gz\n")
        message = refused(4, *train_command)
        assert "the listing files differ in their number of cases" in message
        assert f"     1  channel 2: {study.folder}/lists/train_t2.cfg" in message

    @pytest.mark.parametrize("role", ["train", "val"])
    def test_lists_without_cases(self, study, refused, role):
        study.list_cases(role, [])
        message = refused(4, "-newModel", study.folder / "model.cfg", "-train", study.train(validate=True))
        assert f"lists/{role}_t1.cfg" in message

    @pytest.mark.parametrize("name", ["../../outside/x", "/tmp/outside", "a/../../b"])
    def test_names_of_results_stay_inside(self, study, refused, model, name):
        (study.folder / "lists" / "val_names.cfg").write_text(f"{name}\n")
        message = refused(4, "-test", study.folder / "test.cfg", "-model", model)
        assert f"{study.folder}/lists/val_names.cfg:1" in message

    def test_same_name_twice(self, study, refused, model):
        study.list_cases("val", [0, 1])
        (study.folder / "lists" / "val_names.cfg").write_text("x\nx.nii.gz\n")
        message = refused(4, "-test", study.folder / "test.cfg", "-model", model)
        assert "val_names.cfg:1" in message
        assert "val_names.cfg:2" in message


class TestImages:
    """Headers are judged before anything is written; voxels before the first step."""

    def test_image_of_another_size(self, study, refused, train_command):
        study.write_image(1, "roi", np.ones((20, 18, 15), np.uint8))
        message = refused(4, *train_command)
        assert "case case1_t1" in message
        assert "20x18x15" in message.replace(" ", "") or "[20, 18, 15]" in message or "20 x 18 x 15" in message

    def test_shifted_labels(self, study, refused, train_command):
        affine = np.diag([1.0, 1.0, 1.2, 1.0])
        affine[0, 3] = 3
        study.write_image(0, "labels", np.zeros((20, 18, 16), np.uint8), affine)
        assert "affineTolerance" in refused(4, *train_command)

    def test_no_nifti(self, study, refused, train_command):
        study.image(0, "t1").write_text("<!DOCTYPE html>")
        assert f"{study.image(0, 't1')}" in refused(4, *train_command)

    def test_channels_too_few_for_the_model(self, study, refused, model):
        study.test(channels=["lists/val_t1.cfg"])
        message = refused(5, "-test", study.folder / "test.cfg", "-model", model)
        assert "found 1 channels, but the model has 2" in message
        assert "problems were found" not in message

    @pytest.mark.parametrize(
        ("voxels", "text"),
        [
            (np.full((20, 18, 16), 7, np.uint8), "labels out of range: 7 (5760 voxels)"),
            (np.full((20, 18, 16), 0.5, np.float32), "not an integer"),
        ],
    )
    @pytest.mark.parametrize("check", [[], ["-check"]])
    def test_bad_labels_are_found_before_the_first_step(self, study, run, train_command, voxels, text, check):
        study.write_image(1, "labels", voxels)
        outcome = run(*train_command, *check)
        assert outcome.code == 4
        assert "case case1_t1, labels" in outcome.err
        assert text in outcome.err
        assert not (study.out / "cnnModels").exists()

    def test_voxels_that_are_no_numbers(self, study, run, train_command):
        voxels = np.ones((20, 18, 16), np.float32)
        voxels[3, 4, 5] = np.nan
        study.write_image(0, "t2", voxels)
        outcome = run(*train_command)
        assert outcome.code == 4
        assert "case case0_t1, channel 2" in outcome.err
        assert "(3, 4, 5)" in outcome.err
        assert "nonFiniteVoxels" in outcome.err

    def test_four_dimensional_image(self, study, refused, train_command):
        nib.save(nib.Nifti1Image(np.zeros((20, 18, 16, 3), np.float32), np.eye(4)), study.image(0, "t1"))
        assert f"{study.image(0, 't1')}" in refused(4, *train_command)


class TestModels:
    @pytest.mark.parametrize("option", ["-train", "-test"])
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"", "it is empty (0 bytes)"),
            (b"PK\x03\x04" + bytes(100), "is damaged or cut short"),
            (b"\x80\x02}q\x00.", "is a Python pickle, as the Theano version of DeepMedic saved its models"),
            (b"ccopy_reg\n_reconstructor\np1\n", "is a Python pickle"),
            (b"\x00\x01\x02", "is damaged or cut short"),
            (b"hello", "is damaged or cut short"),
        ],
    )
    def test_files_that_are_no_models(self, study, refused, option, content, text):
        path = study.folder / "some.save"
        path.write_bytes(content)
        message = refused(5, option, study.folder / f"{option[1:]}.cfg", "-model", path)
        assert f"{path}: " in message
        assert text in message

    def test_malicious_pickle_is_not_run(self, study, refused):
        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {study.folder}/lists/pwned",)

        path = study.folder / "evil.save"
        torch.save({"weights": Evil()}, path)
        refused(5, "-test", study.folder / "test.cfg", "-model", path)
        refused(5, "-inspect", path)

    def test_truncated_model(self, study, refused, model):
        content = model.read_bytes()
        for part in (0.1, 0.5, 0.99, 0.999):
            model.write_bytes(content[: int(len(content) * part)])
            assert f"{model}: is damaged or cut short" in refused(
                5, "-test", study.folder / "test.cfg", "-model", model
            )

    def test_model_config_beside_other_weights(self, study, refused, model):
        other = study.model("other", numberFMsPerLayerFC=[6])
        message = refused(5, "-test", study.folder / "test.cfg", "-model", other, "-load", model)
        assert "fc.feature_maps: the .cfg says [6, 3], the model has [5, 3]" in message

    @pytest.mark.parametrize("words", [[], ["-model", "model.cfg"]])
    def test_test_without_weights(self, study, refused, words):
        words = [study.folder / word if word.endswith("cfg") else word for word in words]
        assert "-test needs a trained model: -model X.save" in refused(2, "-test", study.folder / "test.cfg", *words)

    def test_saved_model_given_twice(self, study, refused, model):
        message = refused(2, "-train", study.folder / "train.cfg", "-model", model, "-load", model)
        assert f"-model {model} is a saved model and -load {model} names another" in message

    def test_folder_without_models(self, study, refused):
        message = refused(5, "-test", study.folder / "test.cfg", "-model", study.folder / "lists")
        assert "holds no saved model (*.save)" in message

    def test_file_that_is_gone(self, study, refused):
        message = refused(5, "-test", study.folder / "test.cfg", "-model", study.folder / "gone.save")
        assert "gone.save: there is no such file or folder" in message

    def test_images_that_run_otherwise_than_in_training(self, study, run, refused):
        assert run("-newModel", study.folder / "model.cfg", "-train", study.train(numberOfEpochs=1)).code == 0
        for kind in ("t1", "t2", "labels", "roi"):
            image = nib.load(study.image(2, kind))
            study.write_image(2, kind, np.asarray(image.dataobj), np.diag([-1, 1, 1.2, 1]))
        message = refused(4, "-test", study.folder / "test.cfg", "-model", study.newest())
        assert "the axes of this image run LAS, those of the training images ran RAS" in message
        assert 'Set orientation = "RAS", which turns each case in memory' in message
        assert run("-test", study.test(orientation="RAS"), "-model", study.newest(), "-check").code == 0
        message = refused(4, "-test", study.test(orientation="LPS"), "-model", study.newest())
        assert 'this config says "LPS"; set orientation = "RAS", as its images ran' in message
        message = refused(3, "-test", study.test(orientation="RAR"), "-model", study.newest())
        assert 'orientation: found "RAR"; allowed: "asStored", or where the three axes point' in message


class TestSystem:
    def test_output_folder_that_is_a_file(self, study, refused, train_command):
        (study.folder / "out").write_text("")
        assert f"{study.folder}/out is not a folder that can be written" in refused(6, *train_command)
        assert "is not a folder" in refused(6, "-newModel", study.folder / "model.cfg")

    def test_full_disk(self, study, refused, train_command, monkeypatch):
        usage = shutil.disk_usage(study.folder)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        message = refused(6, *train_command)
        assert "this session may write" in message
        assert "but only 1000 bytes are free there" in message

    def test_absent_device(self, study, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr("deepmedic.nvidia.find_driver", lambda: None)
        words = ["-newModel", study.folder / "model.cfg", "-train", study.folder / "train.cfg", "-dev", "cuda0"]
        assert cli.main([str(word) for word in words]) == 6
        assert "-dev cuda0: there is no CUDA device here (no NVIDIA driver was found)" in capsys.readouterr().err
        assert not study.out.exists()

    def test_error_of_the_system_is_no_defect(self, study, refused, train_command, monkeypatch):
        def denied(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(training_plan, "duplicates_between", lambda *_: denied("/secret"))
        study.train(validate=True)
        message = refused(6, *train_command)
        assert (
            message
            == "deepmedic: /secret: the system says: Permission denied. Check the path, its rights and the disk.\n"
        )

    def test_name_longer_than_the_system_allows(self, study, refused):
        refused(6, "-train", study.folder / "train.cfg", "-model", study.folder / ("x" * 300))

    def test_null_characters_in_paths(self, study, refused, train_command):
        study.train(folderForOutput="out\0")
        assert "train.cfg" in refused(3, *train_command)
