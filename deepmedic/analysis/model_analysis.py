"""The whole analysis of models on a data set: one pass over the cases, then the scores of every layer."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deepmedic.analysis.bank import Bank
from deepmedic.analysis.data_summary import DataSummary
from deepmedic.analysis.domain_shift import (
    DomainShift,
    feature_shifts,
    intensity_shifts,
    measured_shift,
    spacing_shift,
    stored_shift,
)
from deepmedic.analysis.evidence import Evidence, weigh
from deepmedic.analysis.features import (
    LOGITS,
    CaseFeatures,
    ChannelMoments,
    FeatureSettings,
    Progress,
    bytes_per_voxel,
    stream_features,
)
from deepmedic.analysis.learning_curve import LearningCurve, learning_curve
from deepmedic.analysis.recommendation import Recommendation, Schedule, recommend
from deepmedic.analysis.scores import Confusions, Interval, interval
from deepmedic.analysis.taps import hidden_layers
from deepmedic.analysis.transferability import LayerComparison, compare_layer, score_layer
from deepmedic.analysis.voxels import VoxelSettings
from deepmedic.analysis.workers import single_threaded_workers
from deepmedic.data.dataset import DataSet
from deepmedic.devices import Precision
from deepmedic.errors import DataError
from deepmedic.model.saved import SavedModel
from deepmedic.words import channels_by_number, counted

log = logging.getLogger(__name__)

ShownLayer = Callable[[str, LayerComparison], None]
"""Called with the name of a model and each of its layers when its scores are known."""


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """How an analysis is made."""

    voxels: VoxelSettings
    random_networks: int = 3
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Of the cases, for the learning curve."""
    smallest_gain: float = 0.02
    """Dice below which a difference does not matter."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"
    memory: int | None = None
    """Bytes that the features of all voxels may take; None: no limit."""
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def seed(self) -> int:
        return self.voxels.seed


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that might be transferred, as the new task would start from it."""

    name: str
    source: SavedModel
    """As it was read."""
    start: SavedModel
    """A new model for the task that has received all layers of the source, the classification layer too."""
    received: frozenset[str]
    """Layers of `start` that come from the source completely."""
    same_classes: bool
    """Whether the classes of the source are those of the task."""


@dataclass(frozen=True, eq=False)
class ModelAnalysis:
    """What is known of one candidate on the data."""

    candidate: Candidate
    layers: tuple[LayerComparison, ...]
    evidence: Evidence
    curve: LearningCurve
    shift: DomainShift
    as_it_is: Interval | None
    """Dice of the model's own predictions on sampled voxels; None if its classes are others."""
    recommendation: Recommendation
    segments_per_epoch: int
    """Of the advised training."""
    passes: float
    """How often the advised training predicts each labelled voxel that it can reach, on average."""

    @property
    def rank_key(self) -> tuple[float, float]:
        """By which several models are ranked, the highest first: gain over random weights, then LogME."""
        return self.evidence.gain.mean, max(one.pretrained.logme for one in self.layers)

    @property
    def ccfv(self) -> float:
        """CC-FV of the model: mean over its layers, as its authors take it over the layers of a decoder."""
        return sum(one.pretrained.ccfv.score for one in self.layers) / len(self.layers)

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.candidate.name,
            "recommendation": self.recommendation.to_plain(),
            "evidence": self.evidence.to_plain(),
            "ccfv": self.ccfv,
            "asItIs": None if self.as_it_is is None else self.as_it_is.to_plain(),
            "segmentsPerEpoch": self.segments_per_epoch,
            "passes": self.passes,
            "learningCurve": self.curve.to_plain(),
            "domainShift": self.shift.to_plain(),
            "layers": [one.to_plain() for one in self.layers],
        }


def analyse_candidates(
    candidates: Sequence[Candidate],
    data: DataSet,
    source_data: DataSet | None,
    settings: AnalysisSettings,
    progress: tuple[Progress | None, ShownLayer | None] = (None, None),
) -> tuple[list[ModelAnalysis], DataSummary]:
    """Analyse models of one architecture and one size of segments; the same arguments give the same numbers.

    Args:
        candidates: at least one.
        data: labelled cases of the new task.
        source_data: labelled cases of the models' own task, for the distance of features; None: not measured.
        settings: how.
        progress: called for cases and layers.

    Raises:
        DataError: a case cannot be used, they are of fewer than two subjects, or all that they label is background.
    """
    config = candidates[0].start.config
    segment = config.segment_size_train
    classes = config.architecture.classes
    networks = {candidate.name: candidate.start.network() for candidate in candidates}
    random = [f"random weights {number}" for number in range(settings.random_networks)]
    networks |= {name: SavedModel.new(config, settings.seed + row).network() for row, name in enumerate(random)}
    layers = hidden_layers(config.architecture)
    features = FeatureSettings(
        voxels=_within_memory(settings, candidates[0], len(data) + len(source_data or ()), len(networks)),
        device=settings.device,
        layers=(*layers, LOGITS),
        precision=settings.precision,
        moments_of=tuple(candidate.name for candidate in candidates),
    )
    cases = list(stream_features(networks, data, segment, features, progress[0]))
    bank = _bank_of(cases, classes)
    source_cases: list[CaseFeatures] = []
    if source_data is not None:
        own = {candidate.name: networks[candidate.name] for candidate in candidates}
        source_cases = list(stream_features(own, source_data, segment, features, progress[0]))
    found = []
    places = itertools.product((*random, *(candidate.name for candidate in candidates)), layers)
    with single_threaded_workers() as workers:
        scores = workers.map(lambda place: score_layer(bank, *place), places)  # in the order of the places
        baseline = {name: dict(zip(layers, scores, strict=False)) for name in random}
        for candidate in candidates:
            comparisons = []
            for layer, pretrained in zip(layers, scores, strict=False):
                comparisons.append(compare_layer(pretrained, [baseline[name][layer] for name in random], settings.seed))
                if progress[1] is not None:
                    progress[1](candidate.name, comparisons[-1])
            shift = _shift(candidate, (data, cases, bank), source_cases)
            found.append(workers.submit(_concluded, candidate, comparisons, bank, shift, settings).result())
    return found, DataSummary.of(cases, data, candidates[0].start.class_names)


