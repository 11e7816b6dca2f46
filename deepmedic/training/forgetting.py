"""A guard against forgetting: the source task is scored while another one is trained.

Catastrophic forgetting: McCloskey and Cohen (1989); Kirkpatrick et al., "Overcoming catastrophic forgetting in neural
networks" (PNAS 2017).
"""

from __future__ import annotations

import logging
import math
import time
from typing import Protocol

from deepmedic.config.source_task import SourceTaskConfig
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.history import BEFORE_TRAINING, VolumeRecord
from deepmedic.training.recorder import Recorder

log = logging.getLogger(__name__)


class SourceTaskScores(Protocol):
    """Segments the validation cases of the source task and scores them."""

    def __call__(self, network: DeepMedicNet, epoch: int) -> VolumeRecord:
        """Score a network, which is in inference mode."""
        ...

    def before_training(self) -> VolumeRecord:
        """Score the source model."""
        ...


class ForgettingGuard:
    """Scores the source task at the start and after epochs, and says when too much of it is lost."""

    def __init__(self, config: SourceTaskConfig, scores: SourceTaskScores, recorder: Recorder) -> None:
        self._config = config
        self._scores = scores
        self._recorder = recorder

    def begin(self) -> None:
        """Score the source model, unless the history has that already."""
        if BEFORE_TRAINING not in self._recorder.history.source_task:
            started = time.monotonic()
            record = self._scores.before_training()
            self._recorder.source_task_finished(BEFORE_TRAINING, record, time.monotonic() - started)

    def is_due(self, epoch: int) -> bool:
        """Return whether the source task is scored after `epoch`, counted from 0."""
        return (epoch + 1) % self._config.every_epochs == 0

    def after_epoch(self, network: DeepMedicNet, epoch: int) -> bool:
        """Score a network that is in inference mode, and return whether the training is to end."""
        started = time.monotonic()
        self._recorder.source_task_finished(epoch, self._scores(network, epoch), time.monotonic() - started)
        loss, largest = self._loss(epoch), self._config.largest_loss
        if loss is None or largest is None or loss <= largest:
            return False
        stops = self._config.when_exceeded == "stop"
        log.warning(
            "After epoch #%d the mean Dice of the source task is lower by %.4f than before the training; sourceTask "
            "allows %g.%s",
            epoch,
            loss,
            largest,
            " The training ends." if stops else "",
        )
        return stops

    def _loss(self, epoch: int) -> float | None:
        """How much lower the score is than before the training; None where one of the two is not defined."""
        scores = [self._recorder.history.source_task[at].foreground_dice for at in (BEFORE_TRAINING, epoch)]
        before, now = scores
        return None if before is None or now is None or math.isnan(before - now) else before - now
