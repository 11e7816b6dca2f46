"""Whether a training session starts, goes on, or is finished already.

The identical command again finds the origin of the session and goes on from its newest checkpoint; another origin is
refused, because it would mix two trainings in one folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deepmedic import checkpoints
from deepmedic.arguments import Arguments
from deepmedic.config.plain import default_settings, settings_changed, to_plain
from deepmedic.config.recipes import with_recipe
from deepmedic.config.training import TrainConfig
from deepmedic.errors import CommandLineError, ModelError
from deepmedic.files import sha256_of
from deepmedic.model.saved import SavedModel
from deepmedic.model_files import saved_files
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.models.start import Start, StartPoint, read_start, refuse_other_architecture
from deepmedic.sessions.models.weights import read_model
from deepmedic.sessions.training.origins import is_inside, is_known_origin, is_same_model, other_origin
from deepmedic.sessions.training.splitting import refuse_other_split
from deepmedic.training import phases, schedules
from deepmedic.training.state import TrainingState
from deepmedic.transfer.report import TransferReport

Kind = Literal["started", "resumed", "finished"]

_DECIDE_BATCHES = (
    *("channelsTraining", "gtLabelsTraining", "roiMasksTraining", "dataframe_train", "trainingCases"),
    *("weightedMapsForSamplingEachCategoryTrain", "padInputImagesBool", "segment_size_train", "numberOfSubepochs"),
    *("typeOfSamplingForTraining", "proportionOfSamplesToExtractPerCategoryTraining", "numOfCasesLoadedPerSubepoch"),
    *("numberTrainingSegmentsLoadedOnGpuPerSubep", "batchsize_train", "augm_img_prms_tr", "augm_sample_prms_tr"),
    "resampleTo",
)
"""Settings with which a subepoch has other batches."""
_FIXED = ("orientation",)
"""Settings that belong to the weights."""
_EXTRA = ("optimiser", "history", "tally", "averaging", "live", "phaseStart")
"""What the trainer keeps in a checkpoint beside its state; the last three only where something needs them."""


@dataclass
class Beginning:
    """Where a training session begins: the model, the state, and how that came about."""

    kind: Kind
    model: SavedModel
    state: TrainingState
    extra: dict[str, Any] = field(default_factory=dict)
    """Optimiser state, history, tally and weights to go on from; empty for a fresh optimisation."""
    path: Path | None = None
    """The file the model was read from."""
    reset: bool = False
    """The optimiser state of a trained model was dropped on request."""
    changes: list[str] = field(default_factory=list)
    """Settings that differ from those of the checkpoint."""
    changed_files: list[str] = field(default_factory=list)
    """Files of cases that were changed in place since the checkpoint."""
    report: TransferReport | None = None
    """What a pretrained new model received."""
    notes: list[str] = field(default_factory=list)
    """Damaged checkpoints that were passed over, and initial rates of the original that the config replaces."""
    is_newest: bool = True
    """False when an earlier one of the session's own checkpoints was named."""
    files: list[tuple[str, int, int]] = field(default_factory=list)
    """`files_in` the session's folder before anything in it was read."""


@dataclass(frozen=True)
class Request:
    """What the command asks for."""

    arguments: Arguments
    point: StartPoint | None
    paths: SessionPaths
    config: TrainConfig
    further: dict[str, Any]
    """What its listing files hold, and what computes, as plain values."""
    split: dict[str, Any] | None = None
    """How the training cases are split, as a session records it."""
    is_split_known: bool = True
    """False where the split could not be made, which is told elsewhere."""

    def config_for(self, model: SavedModel) -> TrainConfig:
        """The config with all phases for a model, whose depth they may depend on."""
        return with_recipe(self.config, model.architecture)

    def settings(self, model: SavedModel) -> dict[str, Any]:
        """The config for a model and what belongs to it, as plain values."""
        return to_plain(self.config_for(model)) | self.further


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint of the session."""

    path: Path
    model: SavedModel
    state: TrainingState
    notes: list[str] = field(default_factory=list)


def begin(request: Request) -> Beginning:
    """Decide how the session begins; reads files, writes nothing.

    Raises:
        CommandLineError: no model is named and the session has none.
        ModelError: the session has another origin, or a model cannot be used as asked.
    """
    files = files_in(request.paths.models)
    return replace(_begin(request), files=files)


def files_in(folder: Path) -> list[tuple[str, int, int]]:
    """Name, inode and time of each file, by which another process that writes into the folder is noticed."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.inode(), entry.stat().st_mtime_ns) for entry in entries)