def domain_shift(candidate: Candidate, data: DataSet, settings: AnalysisSettings) -> DomainShift:
    """How far cases are from those of a model, as `analyse_candidates` finds it without source cases; nothing else.

    Args:
        candidate: the model.
        data: labelled cases of the new task.
        settings: how; of networks only the candidate's is used.
    """
    config = candidate.start.config
    features = FeatureSettings(
        voxels=settings.voxels,
        device=settings.device,
        layers=(),
        precision=settings.precision,
        moments_of=(candidate.name,),
    )
    networks = {candidate.name: candidate.start.network()}
    cases = list(stream_features(networks, data, config.segment_size_train, features))
    return _shift(candidate, (data, cases, None), ())


def _bank_of(cases: Sequence[CaseFeatures], classes: int) -> Bank:
    bank = Bank.of(cases, classes)
    if not (bank.labels > 0).any():
        raise DataError(
            f"found no class but the background within the ROI of {counted(len(cases), 'labelled case')}, so there is "
            "nothing that a model could tell from it. Check that labels and ROI masks belong to the images, and that "
            "the labels have the classes."
        )
    return bank


def _concluded(
    candidate: Candidate,
    comparisons: Sequence[LayerComparison],
    bank: Bank,
    shift: DomainShift,
    settings: AnalysisSettings,
) -> ModelAnalysis:
    evidence = weigh(comparisons, settings.smallest_gain, settings.seed)
    place = candidate.name, evidence.best_layer
    curve = learning_curve(bank, place, settings.shares, settings.smallest_gain, settings.seed)
    as_it_is = None
    if candidate.same_classes and candidate.source.trained:
        predicted = bank.features[candidate.name][LOGITS].argmax(dim=1)
        own = Confusions.of(predicted, bank.labels, bank.subject_of, bank.subjects, bank.classes)
        as_it_is = interval(own.foreground_dice(), settings.seed)
    architecture = candidate.start.architecture
    advice = recommend(evidence, curve, architecture, settings.schedule, as_it_is)
    segments = settings.schedule.segments_per_epoch
    output = math.prod(architecture.output_size(candidate.start.config.segment_size_train))
    passes = sum(phase.epochs for phase in advice.phases) * segments * output / float(bank.stands_for.sum())
    layers = tuple(comparisons)
    return ModelAnalysis(candidate, layers, evidence, curve, shift, as_it_is, advice, segments, passes)


def _shift(
    candidate: Candidate,
    target: tuple[DataSet, Sequence[CaseFeatures], Bank | None],
    source_cases: Sequence[CaseFeatures],
) -> DomainShift:
    data, cases, bank = target
    model, notes = candidate.source, []
    moments: dict[str, ChannelMoments] = {}
    for case in cases:
        for layer, found in case.moments[candidate.name].items():
            moments[layer] = moments[layer] + found if layer in moments else found
    stored = stored_shift(candidate.start.parameters, candidate.received, moments) if model.trained else {}
    measured = {}
    if source_cases and bank is not None:
        measured = measured_shift(Bank.of(source_cases, bank.classes), bank, candidate.name)
    names, own = candidate.start.config.channel_names, model.config.channel_names
    channels = names or channels_by_number(candidate.start.architecture.input_channels)
    intensities = model.data.intensities or [case.intensities for case in source_cases]
    if None not in (names, own) and names != own:
        intensities = []
        notes.append("the model has other image channels: the shift of their intensities is not known")
    elif not intensities:
        notes.append("the model keeps no intensities of its training images: their shift is not known")
    if not model.trained:
        notes.append("the model was never trained: it keeps no statistics of features")
    if not source_cases:
        notes.append("no cases of the source were given: features are compared with the statistics of batch norm only")
    return DomainShift(
        intensities=intensity_shifts(intensities, [case.intensities for case in cases], channels)
        if intensities
        else (),
        spacing=spacing_shift(model, data),
        features=feature_shifts(hidden_layers(candidate.start.architecture), stored, measured),
        notes=tuple(notes),
    )


def _within_memory(settings: AnalysisSettings, candidate: Candidate, cases: int, networks: int) -> VoxelSettings:
    """Fewer voxels of each class where those asked for would take more memory than allowed."""
    voxels = settings.voxels
    if settings.memory is None:
        return voxels
    architecture = candidate.start.architecture
    per_voxel = bytes_per_voxel(architecture, (*hidden_layers(architecture), LOGITS)) * networks
    most = settings.memory // max(1, per_voxel * cases * architecture.classes)
    if most >= voxels.voxels_per_class:
        return voxels
    log.warning(
        "The memory budget allows %d instead of %d voxels per class of each case.",
        max(1, most),
        voxels.voxels_per_class,
    )
    return VoxelSettings(max(1, most), voxels.segments, voxels.seed)
