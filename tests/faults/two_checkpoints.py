"""Two consecutive checkpoints, written once for each moment of writing them, and killed at that moment.

    PYTHONPATH=tests/faults:. FAULT=kill:nothing:0 python tests/faults/two_checkpoints.py SCENARIO FOLDER

A checkpoint stands already. A forked copy of this process writes two more by the way of a training session, up to its
kill; another copy then does what a session does that goes on. Each kill gives one JSON object on stdout; the last one
is of the copy that was not killed. See `sitecustomize.py` for the moments.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sitecustomize
import torch

from deepmedic import checkpoints
from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.model import ModelConfig
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.training.training_session import TrainingSession
from deepmedic.training.state import Position, TrainingState

LAST = 3
SCENARIOS: dict[str, dict[int, dict[str, Any]]] = {
    # The best and the final one, with one dated checkpoint kept: older ones and the earlier best are removed.
    "epochs": {1: {}, 2: {"best": 2}, 3: {"best": 3, "finished": True}},
    # Before and after a validation on whole volumes: the second takes the place of the first.
    "validation": {1: {"best": 1}, 2: {"best": 1, "stage": "volumes"}, 3: {"best": 3}},
}


def state_at(scenario: str, counter: int) -> TrainingState:
    wanted = SCENARIOS[scenario][counter]
    best = {"dice": 0.5, "epoch": 0, "kind": "volumes", "save_index": wanted["best"]} if "best" in wanted else None
    position = Position(epoch=counter, stage=wanted.get("stage", "samples"))
    origin = {"kind": "new", "sha256": "0" * 64}
    return TrainingState(
        "first",
        seed=0,
        origin=origin,
        settings={},
        position=position,
        best=best,
        save_index=counter,
        finished=wanted.get("finished", False),
    )


class Session:
    """What of a training session writes checkpoints, and nothing else of it."""

    def __init__(self, scenario: str, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        kernels, valid, none = ((3, 3, 3),), ("valid",), (0.0,)
        normal, fc = Pathway("normal", (2,), kernels, valid, none), Pathway("fc", (2,), ((1, 1, 1),), valid, none)
        config = ModelConfig(
            name="net",
            folder_for_output=folder,
            architecture=Architecture(1, 2, normal, (), fc),
            segment_size_train=(5, 5, 5),
            segment_size_validation=(5, 5, 5),
            segment_size_inference=(5, 5, 5),
            segment_size_inference_given=True,
        )
        self.model = SavedModel.new(config, 0)
        self.network = self.model.network()

    def write(self, last: int = LAST) -> None:
        """Go on from the newest checkpoint, or start, and write those that follow, up to the last one."""
        counter, newest = 0, None
        if self.folder.is_dir() and any(self.folder.glob("*.save")):
            newest, content, _ = checkpoints.newest_valid(self.folder)
            counter = content["training"]["save_index"]
        beginning = SimpleNamespace(
            model=self.model,
            kind="resumed" if counter else "started",
            is_newest=True,
            path=newest,
            state=state_at(self.scenario, counter) if counter else None,
        )
        plan = SimpleNamespace(
            beginning=beginning,
            arguments=SimpleNamespace(overwrite=False),
            paths=SimpleNamespace(models=self.folder, session="first"),
            config=SimpleNamespace(keep_last_checkpoints=1),
        )
        parts = SimpleNamespace(plan=plan, beginning=beginning, model=self.model, network=self.network)
        writer = TrainingSession._checkpoint_writer(parts)
        for following in range(counter + 1, last + 1):
            fill(self.network, following)
            writer(state_at(self.scenario, following), {"history": {}})


def fill(network: DeepMedicNet, counter: int) -> None:
    """Give all parameters a value that tells the checkpoint."""
    with torch.no_grad():
        for _, tensor in parameters.optimizer_order(network):
            tensor.fill_(counter)


def found_in(folder: Path) -> dict[str, Any]:
    """The newest checkpoint that a session would go on from, and whether its parameters are those of its counter."""
    _, content, notes = checkpoints.newest_valid(folder)
    counter = content["counter"]
    whole = all(bool((content["parameters"][name] == counter).all()) for name in ("normal/1/weight", "fc/1/weight"))
    return {"counter": counter, "whole": whole, "notes": notes}


def names_in(folder: Path) -> dict[str, str]:
    """Every file, with its date left out, and a digest of what is in it."""
    return {
        re.sub(r"\d{4}-[\d.-]+", "DATE.", path.name): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in sorted(folder.iterdir())
    }


class LastMoment:
    """Remembers the last moment that a copy of this process came to, in a file that outlives the copy."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("moment")
        self._happens = sitecustomize._happens
        sitecustomize._happens = self._note

    def read(self) -> str:
        return os.pread(self._descriptor, 10_000, 0).decode()

    def _note(self, event: str, where: str) -> None:
        if sitecustomize._WORDS[2:] and sitecustomize._WORDS[2] in where:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{event} {where}".encode(), 0)
        self._happens(event, where)


def in_a_copy(work: Callable[[], None]) -> int:
    """Do something in a forked copy of this process; return its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(scenario: str, folder: Path) -> None:
    torch.set_num_threads(1)
    # A process that is killed loses nothing of what it wrote, so nothing need really be synced.
    os.fsync = sitecustomize._watched("os.fsync", lambda descriptor: None, sitecustomize._path_of)
    session, last_moment, moment, code = Session(scenario, folder), LastMoment(), 0, -9
    while code != 0:
        moment += 1
        session.folder = folder / str(moment)
        session.write(last=1)

        def killed(moment: int = moment) -> None:
            sitecustomize._WORDS[:] = ["any", str(moment), str(session.folder)]
            session.write()

        code = in_a_copy(killed)
        found = found_in(session.folder)
        goes_on = in_a_copy(session.write)
        record = {"moment": last_moment.read(), "code": code, **found, "goes on": goes_on}
        sys.stdout.write(json.dumps(record | {"names": names_in(session.folder)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
