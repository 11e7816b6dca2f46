"""`-newModel B -pretrained A`, fine-tuning and `-adapt` as whole commands; which numbers go where: `tests/transfer`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmedic import checkpoints
from deepmedic.files import sha256_of
from deepmedic.sessions.training.checkpointing import CheckpointWriter

LARGER = {
    "modelName": "big",
    "numberFMsPerLayerNormal": [4, 6],
    "numberFMsPerLayerFC": [7],
    "numberOfOutputClasses": 4,
    "classNames": ["background", "core", "shell", "edema"],
}
QUICK = {"numberOfSubepochs": 1, "numberTrainingSegmentsLoadedOnGpuPerSubep": 4}
MAPS = {"saveProbMapsForEachClass": [True, True, True]}


@pytest.fixture
def larger(study) -> Path:
    """A model config B that is wider than A and knows a class more."""
    return study.model("B", **LARGER)


@pytest.fixture
def new_model(study, source, run) -> Callable[..., dict[str, Any]]:
    """Run `-newModel B -pretrained A`; return what the new model's file holds."""

    def new_model(config: Path, *words: Any) -> dict[str, Any]:
        outcome = run("-newModel", config, "-pretrained", source, *words)
        assert outcome.code == 0, outcome.err
        [path] = (study.out / "cnnModels").glob("*.initial.pretrained.*.save")
        return checkpoints.load(path)

    return new_model


@pytest.fixture
def probabilities(study, run) -> Callable[..., np.ndarray]:
    """Probabilities [class, x, y, z] that `-test` computes with a model."""

    def probabilities(model: Path, **changes: Any) -> np.ndarray:
        config = study.test("compare", sessionName="compare", **{**MAPS, **changes})
        outcome = run("-test", config, "-model", model, "-overwrite")
        assert outcome.code == 0, outcome.err
        folder = study.out / "predictions" / "compare" / "predictions"
        maps = sorted(folder.glob("case2_ProbMapClass*.nii.gz"))
        return np.stack([np.asarray(nib.load(path).dataobj) for path in maps])

    return probabilities