def _begin(request: Request) -> Beginning:
    folder, point, reset = request.paths.models, request.point, request.arguments.reset_optimizer
    newest = None if request.arguments.overwrite else _newest_of_session(folder)
    if point is None:
        if newest is None:
            raise CommandLineError(
                "-train needs a model to start from: -newModel MODEL.cfg, -model X.save, -model MODEL.cfg, "
                "or cnnModelFilePath in the config."
            )
        _compare_splits(request, newest)
        return _resume(request, newest)
    if newest is None:
        return _start(request, read_start(point, request.arguments.seed, reset), after=_highest_counter(folder))
    _compare_splits(request, newest)
    own = point.weights is not None and is_inside(point.weights, folder)
    if own and not reset:
        return _go_on_from_own(request, newest)
    origin = newest.state.origin
    if is_known_origin(point, origin, request.arguments, folder):
        return _resume(request, newest)
    start = read_start(point, request.arguments.seed, reset)
    same_model = is_same_model(start.origin, origin)
    if same_model and bool(origin["reset"]) == reset:
        return _resume(request, newest)
    if reset and (own or same_model):
        return _start(request, start, after=newest.state.save_index)
    raise other_origin(folder, newest.model, origin, start)


def _compare_splits(request: Request, newest: _Checkpoint) -> None:
    if request.is_split_known:
        refuse_other_split(request.paths.models, newest.state.origin.get("split"), request.split)


def _newest_of_session(folder: Path) -> _Checkpoint | None:
    if not folder.is_dir() or not any(folder.glob("*.save")):
        return None
    path, content, notes = checkpoints.newest_valid(folder)
    return _checkpoint(path, SavedModel.from_content(content, str(path)), notes)


def _checkpoint(path: Path, model: SavedModel, notes: list[str]) -> _Checkpoint:
    if model.training is None:
        raise ModelError(f"{path}: lies in a session's folder but is not one of its checkpoints; move it elsewhere.")
    return _Checkpoint(path, model, TrainingState.from_plain(model.training), notes)


def _highest_counter(folder: Path) -> int:
    """So that the checkpoints of a session that starts anew are newer than those it replaces."""
    files = saved_files(folder)[0] if folder.is_dir() else []
    return max((file.header.counter for file in files), default=0)


def _go_on_from_own(request: Request, newest: _Checkpoint) -> Beginning:
    """Go on from the session's folder or the checkpoint in it that the command names, an earlier one only once.

    The checkpoints that follow record which one was named, so that the identical command again goes on from the newest.
    """
    assert request.point is not None
    assert request.point.weights is not None
    named = request.point.weights
    is_newest = named.is_dir() or named.name == checkpoints.latest_name(newest.model.name, request.paths.session)
    if is_newest or _was_rewound_to(named, newest.state):
        return _resume(request, newest)
    path, model, sha256 = read_model(named)
    earlier = _checkpoint(path, model, [])
    if earlier.state.save_index == newest.state.save_index:
        return _resume(request, newest)
    state = earlier.state
    state.rewound = {"named": str(named.resolve()), "sha256": sha256}
    # What is written next is newer than all there is, and is compared with the best there is.
    state.save_index = newest.state.save_index
    both = [best for best in (state.best, newest.state.best) if best is not None]
    state.best = max(both, key=lambda best: float(best["dice"]), default=None)
    _compare_phases(state, newest, request.paths)
    return replace(_resume(request, earlier), is_newest=False)


