"""`-findLr` as a whole command: its results, that it repeats itself and leaves everything else as it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from study import Study, table_of

from deepmedic.arguments import parse
from deepmedic.model import parameters
from deepmedic.sessions.training import rate_finder
from deepmedic.training import rate_search

QUICK = {"numberOfSubepochs": 1}
SEARCH = {"minPower": -4, "maxPower": 6.0, "resolution": 2, "rampSteps": 20}


@pytest.fixture(autouse=True)
def _pictures_where_asked_for(request, monkeypatch) -> None:
    """Drawing takes longer than all else."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(rate_finder, "draw_learning_rates", lambda plain, path: path)


def results(study: Study) -> Path:
    return study.out / "learningRates" / "first"


def found(study: Study) -> dict[str, Any]:
    return json.loads((results(study) / "lr_finder.json").read_text())


def table(study: Study, name: str) -> list[dict[str, str]]:
    return table_of(results(study) / name)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestResults:
    def test_grid_and_ramp_of_a_trained_model_which_stays_as_it_is(self, study, run, source, pictures) -> None:
        search = {"minPower": -4, "maxPower": -1, "resolution": 3, "rampSteps": 20}
        config, before = study.train(validate=True, findLr=search, **QUICK), digest(source)
        outcome = run("-findLr", config, "-model", source)
        assert outcome.code == 0, outcome.err
        assert digest(source) == before
        plain, rows = found(study), table(study, "lr_finder.csv")
        assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-4, 10**-2.5, 0.1])
        assert plain["highestDice"] == max(plain["grid"], key=lambda row: (row["dice"], -row["cost"]))["learningRate"]
        assert plain["lowestCost"] == min(plain["grid"], key=lambda row: row["cost"])["learningRate"]
        assert len(table(study, "lr_finder_ramp.csv")) == len(plain["ramp"]["costs"]) <= 20
        assert (results(study) / "lr_finder.png").read_bytes().startswith(b"\x89PNG")
        assert f"Suggestion: learningRate = {plain['suggestion']:.3g}" in outcome.out
        assert f"deepmedic -train {config} -model {source} -resetOptimizer" in outcome.out
        assert not (study.out / "cnnModels").exists()

    def test_each_rate_of_the_grid_is_trained_for_so_many_epochs(self, study, run) -> None:
        costs = []
        for epochs in (1, 2):
            search = {"method": "grid", "minPower": -3, "maxPower": -2, "resolution": 2, "epochs": epochs}
            config = study.train(validate=True, findLr=search, **QUICK)
            outcome = run("-newModel", study.model(), "-findLr", config, "-overwrite")
            assert outcome.code == 0, outcome.err
            costs.append([float(row["cost"]) for row in found(study)["grid"]])
        assert costs[1] != costs[0]

    def test_a_search_is_repeated_exactly_and_only_when_asked(self, study, run) -> None:
        config = study.train(validate=True, findLr={**SEARCH, "maxPower": -2}, **QUICK)
        command = ("-newModel", study.model(), "-findLr", config)
        assert run(*command).code == 0
        files = {path.name: digest(path) for path in results(study).iterdir()}
        assert "This search was made before" in run(*command).out
        assert run(*command, "-overwrite").code == 0
        assert {path.name: digest(path) for path in results(study).iterdir()} == files
        other = run(*command, "-seed", 1)
        assert other.code == 8, other.err
        assert (
            "holds the results of another request (other models, cases or contents of their files, settings or seed)"
            in other.err
        )

    def test_a_rate_that_diverges_is_recorded_and_the_next_starts_from_the_same_weights(
        self, study, run, monkeypatch
    ) -> None:
        config = study.train(validate=True, findLr={"method": "grid"}, sgd0orAdam1orRms2=0, **QUICK)
        command = ("-newModel", study.model(), "-findLr", config, "-overwrite")
        grids = []
        for rates in [(1e-3, 1e30, 1e-2), (1e-2, 1e-3)]:
            monkeypatch.setattr(rate_finder, "spaced_rates", lambda *_, rates=rates: rates)
            assert run(*command).code == 0
            grids.append({row["learningRate"]: row for row in found(study)["grid"]})
        after, alone = grids
        assert after.pop(1e30) == {"learningRate": 1e30, "cost": None, "dice": None, "diverged": True}
        assert after == alone
        assert after[1e-3]["cost"] != after[1e-2]["cost"]

    def test_a_diverged_rate_is_infinite_in_the_table(self, study, run, monkeypatch) -> None:
        monkeypatch.setattr(rate_finder, "spaced_rates", lambda *_: (1e30,))
        config = study.train(validate=True, findLr={"method": "grid"}, sgd0orAdam1orRms2=0, **QUICK)
        outcome = run("-newModel", study.model(), "-findLr", config)
        assert table(study, "lr_finder.csv") == [{"learning_rate": "1e+30", "cost": "inf", "dice": "nan"}]
        assert "Every rate of the grid diverged; lower minPower and maxPower of findLr." in outcome.out + outcome.err
        assert "No learning rate can be suggested." in outcome.out


def test_the_command_of_the_training_has_all_that_it_starts_from() -> None:
    words = "-newModel m.cfg -pretrained a.save -layers 1 2 {} t.cfg -split 0.8 0.2 -seed 3"
    arguments = parse(words.format("-findLr").split())
    arguments.train = arguments.find_lr
    asked = parse(words.format("-train").split())
    again = parse(rate_finder.training_command(arguments).split()[1:])
    assert replace(again, given=()) == replace(asked, given=())


