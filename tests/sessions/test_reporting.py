"""Reports at the end of sessions, and `-report`: with the real command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from deepmedic.errors import ResourceError
from deepmedic.plots.histories import HistoryRow, SessionHistory
from deepmedic.report import page_writer
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.reports import reporting


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="report-data">(.*?)</script>', page.read_text())
    assert found is not None
    return json.loads(found[1])


@pytest.fixture
def trained(study, run):
    """A study with a trained session `first`, validated on a whole volume, and its report."""
    study.train(validate=True, report=True)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.folder / "train.cfg")
    assert outcome.code == 0, outcome.err
    return study


def test_both_kinds_of_sessions_end_with_a_report(trained, run) -> None:
    page = trained.out / "reports" / "first.html"
    assert "Training curves" in page.read_text()
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page.read_text())
    on = ["Accuracy on samples", "Dice on samples", "Dice on whole volumes (validation)"]
    assert titles == ["Cost of training", *on, "Learning rate"]
    assert data_of(page)["classes"] == ["background", "core", "shell"]

    trained.test(report=True)
    outcome = run("-test", trained.folder / "test.cfg", "-model", trained.checkpoints)

    report = trained.out / "reports" / "segment.html"
    assert outcome.code == 0
    assert f"Report: {report} (open it in a browser)" in outcome.out
    text = report.read_text()
    assert data_of(report)["cases"] == [{"name": "case2", "file": None}]
    assert "deepmedic -test" in text
    [final] = trained.saved("net.first.final.*.save")
    assert final.name in text or "latest" in text
    assert 'id="case-0"' in text
    packed = json.loads(re.search(r'id="case-0">(.*?)</script>', text)[1])
    assert packed["labels"]
    assert packed["prediction"]
    assert [channel["name"] for channel in packed["channels"]] == ["channel 1", "channel 2"]
    assert sorted(packed["probabilities"]) == ["1", "2"]


def test_a_report_can_be_made_again_anywhere(trained, run, tmp_path) -> None:
    page = trained.out / "reports" / "first.html"
    before = page.read_bytes()
    page.unlink()

    outcome = run_report(run, trained.out / "first")

    assert outcome.code == 0
    assert f"Report: {page}" in outcome.out
    assert page.read_bytes() == before

    moved = tmp_path / "moved"
    shutil.copytree(trained.out, moved)
    other = tmp_path / "elsewhere.html"
    assert run_report(run, moved / "logs" / "first.txt", "-output", other).code == 0
    assert "Training curves" in other.read_text()


def run_report(run, *words: Any):
    """`-report` takes no `-dev`... which the fixture adds, so it is given as the command line allows it."""
    return run("-report", *words)


def test_a_session_without_its_record_still_has_curves(trained, run) -> None:
    (trained.out / "logs" / "first.jsonl").unlink()

    assert run_report(run, trained.out / "first").code == 0

    text = (trained.out / "reports" / "first.html").read_text()
    assert "Training curves" in text
    assert "its record of events (logs/&lt;session&gt;.jsonl) does not tell" in text


def test_a_report_that_fails_does_not_fail_the_session(study, run, monkeypatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("something unforeseen")

    monkeypatch.setattr(page_writer, "write_report", fail)
    study.train(report=True)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.folder / "train.cfg")

    assert outcome.code == 0
    assert "WARNING: The session is finished, but its report could not be written: something unforeseen" in outcome.err
    assert not (study.out / "reports").exists()


def test_a_missing_extra_is_only_a_note(study, run, monkeypatch) -> None:
    def missing() -> None:
        raise ResourceError("Reports are made with jinja2, which is not installed.")

    monkeypatch.setattr(page_writer, "check_installed", missing)
    study.train(report=True)
    outcome = run("-newModel", study.folder / "model.cfg", "-train", study.folder / "train.cfg")

    assert outcome.code == 0
    assert "No report is written: Reports are made with jinja2" in outcome.out
    assert outcome.err == ""
    refused = run_report(run, study.out / "first")
    assert refused.code == 6
    assert "jinja2" in refused.err


def test_no_report_when_none_is_wanted(study, run) -> None:
    run("-newModel", study.folder / "model.cfg", "-train", study.folder / "train.cfg")

    assert not (study.out / "reports").exists()


def test_output_takes_one_session_and_a_page(trained, run, tmp_path) -> None:
    wrong = run_report(run, trained.out / "first", "-output", tmp_path / "page.pdf")
    assert wrong.code == 2
    assert "must end in .html" in wrong.err


def test_the_worst_case_comes_first_and_unscored_ones_last(tmp_path) -> None:
    record = {
        "cases": [
            {"name": name, "channels": [None], "labels": None, "segmentation": None, "probabilities": {}}
            for name in ("good", "unscored", "bad")
        ]
    }

    cases = reporting._cases(SessionPaths(tmp_path, "s"), record, {"good": 0.9, "bad": 0.1})

    assert [case.name for case in cases] == ["bad", "good", "unscored"]


@pytest.mark.parametrize("layout", ["original", "bids"])
def test_maps_of_uncertainty_are_overlays_wherever_they_lie(study, run, source, layout) -> None:
    maps = {"saveUncertaintyMaps": ["entropy", "variance"], "testTimeMirroring": ["x"]}
    assert run("-test", study.test(report=True, outputLayout=layout, **maps), "-model", source).code == 0

    page = study.out / "reports" / "segment.html"
    [entry] = data_of(page)["cases"]
    packed = json.loads(re.search(r'id="case-0">(.*?)</script>', page.read_text())[1])
    assert packed["notes"] == []
    for kind, ending in (("entropy", "_Entropy.nii.gz"), ("variance", "_Variance.nii.gz")):
        wanted = f"stat-{kind}_statmap.nii.gz" if layout == "bids" else ending
        [file] = (study.out / "predictions" / "segment").rglob(f"*{wanted}")
        largest = np.asarray(nib.load(file).dataobj).max()
        assert entry["uncertainty"][kind] == packed["uncertainty"][kind]["largest"] == pytest.approx(largest)
        assert largest > 0

    file.unlink()
    assert run_report(run, study.out / "segment").code == 0
    assert list(data_of(page)["cases"][0]["uncertainty"]) == ["entropy"]


def test_a_session_without_maps_of_uncertainty_notes_none(study, run, source) -> None:
    assert run("-test", study.test(report=True), "-model", source).code == 0

    lines = (study.out / "logs" / "segment.jsonl").read_text().splitlines()
    [record] = [event for line in lines if (event := json.loads(line))["event"] == "session"]
    assert set(record["cases"][0]) == {"name", "channels", "labels", "segmentation", "probabilities"}
    assert data_of(study.out / "reports" / "segment.html")["cases"] == [{"name": "case2", "file": None}]


def test_the_headline_has_the_best_score_that_is_defined(tmp_path) -> None:
    events = tmp_path / "events.jsonl"
    scores = (float("nan"), 0.25, 0.5, float("nan"), None)
    events.write_text("".join(json.dumps({"event": "volumes", "foreground_dice": score}) + "\n" for score in scores))
    history = SessionHistory("first", tmp_path, (HistoryRow(4, None, "volumes", "all", {}),))
    shown = reporting._headline(SimpleNamespace(events=events), history, [], None)
    assert shown["Best mean Dice in validation"] == "0.5000"
