"""Everything a training session needs, read and judged before anything is computed or written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from deepmedic import devices
from deepmedic.arguments import Arguments
from deepmedic.config.load import fit_train_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.optimisation import FreezeConfig
from deepmedic.config.options import Size3
from deepmedic.config.recipes import with_recipe
from deepmedic.config.sections import DataConfig
from deepmedic.config.training import TrainConfig
from deepmedic.data.case_headers import check_without_model
from deepmedic.data.cases import duplicates_between
from deepmedic.data.dataset import CaseNeeds, DataSet, data_set_of, read_data_set
from deepmedic.data.geometry_checks import check_axis_orders, spacing_table
from deepmedic.data.residency import volume_bytes
from deepmedic.errors import DataError, ModelError, ProblemList
from deepmedic.files import sha256_of
from deepmedic.model import parameters
from deepmedic.model.compilation import numba_version
from deepmedic.sessions.common import estimates
from deepmedic.sessions.common.estimates import Budgets
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.inference.model_use import compare_with_training, resolved_spacing
from deepmedic.sessions.models.start import StartPoint, find_start_point
from deepmedic.sessions.training.changed_files import note_files
from deepmedic.sessions.training.resume import Beginning, Request, begin, with_changes
from deepmedic.sessions.training.source_task import SourceTask, prepare_source_task
from deepmedic.sessions.training.splitting import SessionSplit, split_of_command
from deepmedic.training.optimisers import make_optimiser


@dataclass
class TrainingPlan:
    """A training session that can be started: all checks but those of voxels are passed."""

    arguments: Arguments
    config: TrainConfig
    paths: SessionPaths
    device: torch.device
    request: Request
    """The question whether the session starts or goes on, to be asked again once the output folder is locked."""
    beginning: Beginning
    """The answer."""
    training: DataSet
    validation: DataSet | None
    """For validation on samples."""
    validation_volumes: DataSet | None
    """The same cases, prepared for segmenting whole volumes."""
    budgets: Budgets
    source_task: SourceTask | None = None
    """The task that the model knew before, to be scored too."""
    notes: list[str] = field(default_factory=list)
    """What the user should know before the run."""
    split: SessionSplit | None = None
    """Which of the listed cases are for training and for validation, where the command line asks for a split."""
    held_out: DataSet | None = None
    """Of a fold: the cases that it is scored on, prepared for segmenting whole volumes."""

    @property
    def data(self) -> list[DataSet]:
        """The cases that the session learns from or is judged on, one data set per role."""
        source = self.source_task.data if self.source_task is not None else None
        return [one for one in (self.training, self.validation or self.validation_volumes, source) if one is not None]


def prepare(
    arguments: Arguments, config: TrainConfig, model_config: ModelConfig | None, fold: SessionSplit | None = None
) -> TrainingPlan:
    """Read the start model, listing files and headers; check them together.

    Args:
        arguments: the command line.
        config: of the session.
        model_config: the model `.cfg` that the command line names.
        fold: the part of a cross-validation that this session is; its held-out cases are the validation cases.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    problems = ProblemList()
    device = torch.device("cpu")
    with problems.gather():
        device = devices.choose_device(arguments.device)
    paths = SessionPaths(config.folder_for_output, config.session_name)
    request, beginning = None, None
    split = fold or split_of_command(arguments, config, problems)
    # Without a split that was asked for, what is wrong shows when the training cases are read.
    alone = replace(config, validate_on_samples=False, validate_on_volumes=False)
    config = alone if arguments.split and split is None else config
    with problems.gather():
        point = find_start_point(arguments, config.model_path, model_config)
        point = replace(point, freezing=_first_freezing(config, point)) if point else None
        request = _request(arguments, config, paths, point, device)
        request = replace(
            request, split=split.origin if split else None, is_split_known=bool(split) or not arguments.split
        )
        beginning = begin(request)
    if beginning is None or request is None:
        _check_data_alone(alone if split else config, problems)
        problems.raise_if_any()
        raise AssertionError("a session without a beginning was not refused")
    with problems.gather():
        config = fit_train_config(config, beginning.model.config)
        _check_optimiser(config, beginning)
    spacing = None
    with problems.gather():
        spacing = resolved_spacing(config.preprocessing, config.source, beginning.model)
    config = replace(config, preprocessing=replace(config.preprocessing, resample_to=spacing))
    # A finished session needs its data no more, so it does not matter what has become of them.
    data_problems = ProblemList() if beginning.kind == "finished" else problems
    data = _read_data(config, beginning, data_problems, split)
    plan = TrainingPlan(arguments, config, paths, device, request, beginning, *data, Budgets(0), split=split)
    plan.source_task = prepare_source_task(config, beginning.model, data_problems)
    if fold is not None:
        plan.held_out = _held_out(config, beginning, data_problems, fold)
    note_files(beginning, plan.data)
    _finish(plan, data_problems)
    problems.raise_if_any()
    return plan


def _request(
    arguments: Arguments, config: TrainConfig, paths: SessionPaths, point: StartPoint | None, device: torch.device
) -> Request:
    numerics: dict[str, Any] = {"device": device.type, "torch": str(torch.__version__)}
    if device.type == "cpu":
        numerics |= {"threads": torch.get_num_threads(), "numba": numba_version()}
    further = {"trainingCases": _contents(config.data), "computedWith": numerics}
    if config.validate_on_samples or config.validate_on_volumes:
        further["validationCases"] = _contents(config.validation_data)
    if config.source_task is not None:
        further["sourceTaskCases"] = _contents(config.source_task.data)
    return Request(arguments, point, paths, config, further)


