"""From Python: a data set is split, a model trained on it in one phase or in two, and the best one tested."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from deepmedic.api import TrainingResult, load_model, train
from deepmedic.arguments import Arguments
from deepmedic.config.load import load_test_config, load_train_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.training import TrainConfig
from deepmedic.data.splits import TEST, read_split
from deepmedic.errors import ConfigError, OutputHeldError
from deepmedic.model.saved import SavedModel
from deepmedic.model_files import is_model_config, saved_files
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.inference import testing

__all__ = ["PhasedTrainingResult", "dual_phase_model_training", "mono_phase_model_training"]

Existing = Literal["refuse", "resume", "overwrite"]
Model = SavedModel | ModelConfig | str | Path
Recipe = Literal["mono", "dual"]


@dataclass(frozen=True)
class PhasedTrainingResult:
    """A trained and tested model."""

    training: TrainingResult
    split: Path
    """Which subject was for training, validation and test (JSON); can be given as `split` to another training."""
    test_results: Path | None = None
    """Folder with the segmented test cases, `metrics.csv` and `metrics.json`; None: nothing was tested."""
    test_scores: Mapping[str, Any] = field(default_factory=dict)
    """The content of `metrics.json`: scores per case and class, means with confidence intervals."""

    @property
    def test_dice(self) -> float:
        """Mean Dice of the foreground classes over the test cases; nan if nothing was tested."""
        return float(self.test_scores.get("mean_foreground_dice", math.nan))

    @property
    def finished(self) -> bool:
        """Whether the model is trained and tested; if not, the same call with `existing="resume"` goes on."""
        return self.training.finished

    @property
    def model_path(self) -> Path:
        """The weights that were tested: those of the epoch that was best on validation."""
        return self.training.best_model_path or self.training.model_path

    @property
    def model(self) -> SavedModel:
        """The tested model, read from its file."""
        return load_model(self.model_path)


def mono_phase_model_training(
    model: Model,
    epochs: int,
    data: str | Path | TrainConfig,
    *,
    split: Sequence[float] | str | Path = (0.8, 0.1, 0.1),
    seed: int = 0,
    existing: Existing = "refuse",
    device: str = "auto",
) -> PhasedTrainingResult:
    """Split a data set by subject, train a model in one phase, and test the weights that were best on validation.

    The same as the recipe "mono" with `-split`, and then `-test` with the best checkpoint on the test config that goes
    with the split. Layers are frozen as the config says.

    Args:
        model: a model config or the path of its `.cfg` (a new model with parameters from `seed`); or a model, or the
            path of one. A trained one keeps its weights and begins a new optimisation.
        epochs: of the training.
        data: a train config, or the path of one, that lists all cases as training cases and none for validation.
        split: shares of the subjects for training, validation and test, which sum to 1; or a stored split.
        seed: of the split, of new parameters and of everything random in training.
        existing: when the session's folder holds a training already: "refuse" it; "resume" it, which goes on with an
            interrupted one, and does not train a finished one again; or "overwrite" it.
        device: as `-dev`.

    Example:
        >>> result = deepmedic.mono_phase_model_training("model.cfg", 20, "all_cases.cfg", seed=1)
        >>> result.test_dice
        0.8731

    Raises:
        ConfigError, DataError, ModelError, ResourceError: what is wrong; nothing was started.
        OutputHeldError: the folder holds a training already, or another process runs it.
        DivergedError: the cost became infinite or not a number.
    """
    config = _config(data, "mono", (epochs,))
    return _run(model, config, split, seed, existing, device)


def dual_phase_model_training(
    model: Model,
    epochs: tuple[int, int],
    data: str | Path | TrainConfig,
    *,
    split: Sequence[float] | str | Path = (0.8, 0.1, 0.1),
    seed: int = 0,
    existing: Existing = "refuse",
    device: str = "auto",
) -> PhasedTrainingResult:
    """Train a model in two phases, all layers and then the FC pathway alone; otherwise as `mono_phase_model_training`.

    The same as the recipe "dual": each phase stops early and ends with the best weights, the second one begins with a
    new state of the optimiser, and epochs count on. The keys `recipeLearningRates`, `earlyStoppingPatience`,
    `earlyStoppingMinimumChange` and `earlyStoppingRestoreBest` of the config hold.

    Args:
        model: as there.
        epochs: of the first and of the second phase, at most.
        data: as there.
        split: as there.
        seed: as there.
        existing: as there.
        device: as there.

    Example:
        >>> result = deepmedic.dual_phase_model_training("output/cnnModels/source", (20, 10), "few_cases.cfg")
        >>> result.model_path

    Raises:
        As `mono_phase_model_training`.
    """
    config = _config(data, "dual", tuple(epochs))
    return _run(model, config, split, seed, existing, device)


def _config(data: str | Path | TrainConfig, recipe: Recipe, epochs: tuple[int, ...]) -> TrainConfig:
    """The config of the session, which validates in any case, since the best weights are wanted."""
    phases = {"mono": 1, "dual": 2}[recipe]
    if len(epochs) != phases or any(isinstance(number, bool) or number < 1 for number in epochs):
        raise ConfigError(f"epochs = {epochs!r}; allowed are {phases} whole numbers from 1, one per phase.")
    config = data if isinstance(data, TrainConfig) else load_train_config(Path(data), split_by="-split")
    if config.recipe.kind not in (None, recipe) or (config.phases and config.recipe.kind is None):
        raise ConfigError(
            f"{config.source.path or 'data'}: this config has phases or a recipe of its own; leave them out, or train "
            "with deepmedic.train."
        )
    validated = config.validate_on_samples or config.validate_on_volumes
    return replace(
        config,
        epochs=epochs[0],
        recipe=replace(config.recipe, kind=recipe, epochs=epochs),
        phases=(),
        validate_on_volumes=config.validate_on_volumes or not validated,
    )


def _run(
    model: Model, config: TrainConfig, split: Sequence[float] | str | Path, seed: int, existing: Existing, device: str
) -> PhasedTrainingResult:
    if existing not in get_args(Existing):
        raise ConfigError(f"existing = {existing!r}; allowed are {', '.join(map(repr, get_args(Existing)))}.")
    paths = SessionPaths(config.folder_for_output, config.session_name)
    if existing == "refuse" and paths.models.is_dir() and saved_files(paths.models)[0]:
        raise OutputHeldError(
            f"{paths.models}: there is a training already. Go on with it, or have its results, with "
            'existing="resume"; start anew with existing="overwrite"; or choose another sessionName.'
        )
    trained = train(
        config,
        model,
        seed=seed,
        reset_optimizer=_is_trained(model),
        overwrite=existing == "overwrite",
        device=device,
        split=split,
    )
    result = PhasedTrainingResult(trained, paths.splits / "split.json")
    if not result.finished or not read_split(result.split).cases_of(TEST):
        return result
    folder = _test(paths.splits / "test.cfg", result.model_path, device)
    scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return replace(result, test_results=folder, test_scores=scores)


def _is_trained(model: Model) -> bool:
    if isinstance(model, ModelConfig) or (isinstance(model, str | Path) and is_model_config(Path(model))):
        return False
    return (model if isinstance(model, SavedModel) else load_model(model)).trained


def _test(test_config: Path, model: Path, device: str) -> Path:
    """Segment and score the test cases; results of the same weights are kept. Returns the folder of the results."""
    config = load_test_config(test_config)
    arguments = Arguments(model=model, device=device)
    try:
        testing.run(testing.prepare(arguments, config, None))
    except OutputHeldError:  # results of other weights, from before the training went on
        testing.run(testing.prepare(replace(arguments, overwrite=True), config, None))
    return SessionPaths(config.folder_for_output, config.session_name).predictions
