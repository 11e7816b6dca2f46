"""`-analyse` as a whole command: advice that can be followed, planted negatives, refusals, repetition."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from study import LEARNING, SIZE, Study
from study_fixtures import quick

import deepmedic
from deepmedic import checkpoints, cli
from deepmedic.analysis.forecasts import read_forecasts
from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.architecture import Architecture
from deepmedic.config.load import load_train_config
from deepmedic.config.recipes import with_recipe
from deepmedic.config.sections import DataConfig
from deepmedic.config.training import TrainConfig
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, ConfigError
from deepmedic.sessions.transfer import analysis, analysis_results

TARGET = {
    "folderForOutput": "out",
    "channelsTarget": ["lists/train_t1.cfg", "lists/train_t2.cfg"],
    "gtLabelsTarget": "lists/train_labels.cfg",
    "roiMasksTarget": "lists/train_roi.cfg",
    "norm_zscore_prms": {"apply_to_all_channels": True},
    "voxelsPerClass": 24,
    "segmentsPerCase": 8,
}


@pytest.fixture(scope="module")
def taught_once(tmp_path_factory) -> Path:
    """Five cases, and a model that learnt to tell their classes from four of them."""
    study = Study(tmp_path_factory.mktemp("taught"))
    study.write_cases(5)
    config = study.train(numberOfEpochs=4, learningRate=0.02, **LEARNING)
    with quick():
        assert cli.main(["-newModel", str(study.model()), "-train", str(config), "-dev", "cpu"]) == 0
    return study.folder


@pytest.fixture(autouse=True)
def _pictures_where_asked_for(request, monkeypatch) -> None:
    """Drawing takes longer than all else."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(analysis_results, "draw_analysis", lambda plain, folder: [])


@pytest.fixture
def taught(taught_once, tmp_path) -> Study:
    study = Study(Path(shutil.copytree(taught_once, tmp_path / "taught")))
    shutil.move(study.newest(), study.folder / "A.save")
    shutil.rmtree(study.out)
    return study


@pytest.fixture
def analyse(taught, run) -> Callable[..., Any]:
    """Run `-analyse` with the taught model, and return what it found."""

    def analyse(*words: Any, expected: int = 0, **changes: Any) -> Any:
        config = taught.config("analysis", TARGET, **{"sourceModels": ["A.save"], **changes})
        outcome = run("-analyse", config, *words)
        assert outcome.code == expected, outcome.err
        return outcome if expected else found(taught)

    return analyse


def found(study: Study, session: str = "analysis") -> dict[str, Any]:
    return json.loads((study.out / "analyses" / session / "analysis.json").read_text())


def advice(content: dict[str, Any]) -> dict[str, Any]:
    return content["models"][0]["recommendation"]


