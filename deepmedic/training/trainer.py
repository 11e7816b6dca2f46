"""The training loop: epochs of subepochs of steps, validation, schedule, checkpoints, and leaving on a signal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from deepmedic.config.training import TrainConfig
from deepmedic.data.randomness import stream
from deepmedic.data.segments import SegmentBatch
from deepmedic.devices import numerical_precision
from deepmedic.metrics import confusion_counts, most_probable
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training import early_stopping, network_weights
from deepmedic.training.averaging import WeightAverage
from deepmedic.training.divergence import DivergenceGuard, Step
from deepmedic.training.history import Role, VolumeRecord
from deepmedic.training.interruption import Interrupted, Interruption
from deepmedic.training.losses import class_weights, pull_to_start, regularization, training_cost
from deepmedic.training.optimisers import Optimiser
from deepmedic.training.recorder import Recorder
from deepmedic.training.schedules import after_epoch, batch_factor, rate_and_momentum, warm_up_factor
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
    save: Callable[[TrainingState, dict[str, Any]], None]
    """Writes a checkpoint: the state, and what else the trainer keeps."""
    interruption: Interruption
    average: WeightAverage | None = None
    """Of the network's weights; None: they are not averaged."""
    start: Mapping[str, Tensor] | None = None
    """Parameters that the training started from, which it may be pulled to."""
    read_weights: Callable[[int], dict[str, Any] | None] = lambda save_index: None
    """Reads those of an earlier checkpoint of the session; None if it is gone."""


