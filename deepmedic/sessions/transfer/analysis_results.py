"""What `-analyse` writes: text, JSON, pictures, the advised training, and the forecast."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from deepmedic import checkpoints, versions
from deepmedic.analysis.forecasts import append_forecast, forecasts_file
from deepmedic.analysis.model_analysis import ModelAnalysis
from deepmedic.arguments import Arguments
from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.plain import digest_of_plain, to_plain
from deepmedic.config.reader import read_config
from deepmedic.config.training import TrainConfig
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES
from deepmedic.files import sha256_of, write_json_atomically, write_text_atomically
from deepmedic.locks import session_lock
from deepmedic.logs import session_log
from deepmedic.plots.analysis import draw_analysis
from deepmedic.plots.canvas import can_draw
from deepmedic.sessions.common.kept_results import refuse_other_results
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.reports.reporting import after_session
from deepmedic.sessions.transfer import advised_config, analysis_check
from deepmedic.sessions.transfer.analysis import AnalysisPlan, AnalysisResult, analyse, prepare
from deepmedic.sessions.transfer.candidates import FoundModel, start_model
from deepmedic.sessions.transfer.pair_identity import architecture_digest, images_digest

log = logging.getLogger(__name__)

_LAST = "analysis.json"
"""The file by which a finished analysis is known."""
FORECAST_OF = (
    "mean foreground Dice on whole volumes of other subjects: of training that starts from the transferred weights, "
    "less that of training from random weights, with equal cases, seeds and schedules"
)


def run(arguments: Arguments, config: AnalysisConfig | TrainConfig) -> int:
    """Make an analysis, write everything below `folderForOutput`, and return the exit code.

    Raises:
        DeepMedicError: something is wrong; or the folder holds the results of another analysis.
    """
    plan = prepare(arguments, config)
    folder = plan.config.folder_for_output
    paths = SessionPaths(folder, plan.config.session_name)
    results = paths.analyses
    request = request_digest(plan)
    if arguments.check:
        return analysis_check.analysis(plan, finished=_is_done(results, request, overwrite=arguments.overwrite))
    with session_lock(folder, f"{plan.config.session_name}.analysis"), session_log(paths.analysis_log):
        if _is_done(results, request, overwrite=arguments.overwrite):
            log.info("%s", (results / "analysis.txt").read_text(encoding="utf-8"))
            log.info("This analysis was made before; its results are in %s.", results)
            return 0
        for note in plan.notes:
            log.warning("%s", note)
        result = analyse(plan)
        _write(plan, result, paths, request)
    return FINISHED_WITH_SKIPPED_CASES if result.skipped else 0


def request_digest(plan: AnalysisPlan) -> str:
    """SHA-256 of what was asked for: models, config, what the files that it names say, schedules and the seed."""
    data = [plan.config.data, plan.config.source_data]
    listings = [
        path for one in data for path in (one.table, one.labels, one.roi_masks, one.subjects, *(one.channels or ()))
    ]
    training = _training_file(plan)
    plain = {
        "models": [[found.name, found.sha256] for found in plan.models.usable],
        "config": to_plain(replace(plan.config, report=True)),
        "listings": [sha256_of(path) for path in listings if path is not None],
        "target": None if plan.config.target_model is None else sha256_of(plan.config.target_model),
        # All of the train config, for what the advice leaves as it is goes into the advised one.
        "training": None if training is None else sha256_of(training),
        "schedules": [asdict(group.schedule) for group in plan.groups],
        "images": [_identity(group.data.cases) for group in plan.groups],
        "seed": plan.seed,
    }
    return digest_of_plain(plain)


def forecast_of(
    plan: AnalysisPlan, result: AnalysisResult, analysis: ModelAnalysis, found: FoundModel
) -> dict[str, Any]:
    """What is foretold of one model, with what it was foretold from."""
    advice = analysis.recommendation
    deepest = analysis.layers[-1]
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "program": versions.VERSION,
        "model": {
            "name": found.name,
            "file": str(found.path),
            "sha256": found.sha256,
            "target": architecture_digest(found.candidate.start.config),
        },
        "data": {
            "sha256": result.data.sha256,
            "images": images_digest(plan.groups[0].data.cases),
            "cases": list(result.data.cases),
            "subjects": result.data.subjects,
        },
        "config": {"session": plan.config.session_name, "sha256": digest_of_plain(to_plain(plan.config))},
        "seed": plan.seed,
        "prediction": {
            "of": FORECAST_OF,
            "verdict": advice.verdict,
            "gain": advice.predicted_gain.to_plain(),
            "layers": list(advice.layers),
        },
        "rivals": {
            "knn_gain": deepest.knn_gain.to_plain(),
            "probe_gain": deepest.probe_gain.to_plain(),
            "logme": deepest.pretrained.logme,
            "logme_random": deepest.random_mean(lambda scores: scores.logme),
            "h_score": deepest.pretrained.h_score,
            "ccfv": analysis.ccfv,
            "domain_distance": analysis.shift.distance,
        },
    }


def _training_file(plan: AnalysisPlan) -> Path | None:
    return None if plan.training is None else plan.training.source.path


def _write(plan: AnalysisPlan, result: AnalysisResult, paths: SessionPaths, request: str) -> None:
    """Write the results, the forecast, the JSON, by which a finished analysis is known, and the report."""
    folder, text = paths.analyses, result.to_text()
    log.info("%s", text)
    head = {"format": 1, "request": request, "seed": plan.seed, "program": versions.VERSION}
    plain = {**head, "notes": plan.notes, **result.to_plain()}
    start, config = _write_advice(plan, result, folder)
    write_text_atomically(folder / "analysis.txt", text)
    pictures = draw_analysis(plain, folder) if can_draw() else []
    forecasts = forecasts_file(plan.config.folder_for_output)
    with session_lock(plan.config.folder_for_output, "forecasts"):
        for analysis, found in zip(result.models, result.found, strict=True):
            append_forecast(forecasts, forecast_of(plan, result, analysis, found))
    write_json_atomically(folder / _LAST, plain)
    log.info("Text: %s, JSON: %s", folder / "analysis.txt", folder / _LAST)
    for picture in pictures:
        log.info("Picture: %s", picture)
    log.info("Forecast kept: %s", forecasts)
    log.info("Model to start from: %s", start)
    after_session(paths, plan.config.report)
    log.info("Next: train as advised, after a look at the reasons in its config:\n  deepmedic -train %s", config)
    log.info("or let short trainings look for its learning rate first:\n  deepmedic -findLr %s", config)


def _write_advice(plan: AnalysisPlan, result: AnalysisResult, folder: Path) -> tuple[Path, Path]:
    """Write the model that the best one leads to, and its train config."""
    analysis, found = result.models[0], result.found[0]
    advice, config = analysis.recommendation, found.candidate.start.config
    model, _ = start_model(found, config, advice.layers, advice.keep_classes, plan.seed)
    start = folder / "start.save"
    checkpoints.save(start, model.to_content())
    advised = advised_config.Advised(
        advice, config.architecture, f"{plan.config.session_name}Advised", start.absolute()
    )
    training = _training_file(plan)
    if training is not None:
        text = advised_config.from_train_config(read_config(training), advised)
    else:
        text = advised_config.from_analysis_config(plan.config, advised)
    path = folder / "advised.train.cfg"
    write_text_atomically(path, text)
    return start, path


def _is_done(folder: Path, request: str, *, overwrite: bool) -> bool:
    """Whether this very analysis was made before, and its text is there to be shown.

    Raises:
        OutputHeldError: the folder holds another one, and it is not to be replaced.
    """
    is_known = refuse_other_results(folder, folder / _LAST, request, overwrite=overwrite)
    return is_known and (folder / "analysis.txt").exists()


def _identity(cases: Any) -> list[list[Any]]:
    """Path, size and time of change of every image, by which changed files are noticed without reading them."""
    found = []
    for case in cases:
        for ref in (*case.channels, case.labels, case.roi):
            if ref is not None:
                state = ref.path.stat()
                found.append([str(ref), state.st_size, state.st_mtime_ns])
    return found