def _compare_phases(state: TrainingState, newest: _Checkpoint, paths: SessionPaths) -> None:
    """Let a phase that is gone back to know its best epoch so far, among those whose checkpoints are still there."""
    phase, latest = state.phase, newest.state.phase
    rivals = [phase["best"]]
    if (phase["index"], phase["first_epoch"]) == (latest["index"], latest["first_epoch"]):
        rivals.append(latest["best"])
        # Else the first save would remove the best checkpoint, should this one be from before the first validation.
        phase["restores_best"] = phase["restores_best"] or latest["restores_best"]
    owner = (newest.model.name, paths.session)
    kept = {file.header.counter for file in saved_files(paths.models)[0] if file.header.owner == owner}
    there = [best for best in rivals if best is not None and best.get("save_index") in kept]
    phase["best"] = max(there, key=lambda best: float(best["dice"]), default=None)


def _was_rewound_to(named: Path, state: TrainingState) -> bool:
    rewound = state.rewound
    if rewound is None or str(named.resolve()) != rewound["named"]:
        return False
    return not named.is_file() or sha256_of(named) == rewound["sha256"]


def _resume(request: Request, checkpoint: _Checkpoint) -> Beginning:
    path, state = checkpoint.path, checkpoint.state
    if request.arguments.seed != state.seed:
        raise ModelError(
            f"{path}: this session draws its samples with -seed {state.seed}, the command says "
            f"-seed {request.arguments.seed}. Give the same seed to go on, or choose another sessionName."
        )
    model = _with_named_config(checkpoint.model, request.point, path)
    # The name goes on, since files of two names in one folder count as those of two models.
    model = replace(model, config=replace(model.config, name=checkpoint.model.name))
    settings = request.settings(model)
    changes = settings_changed(state.settings, settings, default_settings(TrainConfig))
    changes += settings_changed(checkpoint.model.config.to_dict(), model.config.to_dict())
    try:
        phases.refuse_other_past(state.phase, state.settings, settings)
        _refuse_fixed(changes)
    except ModelError as problem:
        raise with_changes(ModelError(f"{path}: {problem}"), changes) from problem
    assert model.training is not None
    extra = _extra_of(model.training)
    if state.position.batch and any(_decides_batches(change) for change in changes):
        # The batches of the interrupted subepoch are others now: it is repeated from its first one.
        repeat_subepoch(state, extra)
    _watch_anew(state, settings)
    state.settings = settings
    state.finished = phases.is_finished(request.config_for(model), state)
    kind: Kind = "finished" if state.finished else "resumed"
    return Beginning(kind, model, state, extra, path, changes=changes, notes=checkpoint.notes)


def with_changes(problem: ModelError, changes: list[str]) -> ModelError:
    """A refusal to go on, with the list of all settings that differ from those of the checkpoint."""
    listing = "".join(f"\n    {change}" for change in changes)
    return ModelError(f"{problem}\n  Changed since the checkpoint:{listing}") if changes else problem


def _refuse_fixed(changes: list[str]) -> None:
    """Refuse to change what the network has learnt its weights for."""
    fixed = [change for change in changes if change.partition(":")[0] in _FIXED]
    if fixed:
        raise ModelError(
            f"{'; '.join(fixed)}: this cannot change within a session, for the network would see the images turned. "
            "Put it back, choose another sessionName, or add -overwrite to start anew."
        )


def _extra_of(training: dict[str, Any]) -> dict[str, Any]:
    return {name: training[name] for name in _EXTRA if name in training}


def _watch_anew(state: TrainingState, settings: dict[str, Any]) -> None:
    """Forget what other settings of the phase made of the validation: an early end, or the best by another measure."""
    before, now = (phases.settings_of(state.phase, given) for given in (state.settings, settings))
    if any(before.get(key) != value for key, value in now.items() if key.startswith("earlyStopping")):
        state.stopping["stopped"] = False
    if state.settings.get("sourceTask") != settings.get("sourceTask"):
        state.forgot = False
    key = "typeOfLearningRateSchedule"
    if "plateau" in (before.get(key), now[key]) and before.get(key) != now[key]:
        state.schedule = schedules.state_at(state.position.epoch - state.phase["first_epoch"])