class TestAdvice:
    def test_the_same_task_is_called_transfer(self, taught, analyse, pictures) -> None:
        content = analyse()
        assert advice(content)["verdict"] == "transfer"
        assert advice(content)["keepClasses"]
        assert content["models"][0]["evidence"]["gain"]["low"] > 0.2
        assert content["data"]["cases"] == 4
        folder = taught.out / "analyses" / "analysis"
        assert {"analysis.txt", "advised.train.cfg", "start.save", "layers.png"} <= {p.name for p in folder.iterdir()}
        text = (folder / "analysis.txt").read_text()
        assert "ADVICE: TRANSFER" in text
        assert "(100.0%) of model net come from model net." in text

    def test_labels_that_have_nothing_to_do_with_the_images_are_called_do_not_transfer(self, taught, analyse) -> None:
        generator = np.random.default_rng(7)
        for case in range(4):
            taught.write_image(case, "labels", generator.integers(0, 3, SIZE).astype(np.uint8))
        content = analyse()
        assert advice(content)["verdict"] == "do not transfer"
        assert "no layer tells the classes apart clearly better than guessing" in advice(content)["reasons"][0]
        assert advice(content)["layers"] == []

    def test_labels_of_other_places_are_called_do_not_transfer(self, taught, analyse) -> None:
        """Boxes as before, but the images are noise and so hold nothing by which they could be found."""
        generator = np.random.default_rng(8)
        for case in range(4):
            for kind in ("t1", "t2"):
                taught.write_image(case, kind, generator.normal(size=SIZE).astype(np.float32))
        assert advice(analyse())["verdict"] == "do not transfer"

    def test_a_task_with_other_classes_gets_a_new_head_that_learns_first(self, taught, analyse, run) -> None:
        for case in range(4):
            labels = np.zeros(SIZE, np.uint8)
            labels[4:16, 4:14, 4:12] = 1
            taught.write_image(case, "labels", labels)
        content = analyse(classNamesTarget=["background", "organ"])
        assert advice(content)["verdict"] == "transfer"
        assert not advice(content)["keepClasses"]
        path = taught.out / "analyses" / "analysis" / "advised.train.cfg"
        config = load_train_config(path)
        assert [phase.name for phase in config.phases] == ["new layers", "all layers"]
        assert config.phases[0].freezing.normal == (1, 2)
        assert [phase.optimizer.learning_rate for phase in config.phases] == pytest.approx([0.001, 0.001])
        start = checkpoints.load(taught.out / "analyses" / "analysis" / "start.save")
        assert start["config"]["class_names"] == ["background", "organ"]
        assert start["provenance"]["kind"] == "pretrained"
        assert run("-train", path, "-check").code == 0
        told = [(phase["epochs"], phase["learningRate"], phase["frozen"]) for phase in advice(content)["phases"]]
        assert told == [(4, 0.001, [1, 2, 3]), (31, 0.001, [])]
        assert [phase.epochs for phase in config.phases] == [4, 31]
        text = (path.parent / "analysis.txt").read_text()
        assert "phase 'new layers': 4 epochs at learning rate 0.001, that from random weights, depths 1 to 3" in text
        box = 5**3  # voxels that a segment of 9 x 9 x 9 predicts, after two kernels of 3 x 3 x 3
        voxels = sum(content["data"]["voxels"].values())
        assert content["models"][0]["passes"] == pytest.approx(35 * 20_000 * box / voxels)

    def test_a_train_config_is_filled_in_and_trains(self, taught, run) -> None:
        given = taught.train(numberOfEpochs=2, learningRate=0.005, numEpochsToWaitBeforeLoweringLr=1)
        outcome = run("-analyse", given, "-model", taught.folder / "A.save")
        assert outcome.code == 0, outcome.err
        path = taught.out / "analyses" / "first" / "advised.train.cfg"
        assert f"deepmedic -train {path}" in outcome.out
        config = load_train_config(path)
        assert (config.session_name, config.optimizer.learning_rate) == ("firstAdvised", pytest.approx(0.005))
        assert config.data.labels == taught.folder / "lists" / "train_labels.cfg"
        assert "# the full learning rate, 0.005: the schedule's own rate" in path.read_text()
        assert run("-train", path).code == 0
        assert (taught.out / "cnnModels" / "firstAdvised").is_dir()

    def test_a_train_config_for_other_classes_is_filled_in(self, taught, run) -> None:
        taught.model("other", modelName="other", classNames=["background", "inside", "outside"])
        taught.train(numberOfEpochs=2, learningRate=0.005)
        settings = {"folderForOutput": "out", "modelConfig": "other.cfg", "trainConfig": "train.cfg"}
        config = taught.config("analysis", settings)
        outcome = run("-analyse", config, "-model", taught.folder / "A.save")
        assert outcome.code == 0, outcome.err
        assert found(taught)["data"]["cases"] == 4
        path = taught.out / "analyses" / "analysis" / "advised.train.cfg"
        advised = load_train_config(path)
        assert (advised.session_name, advised.batch_size) == ("analysisAdvised", 4)
        assert [phase.optimizer.learning_rate for phase in advised.phases] == pytest.approx([0.005, 0.005])
        assert [phase.epochs for phase in advised.phases] == [1, 1]
        assert [phase["epochs"] for phase in advice(found(taught))["phases"]] == [1, 1]
        start = checkpoints.load(taught.out / "analyses" / "analysis" / "start.save")
        assert start["config"]["class_names"] == ["background", "inside", "outside"]
        command = ("-analyse", config, "-model", taught.folder / "A.save")
        taught.train(numberOfEpochs=2, learningRate=0.004)
        assert run(*command).code == 8  # another training is asked for
        taught.train(numberOfEpochs=2, learningRate=0.005)
        assert run(*command, "-check").code == 0
        taught.model("other", modelName="other", classNames=["background", "in", "out"])
        assert run(*command).code == 8  # and here another model

    @pytest.mark.parametrize(
        ("recipe", "epochs", "rate"),
        [
            ({"recipe": "dual", "recipeEpochs": [6, 2], "recipeLearningRates": [0.004, 0.001]}, 8, 0.004),
            # The head, and below it one layer of the FC pathway and two of the parallel ones, three epochs each.
            ({"recipe": "gradual", "recipeEpochs": [3]}, 12, 0.005),
        ],
        ids=["dual", "gradual"],
    )
    def test_a_recipe_is_as_long_as_its_phases_for_this_model(self, taught, run, recipe, epochs, rate) -> None:
        changes = {"numberOfEpochs": 2, "learningRate": 0.005, "warmUpEpochs": 2, **recipe}
        given = taught.train(validate=True, **changes)
        taught.model("other", modelName="other", classNames=["background", "inside", "outside"])
        settings = {"folderForOutput": "out", "modelConfig": "other.cfg", "trainConfig": given.name}
        outcome = run("-analyse", taught.config("analysis", settings), "-model", taught.folder / "A.save")
        assert outcome.code == 0, outcome.err
        phases = advice(found(taught))["phases"]
        assert sum(phase["epochs"] for phase in phases) == epochs
        assert {phase["learningRate"] for phase in phases} == {rate}

    def test_a_warm_up_that_is_longer_than_the_first_phase_is_left_out(self, taught, run) -> None:
        taught.model("other", modelName="other", classNames=["background", "inside", "outside"])
        taught.train(numberOfEpochs=8, warmUpEpochs=1.5)
        settings = {"folderForOutput": "out", "modelConfig": "other.cfg", "trainConfig": "train.cfg"}
        outcome = run("-analyse", taught.config("analysis", settings), "-model", taught.folder / "A.save")
        assert outcome.code == 0, outcome.err
        path = taught.out / "analyses" / "analysis" / "advised.train.cfg"
        assert load_train_config(path).phases[0].epochs == 1
        assert "# warmUpEpochs = 1.5 is left out: a phase is shorter than that." in path.read_text()

    def test_source_cases_measure_the_distance_of_features(self, analyse) -> None:
        own = {key.replace("Target", "Source"): value for key, value in TARGET.items() if "Target" in key}
        near = analyse(**own)["models"][0]["domainShift"]
        for layer in near["features"]:
            assert layer["measured"] == pytest.approx(0.0, abs=1e-3)  # the cases are the same
        assert {layer["layer"] for layer in near["features"] if layer["stored"] is not None} == {
            "normal/2",
            "subsampled1/2",
            "fc/1",
        }

    def test_images_that_are_shifted_are_further_away(self, taught, analyse) -> None:
        near = analyse()["models"][0]["domainShift"]
        for case in range(4):
            generator = np.random.default_rng(case)
            for kind in ("t1", "t2"):
                taught.write_image(case, kind, generator.exponential(size=SIZE).astype(np.float32) ** 3)
        far = analyse("-overwrite")["models"][0]["domainShift"]
        for one, other in zip(near["intensities"], far["intensities"], strict=True):
            assert other["wasserstein"] > one["wasserstein"] + 0.1
        for one, other in zip(near["features"], far["features"], strict=True):
            assert other["stored"] > one["stored"]