def _first_freezing(config: TrainConfig, point: StartPoint) -> FreezeConfig:
    """Which layers the first phase freezes, as far as that shows without the model."""
    if point.config is not None:
        config = with_recipe(config, point.config.architecture)
    return config.in_phase(0).freezing


def _contents(data: DataConfig) -> dict[str, Any]:
    """What the listing files of a data set say, in short, so that a change of them is noticed."""
    listings = {"table": data.table, "labels": data.labels, "ROI masks": data.roi_masks}
    listings |= {f"channel {number}": path for number, path in enumerate(data.channels or (), 1)}
    listings |= {f"weight map {number}": path for number, path in enumerate(data.weight_maps or (), 1)}
    return {title: _short_digest(path) for title, path in listings.items() if path is not None}


def _short_digest(path: Path) -> str:
    try:
        return sha256_of(path)[:12]
    except OSError as problem:
        return str(problem.strerror)  # refused when the data is read


def _read_data(
    config: TrainConfig, beginning: Beginning, problems: ProblemList, split: SessionSplit | None
) -> tuple[DataSet, DataSet | None, DataSet | None]:
    """Read the training cases, the validation cases, and prepare the latter for whole volumes as well."""
    model = beginning.model.config

    def read(role: str, segment: Size3) -> DataSet:
        return _read(config, role, CaseNeeds.of(model.architecture, segment, model.channel_names), problems, split)

    training = read("training", model.segment_size_train)
    if not (config.validate_on_samples or config.validate_on_volumes):
        return training, None, None
    validation = read("validation", model.segment_size_validation)
    volumes, segment = None, model.segment_size_inference
    if config.validate_on_volumes:
        volumes = validation.for_segment(segment, model.architecture.margins(segment))
        volumes.notes = validation.notes
    return training, validation if config.validate_on_samples else None, volumes


def _held_out(config: TrainConfig, beginning: Beginning, problems: ProblemList, fold: SessionSplit) -> DataSet:
    """Read the cases that a fold is scored on, which are its validation cases too if it validates."""
    told = config.validate_on_samples or config.validate_on_volumes
    model = beginning.model.config
    needs = CaseNeeds.of(model.architecture, model.segment_size_inference, model.channel_names)
    return _read(config, "validation", needs, ProblemList() if told else problems, fold)


def _read(
    config: TrainConfig, role: str, needs: CaseNeeds, problems: ProblemList, split: SessionSplit | None
) -> DataSet:
    training = role == "training"
    sampling = config.sampling if training else config.validation_sampling
    if split is None:
        return read_data_set(
            config.data if training else config.validation_data,
            role,
            config.preprocessing,
            needs,
            problems,
            needs_labels=True,
            categories=sampling.categories(needs.classes),
        )
    cases, notes = split.read(role, config, needs, problems)
    return data_set_of(cases, role, config.preprocessing, needs, problems, notes)


def _check_data_alone(config: TrainConfig, problems: ProblemList) -> None:
    """Find what is wrong with the data, without the model that could not be read."""
    check_without_model(config.data, "training", config.preprocessing, problems, needs_labels=True)
    if config.validate_on_samples or config.validate_on_volumes:
        check_without_model(config.validation_data, "validation", config.preprocessing, problems, needs_labels=True)


def _check_optimiser(config: TrainConfig, beginning: Beginning) -> None:
    """Refuse a saved optimiser state that the config's optimiser cannot go on from."""
    if not beginning.extra or beginning.kind == "finished":
        return
    network, phase = beginning.model.network(), config.in_phase(beginning.state.phase["index"])
    parameters.freeze(network, phase.freezing)
    try:
        make_optimiser(phase.optimizer, parameters.optimizer_order(network)).load_state_dict(
            beginning.extra["optimiser"]
        )
    except ModelError as problem:
        raise with_changes(ModelError(f"{beginning.path}: {problem}"), beginning.changes) from problem


def _finish(plan: TrainingPlan, problems: ProblemList) -> None:
    """Check data sets against each other and against memory and disk, and gather what the user should know."""
    config, validation = plan.config, plan.validation or plan.validation_volumes
    plan.notes += config.source.notes
    plan.notes += plan.source_task.data.notes if plan.source_task else []
    for data in (plan.training, validation):
        plan.notes += data.notes if data else []
        if data is not None:
            with problems.gather():
                plan.notes += compare_with_training(data, plan.beginning.model)
    if validation is not None:
        both = [
            (case.name, found.header) for data in (plan.training, validation) for case, found in data.checked_cases()
        ]
        with problems.gather():
            check_axis_orders(both)
        spacings = spacing_table(both)
        plan.notes += [spacings] if spacings and spacings not in plan.notes else []
    shared = duplicates_between(plan.training.cases, validation.cases) if validation else []
    shared += plan.split.shared_images() if plan.split else []
    if config.strict_splits:
        for line in shared:
            problems.add(DataError(f"{line}; take it out of one of the sets, or set strictSplits = false."))
    else:
        plan.notes += shared
    disk = estimates.training_disk(config, plan.beginning.model, plan.validation_volumes)
    with problems.gather():
        estimates.check_disk(plan.paths.folder, disk)
    if problems.problems:
        return  # volumes whose headers are bad have no size
    plan.budgets = estimates.volume_budgets(config, plan.device, plan.validation)
    volumes = sum(volume_bytes(data) for data in (plan.training, plan.validation) if data)
    with problems.gather():
        estimates.check_budget(volumes, plan.budgets.training + plan.budgets.validation, plan.device)
    with problems.gather():
        estimates.check_memory(plan.training, config.cases_per_subepoch, plan.budgets.training)
    if plan.validation is not None:
        with problems.gather():
            estimates.check_memory(plan.validation, config.cases_per_subepoch, plan.budgets.validation)
