"""What a training session says and keeps: log lines, events, the metric history and its CSV file, TensorBoard.

Every message goes to the session's log. The console shows those of level INFO: a line or two per epoch instead of the
original's hundred.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deepmedic.config.training import TrainConfig
from deepmedic.files import write_text_atomically
from deepmedic.logs import EventLog
from deepmedic.metrics import mean_defined
from deepmedic.training import log_lines, phases
from deepmedic.training.early_stopping import StoppingState
from deepmedic.training.history import (
    BEFORE_TRAINING,
    RATIO_NAMES,
    EpochRecord,
    History,
    Role,
    SampleRecord,
    VolumeRecord,
)
from deepmedic.training.state import TrainingState
from deepmedic.training.tensorboard_writer import TensorBoardWriter

log = logging.getLogger(__name__)

_PROGRESS_REPORTS = 5
"""Per subepoch."""


@dataclass(frozen=True, kw_only=True)
class RecorderOutputs:
    """Where a recorder writes; None: not there."""

    metrics: Path | None = None
    """The CSV file of the history."""
    events: EventLog | None = None
    tensorboard: TensorBoardWriter | None = None


class Recorder:
    """Takes the measurements of one session and passes them on to all its records.

    Records of a resumed session go on from the `history` of its checkpoint: the CSV file is written anew from it, and
    a repeated subepoch or validation replaces its earlier record.
    """

    def __init__(
        self,
        config: TrainConfig,
        class_names: Sequence[str],
        outputs: RecorderOutputs,
        history: History | None = None,
    ) -> None:
        self.history = history if history is not None else History()
        self._config = config
        self._class_names = list(class_names)
        self._outputs = outputs
        self._session_clock = self._epoch_clock = time.monotonic()

    def session_started(self) -> None:
        """Log the settings that the original's plotting script looks for, and write the CSV file of the history."""
        self._session_clock = time.monotonic()
        _debug(log_lines.settings(self._config, len(self._class_names)))
        self.write_metrics()

    def optimisation_started(self, *, uninitialized: bool, reset: bool) -> None:
        """Log whether optimisation starts anew, and why."""
        for line in log_lines.optimisation_start(uninitialized=uninitialized, reset=reset):
            log.info(line)
        self._event("optimisation_started", uninitialized=uninitialized, reset=reset)

    def phase_started(self, config: TrainConfig, state: TrainingState) -> None:
        """Log what a phase does, at its start and whenever the session goes on in it."""
        index, first_epoch = state.phase["index"], state.phase["first_epoch"]
        title, text = phases.title(config, index), phases.describe(config, index)
        log.info("== %s, from epoch #%d: %s ==", title, first_epoch, text)
        self._event("phase_started", phase=config.phases[index].name, first_epoch=first_epoch, settings=text)

    def phase_finished(self, config: TrainConfig, state: TrainingState) -> None:
        """Log the validation score before and after a phase that is over."""
        index, start, end = state.phase["index"], state.phase["start_score"], phases.end_score(config, state)
        change = "" if start is None or end is None else f", a change of {end - start:+.4f}"
        before, after = log_lines.number(start), log_lines.number(end)
        title = phases.title(config, index)
        undone = phases.failed(config, state)
        log.info(
            "== %s is over after epoch #%d. Validation score at its start: %s, at its end: %s%s%s. ==",
            title,
            state.position.epoch - 1,
            before,
            after,
            change,
            f", less than the {config.phases[index].required_improvement:g} required" if undone else "",
        )
        self._event("phase_finished", phase=config.phases[index].name, start=start, end=end, undone=undone)

    def epoch_started(self, epoch: int, phase: str = "") -> None:
        """Log the start of `epoch`, counted from 0, and note the name of the phase it belongs to, if there are any."""
        self._epoch_clock = time.monotonic()
        if phase:
            self.history.phases[epoch] = phase
        log.info("~~ Starting new Epoch! Epoch #%d/%d ~~", epoch, self._config.total_epochs)
        self._event("epoch_started", epoch=epoch)

    def subepoch_started(self, subepoch: int) -> None:
        log.debug("* Starting new Subepoch: #%d/%d *", subepoch, self._config.subepochs)

    def progress(self, role: Role, done: int, batches: int) -> None:
        """Log now and then how many batches of the subepoch are done."""
        if done % max(1, batches // _PROGRESS_REPORTS) == 0 or done == batches:
            log.debug("[%s] Processed %d/%d batches for this subepoch...", role.upper(), done, batches)

    def subepoch_finished(self, role: Role, epoch: int, subepoch: int, record: SampleRecord, seconds: float) -> None:
        """Keep and report the counts (and cost) of one subepoch; `seconds` is the time it took."""
        self.history.samples[role, epoch, subepoch] = record
        _debug(log_lines.subepoch_report(role, epoch, subepoch, record))
        what = "Validation on batches of" if role == "validation" else "Training on batches of this"
        log.debug("TIMING: %s subepoch #%d lasted: %.1f secs.", what, subepoch, seconds)
        place = {"role": role, "epoch": epoch, "subepoch": subepoch}
        self._event("subepoch", **place, cost=record.cost, accuracy=record.accuracy, **self._ratios(record))
        if self._outputs.tensorboard is not None:
            self._outputs.tensorboard.write_subepoch(role, epoch, subepoch, record)

    def epoch_finished(
        self, epoch: int, learning_rate: float, momentum: float, rates: Mapping[str, float] | None = None
    ) -> None:
        """Keep and report one epoch with the rate and momentum its steps were made with.

        `rates` has the rate of each group of layers, by the names of these.
        """
        self.history.epochs[epoch] = EpochRecord(learning_rate, momentum)
        log.debug("~~~~~~ Epoch #%d finished. Reporting Accuracy over whole epoch. ~~~~~~~", epoch)
        for role in ("validation", "training"):
            records = self.history.subepochs(role, epoch)
            if records:
                _debug(log_lines.epoch_report(role, epoch, records))
        log.debug("Trainer: Learning rate of this epoch: %g, momentum: %g", learning_rate, momentum)
        groups = dict(rates or {})
        for layers, rate in groups.items() if len(groups) > 1 else ():
            log.debug("Trainer: Learning rate of %s: %g", layers, rate)
        log.debug("Trainer: Number of epochs the model has been trained: %d", epoch + 1)
        seconds = time.monotonic() - self._epoch_clock
        log.debug("TIMING: Whole Epoch #%d lasted: %.1f secs.", epoch, seconds)
        summary = EpochSummary.of(self.history, epoch, self._config.total_epochs, self._class_names, seconds)
        for line in summary.lines():
            log.info(line)
        further = {"learning_rates": groups} if len(groups) > 1 else {}
        self._event("epoch", **asdict(summary), **further)
        self.write_metrics()

    def volumes_finished(self, epoch: int, record: VolumeRecord, seconds: float) -> None:
        """Keep and report the validation on whole volumes after `epoch`."""
        self.history.volumes[epoch] = record
        _debug(log_lines.volume_report(record))
        log.debug("TIMING: Validation on whole volumes lasted: %.1f secs.", seconds)
        classes = record.dice.get("dice2", ())  # of the segmentation as it is saved
        named = [f"{name} {log_lines.number(value)}" for name, value in zip(self._labels(), classes, strict=False)]
        log.info("   whole volumes: mean Dice %s (%s)", log_lines.number(record.foreground_dice), ", ".join(named))
        dice = {kind: list(values) for kind, values in record.dice.items()}
        self._event("volumes", epoch=epoch, foreground_dice=record.foreground_dice, **dice)
        if self._outputs.tensorboard is not None:
            self._outputs.tensorboard.write_volumes(epoch, record)
        self.write_metrics()

    def source_task_finished(self, epoch: int, record: VolumeRecord, seconds: float) -> None:
        """Keep and report the score of the source task after `epoch`, or before the training."""
        self.history.source_task[epoch] = record
        log.debug("TIMING: Scoring the source task lasted: %.1f secs.", seconds)
        before = self.history.source_task.get(BEFORE_TRAINING)
        compared = "before the training"
        if epoch != BEFORE_TRAINING and before is not None:
            compared = f"before the training it was {log_lines.number(before.foreground_dice)}"
        log.info("   source task: mean Dice %s (%s)", log_lines.number(record.foreground_dice), compared)
        dice = {kind: list(values) for kind, values in record.dice.items()}
        self._event("source_task", epoch=epoch, foreground_dice=record.foreground_dice, **dice)
        self.write_metrics()

    def stopped_early(self, epoch: int, stopping: StoppingState, minimum_change: float) -> None:
        """Log that the training or its phase ends after `epoch`, since the score has not risen enough."""
        log.info(
            "The %s ends early, after epoch #%d: the validation score has not risen by more than %g since epoch "
            "#%d, where it was %s.",
            "phase" if self._config.phases else "training",
            epoch,
            minimum_change,
            stopping["epoch"],
            log_lines.number(stopping["score"]),
        )
        self._event("stopped_early", epoch=epoch, best_epoch=stopping["epoch"], score=stopping["score"])

    def session_finished(self) -> None:
        """Log the time the session took (since it was last resumed)."""
        seconds = time.monotonic() - self._session_clock
        log.debug("TIMING: Training process lasted: %.1f secs.", seconds)
        self._event("session_finished", epochs=self._config.total_epochs)

    def write_metrics(self) -> None:
        """Write the CSV file anew from the history; done by itself at the start, after epochs and after volumes.

        Raises:
            ResourceError: the file cannot be written; the older one is untouched.
        """
        if self._outputs.metrics is not None:
            write_text_atomically(self._outputs.metrics, self.history.csv())

    def close(self) -> None:
        """Finish the TensorBoard files."""
        if self._outputs.tensorboard is not None:
            self._outputs.tensorboard.close()

    def _labels(self) -> list[str]:
        """Names for entries of per-class lists, whose entry 0 is the whole foreground."""
        return ["whole foreground", *self._class_names[1:]]

    def _ratios(self, record: SampleRecord) -> dict[str, list[float | None]]:
        ratios = [record.ratios(class_index) for class_index in range(len(record.counts))]
        return {name: [getattr(ratio, name) for ratio in ratios] for name in RATIO_NAMES if name != "accuracy"}

    def _event(self, event: str, **fields: object) -> None:
        if self._outputs.events is not None:
            self._outputs.events.write(event, **fields)


@dataclass(frozen=True)
class EpochSummary:
    """One epoch in a few numbers."""

    epoch: int
    epochs: int
    seconds: float
    learning_rate: float
    momentum: float
    cost: float | None
    accuracy: dict[Role, float | None]
    dice: dict[Role, dict[str, float | None]]
    """Role -> class name -> mean over subepochs of the Dice on samples, the background left out."""

    @classmethod
    def of(cls, history: History, epoch: int, epochs: int, class_names: Sequence[str], seconds: float) -> EpochSummary:
        """Summarise `epoch` of a history that has its training records."""
        records: dict[Role, list[SampleRecord]] = {
            role: found for role in ("training", "validation") if (found := history.subepochs(role, epoch))
        }
        settings = history.epochs[epoch]
        return cls(
            epoch=epoch,
            epochs=epochs,
            seconds=round(seconds, 3),
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            cost=mean_defined([record.cost for record in records.get("training", [])]),
            accuracy={role: mean_defined([record.accuracy for record in found]) for role, found in records.items()},
            dice={
                role: {
                    name: mean_defined([record.ratios(class_index).dice for record in found])
                    for class_index, name in enumerate(class_names)
                    if class_index
                }
                for role, found in records.items()
            },
        )

    def lines(self) -> list[str]:
        """Return one line for training and, where there was one, one for validation on samples."""
        head = f"Epoch #{self.epoch}/{self.epochs} took {self.seconds:.1f} s at learning rate {self.learning_rate:.3g}"
        lines = [f"{head}, momentum {self.momentum:.3g}"]
        for role in self.accuracy:
            dice = ", ".join(f"{name} {log_lines.number(value)}" for name, value in self.dice[role].items())
            cost = f"cost {log_lines.number(self.cost, 5)}, " if role == "training" else ""
            accuracy = log_lines.number(self.accuracy[role])
            lines.append(f"   {role + ':':11} {cost}accuracy {accuracy}, Dice {dice}")
        return lines


def _debug(lines: Sequence[str]) -> None:
    for line in lines:
        log.debug(line)
