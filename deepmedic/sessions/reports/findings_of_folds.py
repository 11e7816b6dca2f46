"""A whole cross-validation as a section of a report: scores per fold and over all subjects, curves, worst cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepmedic.config.plain import settings_changed
from deepmedic.config.schema import declared_keys
from deepmedic.config.training import TrainConfig
from deepmedic.data.splits import TRAINING, VALIDATION
from deepmedic.errors import DeepMedicError
from deepmedic.plots.histories import Curve, SessionHistory
from deepmedic.plots.history_files import read_history
from deepmedic.report.charts import COLOURS
from deepmedic.report.content import Chart, Findings, Line, Link, NamedTable, Table
from deepmedic.report.page_values import UNDEFINED
from deepmedic.sessions.common.fold_table import FoldTable, Score
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.reports.folds import FoldRecord, read_folds
from deepmedic.words import counted

FOLDS = "cross-validation"
"""The anchor of the section."""
_MOST_CASES = 20
_MOST_CLASSES = 12
"""With curves."""
_MOST_TILES = 4
_WHERE_FILES_ARE = ("session_name", "folder_for_output", "data", "validation_data")
"""Settings that differ between folds, or once a study was moved; that the cases are the same is known by the split."""


def fold_findings(content: Mapping[str, Any], folder: Path) -> list[Findings]:
    """Describe the cross-validation whose split is `folds.json`, from the files of its folds as they are now.

    Means over all subjects are shown only when all folds are finished.
    """
    paths = SessionPaths(folder.parent.parent, folder.name)
    folds = read_folds(paths)
    table = FoldTable(
        paths.session,
        _model(folds),
        {fold.number: fold.subjects(VALIDATION) for fold in folds},
        [score for fold in folds for score in fold.scores],
    )
    complete = all(fold.is_finished for fold in folds)
    histories = {fold.number: found for fold in folds if (found := _history(fold)) is not None}
    lines = table.lines()
    overall = [line for line in lines if line["fold"] == "all"] if complete else []
    tables = [_over_all(lines)] if overall else []
    tables += [_folds(table.classes, lines, folds), *_worst_cases(table, folds)]
    written = {name: paths.predictions / name for name in ("cross_validation.csv", "cross_validation.json")}
    return [
        Findings(
            anchor=FOLDS,
            title="Cross-validation",
            headline=_headline(table, folds, overall),
            sentences=tuple(_sentences(table, folds, histories)),
            tables=tuple(tables),
            charts=tuple(_charts(histories)),
            facts=_facts(content, folds),
            files={**(written if complete else {}), "the split": folder / "folds.json"},
        )
    ]


def _model(folds: Sequence[FoldRecord]) -> str:
    return next((fold.model for fold in folds if fold.record), "final")


def _history(fold: FoldRecord) -> SessionHistory | None:
    try:
        return read_history(fold.paths.metrics) if fold.record and fold.paths.metrics.is_file() else None
    except DeepMedicError:
        return None  # a training that has not finished its first subepoch


def _headline(table: FoldTable, folds: Sequence[FoldRecord], overall: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    finished = sum(fold.is_finished for fold in folds)
    subjects = sum(map(len, table.held_out.values()))
    shown = {"Folds finished": f"{finished} of {len(folds)}", "Subjects": str(subjects)}
    shown |= {f"Dice of {line['class_name']}": _with_interval(line) for line in overall[:_MOST_TILES]}
    if not overall:
        shown["Dice over all subjects"] = "not until all folds are finished"
    return shown


def _sentences(table: FoldTable, folds: Sequence[FoldRecord], histories: Mapping[int, SessionHistory]) -> list[str]:
    missing = [f"fold {fold.number} ({fold.state})" for fold in folds if not fold.is_finished]
    said = []
    if missing:
        said.append(
            f"Not finished: {', '.join(missing)}. Their scores are missing here, and no mean over all subjects is "
            "shown until all folds are finished."
        )
    finished = {fold.number for fold in folds if fold.is_finished}
    for number, names in table.not_scored.items():
        if number in finished:
            said.append(f"Skipped, and in no mean: of fold {number} {', '.join(names)}.")
    interval = table.bootstrap
    said.append(
        f"Dice of the {table.model} model of each fold on the subjects held out of it. The value of a subject is the "
        f"mean over its cases; intervals of the mean, 95 %: percentile bootstrap over subjects, "
        f"{interval.resamples} resamples. Those of single folds rest on few subjects."
    )
    differing = _settings_that_differ([fold for fold in folds if fold.is_finished])
    if differing:
        said.append(f"The folds were not all trained with the same settings: they differ in {', '.join(differing)}.")
    if table.model == "best":
        said.append(
            "The best model of a fold was chosen by its scores on the held-out cases: expect less of it on new cases."
        )
    if any(len(_classes(history)) > _MOST_CLASSES for history in histories.values()):
        said.append(f"Curves are those of the first {_MOST_CLASSES} classes.")
    return said


def _settings_that_differ(folds: Sequence[FoldRecord]) -> list[str]:
    """Keys in which the trainings of folds differ, such as of folds that were run one by one."""
    left_out = {key.name for key in declared_keys(TrainConfig) if key.attributes[0] in _WHERE_FILES_ARE}
    settings = [
        {key: value for key, value in fold.record.get("settings", {}).items() if key not in left_out} for fold in folds
    ]
    changes = [line for other in settings[1:] for line in settings_changed(settings[0], other)]
    return sorted({line.partition(":")[0] for line in changes})


def _over_all(lines: Sequence[Mapping[str, Any]]) -> NamedTable:
    """Means over all subjects, and between which values the means of the folds lie."""
    rows, per_fold = [], [line for line in lines if line["fold"] != "all"]
    for line in (line for line in lines if line["fold"] == "all"):
        means = [one["mean"] for one in per_fold if one["class_name"] == line["class_name"]]
        defined = [mean for mean in means if not math.isnan(mean)]
        spread = (min(defined), max(defined)) if defined else None
        defined_in = line["subjects"] - line["undefined"]
        numbers = (defined_in, line["mean"], (line["ci_low"], line["ci_high"]), line["sd"])
        rows.append((line["class_name"], *numbers, spread))
    columns = ("class", "subjects", "Dice", "95 % interval", "standard deviation", "means of folds")
    note = "Each subject is held out once; it does not count for a class that neither its labels nor prediction have."
    return NamedTable("Over all subjects", Table(columns, tuple(rows)), note)


def _folds(classes: Sequence[str], lines: Sequence[Mapping[str, Any]], folds: Sequence[FoldRecord]) -> NamedTable:
    """A row per fold, finished or not, with links to its pages."""
    means = {(line["fold"], line["class_name"]): line for line in lines}
    rows = tuple(
        (
            Link(f"fold {fold.number}", fold.paths.report),
            len(fold.subjects(TRAINING)),
            _held_out(fold),
            *(_with_interval(means[fold.number, name]) for name in classes),
            fold.state,
        )
        for fold in folds
    )
    columns = ("fold", "training subjects", "held out", *classes, "state")
    note = (
        "Mean Dice over the held-out subjects [95 % interval]. A fold leads to the report of its training, its "
        "held-out subjects to that of their segmentations."
    )
    return NamedTable("Folds", Table(columns, rows), note)


def _held_out(fold: FoldRecord) -> Link | str:
    """How many subjects; of a fold that is not finished, a report of them would show an earlier model."""
    text = counted(len(fold.subjects(VALIDATION)), "subject")
    return Link(text, fold.paths.held_out.report) if fold.is_finished else text


def _worst_cases(table: FoldTable, folds: Sequence[FoldRecord]) -> list[NamedTable]:
    """The held-out cases with the lowest mean Dice, each with a link to its images in the report of its fold."""
    found = [(mean, fold, case) for fold in folds for case, mean in fold.case_means.items()]
    found.sort(key=lambda one: (one[0], one[1].number, one[2]))
    scores: dict[tuple[int, str], list[Score]] = {}
    for score in table.scores:
        scores.setdefault((score.fold, score.case), []).append(score)
    rows = []
    for mean, fold, case in found[:_MOST_CASES]:
        dices = {score.class_name: score.dice for score in scores[fold.number, case]}
        link = Link(case, fold.paths.held_out.report, f"case={case}")
        subject = scores[fold.number, case][0].subject
        rows.append((link, subject, fold.number, mean, *(dices.get(name, math.nan) for name in table.classes)))
    if not rows:
        return []
    columns = ("case", "subject", "fold", "mean Dice", *table.classes)
    shown = f"The {len(rows)} lowest of {len(found)}" if len(found) > len(rows) else f"All {len(found)}"
    note = f"{shown}, by the mean Dice of their classes; a case leads to its images."
    return [NamedTable("Worst cases", Table(columns, tuple(rows)), note)]


def _charts(histories: Mapping[int, SessionHistory]) -> list[Chart]:
    """Cost of training, and Dice of each class on held-out cases where a fold validated: a curve per fold."""
    costs = {number: history.on_samples("training", "cost") for number, history in histories.items()}
    charts = [Chart("Cost of training", _lines(costs))]
    for index, name in _classes(next(iter(histories.values())))[:_MOST_CLASSES] if histories else []:
        volumes = {number: history.on_volumes(index) for number, history in histories.items()}
        samples = {number: history.on_samples("validation", "dice", index) for number, history in histories.items()}
        on_volumes = _lines(volumes)
        where = "held-out volumes" if on_volumes else "held-out samples"
        charts.append(Chart(f"Dice of {name}, {where}", on_volumes or _lines(samples), unit_range=True))
    return [chart for chart in charts if chart.lines]


def _classes(history: SessionHistory) -> list[tuple[int, str]]:
    """Those with curves: the whole foreground only where there are several classes."""
    indices = [1] if history.classes == 2 else range(history.classes)
    return [(index, history.name_of(index)) for index in indices]


def _lines(curves: Mapping[int, Curve]) -> tuple[Line, ...]:
    """A curve per fold; where colours repeat, it is dashed."""
    return tuple(
        Line(f"fold {number}", curve.x, curve.y, dashed=(number - 1) % (2 * COLOURS) >= COLOURS, colour=number - 1)
        for number, curve in curves.items()
        if not curve.is_empty
    )


def _facts(content: Mapping[str, Any], folds: Sequence[FoldRecord]) -> dict[str, Any]:
    record = next((fold.record for fold in folds if fold.record), {})
    run = {
        "command": " ".join(record.get("command", [])),
        "in folder": record.get("folder"),
        "config": record.get("config"),
        "device": record.get("device"),
        "versions": record.get("versions"),
    }
    return {name: value for name, value in run.items() if value} | {"seed of the folds": content["seed"]}


def _with_interval(line: Mapping[str, Any]) -> str:
    """A mean with its interval, as far as there are any."""
    if math.isnan(line["mean"]):
        return UNDEFINED
    mean, low, high = (f"{line[key]:.3f}" for key in ("mean", "ci_low", "ci_high"))
    return mean if math.isnan(line["ci_low"]) else f"{mean} [{low}, {high}]"
