"""`reports/<session>.html`: made at the end of a session, and again with `-report`, from the files of the session."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from deepmedic.config.model import ModelConfig
from deepmedic.data.cases import ImageRef
from deepmedic.errors import CommandLineError, DeepMedicError
from deepmedic.plots.histories import SessionHistory
from deepmedic.plots.history_files import read_history
from deepmedic.report import page_writer
from deepmedic.report.content import CaseImages, Facts, Findings, ReportContent
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.reports import report_tables
from deepmedic.sessions.reports.findings import read_findings
from deepmedic.sessions.reports.findings_of_folds import FOLDS
from deepmedic.sessions.reports.model_drawing import describe_model
from deepmedic.sessions.reports.session_lookup import find_session
from deepmedic.sessions.reports.session_record import (
    EVENT,
    has_finished,
    image_of,
    last_run,
    read_events,
    read_record,
)

log = logging.getLogger(__name__)

_SURPRISES = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""Whatever may go wrong with a report must not spoil a session that is finished."""


def after_session(paths: SessionPaths, wanted: bool) -> Path | None:
    """Write the report of a session that has just finished, and say so; a report that fails is only a warning."""
    if not wanted:
        return None
    try:
        page_writer.check_installed()
    except DeepMedicError as missing:
        log.info("No report is written: %s", missing)
        return None
    try:
        path = page_writer.write_report(gather(paths), paths.report)
    except (DeepMedicError, *_SURPRISES) as problem:
        log.warning("The session is finished, but its report could not be written: %s", problem)
        return None
    log.info("Report: %s (open it in a browser)", path)
    return path


def refresh(paths: SessionPaths, wanted: bool) -> None:
    """Write the report of a session anew if there is one, so that it shows how things stand; says nothing."""
    if not wanted or not paths.report.is_file():
        return
    try:
        page_writer.check_installed()
        page_writer.write_report(gather(paths), paths.report)
    except (DeepMedicError, *_SURPRISES) as problem:
        log.debug("The report %s could not be written anew: %s", paths.report, problem)


def make_again(sessions: Sequence[Path], output: Path | None) -> list[Path]:
    """Carry out `-report SESSION... [-output FILE.html]` and return the pages written.

    Raises:
        CommandLineError: no session, or several, where a path points to; -output with several, or another ending.
        ResourceError: jinja2 is not installed, or a page cannot be written.
    """
    page_writer.check_installed()
    if output is not None and (len(sessions) > 1 or output.suffix != ".html"):
        raise CommandLineError(f"-output {output}: -report writes one file there, which must end in .html.")
    found = list(dict.fromkeys(find_session(path) for path in sessions))
    return [page_writer.write_report(gather(paths), output or paths.report) for paths in found]


def gather(paths: SessionPaths) -> ReportContent:
    """Read everything a report shows of a session; what is not there is noted on the page."""
    record, notes = read_record(paths), list[str]()
    findings = read_findings(paths, notes)
    analysed_only = record is None and bool(findings) and not paths.log.exists()
    if record is None and not analysed_only:
        notes.append(
            "what the session ran with and its images: its record of events (logs/<session>.jsonl) does not tell; it "
            "was written by an older version, or removed"
        )
    history = _history(paths, notes)
    config = _model_config(record, notes)
    metrics = report_tables.read_metrics(paths.predictions / "metrics.csv")
    summary, mean = report_tables.read_summary(paths.predictions / "metrics.json")
    cases = _cases(paths, record, metrics.scores if metrics else {})
    if len(cases) > page_writer.MOST_CASES:
        notes.append(f"the images of {len(cases) - page_writer.MOST_CASES} of {len(cases)} cases, the best of them")
    transfer, transfer_note = report_tables.transfer_table((record or {}).get("transfer"))
    return ReportContent(
        session=paths.session,
        kind=_kind_without_session(findings) if analysed_only else _kind(record, history),
        findings=findings,
        facts=_facts(record, paths),
        warnings=_warnings(paths, record),
        charts=report_tables.charts_of(history) if history else (),
        summary=summary,
        metrics=metrics.table if metrics else None,
        cases=cases,
        model=describe_model(config) if config else None,
        transfer=transfer,
        transfer_note=transfer_note,
        settings=record.get("settings", {}) if record else {},
        headline=_headline(paths, history, cases, mean),
        notes=tuple(notes),
    )


def _history(paths: SessionPaths, notes: list[str]) -> SessionHistory | None:
    if not paths.metrics.is_file():
        return None
    try:
        return read_history(paths.metrics)
    except DeepMedicError as problem:
        notes.append(f"training curves: {problem}")
        return None


def _model_config(record: dict[str, Any] | None, notes: list[str]) -> ModelConfig | None:
    if record is None:
        return None
    try:
        return ModelConfig.from_dict(record["model"]["config"])
    except (KeyError, TypeError, ValueError) as problem:
        notes.append(f"the model: its description in the record of events cannot be read ({problem})")
        return None


