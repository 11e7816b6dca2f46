"""From `-analyse` to the ledger: forecasts, a comparison of the same pairs, coverage and rank correlation."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from study import LEARNING, VALIDATION_CASES, Study, spawn, table_of
from study_fixtures import quick

from deepmedic import cli
from deepmedic.analysis.ledger import read_ledger

SOURCES = ("A", "B", "C")
SHORT = {
    **LEARNING,
    "sessionName": "task",
    "numberOfEpochs": 1,
    "numberOfSubepochs": 1,
    "learningRate": 0.02,
    **VALIDATION_CASES,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Six cases; models that learnt for long, for short, and hardly anything; two cases to train on, two to score."""
    study = Study(tmp_path_factory.mktemp("forecasts"))
    study.write_cases(6)
    study.list_cases("train", range(2))
    model = study.model()
    for seed, (name, epochs, rate) in enumerate(zip(SOURCES, (4, 2, 1), (0.02, 0.01, 1e-6), strict=True)):
        config = study.train(name, numberOfEpochs=epochs, learningRate=rate, **LEARNING)
        with quick():
            assert cli.main(["-newModel", str(model), "-train", str(config), "-seed", str(seed), "-dev", "cpu"]) == 0
        shutil.move(study.newest(), study.folder / f"{name}.save")
        shutil.rmtree(study.out)
    study.list_cases("train", [2, 3])
    study.list_cases("val", [4, 5])
    return study


def command(*words: Any) -> str:
    """Run the command line as a user does, and return what it printed."""
    process = spawn([*words, "-dev", "cpu"])
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def measured_gains(folder: Path) -> dict[str, float]:
    """Gain of each source, from the table of runs alone: mean of WT less RI over seeds and subjects."""
    dice: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for row in table_of(folder / "runs.csv"):
        dice[row["source"] or "RI"][row["seed"], row["subject"]] = float(row["dice"])
    random = dice.pop("RI")
    return {source: sum(own[key] - random[key] for key in random) / len(random) for source, own in dice.items()}


def test_forecasts_are_compared_with_what_came_true(study) -> None:
    models = [study.folder / f"{name}.save" for name in SOURCES]
    printed = command("-analyse", study.train("task", **SHORT), "-model", *models)
    assert "Forecast kept: " in printed
    printed = command(
        "-compare", study.comparison(sourceModels=[f"{name}.save" for name in SOURCES], trainConfig="task.cfg")
    )
    for number in (1, 2, 3):
        assert f"Forecast {number} is compared with what came true: " in printed

    folder = study.out / "comparisons" / "cmp"
    content = json.loads((folder / "comparison.json").read_text())
    gains = measured_gains(folder)
    records = [record["outcome"] for record in read_ledger(study.out / "forecasts" / "ledger.jsonl")]
    assert len(records) == len(SOURCES)
    assert all(record["inTime"] for record in records)
    assert {record["pair"]["source"][:8]: record["gain"]["mean"] for record in records} == {
        source.rpartition("-")[2]: pytest.approx(gain) for source, gain in gains.items()
    }

    evaluation = content["forecasts"]
    assert evaluation["pairs"] == 3
    held = sum(one["predicted"]["low"] <= one["gain"]["mean"] <= one["predicted"]["high"] for one in records)
    assert evaluation["coverage"] == {"held": held, "of": 3}
    assert f"intervals that held the measured gain: {held} of 3" in printed
    true = [one["gain"]["mean"] for one in records]
    for rival in ("forecast", "knn_gain", "logme", "ccfv", "domain_distance"):
        said = [one["predicted"] if rival == "forecast" else one["rivals"][rival] for one in records]
        values = [one["mean"] if isinstance(one, dict) else one for one in said]
        expected = stats.spearmanr(values, true).statistic
        assert evaluation["rankCorrelation"][rival] == {"coefficient": pytest.approx(expected), "pairs": 3}
        assert f"rank correlation of {rival} with the measured gain: {expected:.2f} (3 pairs)" in printed

    page = (study.out / "reports" / "cmp.html").read_text()
    assert "Comparison of initialisations</h2>" in page
    assert f"Intervals that held the measured gain: {held} of 3." in page
    assert page.count("<td>WT</td>") == page.count("<td>RI</td>") == 3
    assert 'href="./../comparisons/cmp/runs.csv"' in page

    distances = {record["pair"]["source"][:8]: record["rivals"]["domain_distance"] for record in records}
    found = {source.rpartition("-")[2]: distance for source, distance in content["domainDistances"].items()}
    assert found == {source: pytest.approx(distance) for source, distance in distances.items()}

    (study.out / "forecasts" / "forecasts.jsonl").unlink()  # without a forecast the same distance is measured
    printed = command("-compare", study.folder / "compare.cfg")
    assert printed.count("Distance of the data from those of ") == 3
    again = json.loads((folder / "comparison.json").read_text())
    assert again["domainDistances"] == content["domainDistances"]
    assert again["settings"] == content["settings"]
