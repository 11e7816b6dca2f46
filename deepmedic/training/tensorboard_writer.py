"""TensorBoard events with the original's tags and steps, in folders `train` and `val`; an optional extra."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from deepmedic.training.history import RATIO_NAMES, ROLES, History, Role, SampleRecord, VolumeRecord

log = logging.getLogger(__name__)

_FOLDERS: dict[Role, str] = {"training": "train", "validation": "val"}
_RATIO_TAGS = {name: f"samples: {'Dice' if name == 'dice' else name}" for name in RATIO_NAMES}
_DICE_TAGS = {
    "dice1": "whole scans: Dice1 (Prediction VS Truth)",
    "dice2": "whole scans: Dice2 (Prediction within ROI mask VS Truth)",
    "dice3": "whole scans: Dice3 (Prediction VS Truth, both within ROI mask)",
}


class TensorBoardWriter:
    """Writes metrics at step `epoch * subepochs + subepoch`; undefined ones as not-a-number."""

    def __init__(self, writers: dict[Role, Any], subepochs: int) -> None:
        self._writers = writers
        self._subepochs = subepochs

    def write_subepoch(self, role: Role, epoch: int, subepoch: int, record: SampleRecord) -> None:
        """Write accuracy (and cost in training) of all classes and the ratios of each class."""
        values = {"samples: accuracy/Class-all": record.accuracy}
        if role == "training":
            values["samples: cost/Class-all"] = record.cost
        for class_index in range(len(record.counts)):
            ratios = record.ratios(class_index)
            for name, tag in _RATIO_TAGS.items():
                values[f"{tag}/Class-{class_index}"] = getattr(ratios, name)
        self._write(role, epoch * self._subepochs + subepoch, values)

    def write_volumes(self, epoch: int, record: VolumeRecord) -> None:
        """Write the mean Dice of each class on whole volumes, at the step of the epoch's last subepoch."""
        values = {
            f"{tag}/Class-{class_index}": value
            for kind, tag in _DICE_TAGS.items()
            for class_index, value in enumerate(record.dice.get(kind, ()))
        }
        self._write("validation", (epoch + 1) * self._subepochs - 1, values)

    def _write(self, role: Role, step: int, values: dict[str, float | None]) -> None:
        writer = self._writers[role]
        for tag, value in values.items():
            writer.add_scalar(tag, math.nan if value is None else value, step)
        writer.flush()

    def close(self) -> None:
        """Finish the event files."""
        for writer in self._writers.values():
            writer.close()


def open_tensorboard(folder: Path, history: History, subepochs: int) -> TensorBoardWriter | None:
    """Return a writer into `folder`, or None with a warning where the package tensorboard is not installed.

    TensorBoard is told to forget events of subepochs that `history` does not have: an interrupted run may have
    written them after its last checkpoint.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning(
            "tensorboard_log is True, but the package tensorboard is not installed: training goes on without its "
            "events. Install it with: python -m pip install tensorboard"
        )
        return None
    try:
        writers = {
            role: SummaryWriter(str(folder / _FOLDERS[role]), purge_step=history.next_step(role, subepochs))
            for role in ROLES
        }
    except OSError as problem:
        log.warning("Training goes on without TensorBoard events: %s", problem)
        return None
    return TensorBoardWriter(writers, subepochs)
