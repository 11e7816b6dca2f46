"""`-compare` as a whole command: planted cases, repetition, parts, sweeps, refusals, forecasts that are scored."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study import LEARNING, SIZE, VALIDATION_CASES, Study, table_of
from study_fixtures import quick

from deepmedic import cli
from deepmedic.analysis.forecasts import append_forecast, forecasts_file
from deepmedic.analysis.ledger import ledger_file, read_ledger
from deepmedic.config.load import load_comparison_config, load_model_config, load_test_config, load_train_config
from deepmedic.data.cases import list_cases
from deepmedic.errors import ProblemList
from deepmedic.files import sha256_of
from deepmedic.sessions.transfer import comparison, comparison_results, domain_distance
from deepmedic.sessions.transfer.comparison_configs import Compared, read_compared
from deepmedic.sessions.transfer.comparison_runs import Source, nested_subjects
from deepmedic.sessions.transfer.pair_identity import architecture_digest, images_digest

HEAD_ALONE = {
    "numberOfEpochs": 1,
    "numberOfSubepochs": 1,
    "learningRate": 0.1,
    "layersToFreezeNormal": [1, 2],
    "layersToFreezeSubsampled": [1, 2],
    "layersToFreezeFC": [1],
    **VALIDATION_CASES,
}
"""Only the classification layer learns, so that features help by construction."""
NEXT_TO_NOTHING = {**HEAD_ALONE, "numberTrainingSegmentsLoadedOnGpuPerSubep": 8}


@pytest.fixture(scope="module")
def taught_once(tmp_path_factory) -> Path:
    """Six cases: a model A learnt from two, two are for training, the last two for scoring."""
    study = Study(tmp_path_factory.mktemp("taught"))
    study.write_cases(6)
    study.list_cases("train", range(2))
    study.list_cases("val", [4, 5])
    long = study.train(numberOfEpochs=4, numberOfSubepochs=2, learningRate=0.02, **LEARNING)
    with quick():
        assert cli.main(["-newModel", str(study.model()), "-train", str(long), "-dev", "cpu"]) == 0
    shutil.move(study.newest(), study.folder / "A.save")
    shutil.rmtree(study.out)
    study.list_cases("train", [2, 3])
    return study.folder


@pytest.fixture
def taught(taught_once, tmp_path) -> Study:
    study = Study(Path(shutil.copytree(taught_once, tmp_path / "taught")))
    study.train("short", **{**LEARNING, **NEXT_TO_NOTHING})
    return study


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch) -> None:
    """Drawing takes longer than all else, and has tests of its own."""
    monkeypatch.setattr(comparison_results, "draw_comparison", lambda settings, distances, path: None)


@pytest.fixture
def compare(taught, run) -> Callable[..., Any]:
    """Run `-compare`; return what it found, or the refusal where one is expected."""

    def compare(*words: Any, expected: int = 0, **changes: Any) -> Any:
        outcome = run("-compare", taught.comparison(**changes), *words)
        assert outcome.code == expected, outcome.err
        path = taught.out / "comparisons" / "cmp" / "comparison.json"
        return outcome if expected or not path.exists() else json.loads(path.read_text())

    return compare


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Names of the sessions that were trained."""
    names, train = list[str](), comparison.training.run

    def note(plan):
        names.append(plan.paths.session)
        return train(plan)

    monkeypatch.setattr(comparison.training, "run", note)
    return names


class TestPlanted:
    def test_features_of_the_same_task_help_where_only_the_head_learns(self, taught, compare, capsys) -> None:
        taught.train("short", **{**LEARNING, **HEAD_ALONE})
        [setting] = compare(initialisations=["WT", "ST", "RI"])["settings"]
        assert setting["verdict"] == "helps"
        assert setting["gain"]["low"] > 0.2
        assert setting["featureReuse"]["mean"] > 0.2
        assert (setting["trainingCases"], setting["seeds"], len(setting["subjects"])) == (2, [0, 1], 2)
        folder = taught.out / "comparisons" / "cmp"
        rows = table_of(folder / "runs.csv")
        assert len(rows) == 3 * 2 * 2
        of_arm = [float(row["dice"]) for row in rows if row["initialisation"] == "WT"]
        assert np.mean(of_arm) == pytest.approx(setting["arms"][0]["dice"]["mean"])
        table = table_of(folder / "comparison.csv")
        assert [row["initialisation"] for row in table] == ["WT", "ST", "RI"]
        assert "verdict: HELPS" in (folder / "comparison.txt").read_text()

    def test_nothing_helps_where_labels_have_nothing_to_do_with_the_images(self, taught, compare) -> None:
        """One voxel of each class at random: whoever finds it by luck is hardly better for it."""
        generator = np.random.default_rng(5)
        for case in (4, 5):
            labels = np.zeros(SIZE, np.uint8)
            labels[tuple(generator.integers(4, 12, 3))], labels[tuple(generator.integers(4, 12, 3))] = 1, 2
            taught.write_image(case, "labels", labels)
        [setting] = compare(smallestGain=0.1)["settings"]
        assert setting["verdict"] == "no evidence"


