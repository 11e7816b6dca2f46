"""What a session was started from, and whether a command starts from the same.

The origin of a session is the saved model that its first command named, by SHA-256, or a model config and a seed, and
whether the optimiser was reset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepmedic.arguments import Arguments
from deepmedic.config.plain import settings_changed
from deepmedic.errors import ModelError
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.models.start import Start, StartPoint, origin_of_new
from deepmedic.sessions.models.weights import weights_digest

_SAME_MODEL = ("kind", "sha256", "seed")


def is_inside(path: Path, folder: Path) -> bool:
    """True for the folder itself and what lies directly in it."""
    return folder.resolve() in (path.resolve(), path.resolve().parent)


def is_same_model(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """True for two origins that start from the same model, whether or not the optimiser is reset."""
    return all(one[key] == other[key] for key in _SAME_MODEL)


def is_known_origin(point: StartPoint, origin: dict[str, Any], arguments: Arguments, folder: Path) -> bool:
    """Whether a command starts from a session's origin, as far as that shows without reading the model it names.

    Args:
        point: what the command names.
        origin: of the session.
        arguments: of the command.
        folder: the session's own, with its checkpoints.
    """
    if bool(origin["reset"]) != arguments.reset_optimizer:
        return False
    if point.weights is None:
        assert point.config is not None
        own = origin_of_new(point, arguments.seed, arguments.reset_optimizer)
        if point.pretraining is not None and point.pretraining.is_gone:
            return all(own[key] == origin.get(key) for key in ("kind", "request", "seed"))
        return is_same_model(own, origin)
    if origin["kind"] == "new":
        return False
    digest = weights_digest(point.weights)
    if str(point.weights.resolve()) == origin["named"] and (digest is None or is_inside(point.weights, folder)):
        # A folder goes on to change, and a checkpoint of this session may have been replaced or pruned since then.
        return True
    return digest == origin["sha256"]


def other_origin(folder: Path, model: SavedModel, origin: dict[str, Any], start: Start) -> ModelError:
    """The refusal of a command that starts from something else than the session in `folder`, whose `model` this is."""
    differences = ""
    if origin["kind"] == start.origin["kind"] == "new":
        lines = settings_changed(model.config.to_dict(), start.model.config.to_dict())
        differences = "".join(f"\n    {line}" for line in lines)
    return ModelError(
        f"{folder}: this session was started from {_describe(origin)}, but the command starts from "
        f"{_describe(start.origin)}.{differences}\n"
        "  Repeat the first command to go on, choose another sessionName, or add -overwrite to start anew."
    )


def _describe(origin: dict[str, Any]) -> str:
    seed = f", seed {origin['seed']}" if origin["seed"] is not None else ""
    reset = ", optimiser reset" if origin["reset"] else ""
    return f"{origin['named']} (SHA-256 {origin['sha256'][:12]}{seed}{reset})"
