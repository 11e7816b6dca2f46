"""`-analyse`: before any training, whether a model is worth transferring to new cases, and how."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from deepmedic import devices
from deepmedic.analysis.data_summary import DataSummary
from deepmedic.analysis.model_analysis import AnalysisSettings, ModelAnalysis, analyse_candidates
from deepmedic.analysis.recommendation import Recommendation, Schedule
from deepmedic.analysis.report_text import data_text, model_text, ranking_text
from deepmedic.analysis.transferability import LayerComparison
from deepmedic.analysis.voxels import VoxelSettings
from deepmedic.arguments import Arguments
from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.architecture import Architecture
from deepmedic.config.load import load_model_config, load_train_config, with_training_cases
from deepmedic.config.model import ModelConfig
from deepmedic.config.recipes import with_recipe
from deepmedic.config.training import TrainConfig
from deepmedic.data.dataset import CaseNeeds, DataSet, read_data_set
from deepmedic.errors import CommandLineError, DataError, ModelError, ProblemList
from deepmedic.model.saved import SavedModel
from deepmedic.plain_content import content_digest, plain_copy
from deepmedic.sessions.common import estimates
from deepmedic.sessions.inference.model_use import compare_with_training
from deepmedic.sessions.transfer.candidates import FoundModel, FoundModels, as_found, find_models
from deepmedic.sessions.transfer.subjects import refuse_single_subject
from deepmedic.words import counted

log = logging.getLogger(__name__)


@dataclass
class AnalysisPlan:
    """An analysis that can be made: all checks but those of voxels are passed."""

    arguments: Arguments
    config: AnalysisConfig
    role: str
    """Of the new cases: "target", or "training" for those of a train config."""
    models: FoundModels
    groups: list[Group]
    device: torch.device
    training: TrainConfig | None = None
    """The train config that the advice is filled in to."""
    notes: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.arguments.seed


@dataclass
class Group:
    """Models of one architecture and size of segments, which see the same voxels."""

    models: list[FoundModel]
    data: DataSet
    source_data: DataSet | None
    schedule: Schedule
    """Of the training that is advised for these models."""


@dataclass(frozen=True, eq=False, repr=False)
class AnalysisResult:
    """What an analysis found, the best model first."""

    models: tuple[ModelAnalysis, ...]
    found: tuple[FoundModel, ...]
    """The files of these models, in the same order."""
    unfit: dict[str, str]
    """By path, why a model cannot be transferred."""
    data: DataSummary
    skipped: dict[str, str]
    """By name, why cases were left out."""

    def __repr__(self) -> str:
        verdicts = (f"{one.candidate.name}: {one.recommendation.verdict}" for one in self.models)
        return f"AnalysisResult({', '.join(verdicts)})"

    @property
    def recommendation(self) -> Recommendation:
        """The advice for the best model."""
        return self.models[0].recommendation

    def to_text(self) -> str:
        """The whole analysis in words and tables."""
        parts = [data_text(self.data.to_plain()), ranking_text(self.models, self.unfit)]
        for analysis, found in zip(self.models, self.found, strict=True):
            parts.append(model_text(analysis, [f"{found.report.summary()}.", *found.report.notes]))
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_plain(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        models = []
        for analysis, found in zip(self.models, self.found, strict=True):
            source = {"file": str(found.path), "sha256": found.sha256, "transfer": found.report.to_plain()}
            models.append({**analysis.to_plain(), "source": source})
        return {"data": self.data.to_plain(), "models": models, "unfit": self.unfit, "skippedCases": self.skipped}


def as_analysis(config: AnalysisConfig | TrainConfig) -> AnalysisConfig:
    """The analysis of the training cases of a train config."""
    if isinstance(config, AnalysisConfig):
        return config
    return AnalysisConfig(
        session_name=config.session_name,
        folder_for_output=config.folder_for_output,
        models=None if config.model_path is None else (config.model_path,),
        data=config.data,
        preprocessing=config.preprocessing,
        execution=config.execution,
        report=config.report,
        source=config.source,
    )


def prepare(
    arguments: Arguments, config: AnalysisConfig | TrainConfig, model: SavedModel | None = None
) -> AnalysisPlan:
    """Read the models, listing files and headers; check them together.

    Args:
        arguments: of the command line; `-model`, `-dev` and `-seed` are used.
        config: of the analysis, or the train config whose cases are analysed.
        model: a model in memory, instead of those that are named.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    problems = ProblemList()
    role = "target" if isinstance(config, AnalysisConfig) else "training"
    training = _training(config)
    if isinstance(config, AnalysisConfig) and training is not None:
        config = with_training_cases(config, training)
    config = as_analysis(config)
    device = torch.device("cpu")
    with problems.gather():
        device = devices.choose_device(arguments.device)
    models = FoundModels((), {})
    with problems.gather():
        models = _models(arguments, config, model)
    plan = AnalysisPlan(arguments, config, role, models, [], device, training, list(config.source.notes))
    for found in models.usable:
        with problems.gather():
            _add(plan, found, problems)
    problems.raise_if_any()
    return plan


