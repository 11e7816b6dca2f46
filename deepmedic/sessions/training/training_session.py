"""One run of a training session: its parts put together, run, and summed up."""

from __future__ import annotations

import logging
import os
import shlex
from dataclasses import replace
from typing import Any

from deepmedic import devices
from deepmedic.data.dataset import DataSet
from deepmedic.data.resident_cases import ResidentCases
from deepmedic.data.source import SegmentSource
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES
from deepmedic.files import remove_stale_temporaries
from deepmedic.inference.case_reading import CaseSource
from deepmedic.inference.results import ResultFiles
from deepmedic.logs import EventLog
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.models import new_model
from deepmedic.sessions.models.data_description import describe_data
from deepmedic.sessions.reports.reporting import after_session
from deepmedic.sessions.reports.session_record import EVENT, case_facts, common_facts, model_facts
from deepmedic.sessions.training.changed_files import log_changed_files
from deepmedic.sessions.training.checkpointing import CheckpointFolder, CheckpointWriter
from deepmedic.sessions.training.segment_sources import segment_source
from deepmedic.sessions.training.source_task import SourceTaskScorer
from deepmedic.sessions.training.training_plan import TrainingPlan
from deepmedic.sessions.training.volume_validation import VolumeValidation
from deepmedic.training import network_weights
from deepmedic.training.forgetting import ForgettingGuard
from deepmedic.training.history import History, Role
from deepmedic.training.interruption import Interruption
from deepmedic.training.learning import Learning, begin_phase
from deepmedic.training.recorder import Recorder, RecorderOutputs
from deepmedic.training.state import TrainingState
from deepmedic.training.tensorboard_writer import open_tensorboard
from deepmedic.training.trainer import Trainer, TrainerParts
from deepmedic.words import counted

log = logging.getLogger(__name__)


