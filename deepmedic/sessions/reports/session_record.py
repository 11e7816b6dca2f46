"""What a session ran with, as one event of its record: enough to make its report again, whenever and wherever.

Results are named relative to the output folder, so that it may move; inputs by their full paths.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepmedic import devices, versions
from deepmedic.arguments import Arguments
from deepmedic.config.plain import to_plain
from deepmedic.data.cases import Case, ImageRef
from deepmedic.inference.results import ResultFiles, output_name
from deepmedic.model.compilation import numba_version
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.common.paths import SessionPaths

log = logging.getLogger(__name__)

EVENT = "session"
CROSS_VALIDATION = "cross_validation"
"""The event that a command notes in the record of each fold that it will come to."""


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


def last_run(paths: SessionPaths, kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the last run of a session noted, and the events of that run; nothing where it never ran.

    Args:
        paths: of the session.
        kind: "training" or "inference"; a session of the other kind may have the same name, and so the same record.
    """
    record: dict[str, Any] = {}
    since: list[dict[str, Any]] = []
    is_of_kind = False
    for event in read_events(paths.events):
        if event.get("event") == EVENT:
            is_of_kind = event.get("kind", kind) == kind
            record, since = (event, []) if is_of_kind else (record, since)
        elif is_of_kind:
            since.append(event)
    return record, since


def has_finished(since: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run of a training, by its events, came to its end."""
    return any(event.get("event") == "session_finished" for event in since)


def image_of(plain: Sequence[Any] | None) -> ImageRef | None:
    """The inverse of how an image stands in a record: [path, volume]."""
    return None if plain is None else ImageRef(Path(plain[0]), plain[1])


def common_facts(arguments: Arguments, config: Any, device: Any) -> dict[str, Any]:
    """What both kinds of sessions note."""
    execution = config.execution
    return {
        "command": ["deepmedic", *arguments.words],
        "folder": str(Path.cwd()),
        "config": str(config.source.path) if config.source.path else None,
        "versions": _versions(device),
        "device": devices.describe(device),
        "precision": execution.precision,
        "deterministic": devices.is_deterministic(device, execution),
        "settings": to_plain(config),
    }


def _versions(device: Any) -> dict[str, str]:
    """Of what decides numbers on a device."""
    packages = {name: versions.installed(name) for name in ("torch", "numpy", "nibabel")}
    compiler = {"numba": numba_version() or "not used"} if device.type == "cpu" else {}
    return {"deepmedic": versions.VERSION, **packages, **compiler}


def model_facts(model: SavedModel, path: Path | None, sha256: str | None) -> dict[str, Any]:
    """What is noted of a model that is used."""
    return {
        "name": model.name,
        "file": None if path is None else str(path.resolve()),
        "sha256": sha256,
        "config": model.config.to_dict(),
        "provenance": model.provenance,
        "trained": model.trained,
    }


def case_facts(cases: Sequence[Case], files: ResultFiles) -> list[dict[str, Any]]:
    """What is noted of cases that are segmented: their images, and where their results are."""
    return [_case(case, output_name(index, case), files) for index, case in enumerate(cases)]


def _case(case: Case, name: str, files: ResultFiles) -> dict[str, Any]:
    saved = files.output.save_segmentation
    maps = {kind: _relative(files.uncertainty_map(name, kind), files) for kind in files.uncertainty}
    return {
        "name": case.name,
        "channels": [_image(ref) for ref in case.channels],
        "labels": _image(case.labels),
        "segmentation": _relative(files.segmentation(name), files) if saved else None,
        "probabilities": {
            str(number): _relative(files.probability(name, number), files) for number in files.probability_classes
        },
        **({"uncertainty": maps} if maps else {}),
    }


def _image(ref: ImageRef | None) -> list[Any] | None:
    return None if ref is None else [str(ref.path), ref.volume]


def _relative(path: Path, files: ResultFiles) -> str:
    return path.relative_to(files.folder).as_posix()
