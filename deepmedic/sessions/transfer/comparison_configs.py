"""The configs that a comparison names, read and checked together, before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deepmedic.config.comparison import ComparisonConfig
from deepmedic.config.inference import TestConfig
from deepmedic.config.load import load_model_config, load_test_config, load_train_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.sections import DataConfig, OutputConfig
from deepmedic.config.training import TrainConfig
from deepmedic.errors import ConfigError, ProblemList


@dataclass(frozen=True)
class Compared:
    """One architecture of a comparison, with the training and the scoring of its runs."""

    path: Path
    """The model config's file."""
    model: ModelConfig
    training: TrainConfig
    scoring: TestConfig


def read_compared(config: ComparisonConfig) -> list[Compared]:
    """Read the configs of every architecture.

    Raises:
        ConfigError: mistakes in them, all listed together; or they do not make a comparison.
    """
    problems, found = ProblemList(), list[Compared]()
    for path in config.models:
        with problems.gather():
            model = load_model_config(path)
            training = _training(config, model)
            found.append(Compared(path, model, training, _scoring(config, model, training)))
    problems.raise_if_any()
    names = [one.model.name for one in found]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ConfigError(
            f"{config.source.path}: modelConfigs: several have the modelName {', '.join(sorted(repeated))}; give each "
            "its own, by which its runs are known."
        )
    return found


def _training(config: ComparisonConfig, model: ModelConfig) -> TrainConfig:
    training = load_train_config(config.training, model=model)
    validates = training.validate_on_samples or training.validate_on_volumes
    if config.scored_model == "best" and not (validates and config.testing):
        missing = "trainConfig with validation" if config.testing else "testConfig with other cases"
        raise ConfigError(
            f'{config.source.path}: modelToScore = "best" needs a {missing}: the best model is chosen by the '
            "validation cases, on which it would seem better than it is."
        )
    notes = tuple(note for note in training.source.notes if config.testing or "channelsValidation" not in note)
    return replace(
        training,
        folder_for_output=config.folder_for_output,
        model_path=None,
        report=False,  # the comparison sums up its runs
        source=replace(training.source, notes=notes),  # cases that no run validates on are scored
    )


def _scoring(config: ComparisonConfig, model: ModelConfig, training: TrainConfig) -> TestConfig:
    """The config by which runs are scored; the session's name is that of each run."""
    if config.testing is not None:
        test = load_test_config(config.testing, model=model)
        _refuse_without_labels(test.data, f"{config.testing}: gtLabels", "the cases that runs are scored on")
        return replace(test, folder_for_output=config.folder_for_output, model_path=None, ensemble=None, report=False)
    data = training.validation_data
    where = f"{config.training}: channelsValidation and gtLabelsValidation"
    _refuse_without_labels(data, where, "the validation cases, on which runs are scored (or name a testConfig)")
    no_maps = (False,) * model.architecture.classes
    return TestConfig(
        session_name="scored",
        folder_for_output=config.folder_for_output,
        data=replace(data, weight_maps=None),
        output=OutputConfig(save_probability_maps=no_maps),
        batch_size=training.volume_batch_size,
        tiling="segments" if training.source.dialect != "toml" else None,
        preprocessing=training.preprocessing,
        execution=training.execution,
        report=False,
        source=replace(training.source, notes=()),
    )


def _refuse_without_labels(data: DataConfig, keys: str, what: str) -> None:
    if data.table is None and (data.channels is None or data.labels is None):
        raise ConfigError(f"{keys}: missing; a comparison needs {what}, with labels.")