def analyse(plan: AnalysisPlan) -> AnalysisResult:
    """Make the analysis; the same plan gives the same numbers.

    Raises:
        DataError: a case cannot be used, or there are fewer than two subjects.
        ResourceError: memory is not enough.
    """
    analyses: list[tuple[ModelAnalysis, FoundModel]] = []
    summary: DataSummary | None = None
    with devices.session_numerics(plan.device, plan.config.execution):
        for group in plan.groups:
            results, summary = _analyse_group(plan, group)
            analyses += zip(results, group.models, strict=True)
    assert summary is not None  # there is a group for every model, and at least one model
    skipped: dict[str, str] = {}
    for group in plan.groups:
        skipped |= group.data.skipped | (group.source_data.skipped if group.source_data is not None else {})
    analyses.sort(key=lambda pair: pair[0].rank_key, reverse=True)
    return AnalysisResult(
        models=tuple(analysis for analysis, _ in analyses),
        found=tuple(found for _, found in analyses),
        unfit=plan.models.unfit,
        data=summary,
        skipped=skipped,
    )


def _training(config: AnalysisConfig | TrainConfig) -> TrainConfig | None:
    if isinstance(config, TrainConfig):
        return config
    return None if config.training is None else load_train_config(config.training)


def _schedule(training: TrainConfig | None, architecture: Architecture) -> Schedule:
    """Of a training of a model, for phases of a recipe depend on its depth; without one what is the default."""
    if training is None:
        return Schedule()
    training = with_recipe(training, architecture)
    rate = training.in_phase(0).optimizer.learning_rate
    return Schedule(training.total_epochs, training.subepochs * training.segments_per_subepoch, rate)


def _models(arguments: Arguments, config: AnalysisConfig, model: SavedModel | None) -> FoundModels:
    named: Sequence[Path] = arguments.models or config.models or ()
    if not named and model is None:
        raise CommandLineError(
            "-analyse needs a model that might be transferred: add -model X.save, -model FOLDER, or sourceModels in an "
            "analysis config."
        )
    target = None if config.target_model is None else load_model_config(config.target_model)
    if target is not None and config.class_names is not None:
        target = _with_class_names(target, config)
    if model is not None:
        read = Path("memory"), model, content_digest(plain_copy(model.to_content()))
        return FoundModels((as_found(read, config, target, arguments.seed),), {})
    return find_models(named, config, target, arguments.seed)


def _with_class_names(target: ModelConfig, config: AnalysisConfig) -> ModelConfig:
    if target.architecture.classes != len(config.class_names or ()):
        raise ModelError(
            f"{config.target_model}: the model config has {target.architecture.classes} classes, classNamesTarget "
            f"names {len(config.class_names or ())}; give one name per class."
        )
    return replace(target, class_names=config.class_names)


def _add(plan: AnalysisPlan, found: FoundModel, problems: ProblemList) -> None:
    """Put a model into a group, for which the cases are read."""
    start = found.candidate.start.config
    for group in plan.groups:
        first = group.models[0].candidate.start.config
        if (first.architecture, first.segment_size_train) == (start.architecture, start.segment_size_train):
            group.models.append(found)
            return
    needs = CaseNeeds.of(start.architecture, start.segment_size_train, start.channel_names)
    first_group = not plan.groups
    own = problems if first_group else ProblemList()  # later groups have the same problems
    data = read_data_set(plan.config.data, plan.role, plan.config.preprocessing, needs, own, needs_labels=True)
    source_data = None
    if plan.config.has_source_data:
        preprocessing = plan.config.preprocessing
        source_data = read_data_set(plan.config.source_data, "source", preprocessing, needs, own, needs_labels=True)
    plan.groups.append(Group([found], data, source_data, _schedule(plan.training, start.architecture)))
    if first_group:
        plan.notes += [*data.notes, *(source_data.notes if source_data else [])]
        if not own.problems:
            refuse_single_subject(data.cases, plan.role, "an analysis")
    if not own.problems:
        plan.notes += _differences(data, found)


def _differences(data: DataSet, found: FoundModel) -> list[str]:
    """How the new cases differ from those of training; other axes are no hindrance, for training goes on."""
    try:
        return compare_with_training(data, found.candidate.source)
    except DataError as problem:
        return [f"{found.name}: {problem} It is analysed as it is."]


def _analyse_group(plan: AnalysisPlan, group: Group) -> tuple[list[ModelAnalysis], DataSummary]:
    config = plan.config
    settings = AnalysisSettings(
        voxels=VoxelSettings(config.voxels_per_class, config.segments_per_case, plan.seed),
        random_networks=config.random_networks,
        shares=config.shares,
        smallest_gain=config.smallest_gain,
        device=plan.device,
        precision=config.execution.precision,
        memory=estimates.feature_budget(config.execution),
        schedule=group.schedule,
    )
    networks = len(group.models) + config.random_networks
    log.info("Features of %s at voxels of %s.", counted(networks, "network"), counted(len(group.data), "case"))
    with tqdm(desc="features", unit="case", leave=False, disable=None) as bar:

        def case_begins(name: str, number: int, count: int) -> None:
            log.info("Case %d of %d: %s", number, count, name)
            bar.total = count
            bar.update()

        def layer_known(model: str, comparison: LayerComparison) -> None:
            log.info(
                "%s, layer %s: gain in Dice over random weights %s", model, comparison.layer, comparison.probe_gain
            )

        return analyse_candidates(
            [found.candidate for found in group.models],
            group.data,
            group.source_data,
            settings,
            (case_begins, layer_known),
        )
