"""The training loop: epochs of subepochs of steps, validation, schedule, checkpoints, and leaving on a signal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from deepmedic import devices
from deepmedic.config.training import TrainConfig
from deepmedic.data.randomness import stream
from deepmedic.data.segments import SegmentBatch
from deepmedic.errors import DivergedError
from deepmedic.metrics import confusion_counts
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.history import Role, VolumeRecord
from deepmedic.training.interruption import Interrupted, Interruption
from deepmedic.training.losses import class_weights, regularization, training_cost
from deepmedic.training.optimisers import Optimiser
from deepmedic.training.recorder import Recorder
from deepmedic.training.schedules import after_epoch, rate_and_momentum
from deepmedic.training.state import TrainingState
from deepmedic.training.tally import SubepochTally

log = logging.getLogger(__name__)


class Subepoch(Protocol):
    """The segments of one subepoch, in batches on the device."""

    def __len__(self) -> int: ...

    def __getitem__(self, batch: int) -> SegmentBatch: ...

    def case_names(self, batch: int) -> list[str]:
        """The cases that a batch was drawn from, for messages."""
        ...


class SegmentSource(Protocol):
    """Gives the segments of a subepoch as a pure function of the two numbers."""

    def subepoch(self, epoch: int, subepoch: int) -> Subepoch: ...


@dataclass(frozen=True)
class TrainerParts:
    """Everything a training session is put together from."""

    config: TrainConfig
    device: torch.device
    network: DeepMedicNet
    optimiser: Optimiser
    training: SegmentSource
    validation: SegmentSource | None
    """For validation on samples."""
    validate_volumes: Callable[[DeepMedicNet, int], VolumeRecord] | None
    """Segments the validation cases after an epoch."""
    recorder: Recorder
    save: Callable[[TrainingState, dict[str, Any], bool], None]
    """Writes a checkpoint: state, what else the trainer keeps, whether it is the best so far."""
    interruption: Interruption


class Trainer:
    """Trains a network from where `state` stands to the end of the last epoch."""

    def __init__(self, parts: TrainerParts, state: TrainingState, tally: dict[str, Any] | None = None) -> None:
        self.parts = parts
        self.config = parts.config
        self.network = parts.network
        self.state = state
        self._interrupted_tally = tally
        self._weights = parameters.regularized(parts.network)
        self._pending: tuple[Tensor, str] | None = None

    def run(self, *, save_first: bool = True) -> None:
        """Train until the last epoch is finished; `save_first` writes a checkpoint before the first step.

        Raises:
            Interrupted: a signal came; the state was saved.
            DivergedError: the cost became infinite or not a number; the last checkpoint is untouched.
        """
        self.parts.recorder.session_started()
        with self.parts.interruption.listening():
            if save_first:
                self._save()
            while self.state.position.epoch < self.config.epochs:
                self._epoch()
        self.parts.recorder.session_finished()

    def _epoch(self) -> None:
        position = self.state.position
        self.parts.recorder.epoch_started(position.epoch)
        while position.subepoch < self.config.subepochs and position.stage != "volumes":
            self._subepoch()
        if position.stage != "volumes":
            rate, momentum = self._rate_and_momentum()
            self.parts.recorder.epoch_finished(position.epoch, rate, momentum)
            position.stage = "volumes"
        self._validate_volumes()
        accuracy = self.parts.recorder.history.mean_accuracy("validation", position.epoch)
        self.state.schedule = after_epoch(
            self.config.schedule, self.config.epochs, position.epoch, accuracy, self.state.schedule
        )
        is_best = self._update_best()
        position.next_epoch()
        self.state.finished = position.epoch >= self.config.epochs
        self._save(is_best=is_best)

    def _subepoch(self) -> None:
        position = self.state.position
        self.parts.recorder.subepoch_started(position.subepoch)
        if position.stage == "samples":
            if self.parts.validation is not None:
                self._validate_samples(self.parts.validation)
            position.stage = "train"
        self._train_subepoch()
        position.next_subepoch()

    def _validate_samples(self, source: SegmentSource) -> None:
        position = self.state.position
        started = time.monotonic()
        batches = source.subepoch(position.epoch, position.subepoch)
        tally = SubepochTally(self.network.architecture.classes, self.parts.device)
        self.network.eval()
        for index in tqdm(range(len(batches)), desc="validating", leave=False, disable=None):
            with torch.inference_mode(), devices.autocast(self.parts.device, self.config.execution):
                logits = self.network(*batches[index].inputs)
            tally.add(self._counts(logits, batches[index].labels))
            self._leave_if_asked()
        self._finish_tally("validation", tally, started)

    def _train_subepoch(self) -> None:
        position = self.state.position
        started = time.monotonic()
        batches = self.parts.training.subepoch(position.epoch, position.subepoch)
        tally = self._tally()
        rate, momentum = self._rate_and_momentum()
        self.network.train()
        progress = tqdm(total=len(batches), initial=position.batch, desc=self._title(), leave=False, disable=None)
        with progress:
            while position.batch < len(batches):
                cost, counts = self._step(batches[position.batch], rate, momentum)
                tally.add(counts, cost)
                self._watch(cost, rate, batches.case_names(position.batch))
                position.batch += 1
                position.step += 1
                progress.update()
                self._leave_if_asked(tally)
        self._check_pending()
        self._finish_tally("training", tally, started)

    def _step(self, batch: SegmentBatch, rate: float, momentum: float) -> tuple[Tensor, Tensor]:
        """Make one training step; return its cost (0-dimensional) and counts [class, 4], both on the device."""
        assert batch.labels is not None
        config, epoch = self.config, self.state.position.epoch
        self._seed_dropout()
        with devices.autocast(self.parts.device, config.execution):
            logits = self.network(*batch.inputs)
        weights = class_weights(
            config.loss.reweighting, batch.labels, epoch, config.epochs, self.network.architecture.classes
        )
        cost = training_cost(logits, batch.labels, config.loss, weights)
        cost = cost + regularization(self._weights, config.optimizer.l1, config.optimizer.l2)
        self.parts.optimiser.zero_grad()
        cost.backward()  # type: ignore[no-untyped-call]
        self.parts.optimiser.step(rate, momentum)
        return cost.detach(), self._counts(logits.detach(), batch.labels)

    def _seed_dropout(self) -> None:
        """Make the masks of a step a function of seed and step, so that a resumed session draws the same ones."""
        torch.manual_seed(int(stream(self.state.seed, "dropout", self.state.position.step).integers(2**63)))

    def _counts(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return confusion_counts(logits.argmax(dim=1), labels, self.network.architecture.classes)

    def _watch(self, cost: Tensor, rate: float, cases: list[str]) -> None:
        """Stop at a cost that is not finite: on a CPU at once, on a GPU one step later so that it is not waited for."""
        self._check_pending()
        message = f"step {self.state.position.step} (learning rate {rate:g}, cases {', '.join(cases)})"
        self._pending = (cost, message)
        if self.parts.device.type == "cpu":
            self._check_pending()

    def _check_pending(self) -> None:
        if self._pending is None:
            return
        (cost, message), self._pending = self._pending, None
        value = cost.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"The training cost became {value} at {message}. The last checkpoint holds finite parameters and is "
                "untouched. Lower learningRate, or look at the intensities of these cases."
            )

    def _validate_volumes(self) -> None:
        epoch = self.state.position.epoch
        due = (epoch + 1) % self.config.epochs_between_volume_validation == 0
        if self.parts.validate_volumes is None or not due:
            return
        started = time.monotonic()
        self._save()
        self.network.eval()
        record = self.parts.validate_volumes(self.network, epoch)
        self.parts.recorder.volumes_finished(epoch, record, time.monotonic() - started)

    def _update_best(self) -> bool:
        """Remember the epoch with the highest mean foreground Dice: on whole volumes where these are validated."""
        history, epoch = self.parts.recorder.history, self.state.position.epoch
        if self.parts.validate_volumes is not None:
            score = history.volumes[epoch].foreground_dice if epoch in history.volumes else None
        else:
            score = history.samples_score(epoch)
        if score is None or math.isnan(score) or (self.state.best is not None and score <= self.state.best["dice"]):
            return False
        self.state.best = {"dice": score, "epoch": epoch}
        return True

    def _rate_and_momentum(self) -> tuple[float, float]:
        config, epoch = self.config, self.state.position.epoch
        return rate_and_momentum(config.schedule, config.optimizer, config.epochs, epoch, self.state.schedule)

    def _tally(self) -> SubepochTally:
        """The sums of this subepoch: those of the checkpoint where it was interrupted, else from zero."""
        plain, self._interrupted_tally = self._interrupted_tally, None
        if plain is not None and self.state.position.batch > 0:
            return SubepochTally.from_plain(plain, self.parts.device)
        return SubepochTally(self.network.architecture.classes, self.parts.device)

    def _finish_tally(self, role: Role, tally: SubepochTally, started: float) -> None:
        position, seconds = self.state.position, time.monotonic() - started
        self.parts.recorder.subepoch_finished(role, position.epoch, position.subepoch, tally.record(), seconds)

    def _leave_if_asked(self, tally: SubepochTally | None = None) -> None:
        if self.parts.interruption.requested is None:
            return
        self._check_pending()
        self._save(tally=tally)
        raise Interrupted(self.parts.interruption.requested)

    def _save(self, *, tally: SubepochTally | None = None, is_best: bool = False) -> None:
        self.state.save_index += 1
        extra = {
            "optimiser": self.parts.optimiser.state_dict(),
            "history": self.parts.recorder.history.to_plain(),
            "tally": tally.to_plain() if tally is not None else None,
        }
        self.parts.save(self.state, extra, is_best)

    def _title(self) -> str:
        position = self.state.position
        return f"epoch {position.epoch}/{self.config.epochs} subepoch {position.subepoch}/{self.config.subepochs}"
