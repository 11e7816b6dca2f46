"""The self-test's training that is killed and goes on; run as a module, this is the process that is killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from deepmedic import checkpoints
from deepmedic.arguments import Arguments
from deepmedic.config.optimisation import OptimizerConfig
from deepmedic.config.sections import ExecutionConfig
from deepmedic.config.training import TrainConfig
from deepmedic.plain_content import content_digest, plain_copy
from deepmedic.sessions.selftest.selftest_reference import Check, Comparison, difference
from deepmedic.sessions.selftest.selftest_volumes import model_config, preprocessing, write_case
from deepmedic.sessions.training import training, training_plan

_SECONDS = 120
_ROUNDING = 1e-3
"""Allowed where repeated runs agree up to rounding only; losing the optimiser's state changes more than 1e-2."""


def resume(device: torch.device, *, deterministic: bool) -> Comparison:
    """A training killed with SIGKILL in its second epoch and repeated, against one that nothing interrupted."""
    with tempfile.TemporaryDirectory(prefix="deepmedic-selftest-") as name:
        folder = Path(name)
        whole = _train(folder / "whole", device, deterministic, expected="started")
        _train_until_killed(folder / "killed", device, deterministic)
        resumed = _train(folder / "killed", device, deterministic, expected="resumed")
    if not deterministic:
        return Comparison("an uninterrupted training", _largest_difference(resumed, whole), _ROUNDING)
    error = _largest_difference(resumed, whole)
    if error == 0.0 and _digest(resumed) != _digest(whole):
        raise ValueError("the same parameters, but another history")
    return Comparison("an uninterrupted training, exactly", error, 0.0)


def _train(folder: Path, device: torch.device, deterministic: bool, expected: str) -> dict[str, Any]:
    """Run the training, or the rest of it; returns the content of its newest checkpoint."""
    folder.mkdir(exist_ok=True)
    plan = training_plan.prepare(Arguments(device=str(device)), _config(folder, deterministic), model_config())
    if plan.beginning.kind != expected:
        raise ValueError(f"the training should be {expected}, but is {plan.beginning.kind}")
    code = training.run(plan)
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if code:
        raise ValueError(f"the training ended with exit code {code}")
    return checkpoints.load(plan.paths.models / checkpoints.latest_name(model_config().name, plan.paths.session))


def _train_until_killed(folder: Path, device: torch.device, deterministic: bool) -> None:
    """Run the training in a process of its own, which kills itself in the second epoch."""
    package = Path(__file__).resolve().parents[3]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    words = [str(folder), str(device), str(int(deterministic)), str(torch.get_num_threads())]
    ended = subprocess.run(
        [sys.executable, "-m", __name__, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        check=False,
    )
    if ended.returncode != -signal.SIGKILL:
        said = ended.stderr.strip().splitlines() or ["nothing on stderr"]
        raise ValueError(f"the process that should be killed ended with exit code {ended.returncode}: {said[-1]}")


def _config(folder: Path, deterministic: bool) -> TrainConfig:
    return TrainConfig(
        session_name="selfTest",
        folder_for_output=folder / "output",
        data=write_case(folder),
        epochs=2,
        subepochs=2,
        segments_per_subepoch=12,
        batch_size=4,
        optimizer=OptimizerConfig(kind=2, learning_rate=0.001),
        preprocessing=preprocessing(),
        execution=ExecutionConfig(deterministic=deterministic),
    )


def _largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Over all parameters, rolling statistics and accumulators of the optimiser."""
    pairs = [(found["parameters"], expected["parameters"])]
    slots, expected_slots = (content["training"]["optimiser"]["slots"] for content in (found, expected))
    pairs += [(slots[name], expected_slots[name]) for name in expected_slots]
    return max(difference(tensors[name], wanted[name]) for tensors, wanted in pairs for name in wanted)


def _digest(content: dict[str, Any]) -> str:
    """What must be repeated beside the tensors: metric history, counters, rolling rows."""
    training_state = content["training"]
    kept = {name: training_state[name] for name in ("history", "position", "schedule", "best", "finished")}
    return content_digest(plain_copy({**kept, "rolling_rows": content["rolling_rows"]}))


class _Killer(logging.Handler):
    """Kills the process when the second subepoch of the second epoch begins, as the session's log says."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._begun = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._begun += "Starting new Subepoch" in record.getMessage()
        if self._begun == 4:
            os.kill(os.getpid(), signal.SIGKILL)


def _be_killed(words: list[str]) -> None:
    folder, device, deterministic, threads = words
    torch.set_num_threads(int(threads))
    logging.getLogger("deepmedic").addHandler(_Killer())
    _train(Path(folder), torch.device(device), deterministic == "1", expected="started")


CHECKS = (
    Check("save, kill -9, resume", lambda device: resume(device, deterministic=True)),
    Check("the same, not deterministic", lambda device: resume(device, deterministic=False), only_cuda=True),
)

if __name__ == "__main__":
    _be_killed(sys.argv[1:])