class TestRepetition:
    def test_finished_runs_are_kept_and_more_seeds_are_added(self, taught, compare, made, monkeypatch) -> None:
        score, scored = comparison._score, []

        def interrupted(plan, run, model):
            if len(scored) == 2:
                raise KeyboardInterrupt
            scored.append(run.name)
            return score(plan, run, model)

        monkeypatch.setattr(comparison, "_score", interrupted)
        assert compare(expected=130).code == 130
        assert len(made) == 3  # the third was trained, and not scored
        monkeypatch.setattr(comparison, "_score", score)
        first = compare()
        assert len(made) == 3 + 2  # it is looked at again, and is finished; the fourth is new
        files = sorted((taught.out / "cnnModels").glob("cmp*/*final*"))
        before = [path.stat().st_mtime_ns for path in files]
        assert compare()["settings"] == first["settings"]
        assert len(made) == 5
        assert compare(seeds=[0, 1, 2])["settings"][0]["seeds"] == [0, 1, 2]
        assert len(made) == 7
        assert [path.stat().st_mtime_ns for path in files] == before

    def test_other_settings_are_not_mixed(self, taught, compare) -> None:
        compare(seeds=[0])
        taught.train("short", **{**LEARNING, **NEXT_TO_NOTHING, "learningRate": 0.05})
        refusal = compare(seeds=[0, 1], expected=8)
        assert "was made, or begun, with another train, model or test config" in refusal.err
        assert compare("-overwrite", seeds=[0])["settings"][0]["verdict"] == "no evidence"

    def test_parts_are_disjoint_and_together_the_whole(self, taught, compare, made) -> None:
        compare("-part", "1/2")
        assert not (taught.out / "comparisons" / "cmp" / "comparison.json").exists()
        assert len(made) == 2
        first = set(made)
        compare("-part", "2/2")
        assert len(made) == 4
        assert first.isdisjoint(made[2:])
        assert len(compare()["settings"][0]["seeds"]) == 2
        assert len(made) == 4
        logs = {path.name for path in (taught.out / "logs").glob("cmp.comparison*")}
        assert logs == {"cmp.comparison.txt", "cmp.comparison.part1of2.txt", "cmp.comparison.part2of2.txt"}


class TestSweeps:
    def test_fewer_cases_are_drawn_with_the_seed_for_all_arms_alike(self, taught, compare) -> None:
        content = compare(numbersOfTrainingCases=[1, 2], initialisations=["WT-ST-1", "RI"], seeds=[0])
        assert [setting["trainingCases"] for setting in content["settings"]] == [1, 2]
        runs = [json.loads(path.read_text()) for path in (taught.out / "comparisons" / "cmp" / "runs").iterdir()]
        small = [run["trainingCases"] for run in runs if "_n1_" in run["session"]]
        assert len(small) == 2
        assert len(small[0]) == 1
        assert small == [small[0]] * 2
        assert all(small[0][0] in run["trainingCases"] for run in runs)

    def test_architectures_are_compared_one_by_one(self, taught, compare) -> None:
        taught.model("wide", modelName="wide", numberFMsPerLayerFC=[7])
        content = compare(modelConfigs=["model.cfg", "wide.cfg"], seeds=[0])
        assert [setting["model"] for setting in content["settings"]] == ["net", "wide"]


class TestRefusals:
    def test_check_lists_the_runs_and_writes_nothing(self, taught, compare, run) -> None:
        before = taught.files()
        outcome = run("-compare", taught.comparison(), "-check")
        assert outcome.code == 0, outcome.err
        assert "runs: 4, of which 4 to do" in outcome.out
        assert "RI_n2_seed1: to do" in outcome.out
        assert "disk: " in outcome.out
        assert "cases: 2 to train on, 2 to score on" in outcome.out
        assert re.search(r"^memory of one run: [\d.]+ [KMG]?i?B$", outcome.out, re.MULTILINE)
        assert taught.files() == before

    @pytest.mark.parametrize(
        ("changes", "code", "message"),
        [
            ({"numbersOfTrainingCases": [3]}, 4, "3 subjects are asked for and 2 are listed"),
            ({"sourceModels": ["C.save"]}, 5, "there is no such file or folder"),
            ({"initialisations": ["WT-ST-7", "RI"]}, 5, "no layer at depth 7 to keep; allowed are 0 to 3"),
            ({"modelToScore": "best"}, 3, "needs a testConfig with other cases"),
            ({"modelConfigs": ["model.cfg", "again.cfg"]}, 3, "several have the modelName net"),
            ({"trainConfig": "blind.cfg"}, 3, "channelsValidation and gtLabelsValidation: missing"),
            ({"trainConfig": "seen.cfg"}, 4, "set strictSplits = false"),
        ],
        ids=["cases", "source", "depth", "best", "names", "nothing to score", "trained on"],
    )
    def test_mistakes_are_told_before_anything_is_written(self, taught, compare, changes, code, message) -> None:
        taught.model("again")
        taught.train("blind")
        training = [f"lists/train_{kind}.cfg" for kind in ("t1", "t2")]
        own = {"channelsValidation": training, "gtLabelsValidation": "lists/train_labels.cfg", "strictSplits": True}
        taught.train("seen", **{**LEARNING, **NEXT_TO_NOTHING, **own, "roiMasksValidation": "lists/train_roi.cfg"})
        refusal = compare(expected=code, **changes)
        assert message in refusal.err
        assert not taught.out.exists()

    def test_a_seed_on_the_command_line_is_refused(self, compare) -> None:
        assert "a comparison takes the seeds of its config" in compare("-seed", "3", expected=2).err