class TestFromPython:
    def test_the_function_finds_what_the_command_finds_and_writes_nothing(self, taught, analyse) -> None:
        content = analyse()
        shutil.rmtree(taught.out)
        path = taught.folder / "analysis.cfg"
        result = deepmedic.analyse_model_and_data(taught.folder / "A.save", path, device="cpu")
        assert result.recommendation.verdict == "transfer"
        assert json.loads(json.dumps(result.to_plain()["models"])) == content["models"]
        assert repr(result) == "AnalysisResult(net.first: transfer)"
        assert not taught.out.exists()

    def test_a_model_in_memory_and_a_train_config(self, taught) -> None:
        model = deepmedic.load_model(taught.folder / "A.save")
        result = deepmedic.analyse_model_and_data(model, taught.folder / "train.cfg", device="cpu", seed=2)
        assert "ADVICE: TRANSFER" in result.to_text()
        assert result.data.cases == ("case0_t1", "case1_t1", "case2_t1", "case3_t1")

    def test_an_analysis_made_in_python_takes_the_cases_of_its_train_config(self, taught) -> None:
        asked = AnalysisConfig(
            folder_for_output=taught.out,
            training=taught.folder / "train.cfg",
            voxels_per_class=8,
            segments_per_case=4,
        )
        result = deepmedic.analyse_model_and_data(taught.folder / "A.save", asked, device="cpu")
        assert result.data.cases == ("case0_t1", "case1_t1", "case2_t1", "case3_t1")
        own = replace(asked, data=DataConfig(labels=taught.folder / "lists" / "train_labels.cfg"))
        with pytest.raises(ConfigError, match="data of the analysis contradicts trainConfig"):
            deepmedic.analyse_model_and_data(taught.folder / "A.save", own, device="cpu")


