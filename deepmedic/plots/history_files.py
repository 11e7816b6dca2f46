"""Metric histories of training sessions, found where a user points to."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepmedic import checkpoints
from deepmedic.errors import CommandLineError, DataError
from deepmedic.model.saved import SavedModel
from deepmedic.plots.histories import ENDING, SessionHistory, parse_history
from deepmedic.training.history import History

_SESSION_FOLDERS = ("cnnModels", "predictions", "tensorboard")
"""Folders of an output folder that hold one folder per session."""


def read_histories(paths: Sequence[Path]) -> list[SessionHistory]:
    """Read the histories of several sessions; those of equal names get their folder added.

    Raises:
        CommandLineError: there is nothing, or more than one session, where a path points to; a session given twice.
        DataError: a file that is no history, or an empty one.
        ModelError: a saved model that is damaged.
    """
    histories = [read_history(path) for path in paths]
    sources = [history.source.resolve() for history in histories]
    for index, source in enumerate(sources):
        if source in sources[:index]:
            raise CommandLineError(f"{paths[index]}: this session is given twice ({source}); give it once.")
    names = [history.name for history in histories]
    return [
        replace(history, name=f"{history.name} ({place})") if names.count(history.name) > 1 else history
        for history, place in zip(histories, _places(sources), strict=True)
    ]


def read_history(path: Path) -> SessionHistory:
    """Read the history of one session.

    `path` is its `logs/<session>.metrics.csv` or the log beside it, a saved model of it, its folder, or an output
    folder with `/<session>` added, whether there is such a folder or not.

    Raises:
        CommandLineError: there is nothing, or more than one session, where the path points to.
        DataError: a file that is no history, or an empty one.
        ModelError: a saved model that is damaged.
    """
    found = _find(path)
    if found.suffix == ".csv":
        return _from_csv(found)
    return _from_saved_model(found)


def _find(path: Path) -> Path:
    """The CSV file or saved model that holds the history a user points to."""
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _of_file(path)
    beside = [path.parent, path.parent / "logs", path.parent.parent / "logs"]
    found = [folder / f"{path.name}{ENDING}" for folder in beside if (folder / f"{path.name}{ENDING}").is_file()]
    if found:
        return found[0]
    known = sorted({name.name.removesuffix(ENDING) for folder in beside for name in folder.glob(f"*{ENDING}")})
    advice = f" Sessions found there: {', '.join(known)}." if known else ""
    raise CommandLineError(
        f"{path}: there is no such file, folder or session.{advice} "
        f"Name OUTPUT/logs/SESSION{ENDING}, OUTPUT/SESSION, or a saved model."
    )


def _of_file(path: Path) -> Path:
    if path.suffix == ".csv" or checkpoints.identify(path) == "save":
        return path
    beside = path.with_name(f"{path.stem}{ENDING}")
    if path.suffix in (".txt", ".jsonl") and beside.is_file():
        return beside
    raise DataError(
        f"{path}: is neither a metric history (logs/<session>{ENDING}) nor a saved model (.save), and no history "
        "lies beside it. Logs of the original DeepMedic are not read."
    )


def _in_folder(folder: Path) -> Path:
    """The history of a session's folder, or of an output folder with the history of a single session."""
    resolved = folder.resolve()
    of_session = resolved.parent.parent / "logs" / f"{resolved.name}{ENDING}"
    if resolved.parent.name in _SESSION_FOLDERS and of_session.is_file():
        return of_session
    found = sorted({*folder.glob(f"*{ENDING}"), *(folder / "logs").glob(f"*{ENDING}")})
    if len(found) > 1:
        listing = "\n".join(f"  {path}" for path in found)
        raise CommandLineError(
            f"{folder}: holds the histories of {len(found)} sessions; name those to plot:\n{listing}"
        )
    if found:
        return found[0]
    if any(folder.glob("*.save")):
        return checkpoints.newest_valid(folder)[0]
    raise CommandLineError(
        f"{folder}: holds neither a metric history (logs/<session>{ENDING}) nor saved models; "
        "name a session's files or the folderForOutput of its config."
    )


def _from_csv(path: Path) -> SessionHistory:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read as the metric history of a session ({problem}).") from problem
    rows = parse_history(text, path)
    name = path.name.removesuffix(ENDING) if path.name.endswith(ENDING) else path.stem
    history = SessionHistory(name, path, rows)
    names = _names_in_events(path.with_name(f"{name}.jsonl"))
    return replace(history, class_names=names) if len(names) == history.classes else history


def _from_saved_model(path: Path) -> SessionHistory:
    model = SavedModel.from_content(checkpoints.load(path), str(path))
    plain = (model.training or {}).get("history")
    if model.training is None or plain is None:
        raise DataError(f"{path}: has no history to plot: this model was not trained in a session of this program.")
    rows = parse_history(History.from_plain(plain).csv(), path)
    return SessionHistory(model.training["session"], path, rows, tuple(model.config.class_names or ()))


def _names_in_events(path: Path) -> tuple[str, ...]:
    """Class names that a session's record of events tells, the background included; empty where it tells none."""
    try:
        with open(path, encoding="utf-8") as file:
            events = (json.loads(line) for line in file if '"epoch"' in line)
            dice: dict[str, dict[str, object]] = next(
                (event["dice"] for event in events if event.get("event") == "epoch"), {}
            )
        return ("background", *next(iter(dice.values()), {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()  # a picture with class numbers is better than none


def _places(sources: Sequence[Path]) -> list[str]:
    """What tells files apart: the first folder in which they differ, or all from there on."""
    if len(sources) < 2:
        return [source.name for source in sources]
    common = os.path.commonpath(sources)
    relative = [source.relative_to(common) for source in sources]
    first = [path.parts[0] for path in relative]
    return first if len(set(first)) == len(first) else [str(path) for path in relative]
