"""The functions for notebooks and pipelines; `deepmedic` itself offers them all (`deepmedic.segment`, ...).

They are the command line's own code: the same checks, refusals (`deepmedic.DeepMedicError` with a message for the
user) and results. Messages go to the logger "deepmedic"; `deepmedic.logs.init_logging()` shows them as the command
line does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from deepmedic import checkpoints, devices
from deepmedic.arguments import Arguments
from deepmedic.config.binding import bind
from deepmedic.config.inference import TestConfig
from deepmedic.config.load import load_model_config, load_train_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.prediction import PredictionConfig
from deepmedic.config.sections import ExecutionConfig, ZScoreConfig
from deepmedic.config.source import ConfigFile, ConfigSource
from deepmedic.config.training import TrainConfig
from deepmedic.devices import Precision
from deepmedic.errors import ConfigError, DeepMedicError, ModelError
from deepmedic.logs import log_refusal
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.model_files import is_model_config, saved_files
from deepmedic.plain_content import content_digest, plain_copy
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.inference.ensemble import NamedModel, compare_spacings, refuse_unlike, speaking_for_all
from deepmedic.sessions.inference.single_case import Image, Images, Segmentation, segment_case, trained_preprocessing
from deepmedic.sessions.models.weights import read_model
from deepmedic.sessions.training import training, training_plan

__all__ = [
    "TrainingResult",
    "build_network",
    "load_model",
    "new_model",
    "save_model",
    "segment",
    "train",
]

log = logging.getLogger(__name__)

Tiling = Literal["segments", "auto"]
_SHARES_TOLERANCE = 1e-6

# Models -------------------------------------------------------------------------------------------------------------


def load_model(path: str | Path) -> SavedModel:
    """Read a saved model: a `.save` file, or a session's folder (its newest valid checkpoint).

    Its content is verified before it is used. The model stays on the CPU; `model.network()` builds the network, and
    `model.config`, `model.architecture`, `model.parameters`, `model.data` say what it is.

    Example:
        >>> model = deepmedic.load_model("output/cnnModels/mySession")
        >>> model.architecture.classes
        4

    Raises:
        ModelError: nothing is there, or it is damaged or foreign.
    """
    _, model, _ = read_model(Path(path))
    return model


def new_model(config: str | Path | ModelConfig, seed: int = 0) -> SavedModel:
    """Create an untrained model in memory; its parameters depend on the config and the seed only.

    Example:
        >>> model = deepmedic.new_model("configs/tiny/model.cfg", seed=1)
        >>> deepmedic.save_model(model, "untrained.save")

    Raises:
        ConfigError: the model `.cfg` has mistakes; all of them are listed.
    """
    return SavedModel.new(_model_config(config), seed)


def save_model(model: SavedModel, path: str | Path) -> str:
    """Write a model to a file that every command takes with `-model`; return the SHA-256 of the file.

    The file is written to a temporary name, verified, and renamed: it is whole or not there.

    Example:
        >>> deepmedic.save_model(model, "models/mine.save")

    Raises:
        ModelError: the name does not end in `.save`.
        ResourceError: it cannot be written; an older file of that name is untouched.
    """
    if Path(path).suffix != ".save":
        raise ModelError(f"{path}: the name of a saved model must end in .save.")
    return checkpoints.save(Path(path), model.to_content())


def build_network(config: str | Path | ModelConfig, seed: int = 0) -> DeepMedicNet:
    """Build the network of a model config, with new parameters, as a plain `torch.nn.Module` on the CPU.

    Its forward takes one tensor per parallel pathway, float32 [batch, channel, x, y, z], the pathway at full resolution
    first; `net.architecture.input_sizes(segment)` gives their sizes for a segment of the first one. It returns logits
    [batch, class, x, y, z] of the box that is predicted, of size `net.architecture.output_size(segment)`.

    Example, for a model with one low-resolution pathway:
        >>> net = deepmedic.build_network("configs/tiny/model.cfg", seed=1)
        >>> size, size_sub = net.architecture.input_sizes((25, 25, 25))
        >>> x, x_sub = torch.randn(8, 1, *size), torch.randn(8, 1, *size_sub)
        >>> net(x, x_sub).shape
        torch.Size([8, 4, 19, 19, 19])

    Raises:
        ConfigError: the model `.cfg` has mistakes; all of them are listed.
    """
    return DeepMedicNet(_model_config(config).architecture, seed=seed)


# Inference ----------------------------------------------------------------------------------------------------------


def segment(
    model: SavedModel | str | Path | Sequence[SavedModel | str | Path],
    images: Images,
    roi: Image | None = None,
    *,
    zscore: ZScoreConfig | Mapping[str, object] | None = None,
    resample_to: Literal["model"] | tuple[float, float, float] | None = None,
    spacing_tolerance: float = 0.05,
    prediction: PredictionConfig | Mapping[str, object] | None = None,
    tiling: Tiling | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
    device: str = "auto",
) -> Segmentation:
    """Segment one case, as `-test` does, and return probabilities and labels as arrays.

    Images are padded, and normalised as in the training of the model. Arrays must run along the axes that the training
    images had (`model.data.axis_order`); files are turned to them in memory.

    Args:
        model: a model, or where one is saved; or several, whose probabilities are averaged.
        images: an array [channel, x, y, z]; or one image per channel (NIfTI files, or arrays [x, y, z]), in a list in
            the order of the model's channels or in a mapping by their names. None stands for a missing channel.
        roi: file or array [x, y, z]; only voxels where it is not 0 are classified and used for normalisation.
        zscore: another normalisation, with the sub-keys of `norm_zscore_prms`; {} for none.
        resample_to: millimetres per voxel to which files are resampled, or "model" for those of training; the result
            is on the grid of the images. As the key resampleTo.
        spacing_tolerance: share by which the spacing may differ from that of training without being refused.
        prediction: mirroring, blending, removal of components and uncertainty maps, by the keys of a test config, for
            instance {"testTimeMirroring": ["x"], "saveUncertaintyMaps": ["variance"]}.
        tiling: "segments" or "auto", as the key of that name; None: as `-test` chooses.
        batch_size: tiles that pass through the network together; it changes speed and memory, not the result.
        precision: "float32", "tf32" or "bf16".
        device: as `-dev`: "auto", "cpu", "cuda", "cuda1", ...

    Example:
        >>> result = deepmedic.segment(model, ["t1.nii.gz", "flair.nii.gz"], roi="brain.nii.gz")
        >>> result.probabilities.shape, result.segmentation.shape
        ((4, 182, 218, 182), (182, 218, 182))
        >>> result.save("segmentation.nii.gz")

    Raises:
        ConfigError: a setting that does not fit the model.
        DataError: an image cannot be used.
        ModelError: the model cannot be read.
        ResourceError: the device is absent, or memory is not enough.
    """
    _refuse_other("tiling", tiling, (None, *get_args(Tiling)))
    _refuse_other("precision", precision, get_args(Precision))
    if not _is_spacing(resample_to):
        raise ConfigError(f'resample_to = {resample_to!r}; allowed are "model" and 3 numbers above 0, in millimetres.')
    models = _models(model)
    preprocessing = trained_preprocessing(speaking_for_all(models), zscore)
    config = TestConfig(
        folder_for_output=Path(),  # nothing is written
        preprocessing=replace(preprocessing, resample_to=resample_to, spacing_tolerance=spacing_tolerance),
        prediction=_prediction(prediction),
        execution=ExecutionConfig(precision=precision),
        tiling=tiling,
    )
    for note in compare_spacings(models, config.preprocessing, refuse=True):
        log.warning("%s", note)
    if batch_size is not None:
        if batch_size < 1:
            raise ConfigError(f"batch_size = {batch_size}; allowed are whole numbers from 1.")
        given = ConfigSource(given=frozenset({"batchsize"}))
        config = replace(config, batch_size=batch_size, source=given)
    return segment_case(models, images, roi, config, devices.choose_device(device))


# Training -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingResult:
    """Where a training session stands after it was run."""

    exit_code: int
    """As the command line's: 0 finished, 9 finished without some cases, 128 + signal when it was interrupted."""
    model_path: Path
    """The newest checkpoint, under its undated name."""
    best_model_path: Path | None
    """The checkpoint that was best on validation; None without validation."""
    log: Path
    metrics: Path
    """CSV table of the metric history."""

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained. If not, `train` with the same arguments goes on."""
        return self.exit_code < 128

    @property
    def model(self) -> SavedModel:
        """The newest model, read from its file."""
        return load_model(self.model_path)


def train(
    config: str | Path | TrainConfig,
    model: SavedModel | ModelConfig | str | Path | None = None,
    *,
    seed: int = 0,
    reset_optimizer: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    split: Sequence[float] | str | Path | None = None,
) -> TrainingResult:
    """Start a training session, or go on with it: the same arguments again continue where it stopped.

    SIGINT (Ctrl-C), SIGTERM and SIGUSR1 save the state and end the session; the result then is not `finished`.

    Args:
        config: a train `.cfg`, or the dataclass.
        model: what to train: a model in memory, a model config (a new model with parameters from `seed`), or a path of
            a `.save` file, a session's folder or a model `.cfg`. None: the model that the config names, or, to go on,
            the session's own. A model in memory is first saved below `folderForOutput/cnnModels`.
        seed: of new parameters and of everything random in training.
        reset_optimizer: keep the weights of a trained model and start optimisation anew.
        overwrite: start anew although the session's folder holds another training.
        device: as `-dev`: "auto", "cpu", "cuda", "cuda1", ...
        split: as `-split`: shares of the subjects for training, validation and maybe test, or a stored split.

    Example:
        >>> result = deepmedic.train("configs/tiny/train.cfg", deepmedic.new_model("configs/tiny/model.cfg", seed=1))
        >>> deepmedic.segment(result.model, ["t1.nii.gz"])

    Raises:
        ConfigError, DataError, ModelError, ResourceError: what is wrong with config, data, model or machine; nothing
            was started.
        OutputHeldError: another process is running this session.
        DivergedError: the cost became infinite or not a number.
    """
    model_config, weights = _start_of(model)
    session = config
    if not isinstance(session, TrainConfig):
        session = load_train_config(Path(session), model=model_config, split_by="-split" if split else None)
    shares = _shares(split)
    paths = SessionPaths(session.folder_for_output, session.session_name)
    if isinstance(model, SavedModel):
        weights = _saved_once(model, paths.new_models)
    arguments = Arguments(
        model=weights,
        device=device,
        seed=seed,
        reset_optimizer=reset_optimizer,
        overwrite=overwrite,
        split=shares,
        given=("-resetOptimizer",) if reset_optimizer else (),
    )
    try:
        with torch.random.fork_rng(devices=[]):
            plan = training_plan.prepare(arguments, session, model_config)
            exit_code = training.run(plan)
    except DeepMedicError as problem:
        log_refusal(paths.log, str(problem))
        raise
    best = [saved.path for saved in saved_files(paths.models)[0] if saved.tag == "best"]
    return TrainingResult(
        exit_code=exit_code,
        model_path=paths.models / checkpoints.latest_name(plan.beginning.model.name, paths.session),
        best_model_path=best[0] if best else None,
        log=paths.log,
        metrics=paths.metrics,
    )


# Transfer is in `deepmedic.api_transfer`, mono- and dual-phase training in `deepmedic.api_training`. Analyses belong
# into a module of their own beside them; each function needs its line in `deepmedic/__init__.py`.


def _model_config(config: str | Path | ModelConfig) -> ModelConfig:
    return config if isinstance(config, ModelConfig) else load_model_config(Path(config))


def _shares(split: Sequence[float] | str | Path | None) -> tuple[float, ...] | Path | None:
    if split is None or isinstance(split, str | Path):
        return None if split is None else Path(split)
    shares = tuple(map(float, split))
    if not 2 <= len(shares) <= 3 or min(shares) <= 0 or abs(sum(shares) - 1) > _SHARES_TOLERANCE:
        raise ConfigError(
            f"split = {shares}: give the shares of training, validation and, if some cases are to be held out, test; "
            "they are above 0 and sum to 1. Or name a stored split."
        )
    return shares


def _start_of(model: SavedModel | ModelConfig | str | Path | None) -> tuple[ModelConfig | None, Path | None]:
    """The model config or the path that a session is to start from."""
    if isinstance(model, ModelConfig):
        return model, None
    if model is None or isinstance(model, SavedModel):
        return None, None
    path = Path(model)
    return (load_model_config(path), None) if is_model_config(path) else (None, path)


def _saved_once(model: SavedModel, folder: Path) -> Path:
    """Save a model under a name made from its content, so that the same model is the same file again."""
    content = model.to_content()
    path = folder / f"{model.name}.start.{content_digest(plain_copy(content))[:12]}.save"
    if not path.is_file():
        checkpoints.save(path, content)
    return path


def _models(named: SavedModel | str | Path | Sequence[SavedModel | str | Path]) -> list[NamedModel]:
    """One or several models, read where they are paths, and found alike enough to be averaged."""
    several = [named] if isinstance(named, SavedModel | str | Path) else list(named)
    if not several:
        raise ModelError("no model is named; give one, or several to be averaged.")
    models = []
    for number, one in enumerate(several, 1):
        if isinstance(one, SavedModel):
            digest = content_digest(plain_copy(one.to_content())) if len(several) > 1 else ""
            models.append(NamedModel(Path(f"model {number}"), one, digest))
        else:
            models.append(NamedModel(*read_model(Path(one))))
    refuse_unlike(models)
    return models


def _is_spacing(value: object) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value) == 3 and all(isinstance(size, int | float) and 0 < size < math.inf for size in value)
    return value in (None, "model")


def _prediction(chosen: PredictionConfig | Mapping[str, object] | None) -> PredictionConfig:
    if isinstance(chosen, Mapping):
        return bind(ConfigFile(Path("prediction"), "python", dict(chosen), {}), PredictionConfig)
    return chosen or PredictionConfig()


def _refuse_other(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r}; allowed are {', '.join(map(repr, allowed))}.")