class TestReport:
    def test_it_has_the_advice_and_is_made_again_by_name(self, taught, analyse, run, pictures) -> None:
        content = analyse()
        page = taught.out / "reports" / "analysis.html"
        text = page.read_text()
        assert "Analysis of transfer</h2>" in text
        assert "<dd>transfer</dd>" in text
        for reason in advice(content)["reasons"]:
            assert escape(f"{reason}.") in text
        for layer in content["models"][0]["layers"]:
            assert f"<td>{layer['layer']}</td>" in text
        assert text.count('src="data:image/png;base64,') == 1
        assert 'href="./../analyses/analysis/advised.train.cfg"' in text
        assert "Not in this report" not in text
        page.unlink()
        for named in ("analysis", "analyses/analysis", "logs/analysis.analysis.txt"):
            assert run("-report", taught.out / named).code == 0
            assert page.read_text() == text

    def test_a_training_of_the_same_name_has_it_in_its_report(self, taught, run) -> None:
        config = taught.train(numberOfEpochs=1, report=True)
        assert run("-analyse", config, "-model", taught.folder / "A.save").code == 0
        assert run("-newModel", taught.folder / "model.cfg", "-train", config).code == 0
        text = (taught.out / "reports" / "first.html").read_text()
        assert "Analysis of transfer</h2>" in text
        assert "Training curves" in text

    def test_none_when_none_is_wanted_and_the_same_analysis_all_the_same(self, taught, analyse, run) -> None:
        analyse(report=False)
        assert not (taught.out / "reports").exists()
        outcome = run("-analyse", taught.config("analysis", TARGET, sourceModels=["A.save"]))
        assert "This analysis was made before" in outcome.out

    def test_results_that_cannot_be_read_are_noted(self, taught, analyse, run) -> None:
        analyse()
        path = taught.out / "analyses" / "analysis" / "analysis.json"
        path.write_text('{"models": 3}')
        assert run("-report", taught.out / "analysis").code == 0
        text = (taught.out / "reports" / "analysis.html").read_text()
        assert f"{path}: cannot be read, or is of another version" in text