class TestRefusals:
    def test_bounds_that_are_exchanged(self, study, run) -> None:
        outcome = run("-newModel", study.model(), "-findLr", study.train(findLr={"minPower": 2, "maxPower": -4}))
        assert outcome.code == 3
        assert "train.cfg:" in outcome.err
        assert "findLr.maxPower: found -4; allowed: more than minPower, which is 2" in outcome.err

    def test_without_a_model(self, study, run) -> None:
        outcome = run("-findLr", study.train())
        assert outcome.code == 2
        assert "-findLr needs a model to start from, as -train does: -newModel MODEL.cfg" in outcome.err

    def test_a_grid_without_validation(self, study, run) -> None:
        outcome = run("-newModel", study.model(), "-findLr", study.train(findLr={"method": "grid"}))
        assert outcome.code == 3
        assert 'findLr.method = "grid" judges each rate on validation samples, and nothing is validated' in outcome.err

    def test_without_validation_only_the_ramp_is_made_and_that_is_said(self, study, run) -> None:
        outcome = run("-newModel", study.model(), "-findLr", study.train(findLr={"rampSteps": 20}))
        assert outcome.code == 0, outcome.err
        assert "there is no grid of rates: only the ramp is made" in outcome.out + outcome.err
        assert found(study)["grid"] == []
        assert sorted(path.name for path in results(study).iterdir()) == ["lr_finder.json", "lr_finder_ramp.csv"]

    def test_check_writes_nothing(self, study, run) -> None:
        before = study.files()
        config = study.train(validate=True, numberOfEpochs=50, findLr={"resolution": 7, "epochs": 3, "rampSteps": 40})
        path = study.folder / "check.json"
        outcome = run("-newModel", study.model(), "-findLr", config, "-check", "-output", path)
        assert outcome.code == 0, outcome.err
        assert study.files() == before
        told = json.loads(path.read_text())
        steps = 7 * 3 * 2 * (8 // 4)  # rates, epochs, sub-epochs, batches: not those of 50 epochs
        assert f"hours for {steps} steps of 7 rates and at most 40 steps of the ramp" in told["estimated"]["time"]
        assert told["session"] == "first"
        assert told["output"].endswith("learningRates/first")
        assert told["cases"] == {"training": 2, "validation": 1}
        assert told["begins"] == "starts; the model stays as it is"

    def test_check_tells_a_finished_search_from_another_one(self, study, run) -> None:
        config = study.train(findLr={"rampSteps": 20})
        command = ("-newModel", study.model(), "-findLr", config)
        assert run(*command).code == 0
        content = study.image(0, "t1").read_bytes()
        study.image(0, "t1").write_bytes(content[:-60] + bytes(40) + content[-20:])  # nothing reads its voxels any more
        before, path = study.files(), study.folder / "check.json"
        again, check = run(*command), run(*command, "-check", "-output", path)
        assert again.code == check.code == 0
        assert study.files() == before
        assert f"This search was made before; its results are in {results(study)}." in again.out
        assert "begins: finished: its results are there; nothing would be done" in check.out
        told = json.loads(path.read_text())
        assert (told["session"], told["output"]) == ("first", str(results(study)))
        assert "estimated" not in told
        study.train(findLr={"rampSteps": 21})
        assert run(*command, "-check").code == 8


def test_the_report_has_the_suggestion_and_every_rate(study, run, pictures) -> None:
    config = study.train(validate=True, report=True, findLr={"minPower": -4, "maxPower": -2, "resolution": 3}, **QUICK)
    outcome = run("-newModel", study.model(), "-findLr", config)
    assert outcome.code == 0, outcome.err
    page = (study.out / "reports" / "first.html").read_text()
    assert "Search for a learning rate</h2>" in page
    assert f"<dt>Suggestion</dt><dd>{found(study)['suggestion']:.3g}</dd>" in page
    for rate in ("0.0001", "0.001", "0.01"):
        assert f"<td>{rate}</td>" in page
    assert page.count('src="data:image/png;base64,') == 1


def test_rates_of_layers_keep_their_ratios_and_every_rate_ends_with_the_weights_of_the_start(
    study, run, monkeypatch
) -> None:
    """One step of plain gradient descent for each rate: how far a weight moves is its rate times the same gradient."""
    moved: list[dict[str, torch.Tensor]] = []
    put_into = rate_search.put_into

    def note(network: Any, weights: Any) -> None:
        now, start = parameters.named_tensors(network), weights["parameters"]
        moved.append({name: (tensor - start[name]).detach() for name, tensor in now.items()})
        put_into(network, weights)
        assert all(torch.equal(tensor, start[name]) for name, tensor in parameters.named_tensors(network).items())

    monkeypatch.setattr(rate_search, "put_into", note)
    search = {"method": "grid", "minPower": -1, "maxPower": 0, "resolution": 2}
    one_step = {"numberTrainingSegmentsLoadedOnGpuPerSubep": 4, "sgd0orAdam1orRms2": 0, "momentumValue": 0.0}
    for decay in (None, 0.5):
        config = study.train(
            validate=True, findLr=search, learningRateDecayPerLayer=decay, L1_reg=0.0, L2_reg=0.0, **one_step, **QUICK
        )
        assert run("-newModel", study.model(), "-findLr", config, "-overwrite").code == 0
    plain, tenfold, slower, both = moved[1::2]  # every rate begins and ends with the weights of the start
    shares = {"fc/2/weight": 1.0, "fc/1/weight": 0.5, "normal/2/weight": 0.25, "normal/1/weight": 0.125}
    for name, share in shares.items():
        assert plain[name].abs().max() > 1e-4
        tolerances = {"rtol": 1e-3, "atol": 2e-6}  # a step is the difference of rounded weights
        torch.testing.assert_close(tenfold[name], 10 * plain[name], **tolerances)
        torch.testing.assert_close(slower[name], share * plain[name], **tolerances)
        torch.testing.assert_close(both[name], 10 * share * plain[name], **tolerances)
