"""What a session ran with, as one event of its record: enough to make its report again, whenever and wherever.

Results are named relative to the output folder, so that it may move; inputs by their full paths.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmedic import devices, versions
from deepmedic.arguments import Arguments
from deepmedic.config.plain import to_plain
from deepmedic.data.cases import Case, ImageRef
from deepmedic.inference.results import ResultFiles, output_name
from deepmedic.logs import EventLog
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.paths import SessionPaths

if TYPE_CHECKING:
    from deepmedic.sessions.testing import TestPlan
    from deepmedic.sessions.training_plan import TrainingPlan

log = logging.getLogger(__name__)

EVENT = "session"


def record_training(plan: TrainingPlan) -> None:
    """Note what a training session runs with."""
    beginning, volumes = plan.beginning, plan.validation_volumes
    model = beginning.model
    files = ResultFiles(plan.paths.predictions, plan.config.validation_output, model.architecture.classes)
    facts = {
        "kind": "training",
        **_common(plan.arguments, plan.config, plan.device),
        "model": _model(model, beginning.path, None),
        "origin": beginning.state.origin,
        "seed": beginning.state.seed,
        "begins": beginning.kind,
        "trainingCases": [case.name for case in plan.training.cases],
        "validationCases": [case.name for case in volumes.cases] if volumes else [],
        "results": os.path.relpath(files.folder, plan.paths.folder),
        "cases": _cases(volumes.cases, files) if volumes else [],
        "transfer": beginning.report.to_plain() if beginning.report else None,
    }
    EventLog(plan.paths.events).write(EVENT, **facts)


def record_inference(plan: TestPlan) -> None:
    """Note what an inference session runs with."""
    facts = {
        "kind": "inference",
        **_common(plan.arguments, plan.config, plan.device),
        "model": _model(plan.model, plan.models[0].path, plan.models[0].sha256),
        "ensemble": [{"file": str(one.path.resolve()), "sha256": one.sha256} for one in plan.models[1:]],
        "tiling": plan.tiling,
        "results": os.path.relpath(plan.files.folder, plan.paths.folder),
        "cases": _cases(plan.data.cases, plan.files),
    }
    EventLog(plan.paths.events).write(EVENT, **facts)


def read_record(paths: SessionPaths) -> dict[str, Any] | None:
    """Return what the last run of a session noted; None where there is nothing, as of sessions of older versions.

    What a new model received at the start of a training stays known when the session goes on later.
    """
    record: dict[str, Any] | None = None
    transfer = None
    for event in read_events(paths.events):
        if event.get("event") == EVENT and isinstance(event.get("model"), dict):
            record = event
            transfer = event.get("transfer") or (transfer if event.get("begins") == "resumed" else None)
    return None if record is None else {**record, "transfer": transfer}


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a session's record; lines that a crash cut short are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def image_of(plain: Sequence[Any] | None) -> ImageRef | None:
    """The inverse of how an image stands in a record: [path, volume]."""
    return None if plain is None else ImageRef(Path(plain[0]), plain[1])


def _common(arguments: Arguments, config: Any, device: Any) -> dict[str, Any]:
    """What both kinds of sessions note."""
    execution = config.execution
    return {
        "command": ["deepmedic", *arguments.words],
        "folder": str(Path.cwd()),
        "config": str(config.source.path) if config.source.path else None,
        "versions": dict(line.split(maxsplit=1) for line in _version_lines()),
        "device": devices.describe(device),
        "precision": execution.precision,
        "deterministic": devices.is_deterministic(device, execution),
        "settings": to_plain(config),
    }


def _version_lines() -> list[str]:
    names = {
        "deepmedic": versions.VERSION,
        **{name: versions.installed(name) for name in ("torch", "numpy", "nibabel")},
    }
    return [f"{name} {version}" for name, version in names.items()]


def _model(model: SavedModel, path: Path | None, sha256: str | None) -> dict[str, Any]:
    return {
        "name": model.name,
        "file": None if path is None else str(path.resolve()),
        "sha256": sha256,
        "config": model.config.to_dict(),
        "provenance": model.provenance,
        "trained": model.trained,
    }


def _cases(cases: Sequence[Case], files: ResultFiles) -> list[dict[str, Any]]:
    return [_case(case, output_name(index, case), files) for index, case in enumerate(cases)]


def _case(case: Case, name: str, files: ResultFiles) -> dict[str, Any]:
    saved = files.output.save_segmentation
    return {
        "name": case.name,
        "channels": [_image(ref) for ref in case.channels],
        "labels": _image(case.labels),
        "segmentation": _relative(files.segmentation(name), files) if saved else None,
        "probabilities": {
            str(number): _relative(files.probability(name, number), files) for number in files.probability_classes
        },
    }


def _image(ref: ImageRef | None) -> list[Any] | None:
    return None if ref is None else [str(ref.path), ref.volume]


def _relative(path: Path, files: ResultFiles) -> str:
    return path.relative_to(files.folder).as_posix()
