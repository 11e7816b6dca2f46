"""`-check` of analyses: what `-analyse`, `-analyseLayers` and `-findLr` would do and need; nothing is written."""

from __future__ import annotations

from pathlib import Path

from deepmedic import devices
from deepmedic.analysis.features import LOGITS, bytes_per_voxel
from deepmedic.analysis.layer_importance import units_of
from deepmedic.analysis.taps import all_layers, channels_of, hidden_layers
from deepmedic.analysis.transferability import seconds_per_layer
from deepmedic.analysis.voxels import VoxelSettings
from deepmedic.arguments import Arguments
from deepmedic.data.memory import bytes_as_text
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, ProblemList
from deepmedic.locks import refuse_if_held
from deepmedic.sessions.checking import check
from deepmedic.sessions.checking.data_check import DataFindings, read_all
from deepmedic.sessions.common import estimates
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.training.rate_finder import RateFinderPlan
from deepmedic.sessions.transfer.analysis import AnalysisPlan, Group
from deepmedic.sessions.transfer.layer_analysis import DRAWS, LayerPlan, most_voxels
from deepmedic.sessions.transfer.subjects import count_subjects

_FINISHED = "finished: its results are there; nothing would be done"


def analysis(plan: AnalysisPlan, *, finished: bool) -> int:
    """Check an analysis of transfer to the last voxel; returns the exit code that it would begin with.

    Args:
        plan: of the analysis.
        finished: whether its results are there already.

    Raises:
        DeepMedicError: everything that is wrong, listed together.
    """
    paths = SessionPaths(plan.config.folder_for_output, plan.config.session_name)
    refuse_if_held(paths.folder, f"{paths.session}.analysis")
    if finished:
        return _finished(paths.session, paths.analyses, plan.arguments)
    group, problems = plan.groups[0], ProblemList()
    found = DataFindings.of_model(group.models[0].candidate.start.config)
    skipped = read_all(group.data, problems, None, found)
    if group.source_data is not None:
        skipped |= read_all(group.source_data, problems, None, found)
    problems.raise_if_any()
    findings = {
        "session": paths.session,
        "output": str(paths.analyses),
        "begins": "starts",
        "models": {one.name: f"{one.path}: {one.report.summary()}" for one in plan.models.usable},
        "cannotBeTransferred": plan.models.unfit,
        "device": devices.describe(plan.device),
        "cases": {data.role: len(data) for data in (group.data, group.source_data) if data is not None},
        "skippedCases": skipped,
        "layers": list(hidden_layers(group.models[0].candidate.start.architecture)),
        "randomNetworks": plan.config.random_networks,
        "estimated": _needs_of_analysis(plan),
        "notes": [*plan.notes, *found.repeated],
    }
    check.report(findings, plan.arguments, data=found)
    return FINISHED_WITH_SKIPPED_CASES if skipped else 0


def rate_search(plan: RateFinderPlan, *, finished: bool) -> int:
    """Check a search for a learning rate; returns the exit code that it would begin with.

    Raises:
        DeepMedicError: everything that is wrong, listed together.
    """
    if finished:
        refuse_if_held(plan.paths.folder, f"{plan.paths.session}.findLr")
        return _finished(plan.paths.session, plan.paths.rates, plan.arguments)
    search = plan.search
    grid = search.resolution if search.method != "ramp" else 0
    steps = check.steps_per_epoch(plan.training.config) * search.epochs * grid
    ramp = search.ramp_steps if search.method != "grid" else 0
    one = check.seconds_per_step(plan.training)
    what = f"{steps} steps of {grid} rates" if grid else ""
    what += (" and " if grid and ramp else "") + (f"at most {ramp} steps of the ramp" if ramp else "")
    needs = {
        **check.needs_of_training(plan.training),
        "time": f"{one * (steps + ramp) / 3600:.2g} hours for {what}, of {one:.3g} s each (measured on one segment)"
        + (", and what validation takes" if grid else ""),
        "disk": "tables and a picture",
    }
    told = {
        "session": plan.paths.session,
        "output": str(plan.paths.rates),
        "begins": "starts; the model stays as it is",
        "rates": grid,
        "rampSteps": ramp,
    }
    return check.training(plan.training, told, needs)