def _cases(paths: SessionPaths, record: dict[str, Any] | None, scores: dict[str, float]) -> tuple[CaseImages, ...]:
    """The cases of a session, worst first; those without a score at the end, in the order of the list."""

    folder = paths.folder / (record or {}).get("results", "")

    def result(relative: str | None) -> ImageRef | None:
        path = None if relative is None else folder / relative
        return ImageRef(path) if path is not None and path.is_file() else None

    cases = []
    for plain in (record or {}).get("cases", []):
        segmentation = result(plain["segmentation"])
        probabilities = {int(number): result(name) for number, name in plain["probabilities"].items()}
        uncertainty = {kind: result(name) for kind, name in plain.get("uncertainty", {}).items()}
        cases.append(
            CaseImages(
                name=plain["name"],
                channels=tuple(image_of(channel) for channel in plain["channels"]),
                labels=image_of(plain["labels"]),
                segmentation=segmentation,
                probabilities={number: ref for number, ref in probabilities.items() if ref is not None and number},
                uncertainty={kind: ref for kind, ref in uncertainty.items() if ref is not None},
                score=scores.get(plain["name"]),
            )
        )
    return tuple(sorted(cases, key=lambda case: (case.score is None, case.score or 0.0)))


def _kind(record: dict[str, Any] | None, history: SessionHistory | None) -> Literal["training", "inference"]:
    training = history is not None if record is None else record["kind"] == "training"
    return "training" if training else "inference"


def _kind_without_session(findings: Sequence[Findings]) -> Literal["analysis", "cross-validation"]:
    return "cross-validation" if findings[0].anchor == FOLDS else "analysis"


def _facts(record: dict[str, Any] | None, paths: SessionPaths) -> tuple[Facts, ...]:
    if record is None:
        return (Facts("Session", {"name": paths.session, "output folder": str(paths.folder.resolve())}),)
    model = record["model"]
    words = record.get("command", [])
    run = {
        "command": " ".join(words) if len(words) > 1 else "from Python",
        "in folder": record.get("folder"),
        "config": record.get("config"),
        "last started": record.get("time"),
        "device": record.get("device"),
        "precision": record.get("precision"),
        "deterministic": record.get("deterministic"),
        "output folder": str(paths.folder.resolve()),
    }
    origin = record.get("origin") or {}
    made = {"file": model.get("file"), "SHA-256": model.get("sha256"), "seed": record.get("seed")}
    made |= {"started from": origin.get("named"), "SHA-256 of that": origin.get("sha256")}
    made |= {"averaged with": [f"{one['file']} (SHA-256 {one['sha256']})" for one in record.get("ensemble", [])]}
    made |= {"tiling": record.get("tiling")}
    data = {
        "training cases": record.get("trainingCases"),
        "validation cases": record.get("validationCases"),
        "cases segmented": [case["name"] for case in record["cases"]] if record["kind"] == "inference" else None,
    }
    facts = [
        Facts("Run", run),
        Facts("Versions", record.get("versions", {})),
        Facts("Model", {"name": model.get("name"), **made}),
        Facts("Data", data),
        Facts("Provenance", model.get("provenance") or {}),
    ]
    return tuple(
        Facts(one.title, kept)
        for one in facts
        if (kept := {name: value for name, value in one.values.items() if value not in (None, [], {})})
    )


def _warnings(paths: SessionPaths, record: dict[str, Any] | None) -> tuple[str, ...]:
    """The warnings of the last run, from the readable log, each once."""
    try:
        lines = paths.log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    since = str(record["time"])[:23] if record else ""
    found: dict[str, None] = {}
    for line in lines:
        stamp, separator, message = line.partition("  WARNING: ")
        if separator and stamp[:23] >= since:
            found[message] = None
    return tuple(found)


def _since_start(paths: SessionPaths) -> list[dict[str, Any]]:
    """The events of a session since it was started, or started anew."""
    events = read_events(paths.events)
    starts = [
        number
        for number, event in enumerate(events)
        if event.get("event") == EVENT and event.get("begins") == "started"
    ]
    return events[starts[-1] :] if starts else events


def _headline(
    paths: SessionPaths, history: SessionHistory | None, cases: Sequence[CaseImages], mean: float | None
) -> dict[str, str]:
    """A few numbers for the top of the page."""
    shown: dict[str, str] = {}
    if history is not None:
        record, since = last_run(paths, "training")
        shown["Epochs"] = f"{history.epochs}" + ("" if not record or has_finished(since) else " (not finished)")
        best = [event.get("foreground_dice") for event in _since_start(paths) if event.get("event") == "volumes"]
        defined = [value for value in best if isinstance(value, int | float) and not math.isnan(value)]
        if defined:
            shown["Best mean Dice in validation"] = f"{max(defined):.4f}"
    if cases:
        shown["Cases"] = str(len(cases))
    if mean is not None:
        shown["Mean Dice"] = f"{mean:.4f}"
    scored = [case for case in cases if case.score is not None]
    if len(scored) > 1:
        shown["Worst case"] = f"{scored[0].name} ({scored[0].score:.3f})"
    return shown
