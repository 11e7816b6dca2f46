"""What `-compare` writes: tables, JSON, the picture, and what came true of forecasts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from deepmedic import versions
from deepmedic.analysis.comparison import RunScores, SettingResult, compare, largest_gain
from deepmedic.analysis.comparison_tables import comparison_csv, comparison_text, runs_csv
from deepmedic.analysis.forecasts import forecasts_file, read_forecasts
from deepmedic.analysis.ledger import (
    Pair,
    append_outcome,
    evaluate,
    evaluation_text,
    forecasts_of,
    ledger_file,
    outcome_of,
    read_ledger,
    scored,
)
from deepmedic.arguments import Arguments
from deepmedic.config.comparison import ComparisonConfig
from deepmedic.files import write_json_atomically, write_text_atomically
from deepmedic.inference.parts import session_name
from deepmedic.locks import session_lock
from deepmedic.logs import session_log
from deepmedic.plots.canvas import can_draw
from deepmedic.plots.comparison import draw_comparison
from deepmedic.sessions.reports.reporting import after_session
from deepmedic.sessions.transfer import comparison_check
from deepmedic.sessions.transfer.comparison import ComparisonPlan, make_runs, prepare
from deepmedic.sessions.transfer.comparison_configs import Compared
from deepmedic.sessions.transfer.comparison_runs import Run, Source
from deepmedic.sessions.transfer.domain_distance import measure_distance
from deepmedic.sessions.transfer.pair_identity import architecture_digest, images_digest
from deepmedic.words import counted

log = logging.getLogger(__name__)


def run(arguments: Arguments, config: ComparisonConfig, compared: Sequence[Compared]) -> int:
    """Make all runs of a comparison that are not made yet, write what they show, and return the exit code.

    Raises:
        DeepMedicError: something is wrong; finished runs are kept.
    """
    plan = prepare(arguments, config, compared)
    if arguments.check:
        return comparison_check.check(plan)
    paths, part = plan.paths, plan.part
    # Every part locks its runs for itself: each is a session.
    name = session_name(f"{paths.session}.comparison", part)
    with session_lock(paths.folder, name), session_log(replace(paths, session=name).log):
        for note in plan.notes:
            log.warning("%s", note)
        log.info("Comparison %s: %s, %d to do.", paths.session, counted(len(plan.mine), "run"), len(plan.to_do))
        begun = _begun(plan)
        code = make_runs(plan)
        if any(run.name not in plan.finished for run in plan.mine):
            return code
        if part is not None:
            log.info(
                "The runs of part %d of %d are finished. Next: when all parts are, the same command without -part "
                "makes the tables; it does not repeat any run.",
                part.number,
                part.of,
            )
            return code
        write_results(plan, begun)
        return code


def write_results(plan: ComparisonPlan, begun: str) -> None:
    """Write tables, JSON and picture, and score the forecasts about these pairs."""
    runs = [plan.finished[run.name] for run in plan.runs]
    settings = compare(runs, plan.config.smallest_gain)
    folder, plain = plan.folder, [setting.to_plain() for setting in settings]
    pairs = {(one.model, one.source): _pair(plan, one) for one in settings}
    evaluation = _score_forecasts(plan, settings, pairs, begun)
    distances = _distances(plan, pairs)
    write_text_atomically(folder / "comparison.csv", comparison_csv(settings))
    write_text_atomically(folder / "runs.csv", runs_csv(runs))
    text = comparison_text(settings)
    write_text_atomically(folder / "comparison.txt", text + "\n")
    picture = draw_comparison(plain, distances, folder / "comparison.png") if can_draw() else None
    content = {"settings": plain, "domainDistances": distances, "runs": _plain_runs(runs), "forecasts": evaluation}
    head = {"format": 1, "program": versions.VERSION, "session": plan.paths.session, "begun": begun}
    head |= {"notes": plan.notes}
    write_json_atomically(folder / "comparison.json", {**head, **content})
    log.info("%s", text)
    if evaluation["pairs"]:
        log.info("%s", evaluation_text(evaluation))
    log.info("Tables: %s, %s; JSON: %s", folder / "comparison.csv", folder / "runs.csv", folder / "comparison.json")
    if picture is not None:
        log.info("Picture: %s", picture)
    after_session(plan.paths, plan.config.report)
    log.info("Next: %s", _advice(plan, settings))


def _pair(plan: ComparisonPlan, setting: SettingResult) -> Pair:
    run, source = _run_of(plan, setting)
    largest = max((one for one in plan.runs if one.compared is run.compared), key=lambda one: one.cases.subjects)
    return Pair(source.sha256, architecture_digest(run.compared.model), images_digest(largest.cases.cases))


def _run_of(plan: ComparisonPlan, setting: SettingResult) -> tuple[Run, Source]:
    """A run of a setting that transfers, and the source model."""
    return next(
        (run, run.source)
        for run in plan.runs
        if run.source is not None and (run.compared.model.name, run.source.name) == (setting.model, setting.source)
    )


def _score_forecasts(
    plan: ComparisonPlan, settings: Sequence[SettingResult], pairs: Mapping[tuple[str, str], Pair], begun: str
) -> dict[str, Any]:
    """Add what came true to the ledger, of all cases; return how good all forecasts in it were."""
    output = plan.config.folder_for_output
    path = ledger_file(output)
    with session_lock(output, "forecasts"):
        records = read_forecasts(forecasts_file(output))
        for setting in settings:
            if setting.gain is None or setting.cases != max(one.cases for one in settings):
                continue
            for record, in_time in forecasts_of(pairs[setting.model, setting.source], records, begun):
                outcome = outcome_of(
                    record, in_time=in_time, comparison=plan.paths.session, begun=begun, setting=setting.to_plain()
                )
                append_outcome(path, outcome)
                log.info("Forecast %d is compared with what came true: %s", record["number"], path)
        return evaluate(scored(read_ledger(path)))


def _distances(plan: ComparisonPlan, pairs: Mapping[tuple[str, str], Pair]) -> dict[str, float]:
    """How far the new images are from those of each source: as given, as an analysis of the pair found, or measured."""
    given = plan.config.domain_distances
    if given is not None:
        return {source.name: distance for source, distance in zip(plan.sources, given, strict=True)}
    found: dict[str, float] = {}
    for record in read_forecasts(forecasts_file(plan.config.folder_for_output)):
        pair, distance = Pair.of_forecast(record["forecast"]), record["forecast"]["rivals"].get("domain_distance")
        if pair is not None and distance is not None:
            found |= {source: distance for (_, source), own in pairs.items() if own == pair}
    return found | _measured(plan, found)


def _measured(plan: ComparisonPlan, known: Mapping[str, float]) -> dict[str, float]:
    """The distances of the sources of which none is known, for the first architecture."""
    compared = next(run.compared for run in plan.runs if run.source is not None)
    found: dict[str, float] = {}
    for source in plan.sources:
        distance = None if source.name in known else measure_distance(source, compared, plan.arguments.device)
        if distance is not None:
            found[source.name] = distance
    return found


def _plain_runs(runs: Sequence[RunScores]) -> list[dict[str, Any]]:
    return [{**vars(run), "dice": dict(run.dice)} for run in runs]


def _begun(plan: ComparisonPlan) -> str:
    """When the comparison began first: forecasts that were made later are none."""
    path = plan.folder / "begun.json"
    if path.exists():
        return str(json.loads(path.read_text(encoding="utf-8"))["date"])
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json_atomically(path, {"date": date})
    return date


def _advice(plan: ComparisonPlan, settings: Sequence[SettingResult]) -> str:
    best = largest_gain(settings)
    if best.verdict == "helps":
        run, source = _run_of(plan, best)
        return (
            f"transfer from {best.source}:\n"
            f"  deepmedic -newModel {run.compared.path} -pretrained {source.path} -train {plan.config.training}"
        )
    return (
        "add seeds, or list more cases, and repeat the command; finished runs are kept"
        if best.verdict == "no evidence"
        else f"train from random weights:\n  deepmedic -newModel {plan.config.models[0]} -train {plan.config.training}"
    )