def layers(plan: LayerPlan, *, finished: bool) -> int:
    """Check an analysis of layers to the last voxel; returns the exit code that it would begin with.

    Raises:
        DeepMedicError: everything that is wrong, listed together.
    """
    inference, problems = plan.inference, ProblemList()
    refuse_if_held(inference.paths.folder, f"{inference.paths.session}.layers")
    if finished:
        return _finished(inference.paths.session, inference.paths.layers, inference.arguments)
    found = DataFindings.of_model(plan.model.config)
    skipped = read_all(inference.data, problems, None, found)
    problems.raise_if_any()
    units = units_of(plan.model.architecture)
    redrawn = sum(one.kind in ("layer", "pathway") for one in units)
    segmentations = 1 + len(units) + DRAWS * redrawn
    findings = {
        "session": inference.paths.session,
        "output": str(inference.paths.layers),
        "begins": "starts",
        "models": [str(one.path) for one in (*inference.models, plan.other) if one is not None],
        "device": devices.describe(inference.device),
        "cases": len(inference.data),
        "skippedCases": skipped,
        "layers": list(all_layers(plan.model.architecture)),
        "segmentationsPerCase": segmentations,
        "estimated": _needs_of_layers(plan, segmentations),
        "notes": [*plan.notes, *found.repeated],
    }
    check.report(findings, inference.arguments, data=found)
    return FINISHED_WITH_SKIPPED_CASES if skipped else 0


def _finished(session: str, results: Path, arguments: Arguments) -> int:
    """Tell of results that are there; as the run, which reads no voxel for them, it ends with 0."""
    check.report({"session": session, "output": str(results), "begins": _FINISHED}, arguments)
    return 0


def _needs_of_layers(plan: LayerPlan, segmentations: int) -> dict[str, str]:
    inference, architecture = plan.inference, plan.model.architecture
    with devices.session_numerics(inference.device, inference.config.execution):
        once = estimates.seconds_of_inference(plan.model.network(), inference.data, inference.device)
    networks = 2 + DRAWS + (plan.other is not None)
    features = bytes_per_voxel(architecture, all_layers(architecture)) * networks * most_voxels(plan)
    return {
        "time": f"{once * segmentations / 3600:.2g} hours for {segmentations} segmentations of each case (measured on "
        f"one tile), and the features of {networks} networks",
        "memoryOfFeatures": bytes_as_text(features),
        "disk": "tables and pictures",
    }


def _needs_of_analysis(plan: AnalysisPlan) -> dict[str, str]:
    seconds, memory = 0.0, 0
    with devices.session_numerics(plan.device, plan.config.execution):
        for group in plan.groups:
            seconds += _seconds(plan, group)
            memory = max(memory, _features(plan, group))
    allowed = estimates.feature_budget(plan.config.execution)
    start = sum(estimates.parameter_bytes(one.candidate.start) for one in plan.models.usable[:1])
    return {
        "time": f"{seconds / 60:.2g} minutes (measured on one segment and one linear probe)",
        "memoryOfFeatures": f"{bytes_as_text(min(memory, allowed))} (at most {bytes_as_text(allowed)})",
        "disk": bytes_as_text(2 * start),
    }


def _seconds(plan: AnalysisPlan, group: Group) -> float:
    """Forward passes of all networks, and the scores of all their layers."""
    config, start = plan.config, group.models[0].candidate.start
    cases, architecture = len(group.data) + len(group.source_data or ()), start.architecture
    networks = len(group.models) + config.random_networks
    one = estimates.seconds_of_segment(start.network(), start.config.segment_size_train, plan.device)
    subjects = count_subjects(group.data.cases)
    voxels = len(group.data) * architecture.classes * config.voxels_per_class
    channels = [channels_of(architecture, layer) for layer in hidden_layers(architecture)]
    scores = seconds_per_layer(voxels, max(channels), architecture.classes, subjects)
    scores *= sum((count / max(channels)) ** 2 for count in channels)
    segments = VoxelSettings(segments=config.segments_per_case).segments_for(architecture.classes)
    return networks * (cases * segments * one + scores)


def _features(plan: AnalysisPlan, group: Group) -> int:
    architecture = group.models[0].candidate.start.architecture
    per_voxel = bytes_per_voxel(architecture, (*hidden_layers(architecture), LOGITS))
    voxels = (len(group.data) + len(group.source_data or ())) * architecture.classes * plan.config.voxels_per_class
    return per_voxel * voxels * (len(group.models) + plan.config.random_networks)