class TrainingSession:
    """One run of a training session, with everything it is put together from."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        self.config = plan.config
        self.beginning = plan.beginning
        self.interruption = Interruption()
        _record(plan)  # first of all: a report shows the warnings since then
        self._log_beginning()
        for folder in (plan.paths.log.parent, plan.paths.new_models):
            remove_stale_temporaries(folder)
        budgets = plan.budgets
        self.training = self._source(plan.training, "train", budgets.training)
        self.validation = None
        if plan.validation is not None:
            self.validation = self._source(plan.validation, "val", budgets.validation)
        self._read_data()
        self.model = self._model()
        self.network = self._network().to(plan.device)
        self.volumes = self._volume_validation()
        self.source_task = self._source_task()
        self.write = self._checkpoint_writer()
        self.history = History.from_plain(self.beginning.extra["history"]) if self.beginning.extra else History()

    def run(self) -> int:
        recorder, learning = self._recorder(), self._learning()
        parts = TrainerParts(
            config=self.config,
            device=self.plan.device,
            network=self.network,
            optimiser=learning.optimiser,
            training=self.training,
            validation=self.validation,
            validate_volumes=self.volumes,
            recorder=recorder,
            save=self._save,
            interruption=self.interruption,
            average=learning.average,
            start=self.model.start_parameters,
            read_weights=self.write.weights_of,
            phase_start=self.beginning.extra.get("phaseStart"),
            make_room=self._make_room,
            guard=self._guard(recorder),
        )
        started, extra = self.beginning.kind == "started", self.beginning.extra
        if started and not extra:
            reset = self.plan.arguments.reset_optimizer
            recorder.optimisation_started(uninitialized=not self.beginning.reset, reset=reset)
        try:
            Trainer(parts, self.beginning.state, extra.get("tally")).run(save_first=started)
        finally:
            recorder.close()
            for source in (self.training, self.validation):
                if source is not None:
                    source.close()
        return self._finish()

    def _make_room(self, role: Role) -> bool:
        """Give up resident volumes but those of the sub-epoch that is under way; return whether there were any."""
        training = self.training.give_up_volumes(in_use=role == "training")
        if self.validation is None:
            return training
        return self.validation.give_up_volumes(in_use=role == "validation") or training

    def _finish(self) -> int:
        state, paths = self.beginning.state, self.plan.paths
        log.info("The training session is finished.")
        if state.best is not None:
            best = state.best
            log.info("Best mean foreground Dice on validation: %.4f, after epoch #%d.", best["dice"], best["epoch"])
        if state.skipped:
            were = "was" if len(state.skipped) == 1 else "were"
            log.warning("%s %s left out: %s", counted(len(state.skipped), "case"), were, ", ".join(state.skipped))
        log.info("Models: %s", paths.models)
        log.info("Log: %s, history: %s", paths.log, paths.metrics)
        split, test = self.plan.split, "TEST.cfg"
        if split is not None:
            log.info("Split: %s (%s)", split.path, split.counted())
            test = str(split.test_config) if split.has_test else test
        after_session(paths, self.config.report)
        log.info(
            "Next: segment scans with this model:\n  deepmedic -test %s -model %s", test, shlex.quote(str(paths.models))
        )
        return exit_code_of(state)

    def _log_beginning(self) -> None:
        beginning, plan = self.beginning, self.plan
        deterministic = devices.is_deterministic(plan.device, self.config.execution)
        log.info(
            "Session %s on %s, precision %s, %s.",
            plan.paths.session,
            devices.describe(plan.device),
            self.config.execution.precision,
            "deterministic" if deterministic else "not deterministic: repeated runs agree up to rounding",
        )
        for note in [*beginning.notes, *plan.notes]:
            log.warning("%s", note)
        if beginning.kind == "resumed":
            position = beginning.state.position
            log.info("Going on from %s: epoch #%d, subepoch #%d.", beginning.path, position.epoch, position.subepoch)
        elif beginning.path is not None:
            log.info("Starting from %s.", beginning.path)
        for change in beginning.changes:
            log.warning("Changed since the checkpoint: %s", change)
        if any(change.startswith("computedWith") for change in beginning.changes):
            log.warning(
                "A session goes on to the very same numbers only with the same device, torch, numba and threads."
            )
        log_changed_files(beginning)

    def _source(self, data: DataSet, role: str, budget: int) -> SegmentSource:
        return segment_source(self.plan, data, role, budget, self.interruption)

    def _read_data(self) -> None:
        """Read what fits into memory, so that a bad case is found before the first step."""
        self.training.read_all()
        if self.validation is not None:
            self.validation.read_all()
        elif self.plan.validation_volumes is not None and self.beginning.kind == "started":
            for index in range(len(self.plan.validation_volumes)):
                self.plan.validation_volumes.load_if_usable(index)

    def _model(self) -> SavedModel:
        """The model with what the session adds to it: the start of its parameters and a description of the data."""
        model, plan = self.beginning.model, self.plan
        cases = ResidentCases(plan.training, self.training.data, self.training.resident)
        if self.beginning.kind == "resumed":
            # What changed may be the data, or how they are prepared.
            described = self.beginning.changes or self.beginning.changed_files
            return replace(model, data=describe_data(plan.training, cases.load_if_usable)) if described else model
        if self.beginning.path is None:
            new_model.save(model, plan.paths.new_models, self.beginning.report)
        keeps_start = model.start_parameters is not None and bool(self.beginning.extra)
        start = model.start_parameters if keeps_start else model.parameters
        origin, provenance = self.beginning.state.origin, model.provenance
        if origin["kind"] != "new":
            provenance = {**origin, "kind": "trained from", "before": model.provenance}
        return replace(
            model,
            start_parameters=start,
            data=describe_data(plan.training, cases.load_if_usable),
            provenance=provenance,
        )

    def _network(self) -> DeepMedicNet:
        """The network with the weights that training goes on from, which need not be those for inference."""
        network = self.model.network()
        if "live" in self.beginning.extra:
            network_weights.put_into(network, self.beginning.extra["live"])
        return network

    def _learning(self) -> Learning:
        """What trains the network in the phase that the session is in, with the state of the checkpoint."""
        learning = begin_phase(self.network, self.config.in_phase(self.beginning.state.phase["index"]))
        if self.beginning.extra:
            learning.load_state(self.beginning.extra)
        return learning

    def _volume_validation(self) -> VolumeValidation | None:
        plan, volumes = self.plan, self.plan.validation_volumes
        if volumes is None:
            return None
        data: CaseSource = volumes
        if self.validation is not None:
            # While whole volumes are validated no batch is asked for, so what is resident stays where it is.
            data = ResidentCases(volumes, self.validation.data, self.validation.resident)
        leave_if_asked = self.interruption.raise_if_requested
        return VolumeValidation(self.config, data, self.model, plan.device, plan.paths.predictions, leave_if_asked)

    def _source_task(self) -> SourceTaskScorer | None:
        plan, leave_if_asked = self.plan, self.interruption.raise_if_requested
        if plan.source_task is None:
            return None
        return SourceTaskScorer(self.config, plan.source_task, self.model, plan.device, leave_if_asked)

    def _guard(self, recorder: Recorder) -> ForgettingGuard | None:
        if self.source_task is None or self.config.source_task is None:
            return None
        return ForgettingGuard(self.config.source_task, self.source_task, recorder)

    def _recorder(self) -> Recorder:
        paths, config = self.plan.paths, self.config
        tensorboard = None
        if config.tensorboard_log:
            tensorboard = open_tensorboard(paths.tensorboard, self.history, config.subepochs)
        outputs = RecorderOutputs(metrics=paths.metrics, events=EventLog(paths.events), tensorboard=tensorboard)
        return Recorder(config, self.model.class_names, outputs, self.history)

    def _checkpoint_writer(self) -> CheckpointWriter:
        beginning, folder = self.beginning, checkpoint_folder(self.plan)
        anew = self.plan.arguments.overwrite and beginning.kind == "started"
        replaces = sorted(folder.path.glob("*.save")) if anew else []
        folder.remove_stale_temporaries()
        provisional = None
        if beginning.kind == "resumed" and beginning.is_newest:
            assert beginning.path is not None
            folder.put_in_order(beginning.path, beginning.state)
            provisional = beginning.path if beginning.state.position.stage == "volumes" else None
        return CheckpointWriter(folder, self.model, self.network, replaces, provisional)

    def _save(self, state: TrainingState, extra: dict[str, Any]) -> None:
        """Write a checkpoint, with the cases that were left out so far."""
        for part in (self.training, self.validation, self.volumes, self.source_task):
            state.skipped |= part.skipped if part is not None else {}
        self.write(state, extra)


def exit_code_of(state: TrainingState) -> int:
    """The exit code of a session that is finished."""
    return FINISHED_WITH_SKIPPED_CASES if state.skipped else 0


def checkpoint_folder(plan: TrainingPlan) -> CheckpointFolder:
    """The folder of a session's checkpoints."""
    name = plan.beginning.model.name
    return CheckpointFolder(plan.paths.models, name, plan.paths.session, plan.config.keep_last_checkpoints)


def _record(plan: TrainingPlan) -> None:
    """Note what a training session runs with."""
    beginning, volumes = plan.beginning, plan.validation_volumes
    model = beginning.model
    files = ResultFiles(plan.paths.predictions, plan.config.validation_output, model.architecture.classes)
    facts = {
        "kind": "training",
        **common_facts(plan.arguments, plan.config, plan.device),
        "model": model_facts(model, beginning.path, None),
        "origin": beginning.state.origin,
        "seed": beginning.state.seed,
        "begins": beginning.kind,
        "trainingCases": [case.name for case in plan.training.cases],
        "validationCases": [case.name for case in volumes.cases] if volumes else [],
        "results": os.path.relpath(files.folder, plan.paths.folder),
        "cases": case_facts(volumes.cases, files) if volumes else [],
        "transfer": beginning.report.to_plain() if beginning.report else None,
    }
    EventLog(plan.paths.events).write(EVENT, **facts)