class TestRanking:
    def test_models_of_a_folder_are_ranked(self, taught, analyse, run, pictures) -> None:
        folder = taught.folder / "models"
        folder.mkdir()
        shutil.copy(taught.folder / "A.save", folder / "taught.save")
        other = taught.model("other", modelName="other", numberFMsPerLayerNormal=[4, 4])
        narrow = taught.model("narrow", modelName="narrow", numberOfInputChannels=1)
        for config in (other, narrow):
            assert run("-newModel", config).code == 0
        for path in (taught.out / "cnnModels").glob("*.save"):
            shutil.copy(path, folder)
        content = analyse("-model", folder)
        assert [model["model"] for model in content["models"]] == ["net.first", "other"]
        [reason] = content["unfit"].values()
        assert "the model has 1 image channels, and 2 are listed for the new task" in reason
        assert (taught.out / "analyses" / "analysis" / "ranking.png").exists()
        text = (taught.out / "analyses" / "analysis" / "analysis.txt").read_text()
        assert "RANKING OF THE MODELS" in text
        assert "Cannot be transferred: " in text
        assert len(read_forecasts(taught.out / "forecasts" / "forecasts.jsonl")) == 2
        page = (taught.out / "reports" / "analysis.html").read_text()
        titles = [
            "Models that might be transferred",
            *(f"Analysis of transfer: {name}" for name in ("net.first", "other")),
        ]
        assert re.findall(r"-title\">(.*?)</h2>", page) == [*titles, "What was run"]
        assert "the model has 1 image channels, and 2 are listed for the new task" in page


class TestRepetition:
    def test_the_same_command_again_shows_what_is_there(self, taught, analyse, run) -> None:
        analyse()
        folder = taught.out / "analyses" / "analysis"
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        outcome = run("-analyse", taught.folder / "analysis.cfg")
        assert outcome.code == 0
        assert f"This analysis was made before; its results are in {folder}" in outcome.out
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert len(read_forecasts(taught.out / "forecasts" / "forecasts.jsonl")) == 1

    def test_results_of_another_analysis_are_kept_unless_told_otherwise(self, analyse) -> None:
        first = analyse()
        outcome = analyse("-seed", 3, expected=8)
        assert "holds the results of another request" in outcome.err
        assert "add -overwrite to replace them" in outcome.err
        again = analyse("-seed", 3, "-overwrite")
        assert again["models"] != first["models"]

    def test_results_for_another_schedule_are_not_taken_for_these(self, taught, run) -> None:
        command = ("-analyse", taught.train(numberOfEpochs=2), "-model", taught.folder / "A.save")
        assert run(*command).code == 0
        assert "This analysis was made before" in run(*command).out
        for changes in ({"numberOfEpochs": 3}, {"numberOfEpochs": 2, "learningRate": 0.5}):
            taught.train(**changes)
            outcome = run(*command)
            assert outcome.code == 8
            assert "holds the results of another request" in outcome.err
        assert run(*command, "-overwrite").code == 0
        assert advice(found(taught, "first"))["phases"][0]["learningRate"] == 0.5

    def test_a_recipe_that_has_become_longer_makes_earlier_results_stale(self, taught, run, monkeypatch) -> None:
        """No file says so: phases of recipes are the program's."""
        config = taught.train(recipe="dual", recipeEpochs=[6, 2], recipeLearningRates=[0.004, 0.001], validate=True)
        command = ("-analyse", config, "-model", taught.folder / "A.save")
        assert run(*command).code == 0
        assert "begins: finished" in run(*command, "-check").out

        def longer(config: TrainConfig, architecture: Architecture) -> TrainConfig:
            first, *others = with_recipe(config, architecture).phases
            return replace(config, recipe=None, phases=(replace(first, epochs=first.epochs + 1), *others))

        monkeypatch.setattr(analysis, "with_recipe", longer)
        for words in ((), ("-check",)):
            refused = run(*command, *words)
            assert refused.code == 8
            assert "holds the results of another request" in refused.err

    def test_an_analysis_made_anew_is_the_same_to_the_byte(self, taught, analyse) -> None:
        analyse()
        folder = taught.out / "analyses" / "analysis"
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        analyse("-overwrite")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        [record] = read_forecasts(taught.out / "forecasts" / "forecasts.jsonl")
        assert record["forecast"]["model"]["sha256"] == found(taught)["models"][0]["source"]["sha256"]

    def test_a_small_memory_budget_takes_fewer_voxels(self, taught, run) -> None:
        config = taught.config("analysis", TARGET, sourceModels=["A.save"], memoryBudget=1e-5)
        outcome = run("-analyse", config)
        assert outcome.code == 0
        assert "The memory budget allows" in outcome.err
        assert "instead of 24 voxels per class of each case" in outcome.err

    def test_axes_that_run_elsewhere_are_noted(self, taught, analyse) -> None:
        for case in range(4):
            for kind in ("t1", "t2", "labels", "roi"):
                voxels = np.asanyarray(nib.load(taught.image(case, kind)).dataobj)
                taught.write_image(case, kind, voxels, np.diag([-1.0, 1.0, 1.2, 1.0]))
        analyse()
        log = (taught.out / "logs" / "analysis.analysis.txt").read_text()
        assert "the axes of this image run LAS, those of the training images ran RAS" in log
        assert "It is analysed as it is." in log


