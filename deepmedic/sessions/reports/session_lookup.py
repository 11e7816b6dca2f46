"""Which session a user points to: by a file or folder of it, or by `<output folder>/<name>`."""

from __future__ import annotations

from pathlib import Path

from deepmedic.errors import CommandLineError
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.reports.findings import result_files

_LOG_ENDINGS = (".metrics.csv", ".jsonl", ".analysis.txt", ".comparison.txt", ".layers.txt", ".findLr.txt", ".txt")
_SESSION_FOLDERS = (
    *("cnnModels", "predictions", "splits", "tensorboard", "analyses", "comparisons", "layers", "learningRates"),
)
"""Folders of an output folder that hold one folder per session."""


def find_session(path: Path) -> SessionPaths:
    """Return the session that `path` points to.

    Raises:
        CommandLineError: there is no session, or more than one.
    """
    found = _by_file(path) if path.is_file() else _by_folder(path.resolve()) if path.is_dir() else None
    found = found or _by_name(path)
    if found is not None and _is_there(found):
        return found
    if path.is_dir() and (sessions := sessions_in(path)):
        if len(sessions) == 1:
            return SessionPaths(path, sessions[0])
        listing = "\n".join(f"  {path / name}" for name in sessions)
        raise CommandLineError(f"{path}: holds {len(sessions)} sessions; name one of them:\n{listing}")
    known = sessions_in(path.parent)
    advice = f" Sessions found there: {', '.join(known)}." if known else ""
    raise CommandLineError(
        f"{path}: there is no session of this name, and no file or folder of one.{advice} "
        "Name OUTPUT/SESSION or OUTPUT/logs/SESSION.txt."
    )


def sessions_in(folder: Path) -> list[str]:
    """Names of the sessions that have a log below an output folder, and of cross-validations."""
    logged = {path.name.removesuffix(".jsonl") for path in (folder / "logs").glob("*.jsonl")}
    return sorted(logged | {path.parent.name for path in (folder / "splits").glob("*/folds.json")})


def _by_file(path: Path) -> SessionPaths | None:
    folder = path.resolve().parent
    if folder.name == "reports" and path.suffix == ".html":
        return SessionPaths(folder.parent, path.stem)
    for ending in _LOG_ENDINGS:
        if path.name.endswith(ending):
            return SessionPaths(folder.parent, path.name.removesuffix(ending))
    return _by_folder(folder)  # a saved model, or a result


def _by_folder(folder: Path) -> SessionPaths | None:
    """A session's own folder, or one inside it."""
    for inside in (folder, folder.parent):
        if inside.parent.name in _SESSION_FOLDERS:
            return SessionPaths(inside.parent.parent, inside.name)
    return None


def _by_name(path: Path) -> SessionPaths | None:
    folder = path.parent.parent if path.parent.name in ("logs", "reports", *_SESSION_FOLDERS) else path.parent
    return SessionPaths(folder, path.name)


def _is_there(paths: SessionPaths) -> bool:
    return any(path.is_file() for path in (paths.events, paths.metrics, paths.log, *result_files(paths)))
