"""`-check`: what a run would do and need, after everything it would read was read, voxels included."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from deepmedic.arguments import Arguments
from deepmedic.config.plain import to_plain
from deepmedic.data.dataset import DataSet
from deepmedic.data.memory import bytes_as_text
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, DataError, ProblemList
from deepmedic.files import write_json_atomically
from deepmedic.model import parameters
from deepmedic.sessions import estimates
from deepmedic.sessions.new_model import NewModelPlan
from deepmedic.sessions.testing import TestPlan
from deepmedic.sessions.training_plan import TrainingPlan

log = logging.getLogger(__name__)


def training(plan: TrainingPlan) -> int:
    """Check a training session to the last voxel; returns the exit code that the run would begin with."""
    skipped = _read_all([data for data in (plan.training, plan.validation or plan.validation_volumes) if data])
    config, model = plan.config, plan.beginning.model
    architecture, segment = model.architecture, model.config.segment_size_train
    steps = config.epochs * config.subepochs * (config.segments_per_subepoch // config.batch_size)
    one = estimates.seconds_per_step(model.network(), segment, config.batch_size, plan.device)
    volumes = sum(estimates.volume_bytes(data) for data in (plan.training, plan.validation) if data)
    findings = {
        "session": plan.paths.session,
        "output": str(plan.paths.folder),
        "begins": _beginning(plan),
        "device": str(plan.device),
        "cases": {data.role: len(data) for data in (plan.training, plan.validation or plan.validation_volumes) if data},
        "parameters": parameters.count_parameters(model.network()),
        "receptiveField": list(architecture.receptive_field),
        "trainingSteps": steps,
        "estimated": {
            "time": f"{one * steps / 3600:.2f} hours for the steps, at {one:.2f} s a step (measured on one segment)",
            "memoryOfVolumes": bytes_as_text(min(volumes, estimates.volume_budget(config, plan.device))),
            "memoryOfOneStep": bytes_as_text(
                estimates.activation_bytes(architecture, segment, config.batch_size, training=True)
            ),
            "disk": bytes_as_text(estimates.training_disk(config, model, plan.validation_volumes)),
        },
        "notes": plan.notes,
        "settings": to_plain(config),
    }
    return _print(plan.arguments, findings, skipped)


def testing(plan: TestPlan) -> int:
    """Check an inference session to the last voxel; returns the exit code that the run would begin with."""
    skipped = _read_all([plan.data])
    model, config = plan.model, plan.config
    segment = model.config.segment_size_inference
    architecture = model.architecture
    findings = {
        "session": plan.paths.session,
        "output": str(plan.paths.folder),
        "model": str(plan.model_path),
        "device": str(plan.device),
        "cases": {plan.data.role: len(plan.data)},
        "tiling": plan.tiling,
        "estimated": {
            "memoryOfOneBatch": bytes_as_text(
                estimates.activation_bytes(architecture, segment, config.batch_size, training=False)
            ),
            "disk": bytes_as_text(estimates.result_bytes(plan.data, architecture.classes)),
        },
        "notes": plan.notes,
        "settings": to_plain(config),
    }
    return _print(plan.arguments, findings, skipped)


def new_model(plan: NewModelPlan) -> int:
    """Say what `-newModel` would create."""
    architecture = plan.config.architecture
    findings = {
        "model": plan.config.name,
        "output": str(plan.folder),
        "parameters": parameters.count_parameters(plan.model.network()),
        "receptiveField": list(architecture.receptive_field),
        "notes": list(plan.config.source.notes),
        "settings": plan.config.to_dict(),
    }
    return _print(Arguments(), findings, [])


def _beginning(plan: TrainingPlan) -> str:
    beginning = plan.beginning
    position = beginning.state.position
    if beginning.kind == "finished":
        return f"finished: {position.epoch} epochs are trained; nothing would be done"
    if beginning.kind == "resumed":
        changes = f"; changed: {', '.join(beginning.changes)}" if beginning.changes else ""
        return f"goes on from {beginning.path}, epoch {position.epoch}, subepoch {position.subepoch}{changes}"
    return f"starts from {beginning.path}" if beginning.path else "starts with a new model"


def _read_all(data_sets: list[DataSet]) -> list[str]:
    """Read every voxel of every case; return the names of cases that would be skipped.

    Raises:
        DeepMedicError: all bad cases, listed together.
    """
    problems, skipped = ProblemList(), []
    for data in data_sets:
        for index, case in enumerate(data.cases):
            try:
                data.load(index)
            except DataError as problem:
                if data.preprocessing.allow_skipped_cases:
                    log.warning("%s would be skipped: %s", case.name, problem)
                    skipped.append(case.name)
                else:
                    problems.add(problem)
    problems.raise_if_any()
    return skipped


def _print(arguments: Arguments, findings: dict[str, Any], skipped: list[str]) -> int:
    if arguments.output is not None:
        write_json_atomically(Path(arguments.output), findings)
    sys.stdout.write("\n".join(["OK", *_lines(findings, "")]) + "\n")
    return FINISHED_WITH_SKIPPED_CASES if skipped else 0


def _lines(findings: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in findings.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and key == "notes":
            lines += [f"{indent}{key}:", *(f"{indent}  - {note}" for note in value)]
        else:
            shown = value if isinstance(value, str) else json.dumps(value, default=str)
            lines.append(f"{indent}{key}: {shown}")
    return lines
