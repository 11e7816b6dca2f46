"""`-check` of a comparison: which runs there are, and what all of them together need."""

from __future__ import annotations

import logging
from typing import Any

from deepmedic.data.memory import bytes_as_text
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, ProblemList
from deepmedic.files import write_json_atomically
from deepmedic.locks import refuse_if_held
from deepmedic.sessions.checking.check import seconds_per_step, step_memory, steps_per_epoch, volume_memory
from deepmedic.sessions.checking.data_check import DataFindings, read_all
from deepmedic.sessions.training.training_plan import TrainingPlan
from deepmedic.sessions.transfer.comparison import ComparisonPlan

log = logging.getLogger(__name__)


def check(plan: ComparisonPlan) -> int:
    """Check a comparison to the last voxel, and say which runs it has; returns the exit code it would begin with.

    Raises:
        DeepMedicError: everything that is wrong, listed together.
    """
    for run in plan.to_do:
        refuse_if_held(plan.config.folder_for_output, run.name)
    skipped = _read_voxels(plan) if plan.trainings else {}
    findings: dict[str, Any] = {
        "session": plan.paths.session,
        "output": str(plan.config.folder_for_output),
        "runs": {run.name: "finished" if run.name in plan.finished else "to do" for run in plan.mine},
        "cases": _cases(plan),
        "skippedCases": skipped,
        "estimated": {"time": _time(plan), "memoryOfOneRun": _memory(plan), "disk": bytes_as_text(plan.disk)},
        "notes": plan.notes,
    }
    if plan.arguments.output is not None:
        write_json_atomically(plan.arguments.output, findings)
    runs = [f"  {name}: {state}" for name, state in findings["runs"].items()]
    lines = ["OK", f"session: {plan.paths.session}", f"output: {findings['output']}"]
    lines += [f"runs: {len(plan.mine)}, of which {len(plan.to_do)} to do", *runs]
    if findings["cases"]:
        lines.append(f"cases: {', '.join(f'{count} {what}' for what, count in findings['cases'].items())}")
    lines += [f"time: {findings['estimated']['time']}", f"memory of one run: {findings['estimated']['memoryOfOneRun']}"]
    lines += [f"disk: {findings['estimated']['disk']}"]
    lines += [f"note: {note}" for note in plan.notes]
    log.info("%s", "\n".join(lines))
    return FINISHED_WITH_SKIPPED_CASES if skipped else 0


def _read_voxels(plan: ComparisonPlan) -> dict[str, str]:
    """Read what all runs have, or a part of it; return which cases would be left out, and why."""
    first, problems = plan.trainings[0], ProblemList()
    found = DataFindings.of_model(first.beginning.model.config)
    skipped = read_all(first.training, problems, first.config.sampling, found)
    skipped |= read_all(plan.scored[0], problems, None, found)
    problems.raise_if_any()
    return skipped


def _cases(plan: ComparisonPlan) -> dict[str, int]:
    """By what they are for; empty where all runs are finished."""
    if not plan.trainings:
        return {}
    return {"to train on": len(plan.trainings[0].training), "to score on": len(plan.scored[0])}


def _memory(plan: ComparisonPlan) -> str:
    """Of the most demanding run to do: its volumes and one step."""
    runs = (volume_memory(one)[0] + step_memory(one) for one in plan.trainings)
    return bytes_as_text(max(runs, default=0))


def _time(plan: ComparisonPlan) -> str:
    """Of the runs to do, from one step of the first of each start."""
    if not plan.trainings:
        return "none: all runs are finished"
    seconds = max(_seconds(training) for training in plan.trainings)
    runs = len(plan.to_do)
    return f"at most {seconds * runs / 3600:.2g} hours for {runs} runs of {seconds:.3g} s, and what validation takes"


def _seconds(plan: TrainingPlan) -> float:
    """Of all its epochs, whatever was done of them."""
    return seconds_per_step(plan) * steps_per_epoch(plan.config) * plan.config.total_epochs
