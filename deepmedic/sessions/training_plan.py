"""Everything a training session needs, read and judged before anything is computed or written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import torch

from deepmedic import devices
from deepmedic.arguments import Arguments
from deepmedic.config.load import fit_train_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.plain import to_plain
from deepmedic.config.training import TrainConfig
from deepmedic.data.cases import duplicates_between
from deepmedic.data.dataset import CaseNeeds, DataSet, read_data_set
from deepmedic.errors import DataError, ProblemList
from deepmedic.sessions import estimates
from deepmedic.sessions.paths import SessionPaths
from deepmedic.sessions.resume import Beginning, Request, begin
from deepmedic.sessions.start import StartPoint, find_start_point

log = logging.getLogger(__name__)


@dataclass
class TrainingPlan:
    """A training session that can be started: all checks but those of voxels are passed."""

    arguments: Arguments
    config: TrainConfig
    paths: SessionPaths
    device: torch.device
    point: StartPoint | None
    beginning: Beginning
    training: DataSet
    validation: DataSet | None
    """For validation on samples."""
    validation_volumes: DataSet | None
    """The same cases, prepared for segmenting whole volumes."""
    notes: list[str] = field(default_factory=list)
    """What the user should know before the run."""

    def request(self) -> Request:
        """The question whether the session starts or goes on, to be asked again once the output folder is locked."""
        return _request(self.arguments, self.config, self.paths, self.point)


def prepare(arguments: Arguments, config: TrainConfig, model_config: ModelConfig | None) -> TrainingPlan:
    """Read configs' listing files, headers and the start model; check them together.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    problems = ProblemList()
    device = torch.device("cpu")
    with problems.gather():
        device = devices.choose_device(arguments.device)
    paths = SessionPaths(config.folder_for_output, config.session_name)
    point, beginning = None, None
    with problems.gather():
        point = find_start_point(arguments, config.model_path, model_config)
        point = replace(point, freezing=config.freezing) if point else None
        beginning = begin(_request(arguments, config, paths, point))
    if beginning is None:
        problems.raise_if_any()
        raise AssertionError("a session without a beginning was not refused")
    with problems.gather():
        config = fit_train_config(config, beginning.model.config)
    notes = list(config.source.notes)
    training = _read(config, "training", beginning.model.config, problems)
    validating = config.validate_on_samples or config.validate_on_volumes
    validation = _read(config, "validation", beginning.model.config, problems) if validating else None
    volumes = None
    if validation is not None:
        _check_split(config, training, validation, problems, notes)
        if config.validate_on_volumes:
            volumes = _for_volumes(validation, beginning.model.config)
    for data in (training, validation):
        notes += data.notes if data else []
    with problems.gather():
        estimates.check_disk(paths.folder, estimates.training_disk(config, beginning.model, volumes))
    problems.raise_if_any()
    samples = validation if config.validate_on_samples else None
    return TrainingPlan(arguments, config, paths, device, point, beginning, training, samples, volumes, notes)


def _request(arguments: Arguments, config: TrainConfig, paths: SessionPaths, point: StartPoint | None) -> Request:
    return Request(arguments, point, paths, to_plain(config), config.epochs)


def _read(config: TrainConfig, role: str, model: ModelConfig, problems: ProblemList) -> DataSet:
    training = role == "training"
    segment = model.segment_size_train if training else model.segment_size_validation
    sampling = config.sampling if training else config.validation_sampling
    return read_data_set(
        config.data if training else config.validation_data,
        role,
        config.preprocessing,
        _needs(model, segment),
        problems,
        needs_labels=True,
        categories=sampling.categories(model.architecture.classes),
    )


def _needs(model: ModelConfig, segment: tuple[int, int, int]) -> CaseNeeds:
    architecture = model.architecture
    return CaseNeeds(architecture.classes, architecture.margins(segment), segment, architecture.input_channels)


def _for_volumes(data: DataSet, model: ModelConfig) -> DataSet:
    needs = _needs(model, model.segment_size_inference)
    return DataSet(data.role, data.cases, data.headers, data.preprocessing, needs)


def _check_split(
    config: TrainConfig, training: DataSet, validation: DataSet, problems: ProblemList, notes: list[str]
) -> None:
    """Say, or refuse when `strictSplits` is true, that an image is in both sets."""
    shared = duplicates_between(training.cases, validation.cases)
    if shared and config.strict_splits:
        for line in shared:
            problems.add(DataError(f"{line}; take it out of one of the sets, or set strictSplits = false."))
    else:
        notes += shared
