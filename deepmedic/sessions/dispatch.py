"""From arguments to a session: configs are read and refused first, before torch is imported."""

from __future__ import annotations

import logging

from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.config.load import (
    config_kind,
    load_analysis_config,
    load_comparison_config,
    load_model_config,
    load_test_config,
    load_train_config,
)
from deepmedic.config.model import ModelConfig
from deepmedic.config.training import TrainConfig
from deepmedic.errors import CommandLineError, ConfigError, DeepMedicError, ProblemList
from deepmedic.logs import init_logging, log_refusal
from deepmedic.model_files import is_model_config
from deepmedic.quick_imports import quick_imports
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.transfer.comparison_configs import read_compared

log = logging.getLogger(__name__)


def run(arguments: Arguments) -> int:
    """Run `-newModel`, `-train` or `-test`, or check what it would use, and return the exit code.

    Raises:
        DeepMedicError: what is wrong; noted in the session's log too, if there is one already.
    """
    init_logging()
    problems = ProblemList()
    model, session = None, None
    with problems.gather():
        model = _model_config(arguments)
    with problems.gather():
        session = _session_config(arguments, model)
    try:
        _raise_with_those_of_data(arguments, problems)
        if session is not None:
            _refuse_reset_of_nothing(arguments, session, model)
        return _start(arguments, model, session)
    except DeepMedicError as problem:
        if session is not None and not arguments.check:
            log_refusal(SessionPaths(session.folder_for_output, session.session_name).log, str(problem))
        raise


def analyse(arguments: Arguments) -> int:
    """Run `-analyse` with an analysis config or a train config, and return the exit code.

    Raises:
        DeepMedicError: what is wrong.
    """
    init_logging()
    assert arguments.analyse is not None
    kind = config_kind(arguments.analyse)
    if kind not in ("analysis", "train"):
        raise ConfigError(
            f"{arguments.analyse}: is a {kind} config; -analyse takes an analysis config, or the train config of the "
            "new task together with -model."
        )
    config = load_analysis_config(arguments.analyse) if kind == "analysis" else load_train_config(arguments.analyse)
    with quick_imports():
        from deepmedic.sessions.transfer import analysis_results

    return analysis_results.run(arguments, config)


def find_lr(arguments: Arguments) -> int:
    """Run `-findLr` with what a training starts from, and return the exit code.

    Raises:
        DeepMedicError: what is wrong.
    """
    init_logging()
    assert arguments.find_lr is not None
    problems = ProblemList()
    model, config = None, None
    with problems.gather():
        model = _model_config(arguments)
    with problems.gather():
        split_by = "-split" if arguments.split else None
        config = load_train_config(arguments.find_lr, model=model, split_by=split_by)
    _raise_with_those_of_data(arguments, problems)
    with quick_imports():
        from deepmedic.sessions.training import rate_finder

    assert config is not None
    plan = rate_finder.prepare(arguments, config, model)
    if not arguments.check:
        return rate_finder.run(plan)
    from deepmedic.sessions.transfer import analysis_check

    return analysis_check.rate_search(plan, finished=rate_finder.is_finished(plan))


def analyse_layers(arguments: Arguments) -> int:
    """Run `-analyseLayers` with the config of an inference, and return the exit code.

    Raises:
        DeepMedicError: what is wrong.
    """
    init_logging()
    assert arguments.analyse_layers is not None
    problems, config = ProblemList(), None
    with problems.gather():
        config = load_test_config(arguments.analyse_layers)
    _raise_with_those_of_data(arguments, problems)
    assert config is not None
    with quick_imports():
        from deepmedic.sessions.transfer import layer_results

    return layer_results.run(arguments, config)


def compare(arguments: Arguments) -> int:
    """Run `-compare` and return the exit code.

    Raises:
        DeepMedicError: what is wrong.
    """
    init_logging()
    assert arguments.compare is not None
    if "-seed" in arguments.given:
        raise CommandLineError("-seed and -compare contradict each other: a comparison takes the seeds of its config.")
    config = load_comparison_config(arguments.compare)
    compared = read_compared(config)
    with quick_imports():
        from deepmedic.sessions.transfer import comparison_results

    return comparison_results.run(arguments, config, compared)


def _start(arguments: Arguments, model: ModelConfig | None, session: TrainConfig | TestConfig | None) -> int:
    if isinstance(session, TrainConfig) and arguments.cross_validate:
        with quick_imports():
            from deepmedic.sessions.checking import check_folds
            from deepmedic.sessions.training import cross_validation

        folds = cross_validation.prepare(arguments, session, model)
        return check_folds.check_folds(folds) if arguments.check else cross_validation.run(folds)
    if isinstance(session, TrainConfig):
        with quick_imports():
            from deepmedic.sessions.checking import check
            from deepmedic.sessions.training import training, training_plan

        train_plan = training_plan.prepare(arguments, session, model)
        return check.training(train_plan) if arguments.check else training.run(train_plan)
    if isinstance(session, TestConfig):
        with quick_imports():
            from deepmedic.sessions.checking import check
            from deepmedic.sessions.inference import testing

        test_plan = testing.prepare(arguments, session, model)
        return check.testing(test_plan) if arguments.check else testing.run(test_plan)
    with quick_imports():
        from deepmedic.sessions.checking import check
        from deepmedic.sessions.models import new_model

    assert model is not None
    plan = new_model.prepare(arguments, model)
    return check.new_model(plan, arguments) if arguments.check else new_model.run(plan)


def _model_config(arguments: Arguments) -> ModelConfig | None:
    """The architecture `.cfg` that `-newModel` or, as in v0.8, `-model` names."""
    if arguments.new_model is not None:
        return load_model_config(arguments.new_model)
    if arguments.model is not None and is_model_config(arguments.model):
        return load_model_config(arguments.model)
    return None


def _session_config(arguments: Arguments, model: ModelConfig | None) -> TrainConfig | TestConfig | None:
    if arguments.train is not None:
        split_by = "-split" if arguments.split else "-crossValidate" if arguments.cross_validate else None
        return load_train_config(arguments.train, model=model, split_by=split_by)
    return None if arguments.test is None else load_test_config(arguments.test, model=model)


def _raise_with_those_of_data(arguments: Arguments, problems: ProblemList) -> None:
    """Raise the problems of configs, if there are any, in one list with those of the data that they name.

    Raises:
        DeepMedicError: what is wrong.
    """
    train, test = arguments.train or arguments.find_lr, arguments.test or arguments.analyse_layers
    path = train or test
    if problems.problems and path is not None:
        from deepmedic.sessions.checking.listed_data import check_listed_data

        is_split = bool(arguments.split or arguments.cross_validate)
        check_listed_data(path, "train" if train else "test", problems, is_split=is_split)
    problems.raise_if_any()


def _refuse_reset_of_nothing(
    arguments: Arguments, session: TrainConfig | TestConfig, model: ModelConfig | None
) -> None:
    """Refuse to keep the weights of a model when none is named; what else starts a session is judged with its files."""
    names_weights = arguments.load or session.model_path or (arguments.model and model is None)
    if arguments.reset_optimizer and not names_weights:
        reset = next(name for name in arguments.given if name.lower().startswith("-resetopt"))
        raise CommandLineError(
            f"{reset} keeps the weights of a model, but none is named; add -model X.save (or -load X), or leave "
            f"{reset} out to train a new model."
        )