class TestCheck:
    def test_it_tells_what_would_be_done_and_needed_and_writes_nothing(self, taught, run) -> None:
        taught.model("narrow", modelName="narrow", numberOfInputChannels=1)
        assert run("-newModel", taught.folder / "narrow.cfg").code == 0
        [unfit] = (taught.out / "cnnModels").glob("narrow*.save")
        config = taught.config("analysis", TARGET)
        before, path = taught.files(), taught.folder / "check.json"
        outcome = run("-analyse", config, "-model", taught.folder / "A.save", unfit, "-check", "-output", path)
        assert outcome.code == 0, outcome.err
        assert taught.files() == before
        told = json.loads(path.read_text())
        assert told["cases"] == {"target": 4}
        assert list(told["models"]) == ["net.first"]
        assert "(100.0%) of model net come from model net" in told["models"]["net.first"]
        assert "the model has 1 image channels" in told["cannotBeTransferred"][str(unfit)]
        assert told["layers"][0] == "normal/1"
        assert told["layers"][-1] == "penultimate"
        assert told["begins"] == "starts"
        words = r"[\d.e+-]+ minutes \(measured on one segment and one linear probe\)"
        assert re.fullmatch(words, told["estimated"]["time"])
        channels = 3 + 4 + 3 + 4 + 5 + 5 + 3  # of the hidden layers, the penultimate features and the output
        features = channels * 4 * 24 * 3 * 4 * 4  # bytes, voxels, classes, cases, networks
        assert told["estimated"]["memoryOfFeatures"].startswith(f"{features / 1024:.1f} KiB (at most ")
        assert "data:" in outcome.out

    def test_it_ends_as_the_analysis_would_begin(self, taught, analyse, run) -> None:
        config = taught.config("analysis", TARGET, sourceModels=["A.save"], allowSkippedCases=True)
        assert run("-analyse", config).code == 0
        assert "begins: finished: its results are there" in run("-analyse", config, "-check").out
        assert run("-analyse", config, "-check", "-seed", 5).code == 8
        taught.image(1, "t1").write_bytes(taught.image(1, "t1").read_bytes()[:-30])
        skipping = run("-analyse", config, "-check", "-overwrite")
        assert skipping.code == FINISHED_WITH_SKIPPED_CASES
        assert run("-analyse", config, "-overwrite").code == FINISHED_WITH_SKIPPED_CASES
        [(name, why)] = found(taught)["skippedCases"].items()
        assert name == "case1_t1"
        assert str(taught.image(1, "t1")) in why
        again, check = run("-analyse", config), run("-analyse", config, "-check")  # what is there, without reading
        assert again.code == check.code == 0
        assert "begins: finished: its results are there" in check.out
        config = taught.config("analysis", TARGET, sourceModels=["A.save"])
        refused = run("-analyse", config, "-check", "-overwrite")
        assert refused.code == 4
        assert "case1_t1" in refused.err


