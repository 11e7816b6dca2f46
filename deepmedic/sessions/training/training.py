"""A training session: whether there is anything to do, the lock, and how it ends."""

from __future__ import annotations

import logging
import shlex
from contextlib import ExitStack

from deepmedic import devices
from deepmedic.errors import ResourceError
from deepmedic.locks import session_lock
from deepmedic.logs import EventLog, session_log
from deepmedic.sessions.reports.session_record import has_finished, last_run
from deepmedic.sessions.training.changed_files import log_changed_files, note_files
from deepmedic.sessions.training.origins import is_inside
from deepmedic.sessions.training.resume import begin, files_in
from deepmedic.sessions.training.training_plan import TrainingPlan
from deepmedic.sessions.training.training_session import TrainingSession, checkpoint_folder, exit_code_of
from deepmedic.training.interruption import Interrupted
from deepmedic.words import counted

log = logging.getLogger(__name__)


def run(plan: TrainingPlan) -> int:
    """Train as planned and return the exit code.

    Raises:
        DeepMedicError: data, disk or cost turned out bad on the way; every checkpoint written before is kept.
    """
    paths = plan.paths
    if plan.beginning.kind == "finished" and _has_nothing_to_do(plan):
        return _finished_before(plan)
    with ExitStack() as stack:
        stack.enter_context(session_lock(paths.folder, paths.session))
        stack.enter_context(session_log(paths.log))
        if files_in(paths.models) != plan.beginning.files:  # another session wrote between the checks and the lock
            plan.beginning = begin(plan.request)
            note_files(plan.beginning, plan.data)
        if plan.beginning.kind == "finished":  # and killed before its last checkpoint had all its names, or was noted
            assert plan.beginning.path is not None
            folder = checkpoint_folder(plan)
            folder.remove_stale_temporaries()
            folder.put_in_order(plan.beginning.path, plan.beginning.state)
            if not _is_recorded(plan):
                EventLog(paths.events).write("session_finished", epochs=plan.config.total_epochs)
            return _finished_before(plan)
        if plan.split is not None:
            plan.split.write(plan.config)
        stack.enter_context(devices.session_numerics(plan.device, plan.config.execution))
        try:
            return TrainingSession(plan).run()
        except Interrupted as interrupted:
            log.warning("%s: the state is saved. Repeat the same command to go on where it stopped.", interrupted)
            return interrupted.exit_code
        except (RuntimeError, MemoryError) as problem:
            if devices.is_out_of_memory(problem):
                raise _out_of_memory(plan, problem) from problem
            raise


def _has_nothing_to_do(plan: TrainingPlan) -> bool:
    beginning = plan.beginning
    own = beginning.path is not None and is_inside(beginning.path, plan.paths.models) and beginning.is_newest
    return not own or (checkpoint_folder(plan).is_in_order(beginning.state) and _is_recorded(plan))


def _is_recorded(plan: TrainingPlan) -> bool:
    """Whether the record of events, if there is one, tells that the session is finished."""
    record, since = last_run(plan.paths, "training")
    return not record or has_finished(since)


def _finished_before(plan: TrainingPlan) -> int:
    state = plan.beginning.state
    for change in plan.beginning.changes:
        log.warning("Changed since the last checkpoint, and not used, because nothing is trained: %s", change)
    log_changed_files(plan.beginning)
    early = state.stopping["stopped"]
    ended = ", but early stopping ended it" if early else ""
    key = "earlyStoppingPatience" if early else "numberOfEpochs"
    if state.forgot:
        ended, key = ", but too much of the source task was lost", "largestLoss of sourceTask"
    log.info(
        "The session %s is finished: its model was trained for %s, and %s %d%s. Nothing was "
        "done. To train on, raise %s; to train anew, choose another sessionName or add "
        "-overwrite; to use the model: deepmedic -test TEST.cfg -model %s",
        plan.paths.session,
        counted(state.position.epoch, "epoch"),
        f"its {len(plan.config.phases)} phases have at most" if plan.config.phases else "numberOfEpochs is",
        plan.config.total_epochs,
        ended,
        key,
        shlex.quote(str(plan.beginning.path)),
    )
    return exit_code_of(state)


def _out_of_memory(plan: TrainingPlan, problem: BaseException) -> ResourceError:
    return ResourceError(
        f"Memory ran out on {plan.device}: {(str(problem).splitlines() or ['MemoryError.'])[0]} Lower memoryBudget, "
        "numOfCasesLoadedPerSubepoch, batchsize_train or segmentsDimTrain, and repeat the command to go on."
    )
