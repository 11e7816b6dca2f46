"""The source task of a fine-tuning: its validation cases, read and checked, and scored with the network as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.training import TrainConfig
from deepmedic.data.dataset import CaseNeeds, DataSet, read_data_set
from deepmedic.devices import is_deterministic
from deepmedic.errors import ModelError, ProblemList
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.segment_cases import SegmentationOptions, segment_cases
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.inference.model_use import choose_tiling, compare_with_training
from deepmedic.sessions.models.weights import read_model
from deepmedic.training.history import VolumeRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceTask:
    """What is needed to score the source task."""

    data: DataSet
    """Its cases, prepared for whole volumes in the trained model."""
    model: SavedModel | None
    """The source model; None: the trained model as it was before its first step."""
    lends_classifier: bool
    """Whether the trained model has other classes, so that the source's classification layer is used."""


def prepare_source_task(config: TrainConfig, model: SavedModel, problems: ProblemList) -> SourceTask | None:
    """Read the source model and the headers of its cases; None where the config names no source task.

    Args:
        config: of the session.
        model: that is trained.
        problems: gets what is wrong.
    """
    asked = config.source_task
    if asked is None:
        return None
    source = None
    with problems.gather():
        if asked.model is not None:
            _, source, _ = read_model(asked.model)
            _refuse_other_channels(source, model)
    lends = source is not None and _has_other_classes(source, model)
    if source is not None and lends:
        with problems.gather():
            with_classifier_of(source, model.network())
    architecture, segment = model.architecture, model.config.segment_size_inference
    needs = CaseNeeds(
        source.architecture.classes if source is not None else architecture.classes,
        architecture.margins(segment),
        segment,
        architecture.input_channels,
        model.config.channel_names,
    )
    data = read_data_set(asked.data, "source task", config.preprocessing, needs, problems, needs_labels=True)
    with problems.gather():
        data.notes += [f"Source task: {note}" for note in compare_with_training(data, source or model)]
    return SourceTask(data, source, lends)


class SourceTaskScorer:
    """Segments the validation cases of the source task as a whole; nothing of it is saved but the scores."""

    def __init__(
        self,
        config: TrainConfig,
        task: SourceTask,
        model: SavedModel,
        device: torch.device,
        leave_if_asked: Callable[[], None],
    ) -> None:
        """Create a scorer.

        Args:
            config: of the session.
            task: the source task.
            model: that is trained, with its parameters before the first step.
            device: where the network is.
            leave_if_asked: called after each batch of tiles; what it raises ends the scoring.
        """
        self.skipped: dict[str, str] = {}
        """Name of each case that could not be used so far -> why."""
        self._config = config
        self._task = task
        self._model = model
        self._device = device
        self._leave_if_asked = leave_if_asked

    def __call__(self, network: DeepMedicNet, epoch: int) -> VolumeRecord:
        """Score a network in inference mode, with the source's classification layer where classes differ.

        Raises:
            DataError: a case cannot be used, and cases may not be skipped.
            ResourceError: memory is not enough.
        """
        if self._task.lends_classifier:
            assert self._task.model is not None
            network = with_classifier_of(self._task.model, network).to(self._device).eval()
        return self._score(network, self._model, self._task.data)

    def before_training(self) -> VolumeRecord:
        """Score the source model, or the trained one as it was before its first step; raises as scoring does."""
        source = self._task.model
        if source is None:
            start = self._model.start_parameters or self._model.parameters
            source = replace(self._model, parameters=start, rolling_rows={})
        segment = source.config.segment_size_inference
        data = self._task.data.for_segment(segment, source.architecture.margins(segment))
        return self._score(source.network().to(self._device).eval(), source, data)

    def _score(self, network: DeepMedicNet, model: SavedModel, data: DataSet) -> VolumeRecord:
        inference = InferenceSettings(
            segment=model.config.segment_size_inference,
            batch_size=self._config.volume_batch_size,
            tiling=choose_tiling(None, self._config.source, model),
            precision=self._config.execution.precision,
            device=self._device,
            across_cases=not is_deterministic(self._device, self._config.execution),
        )
        options = SegmentationOptions(
            inference=inference,
            purpose="Validation",
            allow_skipped_cases=self._config.preprocessing.allow_skipped_cases,
            progress=lambda *_: self._leave_if_asked(),
        )
        summary = segment_cases(network, data, options)
        self.skipped |= summary.failures
        dices = summary.mean_dices
        return VolumeRecord(asdict(dices) if dices else {}, summary.mean_foreground_dice)


def with_classifier_of(source: SavedModel, network: DeepMedicNet) -> DeepMedicNet:
    """Return a network with the layers of `network` below a copy of the source's classification layer, on the CPU.

    Raises:
        ModelError: the classification layers are of another kind or have other inputs.
    """
    given, own = source.architecture, network.architecture
    classes = given.classes
    fc = replace(own.fc, feature_maps=(*own.fc.feature_maps[:-1], classes))
    combined = DeepMedicNet(replace(own, classes=classes, fc=fc))
    own_layer, source_layer = f"fc/{own.fc.depth}/", f"fc/{given.fc.depth}/"
    tensors = {
        name: tensor.detach().cpu()
        for name, tensor in parameters.named_tensors(network).items()
        if not name.startswith((own_layer, "softmax/"))
    }
    for name, tensor in source.parameters.items():
        if name.startswith((source_layer, "softmax/")):
            tensors[name.replace(source_layer, own_layer, 1)] = tensor
    try:
        if _kind_of_classifier(given) != _kind_of_classifier(own):
            raise ModelError(f"they are {_kind_of_classifier(given)} and {_kind_of_classifier(own)}")
        parameters.load_tensors(combined, tensors)
    except ModelError as problem:
        raise ModelError(
            f"sourceTask.model: the classification layer of model {source.name} cannot be used in the trained model, "
            "which has other classes, because it is of another kind or has other inputs, so that the source task "
            f"cannot be scored: {str(problem).splitlines()[0]}. Leave sourceTask out, or give the trained model the "
            "last FC layers of the source."
        ) from problem
    return combined


def _kind_of_classifier(architecture: Architecture) -> str:
    fc = architecture.fc
    inputs = sum(pathway.feature_maps[-1] for pathway in architecture.parallel)
    inputs = fc.feature_maps[-2] if fc.depth > 1 else inputs
    return (
        f"{architecture.activation}, kernel {'x'.join(map(str, fc.kernels[-1]))} {fc.paddings[-1]}, {inputs} inputs, "
        f"batch normalisation over {architecture.batch_norm_window}"
    )


def _has_other_classes(source: SavedModel, model: SavedModel) -> bool:
    names, own_names = source.config.class_names, model.config.class_names
    if names and own_names:
        return tuple(names) != tuple(own_names)
    return source.architecture.classes != model.architecture.classes


def _refuse_other_channels(source: SavedModel, model: SavedModel) -> None:
    found, needed = source.architecture.input_channels, model.architecture.input_channels
    if found != needed:
        raise ModelError(
            f"sourceTask.model: model {source.name} has {found} image channels and the trained model {needed}, so that "
            "the cases of the source task cannot be given to both. Leave sourceTask out."
        )