class Trainer:
    """Trains a network from where `state` stands to the end of the last epoch.

    `state` and the tally of the subepoch are changed together after each step, and network and optimiser in it, so
    that whenever something raises `Interrupted`, all of it can be saved as it stands.
    """

    def __init__(self, parts: TrainerParts, state: TrainingState, tally: dict[str, Any] | None = None) -> None:
        self.parts = parts
        self.config = parts.config
        self.network = parts.network
        self.state = state
        self._weights = parameters.regularized(parts.network)
        self._pulled, self._start = self._pull()
        self._tally = SubepochTally.from_plain(tally, parts.device) if tally is not None else self._new_tally()
        self._guard = DivergenceGuard(parts.network, parts.device)

    def run(self, *, save_first: bool = True) -> None:
        """Train until the last epoch is finished; `save_first` writes a checkpoint before the first step.

        Raises:
            Interrupted: a signal came; the state was saved.
            DivergedError: cost or parameters became infinite or not a number; the last checkpoint is untouched.
        """
        self.parts.recorder.session_started()
        with self.parts.interruption.listening():
            try:
                if save_first:
                    self._save()
                while self.state.position.epoch < self.config.epochs and not self.state.stopping["stopped"]:
                    self._epoch()
            except Interrupted:
                self._save()
                raise
        self.parts.recorder.session_finished()

    def _epoch(self) -> None:
        position = self.state.position
        self.parts.recorder.epoch_started(position.epoch)
        if position.stage != "volumes":
            while position.subepoch < self.config.subepochs:
                self._subepoch()
            self.parts.recorder.epoch_finished(position.epoch, *self._rate_and_momentum(position.epoch + 1))
            position.stage = "volumes"
        self._validate_volumes()
        self._watch_validation()
        position.next_epoch()
        self.state.finished = position.epoch >= self.config.epochs or self.state.stopping["stopped"]
        self._save()

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
        position, started = self.state.position, time.monotonic()
        batches = source.subepoch(position.epoch, position.subepoch)
        tally = self._new_tally()
        self.network.eval()
        with self._averaged():
            for index in tqdm(range(len(batches)), desc="validating", leave=False, disable=None):
                segments = batches[index]
                with torch.inference_mode(), numerical_precision(self.config.execution.precision, self.parts.device):
                    logits = self.network(*segments.inputs)
                tally.add(self._counts(logits, segments.labels))
                self.parts.recorder.progress("validation", index + 1, len(batches))
                self.parts.interruption.raise_if_requested()
        self._subepoch_finished("validation", tally, started)

    def _train_subepoch(self) -> None:
        position, started = self.state.position, time.monotonic()
        batches = self.parts.training.subepoch(position.epoch, position.subepoch)
        if not position.batch:
            self._tally = self._new_tally()
        self.network.train()
        title = f"epoch {position.epoch}/{self.config.epochs} subepoch {position.subepoch}/{self.config.subepochs}"
        with tqdm(total=len(batches), initial=position.batch, desc=title, leave=False, disable=None) as progress:
            while position.batch < len(batches):
                subepochs_done = position.subepoch + (position.batch + 1) / len(batches)
                rate, momentum = self._rate_and_momentum(position.epoch + subepochs_done / self.config.subepochs)
                cost, counts = self._step(batches[position.batch], rate, momentum)
                self._tally.add(counts, cost)
                self._guard.watch(Step(cost, position.step, rate, partial(batches.case_names, position.batch)))
                position.batch += 1
                position.step += 1
                progress.update()
                self.parts.recorder.progress("training", position.batch, len(batches))
                self.parts.interruption.raise_if_requested()
        self._guard.check_cost()
        self._subepoch_finished("training", self._tally, started)

    def _step(self, batch: SegmentBatch, rate: float, momentum: float) -> tuple[Tensor, Tensor]:
        """Make one training step; return its cost (0-dimensional) and counts [class, 4], both on the device."""
        assert batch.labels is not None
        self._seed_dropout()
        with numerical_precision(self.config.execution.precision, self.parts.device):
            logits = self.network(*batch.inputs)
        cost = self._cost(logits, batch.labels)
        self.parts.optimiser.zero_grad()
        cost.backward()
        self.parts.optimiser.step(rate, momentum)
        if self.parts.average is not None:
            self.parts.average.update()
        return cost.detach(), self._counts(logits.detach(), batch.labels)

    def _cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        config, classes = self.config, self.network.architecture.classes
        weights = class_weights(config.loss.reweighting, labels, self.state.position.epoch, config.epochs, classes)
        cost = training_cost(logits, labels, config.loss, weights)
        cost = cost + regularization(self._weights, config.optimizer.l1, config.optimizer.l2)
        if self._pulled:
            cost = cost + pull_to_start(self._pulled, self._start, config.refinements.l2_to_start)
        return cost

    def _pull(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights that are pulled to the start of the training, and that start; empty if none are."""
        if self.config.refinements.l2_to_start == 0:
            return [], []
        assert self.parts.start is not None
        kernels = parameters.trained_kernels(self.network)
        return list(kernels.values()), [self.parts.start[name].to(self.parts.device) for name in kernels]

    def _seed_dropout(self) -> None:
        """Make the masks of a step a function of seed and step, so that a resumed session draws the same ones."""
        torch.manual_seed(int(stream(self.state.seed, "dropout", self.state.position.step).integers(2**63)))

    def _counts(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return confusion_counts(most_probable(logits, dim=1), labels, self.network.architecture.classes)

    def _validate_volumes(self) -> None:
        epoch = self.state.position.epoch
        due = (epoch + 1) % self.config.epochs_between_volume_validation == 0
        if self.parts.validate_volumes is None or not due:
            return
        started = time.monotonic()
        self._save()
        self.network.eval()
        with self._averaged():
            record = self.parts.validate_volumes(self.network, epoch)
        self.parts.recorder.volumes_finished(epoch, record, time.monotonic() - started)

    def _watch_validation(self) -> None:
        """Let the results of validation decide on learning rate, best checkpoint and early stopping."""
        config, state, epoch = self.config, self.state, self.state.position.epoch
        score, result = self._score(), self.parts.recorder.history.mean_accuracy("validation", epoch)
        if config.schedule.kind == "plateau":
            result = score
        state.schedule = after_epoch(config.schedule, config.epochs, epoch, result, state.schedule)
        # Scores on samples and on whole volumes cannot be compared; a session may change from one to the other.
        kind = "samples" if self.parts.validate_volumes is None else "volumes"
        best = state.best if state.best and state.best["kind"] == kind else None
        if score is not None and (best is None or score > best["dice"]):
            # The checkpoint that is saved next is this epoch's.
            state.best = {"dice": score, "kind": kind, "epoch": epoch, "save_index": state.save_index + 1}
        state.stopping = early_stopping.after_epoch(config.early_stopping, epoch, score, state.stopping)
        if state.stopping["stopped"]:
            self.parts.recorder.stopped_early(epoch, state.stopping["epoch"], state.stopping["score"])

    def _score(self) -> float | None:
        """Mean foreground Dice of this epoch: on whole volumes where these are validated; None: not measured."""
        history, epoch = self.parts.recorder.history, self.state.position.epoch
        if self.parts.validate_volumes is not None:
            score = history.volumes[epoch].foreground_dice if epoch in history.volumes else None
        else:
            score = history.samples_score(epoch)
        return None if score is None or math.isnan(score) else score

    def _rate_and_momentum(self, epochs_done: float) -> tuple[float, float]:
        """Learning rate and momentum of the step that ends at this number of epochs."""
        config, state, refinements = self.config, self.state, self.config.refinements
        schedule, epochs = config.schedule, config.epochs
        rate, momentum = rate_and_momentum(schedule, config.optimizer, epochs, state.position.epoch, state.schedule)
        rate *= batch_factor(refinements.reference_batch_size, config.batch_size)
        return rate * warm_up_factor(refinements.warm_up_epochs, epochs_done), momentum

    def _averaged(self) -> AbstractContextManager[None]:
        """The network with the averaged weights, where weights are averaged."""
        return self.parts.average.applied() if self.parts.average is not None else nullcontext()

    def _new_tally(self) -> SubepochTally:
        return SubepochTally(self.network.architecture.classes, self.parts.device)

    def _subepoch_finished(self, role: Role, tally: SubepochTally, started: float) -> None:
        position, seconds = self.state.position, time.monotonic() - started
        self.parts.recorder.subepoch_finished(role, position.epoch, position.subepoch, tally.record(), seconds)

    def _save(self) -> None:
        self._guard.check_parameters()
        self.state.save_index += 1
        extra = {
            "optimiser": self.parts.optimiser.state_dict(),
            "history": self.parts.recorder.history.to_plain(),
            "tally": self._tally.to_plain() if self.state.position.batch else None,
        }
        with self._as_saved(extra):
            self.parts.save(self.state, extra)

    def _as_saved(self, extra: dict[str, Any]) -> AbstractContextManager[None]:
        """The network with the weights that inference shall use; those to go on from are put into `extra` beside them.

        Where weights are neither averaged nor restored, the two are the same, and `extra` stays as it is.
        """
        average, best = self.parts.average, self._best_weights()
        if average is not None:
            extra["averaging"] = average.state_dict()
        if average is not None or best is not None:
            extra["live"] = network_weights.copy_of(self.network)
        return self._averaged() if best is None else network_weights.lent(self.network, best)

    def _best_weights(self) -> dict[str, Any] | None:
        """The weights of the best epoch if they are to end the session; None where the network's are the ones."""
        stopping, best = self.config.early_stopping, self.state.best
        restores = self.state.finished and stopping.patience is not None and stopping.restore_best
        if not restores or best is None or best["save_index"] == self.state.save_index:
            return None
        weights = self.parts.read_weights(best["save_index"])
        if weights is None:
            log.warning("The checkpoint of the best epoch #%d is gone: the last weights are kept.", best["epoch"])
        else:
            log.info("The final model holds the weights of epoch #%d, the best one.", best["epoch"])
        return weights