def _decides_batches(change: str) -> bool:
    return change.partition(":")[0].partition(".")[0] in _DECIDE_BATCHES


def repeat_subepoch(state: TrainingState, extra: dict[str, Any]) -> None:
    """Go back to the first batch of an interrupted subepoch, and forget what was counted in it."""
    state.position.step -= state.position.batch
    state.position.batch, extra["tally"] = 0, None


def _start(request: Request, start: Start, after: int) -> Beginning:
    """Begin a session from a model that is not one of its own checkpoints (or with its optimiser reset)."""
    reset = request.arguments.reset_optimizer
    model = start.model if start.path is None else _with_named_config(start.model, request.point, start.path)
    state = TrainingState(
        session=request.paths.session,
        seed=request.arguments.seed,
        origin=start.origin if request.split is None else {**start.origin, "split": request.split},
        settings=request.settings(model),
        save_index=after,
    )
    if reset or not model.trained:
        lost = reset and model.trained
        return Beginning("started", model, state, path=start.path, reset=lost, report=start.report)
    if model.training is None:
        raise ModelError(
            f"{start.path}: this model is trained but holds no optimiser state to go on from. "
            "Add -resetOptimizer to keep its weights and start optimisation anew."
        )
    earlier = TrainingState.from_plain(model.training)
    if earlier.phase["index"] and earlier.phase["index"] >= len(state.settings["phase"]):
        raise ModelError(
            f"{start.path}: this model is in phase {earlier.phase['index'] + 1} of its training, and the config has "
            f"{len(state.settings['phase']) or 'no'} phases. Add -resetOptimizer to keep its weights and start "
            "optimisation anew, from the first phase."
        )
    _watch_anew(earlier, state.settings)
    config, extra = request.config_for(model), _extra_of(model.training)
    state.position, state.schedule = earlier.position, earlier.schedule
    _take_phase(state, extra, earlier, config)
    repeat_subepoch(state, extra)
    state.finished = phases.is_finished(config, state)
    notes = _initial_rates_replaced(start, earlier, state.settings)
    return Beginning("finished" if state.finished else "started", model, state, extra, start.path, notes=notes)


def _take_phase(state: TrainingState, extra: dict[str, Any], earlier: TrainingState, config: TrainConfig) -> None:
    """Go on in the phase of another session, whose checkpoints are elsewhere and whose scores may be of other cases."""
    state.phase = {**earlier.phase, "best": None, "restores_best": False, "last_score": None}
    if phases.is_over(config, state):
        # Nothing more is trained in it: it has ended as it did there.
        state.phase["last_score"] = phases.end_score(config, earlier)
        if earlier.finished and earlier.phase["restores_best"]:
            extra.pop("live", None)


def _initial_rates_replaced(start: Start, earlier: TrainingState, settings: dict[str, Any]) -> list[str]:
    """Initial rate and momentum of a checkpoint of the original that the config replaces, which it could not there."""
    if (start.model.provenance or {}).get("kind") != "tensorflow":
        return []
    now = phases.settings_of(earlier.phase, settings)
    if now["sgd0orAdam1orRms2"] == 1:
        now = {**now, "momentumValue": None}  # which Adam does not use
    return [
        f"{start.path}: was trained with {key} = {value:g}, the config says {now[key]:g}, which holds from now on. "
        f"The original would have gone on with {value:g}."
        for key, value in earlier.settings.items()
        if now[key] is not None and now[key] != value
    ]


def _with_named_config(model: SavedModel, point: StartPoint | None, path: Path) -> SavedModel:
    """The model with names and sizes of segments as the `.cfg` beside it says, if one is named.

    Raises:
        ModelError: the `.cfg` has another architecture.
    """
    if point is None or point.config is None:
        return model
    refuse_other_architecture(point.config, model, path)
    return model.with_config(point.config)
