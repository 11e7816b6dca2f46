"""The page of a whole cross-validation: its numbers, links and curves, and folds that are not finished."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from study import CLASSES, Study
from study_fixtures import quick

from deepmedic.report.content import Findings, Link
from deepmedic.report.page_values import UNDEFINED
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.reports.reporting import gather
from deepmedic.sessions.training import training

CASES = 5
NAMES = ("whole foreground", "core", "shell")
TWO = ("-newModel", "model.cfg", "-train", "train.cfg", "-crossValidate", "2")
FEW = {
    "numberOfEpochs": 1, "numberOfSubepochs": 1, "saveProbMapsForEachClassVal": [False] * CLASSES, "report": True,
    "performValidationOnSamplesThroughoutTraining": True, "numberValidationSegmentsLoadedOnGpuPerSubep": 40,
    "batchsize_val_samples": 40, "subjectsTraining": "lists/subjects.cfg",
}  # fmt: skip


@pytest.fixture(scope="session")
def listed_once(all_in_training) -> Study:
    """Five cases of four subjects."""
    study = all_in_training(CASES)
    (study.folder / "lists" / "subjects.cfg").write_text("ann\nann\nbob\ncem\ndan\n")
    study.train(**FEW)
    return study


@pytest.fixture
def study(listed_once, tmp_path, monkeypatch) -> Study:
    study = listed_once.copied_to(tmp_path / "study")
    monkeypatch.chdir(study.folder)
    return study


@pytest.fixture(scope="session")
def finished_once(listed_once, tmp_path_factory) -> Study:
    """The same, cross-validated."""
    from deepmedic.cli import main

    study = listed_once.copied_to(tmp_path_factory.mktemp("finished") / "study")
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(study.folder)
        assert main([*TWO, "-dev", "cpu"]) == 0
    return study


@pytest.fixture
def finished(finished_once, tmp_path) -> Study:
    return finished_once.copied_to(tmp_path / "study")


def section(study: Study) -> Findings:
    content = gather(SessionPaths(study.out, "first"))
    assert (content.kind, content.notes) == ("cross-validation", ())
    [found] = content.findings
    return found


def table(found: Findings, title: str) -> list[dict[str, Any]]:
    [named] = [one for one in found.tables if one.title == title]
    return [dict(zip(named.table.columns, row, strict=True)) for row in named.table.rows]


def dices(study: Study) -> dict[tuple[int, str, str], float]:
    """Fold, case and class -> Dice, from the tables of the folds."""
    found = {}
    for fold in (1, 2):
        with open(study.out / "predictions" / f"first_fold{fold}_heldOut" / "metrics.csv", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found[fold, row["case"], row["class_name"]] = float(row["dice"])
    return found


def test_the_command_ends_with_the_page(study, run):
    outcome = run(*TWO)
    assert outcome.code == 0, outcome.err
    path = study.out / "reports" / "first.html"
    assert re.search(rf"\nTable: .*\nReport: {path} \(open it in a browser\)\nNext: train on all cases", outcome.out)
    page = path.read_text()
    assert '<p class="kind">cross-validation</p>' in page
    links = [unquote(link) for link in re.findall(r'href="\./([^"]*)"', page)]
    files = {(path.parent / link.partition("#")[0]).resolve() for link in links}
    assert all(file.is_file() for file in files)
    assert {file.name for file in files} == {
        *(f"first_fold{fold}{what}.html" for fold in (1, 2) for what in ("", "_heldOut")),
        *("cross_validation.csv", "cross_validation.json", "folds.json"),
    }
    parts = {link.partition("#")[2] for link in links if "#" in link}
    assert parts == {f"case=case{case}_t1" for case in range(CASES)}
    assert set(re.findall(r"https?://[^\s\"')]+", page)) <= {"http://www.w3.org/2000/svg"}
    before = path.read_bytes()
    path.unlink()
    assert run("-report", study.out / "first").code == 0
    assert path.read_bytes() == before


def test_no_page_where_reports_are_switched_off(study, run):
    study.train(**{**FEW, "report": False})
    outcome = run(*TWO)
    assert outcome.code == 0, outcome.err
    assert "Report:" not in outcome.out
    assert not (study.out / "reports").exists()


def test_scores_are_those_of_subjects(finished):
    found, scores = section(finished), dices(finished)
    assert len(scores) == CASES * CLASSES
    with open(finished.out / "predictions" / "first" / "cross_validation.csv", encoding="utf-8") as file:
        written = {row["class_name"]: row for row in csv.DictReader(file) if row["fold"] == "all"}
    overall = {row["class"]: row for row in table(found, "Over all subjects")}
    assert list(overall) == list(written) == list(NAMES)
    whose = dict(zip((f"case{case}_t1" for case in range(CASES)), ["ann", "ann", "bob", "cem", "dan"], strict=True))
    for name in NAMES:
        of_class = {key: dice for key, dice in scores.items() if key[2] == name}
        of_subject = [[dice for key, dice in of_class.items() if whose[key[1]] == one] for one in set(whose.values())]
        mean = np.nanmean([np.mean(values) for values in of_subject])
        assert overall[name]["Dice"] == pytest.approx(mean)
        assert overall[name]["95 % interval"] == (float(written[name]["ci_low"]), float(written[name]["ci_high"]))
        assert found.headline[f"Dice of {name}"].startswith(f"{mean:.3f} [{float(written[name]['ci_low']):.3f}, ")
    folds = table(found, "Folds")
    assert [row["fold"].text for row in folds] == ["fold 1", "fold 2"]
    assert [row["training subjects"] for row in folds] == [2, 2]
    assert all(re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", row["core"]) for row in folds)
    assert {row["state"] for row in folds} == {"finished"}


def test_the_worst_case_comes_first_and_leads_to_its_images(finished):
    rows, scores = table(section(finished), "Worst cases"), dices(finished)
    means = {(fold, case): np.nanmean([scores[fold, case, name] for name in NAMES[1:]]) for fold, case, _ in scores}
    assert [(row["fold"], row["case"].text) for row in rows] == sorted(means, key=lambda key: means[key])
    for row in rows:
        page = finished.out / "reports" / f"first_fold{row['fold']}_heldOut.html"
        assert row["case"] == Link(row["case"].text, page, f"case={row['case'].text}")
        assert row["mean Dice"] == pytest.approx(means[row["fold"], row["case"].text])


def test_every_fold_has_a_curve(finished):
    charts = {chart.title: chart for chart in section(finished).charts}
    assert list(charts) == ["Cost of training", *(f"Dice of {name}, held-out samples" for name in NAMES)]
    for line, fold in zip(charts["Cost of training"].lines, (1, 2), strict=True):
        with open(finished.out / "logs" / f"first_fold{fold}.metrics.csv", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["role"] == "training" and row["subepoch"]]
        costs = [float(row["cost"]) for row in rows if row["class"] == "all"]
        assert (line.name, list(line.y)) == (f"fold {fold}", costs)


def test_folds_one_by_one_show_no_mean_until_all_are_finished(study, run):
    page = study.out / "reports" / "first.html"
    assert run(*TWO, "-fold", "2").code == 0
    assert not page.exists()
    found = section(study)
    assert found.headline["Folds finished"] == "1 of 2"
    assert found.headline["Dice over all subjects"] == "not until all folds are finished"
    assert found.sentences[0].startswith("Not finished: fold 1 (not begun). Their scores are missing here")
    assert [one.title for one in found.tables] == ["Folds", "Worst cases"]
    assert [row["core"] == UNDEFINED for row in table(found, "Folds")] == [True, False]
    assert {row["fold"] for row in table(found, "Worst cases")} == {2}
    assert run("-report", study.out / "first").code == 0
    assert "Not finished: fold 1 (not begun)" in page.read_text()
    assert run(*TWO, "-fold", "1").code == 0
    assert next(one.title for one in section(study).tables) == "Over all subjects"
    assert run(*TWO).code == 0
    assert "Not finished" not in page.read_text()


def without(event: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda events: [one for one in events if one["event"] != event]


def scored_by_another(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events[0]["model"]["file"] = "/models/net.first_fold2.final.1999-01-01.save"
    return events


def of_other_subjects(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events[0]["origin"]["split"]["sha256"] = "0" * 64
    return events


def announced(*begins: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """With what commands noted that began later."""
    time = "2026-01-31 23:59:59.123+01:00"
    return lambda events: [*events, *({"time": time, "event": "cross_validation", "begins": one} for one in begins)]


@pytest.mark.parametrize(
    ("log", "change", "state"),
    [
        ("fold2", without("session_finished"), "in training or interrupted: 1 of 1 epochs finished"),
        (
            "fold2",
            lambda events: without("epoch")(without("session_finished")(events)),
            "in training or interrupted: no epoch of its last run finished",
        ),
        ("fold2", lambda events: [*events, events[0]], "in training or interrupted: no epoch of its last run finished"),
        ("fold2", of_other_subjects, "not begun; a session of its name trained on other subjects"),
        (
            "fold2",
            announced("finished", "resumed"),
            "finished, but to be trained on by the command that began 2026-01-31 23:59:59",
        ),
        (
            "fold2",
            announced("started"),
            "finished, but to be trained anew by the command that began 2026-01-31 23:59:59",
        ),
        ("fold2_heldOut", without("segmented"), "trained; its held-out cases are not scored yet"),
        ("fold2_heldOut", scored_by_another, "trained on; its scores are those of an earlier model"),
    ],
    ids=[
        *("last_epoch", "first_epoch", "went_on", "other_subjects", "to_go_on", "to_begin_anew", "not_scored"),
        "earlier_model",
    ],
)
def test_a_fold_that_is_not_finished_says_why_and_spoils_no_mean(finished, log, change, state):
    path = finished.out / "logs" / f"first_{log}.jsonl"
    events = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    found = section(finished)
    assert [row["state"] for row in table(found, "Folds")] == ["finished", state]
    assert f"Not finished: fold 2 ({state})." in found.sentences[0]
    assert [one.title for one in found.tables] == ["Folds", "Worst cases"]
    assert {row["fold"] for row in table(found, "Worst cases")} == {1}
    assert list(found.files) == ["the split"]  # the table of all folds is an earlier one


@pytest.mark.parametrize(
    ("log", "change"),
    [
        ("fold2", announced("resumed", "finished")),
        ("fold2", lambda events: [*events, {**events[0], "kind": "inference", "origin": None}]),
        ("fold2_heldOut", lambda events: [*events, {**events[0], "kind": "training", "model": {"file": None}}]),
    ],
    ids=["left_as_it_is_after_all", "inference_of_its_name", "training_of_its_name"],
)
def test_what_does_not_concern_a_fold_leaves_it_finished(finished, log, change):
    path = finished.out / "logs" / f"first_{log}.jsonl"
    events = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert [row["state"] for row in table(section(finished), "Folds")] == ["finished", "finished"]


def test_scores_of_other_cases_under_the_name_of_a_fold_are_none_of_it(finished):
    path = finished.out / "predictions" / "first_fold2_heldOut" / "metrics.json"
    content = json.loads(path.read_text())
    content["rows"][0]["case"] = "stranger"
    path.write_text(json.dumps(content))
    state = "trained; other cases than those held out of it were scored as first_fold2_heldOut"
    assert [row["state"] for row in table(section(finished), "Folds")] == ["finished", state]


def test_while_a_repeated_command_runs_the_page_shows_what_it_has_still_to_do(finished, run, monkeypatch):
    monkeypatch.chdir(finished.folder)
    page, seen, train = finished.out / "reports" / "first.html", [], training.run
    assert page.is_file()

    def look_and_train(plan: Any) -> int:
        states = [row["state"].partition(" by ")[0] for row in table(section(finished), "Folds")]
        seen.append((states, "Over all subjects" in page.read_text(), page.read_text().count("to be trained on")))
        return train(plan)

    monkeypatch.setattr(training, "run", look_and_train)
    finished.train(**{**FEW, "numberOfEpochs": 2})
    assert run(*TWO).code == 0
    coming = "finished, but to be trained on"
    assert [states for states, _, _ in seen] == [[coming, coming], ["finished", coming]]
    assert [overall for _, overall, _ in seen] == [False, False]
    assert seen[0][2] > seen[1][2] > 0
    assert {row["state"] for row in table(section(finished), "Folds")} == {"finished"}
    assert "to be trained on" not in page.read_text()
    assert "Over all subjects" in page.read_text()


def test_a_fold_killed_before_its_end_was_noted_is_finished_once_the_command_is_repeated(finished, run, monkeypatch):
    monkeypatch.chdir(finished.folder)
    path = finished.out / "logs" / "first_fold1.jsonl"
    events = without("session_finished")([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert [row["state"] for row in table(section(finished), "Folds")] != ["finished", "finished"]
    outcome = run(*TWO)
    assert outcome.code == 0
    assert "Nothing was done" in outcome.out
    assert [row["state"] for row in table(section(finished), "Folds")] == ["finished", "finished"]
    assert path.read_text().count("session_finished") == 1
    assert run(*TWO).code == 0
    assert path.read_text().count("session_finished") == 1


def test_folds_of_other_settings_are_told(finished, run, monkeypatch):
    monkeypatch.chdir(finished.folder)
    said = "The folds were not all trained with the same settings: they differ in L1_reg, numberOfEpochs."
    assert said not in section(finished).sentences
    finished.train(**{**FEW, "numberOfEpochs": 2, "L1_reg": 0.0})
    assert run(*TWO, "-fold", "2").code == 0
    assert said in section(finished).sentences


def test_the_page_of_a_session_tells_of_its_last_run(finished, run, monkeypatch):
    monkeypatch.chdir(finished.folder)
    path = finished.out / "logs" / "first_fold1.jsonl"
    first = [json.loads(line) for line in path.read_text().splitlines()]

    def headline(*events: dict[str, Any]) -> dict[str, str]:
        path.write_text("".join(json.dumps(event) + "\n" for event in (*first, *events)))
        return gather(SessionPaths(finished.out, "first_fold1")).headline

    begun = next(event for event in first if event["event"] == "session")
    assert headline()["Epochs"] == "1"
    assert headline({**begun, "begins": "resumed"})["Epochs"] == "1 (not finished)"
    scores = [{"event": "volumes", "foreground_dice": dice} for dice in (0.9, 0.4)]
    assert headline(*scores)["Best mean Dice in validation"] == "0.9000"
    assert headline(scores[0], begun, scores[1])["Best mean Dice in validation"] == "0.4000"


def test_a_fold_whose_record_is_missing_is_not_said_to_be_new(finished):
    (finished.out / "logs" / "first_fold2.jsonl").unlink()
    state = "not known, since its record is missing: logs/first_fold2.jsonl"
    assert f"Not finished: fold 2 ({state})." in section(finished).sentences[0]


def test_skipped_subjects_are_named(finished):
    results = finished.out / "predictions" / "first_fold1_heldOut"
    content = json.loads((results / "metrics.json").read_text())
    skipped = content["rows"][-1]["case"]
    content["rows"] = [row for row in content["rows"] if row["case"] != skipped]
    (results / "metrics.json").write_text(json.dumps(content))
    lines = (results / "metrics.csv").read_text().splitlines(keepends=True)
    (results / "metrics.csv").write_text("".join(line for line in lines if not line.startswith(f"{skipped},")))
    listed = finished.out / "splits" / "first" / "fold1" / "validation"
    names, subjects = ((listed / f"{column}.cfg").read_text().split() for column in ("names", "subjects"))
    [subject] = [whose for name, whose in zip(names, subjects, strict=True) if name == skipped]
    found = section(finished)
    assert f"Skipped, and in no mean: of fold 1 {subject}." in found.sentences
    assert {row["subjects"] for row in table(found, "Over all subjects")} == {3}


def test_a_split_that_cannot_be_read_is_a_note(finished):
    (finished.out / "splits" / "first" / "folds.json").write_text('{"kind": "other"}')
    content = gather(SessionPaths(finished.out, "first"))
    assert content.findings == ()
    assert any("folds.json: cannot be read, or is of another version" in note for note in content.notes)


def test_training_on_all_cases_afterwards_keeps_the_section(finished, run, monkeypatch):
    monkeypatch.chdir(finished.folder)
    advice = "performValidationOnSamplesThroughoutTraining = false: no case is left to validate on"
    assert run(*TWO).out.endswith(
        f"\nNext: train on all cases: the same command without -crossValidate 2, with {advice}\n"
    )
    assert run(*TWO[:4]).code == 3
    finished.train(**{**FEW, "performValidationOnSamplesThroughoutTraining": False})
    assert run(*TWO[:4]).code == 0
    page = (finished.out / "reports" / "first.html").read_text()
    assert '<p class="kind">training session</p>' in page
    assert '<section id="cross-validation"' in page