class TestForecasts:
    def test_a_forecast_of_the_pair_is_scored_and_a_later_one_is_not(self, taught, compare) -> None:
        problems = ProblemList()
        [one] = read_compared(load_comparison_config(taught.comparison()))
        forecast = {
            "model": {
                "sha256": sha256_of(taught.folder / "A.save"),
                "target": architecture_digest(load_model_config(taught.folder / "model.cfg")),
            },
            "data": {"images": images_digest(list_cases(one.training.data, "training", problems))},
            "prediction": {"gain": {"mean": 0.1, "low": -1.0, "high": 1.0}, "verdict": "transfer"},
            "rivals": {"ccfv": 1.0, "domain_distance": 0.4},
        }
        records = forecasts_file(taught.out)
        append_forecast(records, {**forecast, "date": "2001-01-01T00:00:00+00:00"})
        append_forecast(records, {**forecast, "date": "2999-01-01T00:00:00+00:00", "late": True})
        content = compare(seeds=[0])
        assert content["forecasts"]["pairs"] == 1
        assert content["forecasts"]["coverage"] == {"held": 1, "of": 1}
        assert list(content["domainDistances"].values()) == [0.4]
        ledger = [record["outcome"] for record in read_ledger(ledger_file(taught.out))]
        assert [outcome["inTime"] for outcome in ledger] == [True, False]
        assert ledger[0]["gain"]["mean"] == pytest.approx(content["settings"][0]["gain"]["mean"])
        compare(seeds=[0])
        assert len(read_ledger(ledger_file(taught.out))) == 2


def test_dice_of_subjects_leaves_out_the_whole_foreground_regions_and_what_is_undefined() -> None:
    def row(case, index, dice):
        return {"case": case, "class_index": index, "dice": dice}

    nan = float("nan")
    rows = [row("a1", 0, 0.9), row("a1", 1, 0.4), row("a1", 2, 0.6), row("a1", None, 0.9)]
    rows += [row("a2", 1, nan), row("a2", 2, 0.7), row("b", 1, nan), row("b", 2, nan)]
    found = comparison.dice_of_subjects(rows, {"a1": "a", "a2": "a", "b": "b"})
    assert found["a"] == pytest.approx((0.5 + 0.7) / 2)
    assert np.isnan(found["b"])


def test_more_subjects_contain_the_fewer() -> None:
    names = [f"subject{number}" for number in range(9)]
    for seed in range(3):
        chosen = [nested_subjects(names, count, seed) for count in range(10)]
        assert [len(one) for one in chosen] == list(range(10))
        assert all(one <= other for one, other in itertools.pairwise(chosen))
        assert chosen == [nested_subjects(names[::-1], count, seed) for count in range(10)]
    assert len({nested_subjects(names, 4, seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (MemoryError(), "MemoryError"),
        (RuntimeError("CUDA out of memory"), "CUDA out of memory"),
        (PermissionError(13, "Permission denied", "t1.nii.gz"), "Permission denied: 't1.nii.gz'"),
    ],
    ids=["memory", "device memory", "file"],
)
def test_a_distance_that_cannot_be_measured_does_not_stop_the_tables(study, monkeypatch, problem, said) -> None:
    def fail(*_: Any) -> None:
        raise problem

    warnings = list[str]()
    monkeypatch.setattr(domain_distance.analysis, "prepare", fail)
    monkeypatch.setattr(domain_distance.log, "warning", lambda text, *words: warnings.append(text % words))
    path, training = study.model(), load_train_config(study.train())
    testing = load_test_config(study.test())
    compared = Compared(path, load_model_config(path), training, testing)
    assert domain_distance.measure_distance(Source(study.folder / "A.save", "0" * 64), compared, "cpu") is None
    [warning] = warnings
    assert warning.startswith("The distance of the data from those of A-00000000 is not known: ")
    assert warning.endswith(said)
