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
from deepmedic.devices import is_deterministic, numerical_precision, seed_generator
from deepmedic.metrics import confusion_counts, most_probable
from deepmedic.model.network import DeepMedicNet
from deepmedic.training import early_stopping, network_weights, phases
from deepmedic.training.averaging import WeightAverage
from deepmedic.training.cost import TrainingCost
from deepmedic.training.divergence import DivergenceGuard, Step
from deepmedic.training.forgetting import ForgettingGuard
from deepmedic.training.history import Role, VolumeRecord
from deepmedic.training.interruption import Interrupted, Interruption
from deepmedic.training.learning import begin_phase
from deepmedic.training.memory_relief import counted_within_memory, within_memory
from deepmedic.training.optimisers import Optimiser
from deepmedic.training.recorded_step import RecordedStep
from deepmedic.training.recorder import Recorder
from deepmedic.training.schedules import (
    after_epoch,
    batch_factor,
    initial_state,
    rate_and_momentum,
    warm_up_factor,
)
from deepmedic.training.state import TrainingState, phase_at
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
    phase_start: dict[str, Any] | None = None
    """The weights that the phase began with, where it may be undone."""
    make_room: Callable[[Role], bool] = lambda role: False
    """Gives up what is resident beyond what a sub-epoch of that role draws from; returns whether there was any."""
    guard: ForgettingGuard | None = None
    """Scores the source task."""


