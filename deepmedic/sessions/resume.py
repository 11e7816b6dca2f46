"""Whether a training session starts, goes on, or is finished already.

The origin of a session is what its first command started from: a saved model by SHA-256, or a model config and a seed,
and whether the optimiser was reset. The identical command again finds the same origin and goes on from the session's
newest checkpoint; another origin is refused, because it would mix two trainings in one folder.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deepmedic import checkpoints
from deepmedic.arguments import Arguments
from deepmedic.config.plain import settings_changed
from deepmedic.errors import CommandLineError, ModelError
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.paths import SessionPaths
from deepmedic.sessions.start import Start, StartPoint, origin_of_new, read_model, read_start, weights_digest
from deepmedic.training.state import TrainingState

log = logging.getLogger(__name__)

Kind = Literal["started", "resumed", "finished"]


@dataclass
class Beginning:
    """Where a training session begins: the model, the state, and how that came about."""

    kind: Kind
    model: SavedModel
    state: TrainingState
    extra: dict[str, Any] = field(default_factory=dict)
    """Optimiser state, history and tally of the checkpoint; empty for a fresh optimisation."""
    path: Path | None = None
    """The file the model was read from."""
    reset: bool = False
    """The optimiser state of a trained model was dropped on request."""
    changes: list[str] = field(default_factory=list)
    """Settings that differ from those of the checkpoint."""

    @property
    def new_model(self) -> bool:
        return self.kind == "started" and self.path is None


@dataclass(frozen=True)
class Request:
    """What the command asks for."""

    arguments: Arguments
    point: StartPoint | None
    paths: SessionPaths
    settings: dict[str, Any]
    """The training config as plain values."""
    epochs: int

def begin(request: Request) -> Beginning:
    """Decide how the session begins; reads files, writes nothing.

    Raises:
        CommandLineError: no model is named and the session has none.
        ModelError: the session has another origin, or a model cannot be used as asked.
    """
    existing = None if request.arguments.overwrite else _newest_of_session(request.paths.models)
    point, reset = request.point, request.arguments.reset_optimizer
    if point is None:
        if existing is None:
            raise CommandLineError(
                "-train needs a model to start from: -newModel MODEL.cfg, -model X.save, -model MODEL.cfg, "
                "or cnnModelFilePath in the config."
            )
        return _resume(request, *existing)
    if existing is None:
        return _start(request, read_start(point, request.arguments.seed, reset))
    path, model, state = existing
    own = point.weights is not None and _is_inside(point.weights, request.paths.models)
    if own and not reset:
        assert point.weights is not None
        if point.weights.is_dir():
            return _resume(request, path, model, state)
        named, named_model, _ = read_model(point.weights)
        named_state = _state_of(named_model, named)
        # Checkpoints that follow are newer than all there are, also than those trained after the named one.
        return _resume(request, named, named_model, replace(named_state, save_index=state.save_index))
    if _same_origin(point, state.origin, request):
        return _resume(request, path, model, state)
    start = read_start(point, request.arguments.seed, reset)
    if reset and (own or start.origin["sha256"] == state.origin["sha256"]):
        return _start(request, start, after=state.save_index)
    raise ModelError(
        f"{request.paths.models}: this session was started from {_describe(state.origin)}, "
        f"but the command starts from {_describe(start.origin)}. "
        "Repeat the first command to go on, choose another sessionName, or add -overwrite to start anew."
    )


def _newest_of_session(folder: Path) -> tuple[Path, SavedModel, TrainingState] | None:
    if not folder.is_dir() or not any(folder.glob("*.save")):
        return None
    path, content, notes = checkpoints.newest_valid(folder)
    for note in notes:
        log.warning("%s", note)
    model = SavedModel.from_content(content, str(path))
    return path, model, _state_of(model, path)


def _state_of(model: SavedModel, path: Path) -> TrainingState:
    if model.training is None:
        raise ModelError(f"{path}: lies in a session's folder but is not one of its checkpoints; move it elsewhere.")
    return TrainingState.from_plain(model.training)


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve() == folder.resolve() or path.resolve().parent == folder.resolve()


def _same_origin(point: StartPoint, origin: dict[str, Any], request: Request) -> bool:
    reset = request.arguments.reset_optimizer
    if bool(origin["reset"]) != reset:
        return False
    if point.weights is None:
        assert point.config is not None
        wanted = origin_of_new(point.config, request.arguments.seed, reset)
        return all(wanted[key] == origin[key] for key in ("kind", "sha256", "seed"))
    if origin["kind"] != "saved":
        return False
    if str(point.weights.resolve()) == origin["named"]:
        # The first command named this path; it may have been a checkpoint that was pruned or replaced since then.
        return _is_inside(point.weights, request.paths.models) or weights_digest(point.weights) in (
            None,
            origin["sha256"],
        )
    return weights_digest(point.weights) == origin["sha256"]


def _resume(request: Request, path: Path, model: SavedModel, state: TrainingState) -> Beginning:
    assert model.training is not None
    extra = {name: model.training[name] for name in ("optimiser", "history", "tally")}
    changes = settings_changed(state.settings, request.settings)
    if request.arguments.seed != state.seed:
        raise ModelError(
            f"{path}: this session draws its samples with -seed {state.seed}, the command says "
            f"-seed {request.arguments.seed}. Give the same seed to go on, or choose another sessionName."
        )
    if changes and state.position.batch:
        # The samples of the interrupted subepoch may no longer be the same: it is repeated from its first batch.
        state.position.step -= state.position.batch
        state.position.batch, extra["tally"] = 0, None
    state.settings = request.settings
    finished = state.position.epoch >= request.epochs
    state.finished = finished
    return Beginning("finished" if finished else "resumed", model, state, extra, path, changes=changes)


def _start(request: Request, start: Start, after: int = 0) -> Beginning:
    """Begin a session from a model that is not one of its own checkpoints (or with its optimiser reset)."""
    model, reset = start.model, request.arguments.reset_optimizer
    state = TrainingState(
        session=request.paths.session, seed=request.arguments.seed, origin=start.origin, settings=request.settings
    )
    state.save_index = after
    if reset or not model.trained:
        return Beginning("started", model, state, {}, start.path, reset=reset and model.trained)
    if model.training is None:
        raise ModelError(
            f"{start.path}: this model is trained but holds no optimiser state to go on from. "
            "Add -resetOptimizer to keep its weights and start optimisation anew."
        )
    earlier = TrainingState.from_plain(model.training)
    state.position, state.schedule = earlier.position, earlier.schedule
    state.position.step -= state.position.batch
    state.position.batch = 0
    extra = {name: model.training[name] for name in ("optimiser", "history")} | {"tally": None}
    finished = state.position.epoch >= request.epochs
    return Beginning("finished" if finished else "started", model, state, extra, start.path)


def _describe(origin: dict[str, Any]) -> str:
    seed = f" with seed {origin['seed']}" if origin["seed"] is not None else ""
    reset = ", optimiser reset" if origin["reset"] else ""
    return f"{origin['named']} (SHA-256 {origin['sha256'][:12]}{seed}{reset})"
