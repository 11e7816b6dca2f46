"""The models that an analysis looks at: what a user names, read, and as a new task would start from them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepmedic.analysis.model_analysis import Candidate
from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.model import ModelConfig
from deepmedic.errors import DeepMedicError, ModelError, ProblemList
from deepmedic.model.saved import SavedModel
from deepmedic.model_files import saved_files
from deepmedic.sessions.models.weights import is_tensorflow, read_model
from deepmedic.transfer.options import TransferOptions
from deepmedic.transfer.report import TransferReport
from deepmedic.transfer.transplant import transplant


@dataclass(frozen=True, eq=False)
class FoundModel:
    """A model that can be analysed."""

    path: Path
    sha256: str
    candidate: Candidate
    report: TransferReport
    """What a new model for the task would receive from it."""

    @property
    def name(self) -> str:
        return self.candidate.name


@dataclass(frozen=True)
class FoundModels:
    """The models that a user named."""

    usable: tuple[FoundModel, ...]
    unfit: dict[str, str]
    """By path, why a model cannot be transferred."""


def find_models(named: Sequence[Path], config: AnalysisConfig, target: ModelConfig | None, seed: int) -> FoundModels:
    """Read the models, and make of each the new model that would start from it.

    Args:
        named: files, folders of sessions, folders of those.
        config: of the analysis.
        target: the new model's config; None: that of each model, for other classes if some are named.
        seed: of what a model does not receive.

    Raises:
        ModelError: no model can be used; lists each with the reason.
    """
    usable: list[FoundModel] = []
    unfit: dict[str, str] = {}
    problems = ProblemList()
    for path in [file for name in named for file in _files_of(name)]:
        try:
            names = {model.name for model in usable}
            usable.append(as_found(read_model(path), config, target, seed, names))
        except DeepMedicError as problem:
            unfit[str(path)] = str(problem)
            problems.add(problem)
    if not usable:
        problems.raise_if_any()
    return FoundModels(tuple(usable), unfit)


def new_config(source: SavedModel, config: AnalysisConfig, target: ModelConfig | None) -> ModelConfig:
    """The config of the new model for a task."""
    if target is not None:
        return target
    names, architecture = config.class_names, source.architecture
    own = replace(source.config, folder_for_output=config.folder_for_output)
    if names is None:
        return own
    fc = replace(architecture.fc, feature_maps=(*architecture.fc.feature_maps[:-1], len(names)))
    return replace(own, architecture=replace(architecture, classes=len(names), fc=fc), class_names=names)


def start_model(
    found: FoundModel, config: ModelConfig, layers: tuple[int, ...], keep_classes: bool, seed: int
) -> tuple[SavedModel, TransferReport | None]:
    """Make the model that an advised training starts from; without layers to transfer it is random.

    Args:
        found: the source.
        config: of the new model.
        layers: depths to transfer, as `-layers` counts them.
        keep_classes: transfer the classification layer too.
        seed: of what is not transferred.
    """
    model = SavedModel.new(config, seed)
    if not layers:
        return model, None
    options = TransferOptions(
        layers=layers,
        new_channels=config.new_channels,
        transfer_classes=keep_classes,
        source_sha256=found.sha256,
    )
    result = transplant(found.candidate.source, model, options)
    return result.model, result.report


def as_found(
    read: tuple[Path, SavedModel, str],
    config: AnalysisConfig,
    target: ModelConfig | None,
    seed: int,
    taken: Collection[str] = (),
) -> FoundModel:
    """Make of a model the new model that would start from it.

    Args:
        read: path, model and SHA-256, as `read_model` returns them.
        config: of the analysis.
        target: see `find_models`.
        seed: of what the new model does not receive.
        taken: names of other models.

    Raises:
        ModelError: the models do not fit each other, or the listed images; says why.
    """
    path, source, sha256 = read
    model_config = new_config(source, config, target)
    _check_channels(path, model_config, config)
    options = TransferOptions(new_channels=model_config.new_channels, transfer_classes=True, source_sha256=sha256)
    try:
        result = transplant(source, SavedModel.new(model_config, seed), options)
    except ModelError as problem:
        raise ModelError(f"{path}: {problem}") from problem
    received = frozenset(
        layer.name for layer in result.report.layers if layer.parameters and layer.transferred == layer.parameters
    )
    names = source.config.class_names, model_config.class_names
    same = source.architecture.classes == model_config.architecture.classes
    candidate = Candidate(
        name=_unique(f"{source.name}.{source.training['session']}" if source.training else source.name, taken),
        source=source,
        start=result.model,
        received=received,
        same_classes=same and (None in names or names[0] == names[1]),
    )
    return FoundModel(path, sha256, candidate, result.report)


def _check_channels(path: Path, model: ModelConfig, config: AnalysisConfig) -> None:
    listed = None if config.data.table is not None else config.data.channels
    expected = model.architecture.input_channels
    if listed is not None and len(listed) != expected:
        names = f" ({', '.join(model.channel_names)})" if model.channel_names else ""
        raise ModelError(
            f"{path}: the model has {expected} image channels{names}, and {len(listed)} are listed for the new task. "
            "List the model's channels, or name with modelConfig the config of a new model for the channels there are."
        )


def _files_of(path: Path) -> list[Path]:
    """What to read for a path that a user named: itself, or one path for each model in a folder.

    Raises:
        ModelError: a folder without models.
    """
    if not path.is_dir() or is_tensorflow(path):
        return [path]
    files, _ = saved_files(path)
    newest = {saved.header.owner: saved.path for saved in reversed(files)}
    if len(newest) > 1:
        return sorted(newest.values())
    if newest:
        return [path]
    below = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and any(folder.glob("*.save"))]
    return [file for folder in below for file in _files_of(folder)] or [path]


def _unique(name: str, taken: Collection[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"
