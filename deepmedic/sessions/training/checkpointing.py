"""Writing the checkpoints of a training session: dated ones, the newest under an undated name, the best, the final."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from deepmedic import checkpoints
from deepmedic.files import link_atomically, remove_stale_temporaries
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel, tensors_of
from deepmedic.model_files import SavedFile, saved_files
from deepmedic.training.state import TrainingState

log = logging.getLogger(__name__)

_BEST_OF_PHASE = "bestOfPhase"
_SAID = {
    "best": "The best model so far: %s",
    _BEST_OF_PHASE: "The best model of this phase so far: %s",
    "final": "The final model: %s",
}


class CheckpointFolder:
    """The files of one session below `cnnModels`: several names for some of its checkpoints."""

    def __init__(self, path: Path, model_name: str, session: str, keep: int) -> None:
        """Create a view of a folder.

        Args:
            path: the folder; it need not exist yet.
            model_name: of the session's model.
            session: name of the session.
            keep: number of dated checkpoints that stay.
        """
        self.path = path
        self.model_name = model_name
        self.session = session
        self._keep = keep

    def dated(self, tag: str = "") -> Path:
        """A new name for a checkpoint."""
        return self.path / checkpoints.dated_name(self.model_name, self.session, tag, datetime.now())

    def remove_stale_temporaries(self) -> None:
        """Remove what an interrupted write left; for the holder of the session's lock only."""
        for stale in remove_stale_temporaries(self.path, exclusive=True):
            log.info("Removed %s, left by an interrupted write.", stale.name)

    def put_in_order(self, newest: Path, state: TrainingState) -> None:
        """Give the names that the checkpoints should have according to the newest one; nothing where they have them.

        Done after each save, and at the start of a session: a kill may have come between writing and naming.
        """
        files = self._files()
        if not _named(files, "latest", state.save_index):
            checkpoints.update_latest(newest, self.model_name, self.session)
        wanted = self._wanted(state)
        for tag, counter in wanted:
            self._name(files, tag, counter)
        for file in files:
            if file.tag == _BEST_OF_PHASE and _BEST_OF_PHASE not in dict(wanted):
                file.path.unlink(missing_ok=True)
        checkpoints.prune(self.path, self._keep)

    def find(self, counter: int) -> Path | None:
        """A file with the checkpoint of that counter; None if there is none any more."""
        return next((file.path for file in self._files() if file.header.counter == counter), None)

    def is_in_order(self, state: TrainingState) -> bool:
        """Whether the checkpoints have all the names they should have."""
        files = self._files()
        return all(_named(files, tag, counter) for tag, counter in [("latest", state.save_index), *self._wanted(state)])

    def _wanted(self, state: TrainingState) -> list[tuple[str, int]]:
        """Names that checkpoints should have besides the dated ones, each with the counter of its checkpoint."""
        best, of_phase = state.best, state.phase["best"] if state.phase["restores_best"] else None
        wanted = [("best", best.get("save_index", 0))] if best is not None else []
        if of_phase is not None and of_phase != best:
            wanted.append((_BEST_OF_PHASE, of_phase["save_index"]))
        return wanted + ([("final", state.save_index)] if state.finished else [])

    def _name(self, files: list[SavedFile], tag: str, counter: int) -> None:
        """Keep the checkpoint with that counter under a name of its own, in place of the earlier one of that kind."""
        sources = [file.path for file in files if file.header.counter == counter]
        if not sources:
            return  # it was removed by hand; the earlier one goes on to have the name
        if not _named(files, tag, counter):
            kept = self.dated(tag)
            link_atomically(sources[0], kept)
            log.info(_SAID[tag], kept)
        for file in files:
            if file.tag == tag and file.header.counter != counter:
                file.path.unlink(missing_ok=True)

    def _files(self) -> list[SavedFile]:
        owner = (self.model_name, self.session)
        files = saved_files(self.path)[0] if self.path.is_dir() else []
        return [file for file in files if file.header.owner == owner]


def _named(files: list[SavedFile], tag: str, counter: int) -> bool:
    return any(file.tag == tag and file.header.counter == counter for file in files)


class CheckpointWriter:
    """Writes what a `Trainer` hands over; the last good checkpoint is always there."""

    def __init__(
        self,
        folder: CheckpointFolder,
        model: SavedModel,
        network: DeepMedicNet,
        replaces: list[Path],
        provisional: Path | None,
    ) -> None:
        """Create a writer; for the holder of the session's lock only.

        Args:
            folder: where checkpoints go.
            model: everything of the saved model but parameters and training state.
            network: whose parameters are saved.
            replaces: files of an earlier run, removed once the first checkpoint of this one is written.
            provisional: the checkpoint from before a validation on whole volumes that will be repeated, to be
                replaced by the one after it.
        """
        self._folder = folder
        self._model = model
        self._network = network
        self._replaces = replaces
        self._provisional = provisional

    def __call__(self, state: TrainingState, extra: dict[str, Any]) -> None:
        """Write one checkpoint; the one before a validation on whole volumes is replaced by the one after it."""
        saved = replace(
            self._model,
            parameters=tensors_of(self._network),
            rolling_rows=parameters.rolling_rows(self._network),
            training={**state.to_plain(), **extra},
        )
        path = self._provisional or self._folder.dated()
        self._provisional = path if state.position.stage == "volumes" else None
        checkpoints.save(path, saved.to_content())
        for earlier in self._replaces:
            if earlier != path:
                earlier.unlink(missing_ok=True)
        self._replaces = []
        self._folder.put_in_order(path, state)
        log.debug("Saved the model at: %s", path)

    def weights_of(self, counter: int) -> dict[str, Any] | None:
        """Read the weights for inference of an earlier checkpoint; None if it is gone.

        Raises:
            ModelError: it is damaged.
        """
        path = self._folder.find(counter)
        if path is None:
            return None
        content = checkpoints.load(path)
        return {name: content[name] for name in ("parameters", "rolling_rows")}