class TestRefusals:
    def test_labels_of_background_alone_are_nothing_to_analyse(self, taught, analyse) -> None:
        for case in range(4):
            taught.write_image(case, "labels", np.zeros(SIZE, np.uint8))
        message = analyse(expected=4).err
        assert "found no class but the background within the ROI of 4 labelled cases" in message
        assert "Traceback" not in message

    def test_without_matplotlib_only_the_pictures_are_missing(self, taught, analyse, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        analyse()
        assert (taught.out / "analyses" / "analysis" / "advised.train.cfg").exists()
        log = (taught.out / "logs" / "analysis.analysis.txt").read_text()
        assert "No pictures: Pictures are drawn with matplotlib, which is not installed" in log

    def test_a_model_that_does_not_fit_is_refused_with_the_reasons(self, taught, analyse) -> None:
        taught.model("other", kernelDimPerLayerNormal=[[3, 3, 3], [5, 5, 5]], segmentsDimTrain=[13, 13, 13])
        outcome = analyse(modelConfig="other.cfg", expected=5)
        assert "kernels are 5x5x5 in the new model and 3x3x3 in the source model" in outcome.err
        assert not taught.out.exists()
        outcome = analyse(channelsTarget=["lists/train_t1.cfg"], expected=5)
        assert "A.save: the model has 2 image channels, and 1 are listed for the new task" in outcome.err

    @pytest.mark.parametrize(
        ("changes", "code", "message"),
        [
            ({"sourceModels": None}, 2, "-analyse needs a model that might be transferred: add -model X.save"),
            ({"sourceModels": ["no.save"]}, 5, "there is no such file or folder"),
            ({"channelsTarget": None}, 3, "channelsTarget: is missing"),
            ({"trainConfig": "train.cfg"}, 3, "channelsTarget: contradicts trainConfig, whose cases and normalisation"),
            ({"trainConfig": "train.cfg"}, 3, "norm_zscore_prms: contradicts trainConfig"),
            ({"classNamesTarget": ["one"]}, 3, "allowed: at least 2 names, all different"),
            ({"voxelsPerClas": 3}, 3, "is not a key of the analysis config; did you mean voxelsPerClass?"),
        ],
        ids=["no model", "missing model", "no cases", "cases twice", "normalised twice", "one class", "unknown key"],
    )
    def test_bad_input(self, taught, analyse, changes, code, message) -> None:
        assert message in analyse(expected=code, **changes).err
        assert not taught.out.exists()

    def test_cases_of_a_single_subject(self, taught, analyse) -> None:
        for kind in ("t1", "t2", "labels", "roi"):
            (taught.folder / "lists" / f"train_{kind}.cfg").write_text(f"../images/case0_{kind}.nii.gz\n")
        message = "target: 1 labelled cases of one subject are listed; an analysis needs at least 2 subjects"
        assert message in analyse(expected=4).err

    def test_scans_of_one_subject_by_their_bids_names(self, taught, analyse) -> None:
        """Else what is learnt from a person's first scan would be tested on the second."""
        for session in (0, 1):
            (taught.folder / "sub-01" / f"ses-{session}").mkdir(parents=True)
        for kind in ("t1", "t2", "labels", "roi"):
            paths = [taught.folder / "sub-01" / f"ses-{session}" / f"{kind}.nii.gz" for session in (0, 1)]
            for case, path in enumerate(paths):
                shutil.copy(taught.image(case, kind), path)
            (taught.folder / "lists" / f"train_{kind}.cfg").write_text("".join(f"{path}\n" for path in paths))
        message = "target: 2 labelled cases of one subject are listed; an analysis needs at least 2 subjects"
        assert message in analyse(expected=4).err

    def test_a_model_config(self, taught, run) -> None:
        outcome = run("-analyse", taught.folder / "model.cfg")
        assert outcome.code == 3
        assert (
            "is a model config; -analyse takes an analysis config, or the train config of the new task" in outcome.err
        )