def stop_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Make the next command end, as if it were killed, once the checkpoint of so many epochs is written."""
    write = CheckpointWriter.__call__

    def write_and_stop(self, state, extra):
        write(self, state, extra)
        if state.position.epoch >= epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "__call__", write_and_stop)


def moved_layers(content: dict[str, Any], start: dict[str, torch.Tensor]) -> set[str]:
    return {
        name.rpartition("/")[0]
        for name, tensor in start.items()
        if not torch.equal(tensor, content["parameters"][name])
    }


class TestNewModel:
    def test_the_name_the_table_the_json_and_the_log(self, study, source, larger, run):
        outcome = run("-newModel", larger, "-pretrained", source)
        assert (outcome.code, outcome.err) == (0, "")
        date = r"\d{4}-\d\d-\d\d\.\d\d\.\d\d\.\d\d\.\d{6}"
        model, report = sorted((study.out / "cnnModels").iterdir())
        assert re.fullmatch(rf"big\.initial\.pretrained\.{date}\.save", model.name)
        assert report == model.with_suffix(".transfer.json")
        assert f"deepmedic -train TRAIN.cfg -model {model}" in outcome.out
        table = outcome.out[: outcome.out.index("The transfer, tensor by tensor:")]
        summary = re.match(r"(\d+) of (\d+) parameters \(([\d.]+)%\) of model big come from model net\.\n", table)
        assert summary is not None
        assert (
            "  normal/2       2      3x3x3   normal/2       50%    sliced [0:3] of 4 <- [0:3] of 3: bn_gamma" in table
        )
        assert "(not transferred by default)" in table
        plain = json.loads(report.read_text())
        assert (plain["transferred"], plain["parameters"]) == (int(summary[1]), int(summary[2]))
        assert len({tensor["name"] for layer in plain["layers"] for tensor in layer["tensors"]}) == len(
            checkpoints.load(model)["parameters"]
        )
        log = (study.out / "logs" / "big.txt").read_text()
        assert table.strip() in log
        assert "[Pathway_NORMAL][Conv.Layer_0 (index)], depth [1] (Target): Receiving parameters..." in log
        assert "Transferring weights [W]." in log

    def test_it_is_untrained_and_knows_its_source(self, source, larger, new_model):
        content = new_model(larger, "-seed", 3)
        assert (content["training"], content["start_parameters"]) == (None, None)
        assert content["provenance"] == {
            "kind": "pretrained",
            "source": sha256_of(source),
            "seed": 3,
            "map": {name: name for name in ("normal/1", "normal/2", "subsampled1/1", "subsampled1/2", "fc/1")},
        }

    def test_the_source_may_be_a_folder_and_is_never_changed(self, study, source, larger, run):
        (study.folder / "models").mkdir()
        shutil.copy(source, study.folder / "models")
        before = source.read_bytes()
        assert run("-newModel", larger, "-pretrained", study.folder / "models").code == 0
        assert run("-newModel", larger, "-pretrained", source).code == 0
        assert source.read_bytes() == (study.folder / "models" / "A.save").read_bytes() == before

    @pytest.mark.parametrize("with_session", [False, True])
    def test_the_dry_run_shows_the_table_and_makes_nothing(self, study, source, larger, run, with_session, tmp_path):
        session = ["-train", study.train()] if with_session else []
        before = study.files()
        words = ["-newModel", larger, "-pretrained", source, *session]
        outcome = run(*words, "-check", "-output", tmp_path / "found.json")
        assert (outcome.code, outcome.out.splitlines()[0]) == (0, "OK")
        assert "transfer:\n" in outcome.out
        assert "sliced [0:4, 0:3] of 6x4 <- [0:4, 0:3] of 4x3: weight" in outcome.out
        assert json.loads((tmp_path / "found.json").read_text())["transfer"]["kind"] == "pretrained"
        assert study.files() == before

    def test_by_name(self, study, source, run, new_model):
        named = study.model(channelNames=["T1", "T2"])
        assert (
            run("-newModel", named, "-pretrained", source, "-train", study.train(numberOfEpochs=1, **QUICK)).code == 0
        )
        other = study.model(
            "B",
            modelName="B",
            channelNames=["FLAIR", "T2"],
            newChannels="zero",
            classNames=["background", "edema", "core"],
            transferClasses=True,
            classFrequencies=[0.9, 0.06, 0.04],
        )
        outcome = run("-newModel", other, "-pretrained", study.checkpoints)
        assert outcome.code == 0, outcome.err
        [path] = (study.out / "cnnModels").glob("B.initial.pretrained.*.save")
        found, given = checkpoints.load(path)["parameters"], study.content()["parameters"]
        weight, expected = found["normal/1/weight"], given["normal/1/weight"]
        assert torch.equal(weight[:, 0], torch.zeros_like(weight[:, 0]))
        torch.testing.assert_close(weight[:, 1], 2 * expected[:, 1])  # T1 is missing
        rows = found["fc/2/weight"]
        assert torch.equal(rows[[0, 2]], given["fc/2/weight"][[0, 1]])
        assert found["softmax/bias"][1].item() == pytest.approx(np.log(0.06))

    def test_layers(self, study, source, larger, new_model):
        given = checkpoints.load(source)["parameters"]
        content = new_model(larger, "-layers", 2, 4)
        assert content["provenance"]["map"] == {
            "normal/2": "normal/2",
            "subsampled1/2": "subsampled1/2",
            "fc/2": "fc/2",
        }
        assert torch.equal(content["parameters"]["softmax/bias"][:3], given["softmax/bias"])
        assert torch.equal(content["parameters"]["normal/2/weight"][:4, :3], given["normal/2/weight"])

    def test_growth_computes_the_same(self, study, source, run, probabilities):
        deeper = study.model(
            "B", modelName="big", numberFMsPerLayerNormal=[5, 6], numberFMsPerLayerFC=[7, 8], channelNames=None
        )
        expected = probabilities(source)
        assert run("-newModel", deeper, "-pretrained", source, "-grow", "exact").code == 0
        [path] = (study.out / "cnnModels").glob("big.initial.pretrained.*.save")
        assert checkpoints.load(path)["provenance"]["grow"] == "exact"
        found = probabilities(path)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        outcome = run("-test", study.test(), "-model", path)
        assert "This model was not trained since it received parameters from another one." in outcome.err


class TestRefusals:
    @pytest.fixture
    def refused(self, study, source, run) -> Callable[..., str]:
        """Run `-newModel B -pretrained A`; return the refusal."""

        def refused(code: int, config: Path, *words: Any) -> str:
            before = study.files()
            outcome = run("-newModel", config, "-pretrained", *(words or [source]))
            assert outcome.code == code
            assert "Traceback" not in outcome.err
            assert study.files() == before
            return outcome.err

        return refused

    def test_kernels_of_another_shape(self, study, refused):
        config = study.model("B", kernelDimPerLayerNormal=[[3, 3, 3], [5, 5, 5]], segmentsDimTrain=[11, 11, 11])
        message = refused(5, config)
        assert "pathway normal, layer 2: kernels are 5x5x5 in the new model and 3x3x3 in the source model" in message

    def test_a_source_that_is_not_deep_enough(self, study, source, refused):
        config = study.model(
            "B",
            numberFMsPerLayerNormal=[3, 4, 5],
            kernelDimPerLayerNormal=[[3, 3, 3]] * 3,
            segmentsDimTrain=[11, 11, 11],
        )
        message = refused(5, config)
        assert f"-pretrained {source}: the source model is not deep enough: pathway normal of the new model" in message
        assert "these two models allow -layers 1 2 3" in message

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ([9], "-layers 9: the source model has no layer at depth 9; allowed are 1 to 4"),
            ([3], "-layers 3: this is hidden layer 1 of the source's FC pathway, and the new model's has 0"),
        ],
    )
    def test_depths_without_counterpart(self, study, source, refused, layers, message):
        config = study.model("B", numberFMsPerLayerFC=None)
        assert message in refused(5, config, source, "-layers", *layers)

    def test_growth_that_cannot_be_exact_says_why(self, study, source, refused):
        config = study.model("B", numberFMsPerLayerNormal=[2, 4])
        message = refused(5, config, source, "-grow", "exact")
        assert "pathway normal" in message
        assert "layer 1" in message

    @pytest.mark.parametrize("what", ["missing", "damaged", "a picture", "an empty folder"])
    def test_sources_that_are_no_models(self, study, source, refused, what):
        path = {"a picture": study.image(0, "t1"), "missing": study.folder / "no.save"}.get(what, source)
        if what == "damaged":
            source.write_bytes(source.read_bytes()[:-1000])
        if what == "an empty folder":
            path = study.folder / "empty"
            path.mkdir()
        assert str(path) in refused(5, study.folder / "model.cfg", path)

    def test_another_kind_of_growth(self, study, source, refused):
        assert "the only kind of growth is exact" in refused(2, study.folder / "model.cfg", source, "-grow", "nearly")


class TestTrainedAtOnce:
    """`-newModel B -pretrained A -train T`."""

    @pytest.fixture
    def words(self, study, source, larger) -> list[Any]:
        return ["-newModel", larger, "-pretrained", source, "-train", study.train(numberOfEpochs=3, **QUICK)]

    @pytest.fixture
    def begun(self, run, words, monkeypatch) -> None:
        """The session, ended after an epoch."""
        with monkeypatch.context() as patch:
            stop_after(patch, epochs=1)
            assert run(*words).code == 130

    def test_it_starts_from_what_the_source_learnt(self, study, source, run, words):
        assert run(*words).code == 0
        content, given = study.content(study.saved("big.first.final.*.save")[0]), checkpoints.load(source)["parameters"]
        start = content["start_parameters"]["normal/2/weight"]
        assert torch.equal(start[:4, :3], given["normal/2/weight"])
        assert "[Pathway_NORMAL][Conv.Layer_0 (index)], depth [1] (Target): Receiving parameters..." in study.log
        assert "Reason: Uninitialized: [True], Reset requested: [False]" in study.log
        assert re.findall(r"Starting new Epoch! Epoch #(\d)", study.log) == ["0", "1", "2"]
        assert len(list((study.out / "cnnModels").glob("big.initial.pretrained.*.save"))) == 1
        assert content["provenance"]["source"] == sha256_of(source)

    def test_in_one_or_in_two_commands_it_is_the_same(self, study, run, words):
        assert run(*words).code == 0
        one = study.content(study.saved("big.first.final.*.save")[0])["parameters"]
        shutil.rmtree(study.out)
        assert run(*words[:4]).code == 0
        [path] = (study.out / "cnnModels").glob("big.initial.pretrained.*.save")
        assert run("-train", study.folder / "train.cfg", "-model", path).code == 0
        two = study.content(study.saved("big.first.final.*.save")[0])["parameters"]
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_killed_and_repeated_it_goes_on(self, study, run, words, begun):
        outcome = run(*words)
        assert (outcome.code, "Going on from" in outcome.out) == (0, True)
        found = study.content(study.saved("big.first.final.*.save")[0])["parameters"]
        assert "is finished" in run(*words).out
        shutil.rmtree(study.out)
        assert run(*words).code == 0
        expected = study.content(study.saved("big.first.final.*.save")[0])["parameters"]
        assert all(torch.equal(expected[name], found[name]) for name in expected)

    @pytest.mark.usefixtures("begun")
    def test_it_goes_on_without_naming_the_source_again(self, study, run):
        outcome = run("-train", study.folder / "train.cfg")
        assert (outcome.code, "Going on from" in outcome.out) == (0, True)

    @pytest.mark.usefixtures("begun")
    def test_the_source_may_be_gone_when_it_goes_on(self, study, source, run, words):
        source.unlink()
        outcome = run(*words, "-layers", 1)
        assert (outcome.code, f"{source}: there is no such file" in outcome.err) == (5, True)
        outcome = run(*words)
        assert (outcome.code, "Going on from" in outcome.out) == (0, True)

    @pytest.mark.usefixtures("begun")
    @pytest.mark.parametrize("change", ["another source", "none", "layers", "classes", "names"])
    def test_another_origin_is_refused_naming_both(self, study, source, run, words, change):
        if change == "another source":
            assert run("-adapt", source, "-classes", 3, "-output", study.folder / "other.save").code == 0
            words[3] = study.folder / "other.save"
        elif change == "none":
            del words[2:4]
        elif change == "layers":
            words += ["-layers", "1"]
        elif change == "classes":
            study.model("B", **LARGER, transferClasses=True)
        else:
            study.model("B", **{**LARGER, "classNames": ["background", "shell", "core", "edema"]})
        outcome = run(*words)
        assert outcome.code == 5
        assert f"was started from a new model 'big' pretrained from {source}" in outcome.err
        assert "but the command starts from a new model 'big'" in outcome.err
        assert "Repeat the first command to go on" in outcome.err


class TestFineTuning:
    """`-train T -model A.save -resetOptimizer`."""

    @pytest.fixture
    def words(self, study, source) -> list[Any]:
        return ["-train", study.train(numberOfEpochs=3, **QUICK), "-model", source, "-resetOptimizer"]

    def test_weights_and_statistics_are_kept_and_optimisation_starts_anew(self, study, source, run, words):
        before = source.read_bytes()
        assert run(*words).code == 0
        assert source.read_bytes() == before
        content, given = study.content(), checkpoints.load(source)["parameters"]
        start = content["start_parameters"]
        assert start.keys() == given.keys()
        assert all(torch.equal(start[name], given[name]) for name in given)  # bn_mean_rolling and bn_var_rolling too
        assert any(name.endswith("bn_var_rolling") for name in start)
        assert "(Re)Initializing parameters for the optimization. Reason: Uninitialized: [False], Reset" in study.log
        assert re.findall(r"Starting new Epoch! Epoch #(\d)", study.log) == ["0", "1", "2"]
        assert content["provenance"]["sha256"] == sha256_of(source)

    def test_the_first_step_finds_a_fresh_optimiser(self, study, run, words, monkeypatch):
        with monkeypatch.context() as patch:
            stop_after(patch, epochs=0)
            assert run(*words).code == 130
        [first] = study.saved()
        state = study.trained(first)
        assert (state["position"]["epoch"], state["position"]["step"]) == (0, 0)
        slots = state["optimiser"]["slots"]
        assert all(not tensor.any() for tensors in slots.values() for tensor in tensors.values())

    def test_killed_and_repeated_it_goes_on_without_a_second_reset(self, study, run, words, monkeypatch):
        with monkeypatch.context() as patch:
            stop_after(patch, epochs=2)
            assert run(*words).code == 130
        outcome = run(*words)
        assert (outcome.code, "Going on from" in outcome.out) == (0, True)
        assert re.findall(r"Starting new Epoch! Epoch #(\d)", study.log) == ["0", "1", "2"]
        assert study.log.count("Reset requested: [True]") == 1
        found = study.content()["parameters"]
        shutil.rmtree(study.out)
        assert run(*words).code == 0
        assert all(torch.equal(tensor, found[name]) for name, tensor in study.content()["parameters"].items())

    def test_frozen_layers_stay_as_the_source_left_them(self, study, source, run, words):
        words[1] = study.train(numberOfEpochs=2, layersToFreezeNormal=[1, 2], layersToFreezeFC=[1], **QUICK)
        assert run(*words).code == 0
        assert moved_layers(study.content(), checkpoints.load(source)["parameters"]) == {"fc/2", "softmax"}


class TestAdapt:
    def test_same_classes_change_nothing_bit_by_bit(self, study, source, run, probabilities):
        expected = probabilities(source)
        for words in (["-classes", 3], ["-classes", "background", "core", "shell"], ["-channels", 2]):
            path = study.folder / f"{words[0]}{words[1]}.save"
            assert run("-adapt", source, *words, "-output", path).code == 0
            assert probabilities(path).tobytes() == expected.tobytes()

    def test_names_files_and_the_source(self, study, source, run):
        before, files = source.read_bytes(), set(source.parent.iterdir())
        outcome = run("-adapt", source, "-classes", "background", "tumour", "-classFrequencies", 0.9, 0.1)
        assert (outcome.code, outcome.err) == (0, "")
        assert source.read_bytes() == before
        model, report = sorted(set(source.parent.iterdir()) - files)
        assert re.fullmatch(r"net\.adapted\.\d{4}-\d\d-\d\d\.\d\d\.\d\d\.\d\d\.\d{6}\.save", model.name)
        assert report == model.with_suffix(".transfer.json")
        assert f"deepmedic -train TRAIN.cfg -model {model}" in outcome.out
        content = checkpoints.load(model)
        assert content["provenance"]["kind"] == "adapted"
        assert content["provenance"]["source"] == sha256_of(source)
        assert content["config"]["class_names"] == ["background", "tumour"]

    def test_new_classes_start_at_their_frequencies(self, study, source, run, probabilities):
        words = ["-classes", "air", "bone", "fat", "-classFrequencies", 80, 15, 5]
        assert run("-adapt", source, *words, "-output", study.folder / "new.save").code == 0
        found = probabilities(study.folder / "new.save", gtLabels=None, roiMasks=None)
        np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), [0.8, 0.15, 0.05], atol=1e-6)
        assert np.ptp(found, axis=(1, 2, 3)).max() < 1e-6

    def test_without_frequencies_all_classes_are_equal(self, study, source, run, probabilities):
        assert run("-adapt", source, "-classes", 5, "-output", study.folder / "new.save").code == 0
        found = probabilities(study.folder / "new.save", saveProbMapsForEachClass=[True] * 5, roiMasks=None)
        np.testing.assert_allclose(found, 0.2, atol=1e-6)

    def test_the_adapted_model_trains(self, study, source, run):
        words = ["-classes", "background", "core", "shell", "edema", "-output", study.folder / "new.save"]
        assert run("-adapt", source, *words).code == 0
        outcome = run("-train", study.train(numberOfEpochs=1, **QUICK), "-model", study.folder / "new.save")
        assert outcome.code == 0, outcome.err
        assert "Epoch #0/1" in study.log

    def test_more_channels(self, study, source, run, probabilities):
        assert run("-adapt", source, "-channels", 3, "-output", study.folder / "new.save").code == 0
        lists = ["lists/val_t1.cfg", "lists/val_t2.cfg"]
        expected = probabilities(source)
        found = probabilities(study.folder / "new.save", channels=[*lists, lists[0]])
        np.testing.assert_allclose(found, expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ("-classes 1", 5, "1 class cannot be told apart; a model needs at least 2, with the background"),
            ("-classes one", 5, "1 class cannot be told apart"),
            ("-classes a b a", 5, "class names are a, b, a; a stands there twice"),
            ("-channels 0", 5, "0 image channels; a model needs at least 1"),
            ("-classes 3 -classFrequencies 0.5 0.5", 5, "2 class frequencies are given; the new model has 3 classes"),
            ("-classes 3 -classFrequencies 0 0.5 0.5", 2, "-classFrequencies 0: allowed are numbers above 0"),
            ("-classes 3 -output new.pt", 2, "a model's name must end in .save"),
            ("-classes 3 -output A.save", 8, "A.save: this file exists; choose another name"),
            ("", 2, "-adapt needs to know for what: add -classes NAME... or -channels NAME..., or both"),
        ],
    )
    def test_refusals(self, study, source, run, monkeypatch, words, code, message):
        monkeypatch.chdir(study.folder)
        before, content = sorted(study.folder.rglob("*")), source.read_bytes()
        outcome = run("-adapt", "A.save", *words.split())
        assert (outcome.code, message in outcome.err) == (code, True), outcome.err
        assert sorted(study.folder.rglob("*")) == before
        assert source.read_bytes() == content


class TestInitialisation:
    def test_statistics_alone_come_over(self, study, source, new_model) -> None:
        made = new_model(study.folder / "model.cfg", "-initialisation", "ST")
        given, found = checkpoints.load(source)["parameters"], made["parameters"]
        assert made["provenance"]["initialisation"] == "ST"
        assert not torch.equal(found["normal/2/weight"], given["normal/2/weight"])
        assert float(found["normal/2/weight"].std()) == pytest.approx(float(given["normal/2/weight"].std()), rel=0.2)

    def test_the_classification_layer_is_new_whatever_the_config_says(self, study, source, new_model) -> None:
        made = new_model(study.model("B", transferClasses=True), "-initialisation", "WT")
        given = checkpoints.load(source)["parameters"]
        assert torch.equal(made["parameters"]["fc/1/weight"], given["fc/1/weight"])
        assert not torch.equal(made["parameters"]["fc/2/weight"], given["fc/2/weight"])

    def test_it_is_part_of_a_sessions_origin(self, study, source, run) -> None:
        words = ["-newModel", study.folder / "model.cfg", "-pretrained", source]
        words += ["-train", study.train(numberOfEpochs=1, **QUICK)]
        assert run(*words, "-initialisation", "ST").code == 0
        assert "is finished" in run(*words, "-initialisation", "ST").err + study.log
        assert run(*words).code == 5

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["-initialisation", "SW"], "-initialisation SW: found 'SW'; allowed: \"WT\" (weights)"),
            (["-initialisation", "RI"], "-initialisation RI takes nothing from -pretrained; leave both out."),
            (["-initialisation", "ST", "-grow", "exact"], "-grow and -initialisation contradict each other"),
        ],
        ids=["unknown", "nothing", "grow"],
    )
    def test_what_makes_no_sense_is_refused(self, study, source, run, words, message) -> None:
        outcome = run("-newModel", study.folder / "model.cfg", "-pretrained", source, *words)
        assert outcome.code == 2
        assert message in outcome.err
        assert not study.out.exists()
