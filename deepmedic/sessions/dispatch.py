"""From arguments to a session: configs are read and refused first, before torch is imported."""

from __future__ import annotations

import logging
from pathlib import Path

from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.config.load import load_model_config, load_test_config, load_train_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.training import TrainConfig
from deepmedic.errors import CommandLineError, ConfigError, DeepMedicError, ProblemList
from deepmedic.logs import init_logging, log_refusal
from deepmedic.sessions.paths import SessionPaths

log = logging.getLogger(__name__)


def run(arguments: Arguments) -> int:
    """Run `-newModel`, `-train` or `-test`, or check what it would use, and return the exit code."""
    init_logging()
    problems = ProblemList()
    model_config, session_config = None, None
    with problems.gather():
        model_config = _model_config(arguments)
    with problems.gather():
        session_config = _session_config(arguments, model_config)
    problems.raise_if_any()
    paths = SessionPaths(session_config.folder_for_output, session_config.session_name) if session_config else None
    try:
        return _start(arguments, model_config, session_config)
    except DeepMedicError as problem:
        if paths is not None and not arguments.check:
            log_refusal(paths.log, str(problem))
        raise


def _start(arguments: Arguments, model: ModelConfig | None, session: TrainConfig | TestConfig | None) -> int:
    if isinstance(session, TrainConfig):
        from deepmedic.sessions import check, training, training_plan

        train_plan = training_plan.prepare(arguments, session, model)
        return check.training(train_plan) if arguments.check else training.run(train_plan)
    if isinstance(session, TestConfig):
        from deepmedic.sessions import check, testing

        test_plan = testing.prepare(arguments, session, model)
        return check.testing(test_plan) if arguments.check else testing.run(test_plan)
    from deepmedic.sessions import check, new_model

    assert model is not None
    plan = new_model.prepare(arguments, model)
    return check.new_model(plan) if arguments.check else new_model.run(plan)


def _model_config(arguments: Arguments) -> ModelConfig | None:
    """The architecture `.cfg` that `-newModel` or, as in v0.8, `-model` names."""
    if arguments.new_model is not None:
        if not arguments.new_model.is_file():
            raise ConfigError(f"{arguments.new_model}: there is no such file; -newModel needs a model .cfg.")
        return load_model_config(arguments.new_model)
    if arguments.model is not None and is_text(arguments.model):
        return load_model_config(arguments.model)
    return None


def _session_config(arguments: Arguments, model: ModelConfig | None) -> TrainConfig | TestConfig | None:
    path = arguments.train or arguments.test
    if path is None:
        return None
    option = "-train" if arguments.train else "-test"
    if not path.is_file():
        raise CommandLineError(f"{option} {path}: there is no such file; name a session's .cfg.")
    if arguments.train:
        return load_train_config(path, model=model)
    return load_test_config(path, model=model)


def is_text(path: Path) -> bool:
    """True when a file is text, as a `.cfg` is and no saved model can be."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(4096)
    if not head or b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character cut in two at the end of what was read is no sign of a binary file.
        return len(head) == 4096 and error.start > len(head) - 4
    return True
