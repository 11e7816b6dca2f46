"""Loads config files: read, bind, resolve, check. The entry points for the rest of the program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.binding import bind_known, refuse_unknown_keys
from deepmedic.config.checks import SessionChecks, model_path_note, refuse_unsafe_name
from deepmedic.config.comparison import ComparisonConfig, check_comparison
from deepmedic.config.fit import (
    check_test_classes,
    check_train_classes,
    fit_test,
    fit_test_config,
    fit_train,
    fit_train_config,
    refuse_missing_batch_size,
)
from deepmedic.config.inference import TestConfig
from deepmedic.config.kinds import Kind, config_kind, refuse_other_kind, vocabulary
from deepmedic.config.model import ModelConfig
from deepmedic.config.model_keys import ModelKeys
from deepmedic.config.older_keys import OlderTestKeys, OlderTrainKeys
from deepmedic.config.phase_tables import bind_phases
from deepmedic.config.reader import read_config
from deepmedic.config.resolution import ArchitectureResolver
from deepmedic.config.sections import DataConfig, PreprocessingConfig
from deepmedic.config.source import ConfigFile, ConfigSource, Refusals
from deepmedic.config.theano import (
    OlderTrainSettings,
    refuse_4d_feature_maps,
    theano_keys,
    theano_notice,
)
from deepmedic.config.training import TrainConfig
from deepmedic.errors import ConfigError, ProblemList

__all__ = [
    "config_kind",
    "fit_test_config",
    "fit_train_config",
    "load_analysis_config",
    "load_comparison_config",
    "load_model_config",
    "load_test_config",
    "load_train_config",
    "with_training_cases",
]

Config = TypeVar("Config")

_MAY_COME_FROM_MODEL = frozenset({"batchsize_train"})


def load_model_config(path: Path) -> ModelConfig:
    """Return the model config of a file, with all defaults resolved.

    Raises `ConfigError`, or `SeveralProblems` with all of them, naming file, line and key.
    """
    file = read_config(path)
    refuse_other_kind(file, "model")
    problems = ProblemList()
    refusals = Refusals(file.path, file.lines, problems)
    words = vocabulary("model")
    refuse_unknown_keys(file, words, refusals)
    keys = bind_known(file, ModelKeys, refusals, words)
    theano = theano_keys(file)
    name = keys.name or ("cnnModel" if theano else "deepmedic")
    refuse_unsafe_name("modelName", name, refusals)
    resolver = ArchitectureResolver(keys, refusals, bool(theano))
    architecture = resolver.architecture()
    segments = None if architecture is None else resolver.segments(architecture)
    problems.raise_if_any()
    assert architecture is not None  # otherwise something was refused
    assert segments is not None
    return ModelConfig(
        name=name,
        folder_for_output=keys.folder_for_output,
        architecture=architecture,
        segment_size_train=segments.train,
        segment_size_validation=segments.validation,
        segment_size_inference=segments.inference,
        segment_size_inference_given=keys.segment_inference is not None,
        channel_names=keys.channel_names,
        class_names=keys.class_names,
        new_channels=keys.new_channels,
        transfer_classes=keys.transfer_classes,
        class_frequencies=keys.class_frequencies,
        batch_size_train=keys.batch_train,
        batch_size_validation=keys.batch_validation or keys.batch_train,
        batch_size_inference=keys.batch_inference or keys.batch_train,
        source=_source(file, theano, resolver.notes),
    )


def load_train_config(
    path: Path, classes: int | None = None, *, model: ModelConfig | None = None, split_by: str | None = None
) -> TrainConfig:
    """Return the train config of a file, checked against the number of classes, or better the model, when known.

    `split_by` is the option that takes the validation cases from the training cases, if one is given.
    With a model, batch sizes that the file leaves out come from it if it has them (files of the Theano version).
    Without one, such a file gives `batch_size` None until `fit_train_config` is called with the model.
    Raises `ConfigError`, `ModelError` or `SeveralProblems` with all problems, naming file, line and key.
    """
    file = read_config(path)
    refuse_other_kind(file, "train")
    problems = ProblemList()
    refusals = Refusals(file.path, file.lines, problems)
    words = vocabulary("train")
    refuse_unknown_keys(file, words, refusals)
    config = bind_known(file, TrainConfig, refusals, words, _MAY_COME_FROM_MODEL)
    older = bind_known(file, OlderTrainKeys, refusals, words)
    theano = theano_keys(file)
    settings = OlderTrainSettings(older, _given(file), bool(theano), refusals)
    config = bind_phases(file, settings.apply(config), refusals, frozenset(words.keys()))
    model_path, note = model_path_note(config.model_path)
    checks = SessionChecks(refusals, _given(file), split_by)
    checks.train(config)
    if config.batch_size is None and model is None and not theano:
        refuse_missing_batch_size(refusals)
    elif config.batch_size is not None and model is None:
        checks.batches(config)
    if classes is not None and model is None:
        check_train_classes(config, classes, refusals)
    notes = [*settings.notes, *checks.notes, *([note] if note else [])]
    config = replace(config, model_path=model_path, source=_source(file, theano, notes))
    if model is not None:
        config = fit_train(config, model, refusals)
    problems.raise_if_any()
    return config


def load_test_config(path: Path, classes: int | None = None, *, model: ModelConfig | None = None) -> TestConfig:
    """Return the test config of a file, checked against the number of classes, or better the model, when known.

    With a model, a batch size that the file leaves out comes from it if it has one (files of the Theano version).
    Raises `ConfigError`, `ModelError` or `SeveralProblems` with all problems, naming file, line and key.
    """
    file = read_config(path)
    refuse_other_kind(file, "test")
    problems = ProblemList()
    refusals = Refusals(file.path, file.lines, problems)
    words = vocabulary("test")
    refuse_unknown_keys(file, words, refusals)
    config = bind_known(file, TestConfig, refusals, words)
    older = bind_known(file, OlderTestKeys, refusals, words)
    refuse_4d_feature_maps(older.feature_maps_4d, "saveAllFmsIn4DimImage", "saveIndividualFms", refusals)
    model_path, note = model_path_note(config.model_path)
    checks = SessionChecks(refusals, _given(file))
    checks.test(config)
    if classes is not None and model is None:
        check_test_classes(config, classes, refusals)
    notes = [*checks.notes, *([note] if note else [])]
    config = replace(config, model_path=model_path, source=_source(file, (), notes))
    if model is not None:
        config = fit_test(config, model, refusals)
    problems.raise_if_any()
    return config


def load_analysis_config(path: Path) -> AnalysisConfig:
    """Return the analysis config of a file.

    Raises `ConfigError` or `SeveralProblems` with all problems, naming file, line and key.
    """
    problems = ProblemList()
    file, config, refusals = _bound(path, AnalysisConfig, "analysis", problems)
    checks = SessionChecks(refusals, _given(file))
    checks.analysis(config)
    problems.raise_if_any()
    if config.training is not None:
        config = with_training_cases(config, load_train_config(config.training))
    return replace(config, source=_source(file, (), checks.notes))


def with_training_cases(config: AnalysisConfig, training: TrainConfig) -> AnalysisConfig:
    """Return an analysis of the training cases of a train config, normalised as it says.

    Args:
        config: that names the train config as `training`.
        training: what stands there.

    Raises:
        ConfigError: the analysis has other cases or another normalisation of its own.
    """
    for name, own, theirs, none in (
        ("data", config.data, training.data, DataConfig()),
        ("preprocessing", config.preprocessing, training.preprocessing, PreprocessingConfig()),
    ):
        if own not in (theirs, none):
            raise ConfigError(
                f"{name} of the analysis contradicts trainConfig, whose cases and normalisation ({config.training}) "
                "are used; keep one."
            )
    return replace(config, data=training.data, preprocessing=training.preprocessing)


def load_comparison_config(path: Path) -> ComparisonConfig:
    """Return the comparison config of a file; the configs that it names are not read.

    Raises `ConfigError` or `SeveralProblems` with all problems, naming file, line and key.
    """
    problems = ProblemList()
    file, config, refusals = _bound(path, ComparisonConfig, "comparison", problems)
    refuse_unsafe_name("sessionName", config.session_name, refusals)
    check_comparison(config, refusals)
    problems.raise_if_any()
    return replace(config, source=_source(file, (), []))


def _bound(path: Path, cls: type[Config], kind: Kind, problems: ProblemList) -> tuple[ConfigFile, Config, Refusals]:
    """Read a file of a kind that the original does not have and bind its keys; what is wrong is added to `problems`."""
    file = read_config(path)
    refuse_other_kind(file, kind)
    refusals = Refusals(file.path, file.lines, problems)
    words = vocabulary(kind)
    refuse_unknown_keys(file, words, refusals)
    return file, bind_known(file, cls, refusals, words), refusals


def _given(file: ConfigFile) -> frozenset[str]:
    return frozenset(key for key, value in file.values.items() if value is not None)


def _source(file: ConfigFile, theano: tuple[str, ...], notes: list[str]) -> ConfigSource:
    notice = [theano_notice(file, theano)] if theano else []
    return ConfigSource(
        path=file.path,
        dialect=file.dialect,
        notes=(*file.notes, *notice, *(f"{file.path}: {note}" for note in notes)),
        given=_given(file),
        lines=file.lines,
        theano_keys=theano,
    )
