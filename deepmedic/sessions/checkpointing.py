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
from deepmedic.training.state import TrainingState

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes what a `Trainer` hands over into the session's folder; the last good checkpoint is always there."""

    def __init__(self, folder: Path, model: SavedModel, network: DeepMedicNet, keep: int, replaces: list[Path]) -> None:
        """Create a writer.

        Args:
            folder: the session's folder below `cnnModels`.
            model: everything of the saved model but parameters and training state.
            network: whose parameters are saved.
            keep: number of dated checkpoints that stay.
            replaces: files of an earlier run, removed once the first checkpoint of this one is written.
        """
        self.folder = folder
        self.model = model
        self.network = network
        self.keep = keep
        self.newest: Path | None = None
        self._replaces = replaces
        self._provisional: Path | None = None
        for stale in remove_stale_temporaries(folder, exclusive=True):
            log.info("Removed %s, left by an interrupted write.", stale.name)

    def __call__(self, state: TrainingState, extra: dict[str, Any], is_best: bool) -> None:
        """Write one checkpoint; the one before validation on whole volumes is replaced by the one after it."""
        saved = replace(
            self.model,
            parameters=tensors_of(self.network),
            rolling_rows=parameters.rolling_rows(self.network),
            training={**state.to_plain(), **extra},
        )
        path = self._provisional or self._dated(state, "")
        self._provisional = path if state.position.stage == "volumes" else None
        checkpoints.save(path, saved.to_content())
        self.newest = checkpoints.update_latest(path, self.model.name, state.session)
        if is_best:
            self._keep_as(path, state, "best")
        if state.finished:
            self._keep_as(path, state, "final")
        self._remove_replaced(path)
        checkpoints.prune(self.folder, self.keep)
        log.debug("Saved the model at: %s", path)

    def _keep_as(self, path: Path, state: TrainingState, tag: str) -> None:
        """Keep a checkpoint under a name of its own, in place of the earlier one of that kind."""
        earlier = list(self.folder.glob(f"{self.model.name}.{state.session}.{tag}.*.save"))
        kept = self._dated(state, tag)
        link_atomically(path, kept)
        for old in earlier:
            old.unlink(missing_ok=True)
        log.info("The %s model so far: %s" if tag == "best" else "The %s model: %s", tag, kept)

    def _dated(self, state: TrainingState, tag: str) -> Path:
        return self.folder / checkpoints.dated_name(self.model.name, state.session, tag, datetime.now())

    def _remove_replaced(self, written: Path) -> None:
        for path in self._replaces:
            if path not in (written, self.newest):
                path.unlink(missing_ok=True)
        self._replaces = []