class Trainer:
    """Trains a network from where `state` stands to the end of the last epoch.

    `state` and the tally of the subepoch are changed together after each step, and network and optimiser in it, so
    that whenever something raises `Interrupted`, all of it can be saved as it stands.
    """

    def __init__(self, parts: TrainerParts, state: TrainingState, tally: dict[str, Any] | None = None) -> None:
        self.parts = parts
        self.session = parts.config
        self.config = self.session.in_phase(state.phase["index"])
        self.network = parts.network
        self.optimiser, self.average = parts.optimiser, parts.average
        self.state = state
        self._phase_start = parts.phase_start
        self._cost = self._cost_of_phase()
        possible = parts.device.type == "cuda" and not is_deterministic(parts.device, self.config.execution)
        recorded = partial(RecordedStep, network=parts.network, device=parts.device, possible=possible)
        self._training_step = recorded(
            self._forward_and_backward, trained=lambda: self.optimiser.parameters, prepare=self._seed_dropout
        )
        self._validation_step = recorded(self._forward_and_count, trained=lambda: (), prepare=lambda: None)
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
                self._announce_phase()
                if self.parts.guard is not None:
                    self.parts.guard.begin()
                while not phases.is_finished(self.session, self.state):
                    if phases.is_over(self.session, self.state):
                        self._next_phase()
                    self._epoch()
            except Interrupted:
                self._save()
                raise
        self.parts.recorder.session_finished()

    def _epoch(self) -> None:
        position = self.state.position
        self.parts.recorder.epoch_started(position.epoch, self._phase_name())
        if position.stage != "volumes":
            while position.subepoch < self.config.subepochs:
                self._subepoch()
            rate, momentum = self._rate_and_momentum(position.epoch + 1)
            self.parts.recorder.epoch_finished(position.epoch, rate, momentum, self.optimiser.rates(rate))
            position.stage = "volumes"
        self._validate_volumes()
        self._watch_validation()
        position.next_epoch()
        self.state.finished = phases.is_finished(self.session, self.state)
        if self.session.phases and phases.is_over(self.session, self.state):
            self.parts.recorder.phase_finished(self.session, self.state)
        self._save()

    def _next_phase(self) -> None:
        """Begin the next phase, from the weights that the one before ends with.

        All of it follows from the checkpoint that was saved at the end of that phase: killed here, it is repeated.
        """
        state, before = self.state, self.optimiser
        ending, score = self._ending_weights(), phases.end_score(self.session, state)
        if ending is not None:
            network_weights.put_into(self.network, ending)
        index = state.phase["index"] + 1
        state.phase = phase_at(index, state.position.epoch, score)
        state.schedule, state.stopping = initial_state(), early_stopping.initial_state()
        self._announce_phase()
        self._release_steps()
        self.config = self.session.in_phase(index)
        learning = begin_phase(self.network, self.config)
        self.optimiser, self.average = learning.optimiser, learning.average
        if not self.session.phases[index].reset_optimizer:
            self.optimiser.adopt(before)
        self._cost = self._cost_of_phase()
        may_be_undone = self.session.phases[index].required_improvement is not None
        self._phase_start = network_weights.copy_of(self.network) if may_be_undone else None

    def _announce_phase(self) -> None:
        if self.session.phases:
            self.parts.recorder.phase_started(self.session, self.state)

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
        make_room = partial(self._make_room, "validation")
        self.network.eval()
        with self._averaged():
            for index in tqdm(range(len(batches)), desc="validating", leave=False, disable=None):
                segments, most = batches[index], self.config.validation_batch_size
                with torch.inference_mode():
                    counts = counted_within_memory(self._validation_counts, segments, self.network, make_room, most)
                tally.add(counts)
                self.parts.recorder.progress("validation", index + 1, len(batches))
                self.parts.interruption.raise_if_requested()
        self._subepoch_finished("validation", tally, started)

    def _train_subepoch(self) -> None:
        position, started = self.state.position, time.monotonic()
        batches = self.parts.training.subepoch(position.epoch, position.subepoch)
        if not position.batch:
            self._tally = self._new_tally()
        self.network.train()
        title = (
            f"epoch {position.epoch}/{self.session.total_epochs} subepoch {position.subepoch}/{self.config.subepochs}"
        )
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
        make_room = partial(self._make_room, "training")
        cost, counts = within_memory(self._gradients, batch, self.network, make_room, "batchsize_train")
        self.optimiser.step(rate, momentum)
        if self.average is not None:
            self.average.update()
        return cost, counts

    def _gradients(self, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        """Return cost and counts of a batch, and leave the gradients of the cost in the parameters."""
        _, cost, counts = self._training_step(batch, self._cost.changes_with(self.state.position.epoch))
        return cost, counts

    def _forward_and_backward(self, batch: SegmentBatch) -> tuple[Tensor, ...]:
        assert batch.labels is not None
        logits = self._logits(batch)
        cost = self._cost(logits, batch.labels, self.state.position.epoch)
        cost.backward()
        logits = logits.detach()
        return logits, cost.detach(), self._counts(logits, batch.labels)

    def _validation_counts(self, batch: SegmentBatch) -> Tensor:
        _, counts = self._validation_step(batch)
        return counts

    def _forward_and_count(self, batch: SegmentBatch) -> tuple[Tensor, ...]:
        logits = self._logits(batch)
        return logits, self._counts(logits, batch.labels)

    def _logits(self, batch: SegmentBatch) -> Tensor:
        with numerical_precision(self.config.execution.precision, self.parts.device):
            return self.network(*batch.inputs)

    def _cost_of_phase(self) -> TrainingCost:
        return TrainingCost(self.config, self.session.total_epochs, self.network, self.parts.start, self.parts.device)

    def _make_room(self, role: Role) -> bool:
        """Give up recorded steps, and volumes that a sub-epoch does not need; return whether there were any."""
        released = self._release_steps()
        return self.parts.make_room(role) or released

    def _release_steps(self) -> bool:
        return any([self._training_step.release(), self._validation_step.release()])

    def _seed_dropout(self) -> None:
        """Make the masks of a step a function of seed and step, so that a resumed session draws the same ones."""
        seed_generator(
            self.parts.device, int(stream(self.state.seed, "dropout", self.state.position.step).integers(2**63))
        )

    def _counts(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return confusion_counts(most_probable(logits, dim=1), labels, self.network.architecture.classes)

    def _validate_volumes(self) -> None:
        """Segment the validation cases after an epoch, and score the source task, as far as they are due."""
        epoch, guard = self.state.position.epoch, self.parts.guard
        validate = self.parts.validate_volumes
        if (epoch + 1) % self.config.epochs_between_volume_validation != 0:
            validate = None
        if guard is not None and not guard.is_due(epoch):
            guard = None
        if validate is None and guard is None:
            return
        self._save()
        self._release_steps()  # their memory is for tiles now
        self.network.eval()
        with self._averaged():
            if validate is not None:
                started = time.monotonic()
                record = validate(self.network, epoch)
                self.parts.recorder.volumes_finished(epoch, record, time.monotonic() - started)
            if guard is not None:
                self.state.forgot = guard.after_epoch(self.network, epoch)

    def _watch_validation(self) -> None:
        """Let the results of validation decide on learning rate, best checkpoint and early stopping."""
        config, state, epoch = self.config, self.state, self.state.position.epoch
        score, result = self._score(), self.parts.recorder.history.mean_accuracy("validation", epoch)
        if config.schedule.kind == "plateau":
            result = score
        if score is not None:
            phases.take_score(config, state, score, "samples" if self.parts.validate_volumes is None else "volumes")
        in_phase = epoch - state.phase["first_epoch"]
        state.schedule = after_epoch(config.schedule, config.epochs, in_phase, result, state.schedule)
        state.phase["restores_best"] = phases.restores_best(config.early_stopping)
        state.stopping = early_stopping.after_epoch(config.early_stopping, epoch, score, state.stopping)
        if state.stopping["stopped"]:
            self.parts.recorder.stopped_early(epoch, state.stopping, config.early_stopping.minimum_change)

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
        schedule, epochs, before = config.schedule, config.epochs, state.phase["first_epoch"]
        epoch = state.position.epoch - before
        rate, momentum = rate_and_momentum(schedule, config.optimizer, epochs, epoch, state.schedule)
        rate *= batch_factor(refinements.reference_batch_size, config.batch_size)
        return rate * warm_up_factor(refinements.warm_up_epochs, epochs_done - before), momentum

    def _averaged(self) -> AbstractContextManager[None]:
        """The network with the averaged weights, where weights are averaged."""
        return self.average.applied() if self.average is not None else nullcontext()

    def _new_tally(self) -> SubepochTally:
        return SubepochTally(self.network.architecture.classes, self.parts.device)

    def _subepoch_finished(self, role: Role, tally: SubepochTally, started: float) -> None:
        position, seconds = self.state.position, time.monotonic() - started
        self.parts.recorder.subepoch_finished(role, position.epoch, position.subepoch, tally.record(), seconds)

    def _save(self) -> None:
        self._guard.check_parameters()
        self.state.save_index += 1
        extra = {
            "optimiser": self.optimiser.state_dict(),
            "history": self.parts.recorder.history.to_plain(),
            "tally": self._tally.to_plain() if self.state.position.batch else None,
        }
        with self._as_saved(extra):
            self.parts.save(self.state, extra)

    def _as_saved(self, extra: dict[str, Any]) -> AbstractContextManager[None]:
        """The network with the weights that inference shall use; those to go on from are put into `extra` beside them.

        Where weights are neither averaged nor restored, the two are the same, and `extra` stays as it is.
        """
        ending = self._ending_weights() if self.state.finished else None
        if self._phase_start is not None:
            extra["phaseStart"] = self._phase_start
        if self.average is not None:
            extra["averaging"] = self.average.state_dict()
        if self.average is not None or ending is not None:
            extra["live"] = network_weights.copy_of(self.network)
        return self._averaged() if ending is None else network_weights.lent(self.network, ending)

    def _ending_weights(self) -> dict[str, Any] | None:
        """The weights that a phase which is over ends with; None where the network's own are the ones."""
        state = self.state
        if phases.failed(self.session, state):
            log.info("The phase is undone: the weights that it began with are restored.")
            return self._phase_start
        is_saved = not state.finished and self.average is not None  # and the network has others than were saved
        return phases.best_weights(self.session, state, self.parts.read_weights, even_if_newest=is_saved)

    def _phase_name(self) -> str:
        return self.session.phases[self.state.phase["index"]].name if self.session.phases else ""
