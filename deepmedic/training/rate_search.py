"""Looking for a learning rate: short trainings from one start, and one training whose rate rises.

The grid is that of Matsoukas et al., "What Makes Transfer Learning Work for Medical Images" (CVPR 2022): every rate is
trained from the same weights, with the same segments, and judged on the same validation segments. The ramp is the
learning rate range test of Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017), with the rate
rising exponentially from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from deepmedic.errors import DivergedError
from deepmedic.training.divergence import Step
from deepmedic.training.history import History
from deepmedic.training.learning import begin_phase, new_learning
from deepmedic.training.losses import class_weights, training_cost
from deepmedic.training.network_weights import copy_of, put_into
from deepmedic.training.schedules import batch_factor
from deepmedic.training.state import TrainingState
from deepmedic.training.trainer import Trainer, TrainerParts

_SMOOTHING = 0.9
_RISEN = 4.0
"""Times its lowest value that the smoothed cost of a ramp may rise to."""
_SETTLING = 5
"""Steps at the start of a ramp whose smoothed cost means little."""


@dataclass(frozen=True)
class RateResult:
    """What came of one rate of the grid."""

    rate: float
    cost: float
    """Mean cost on the validation segments after training, without weight penalties; inf if it diverged."""
    dice: float
    """Mean foreground Dice (0 to 1) on the validation segments; nan if it diverged, or no class is there."""

    @property
    def diverged(self) -> bool:
        return math.isinf(self.cost)


@dataclass(frozen=True)
class Ramp:
    """The cost of each step of a training whose rate rises."""

    rates: tuple[float, ...]
    costs: tuple[float, ...]
    """As they came; the last one is inf if the training diverged."""

    @property
    def smoothed(self) -> tuple[float, ...]:
        """Exponential moving average of the costs, corrected for its start."""
        average, smoothed = 0.0, []
        for step, cost in enumerate(self.costs, 1):
            average += (1 - _SMOOTHING) / (1 - _SMOOTHING**step) * (cost - average)
            smoothed.append(average)
        return tuple(smoothed)

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed cost falls steepest over the logarithm of the rate; None: it never falls."""
        smoothed = [value for value in self.smoothed if math.isfinite(value)]
        slopes = {
            step: (smoothed[step + 1] - smoothed[step - 1]) / math.log(self.rates[step + 1] / self.rates[step - 1])
            for step in range(_SETTLING, len(smoothed) - 1)
        }
        if not slopes:
            return None
        steepest = min(slopes, key=slopes.__getitem__)
        return self.rates[steepest] if slopes[steepest] < 0 else None


def spaced_rates(lowest_power: float, highest_power: float, number: int) -> tuple[float, ...]:
    """Rates from 10 to the one power up to 10 to the other, evenly spaced by their logarithms; at least 2."""
    step = (highest_power - lowest_power) / (number - 1)
    return tuple(10.0 ** (lowest_power + step * index) for index in range(number))


def lowest_cost(results: Sequence[RateResult]) -> RateResult | None:
    """The rate of the lowest cost, of equal ones the lowest rate; None if all diverged."""
    usable = [result for result in results if not result.diverged]
    return min(usable, key=lambda result: (result.cost, result.rate), default=None)


def highest_dice(results: Sequence[RateResult]) -> RateResult | None:
    """The rate of the highest Dice, of equal ones that of the lowest cost; None if no rate has a Dice."""
    usable = [result for result in results if not (result.diverged or math.isnan(result.dice))]
    return max(usable, key=lambda result: (result.dice, -result.cost), default=None)


class RateSearch:
    """Tries learning rates on one network, which has its weights back after each."""

    def __init__(self, parts: TrainerParts, seed: int) -> None:
        """Create a search.

        Args:
            parts: of a training: config of its first phase, network with the weights to start from, segments. The
                optimiser is begun anew for every rate, and so are averages of weights.
            seed: of dropout.
        """
        self._parts = parts
        self._seed = seed
        self._start = copy_of(parts.network)
        begin_phase(parts.network, parts.config)  # says once which layers are frozen

    def try_rate(self, rate: float, epochs: int) -> RateResult:
        """Train with a constant rate from the start, and judge the result on the validation segments.

        Args:
            rate: as the key `learningRate`; layers with a factor of their own have it times that.
            epochs: to train for.
        """
        probe = self._probe(lambda step: rate)
        try:
            for _ in probe.steps(epochs):
                pass
            probe.check()
            cost, dice = probe.judge()
        except DivergedError:
            return RateResult(rate, math.inf, math.nan)
        finally:
            put_into(self._parts.network, self._start)
        return RateResult(rate, cost, dice) if math.isfinite(cost) else RateResult(rate, math.inf, math.nan)

    def ramp(self, rates: Sequence[float]) -> Ramp:
        """Train with one rate per step, until the cost has risen to four times its lowest value.

        Args:
            rates: rising.
        """
        costs: list[float] = []
        probe = self._probe(lambda step: rates[step])
        try:
            for cost in probe.steps(epochs=None):
                costs.append(cost.item())
                smoothed = Ramp(tuple(rates[: len(costs)]), tuple(costs)).smoothed
                risen = len(costs) > _SETTLING and smoothed[-1] > _RISEN * min(smoothed)
                if risen or len(costs) == len(rates):
                    break
        except DivergedError:
            costs.append(math.inf)
        finally:
            put_into(self._parts.network, self._start)
        return Ramp(tuple(rates[: len(costs)]), tuple(costs))

    def _probe(self, rate: Callable[[int], float]) -> _Probe:
        """A trainer at the very start: the weights, no optimiser state, the first segments."""
        put_into(self._parts.network, self._start)
        learning = new_learning(self._parts.network, self._parts.config)
        parts = replace(self._parts, optimiser=learning.optimiser, average=learning.average)
        return _Probe(parts, TrainingState(session="", seed=self._seed, origin={}, settings={}), rate)


class _Probe(Trainer):
    """A training without schedule, records and checkpoints."""

    def __init__(self, parts: TrainerParts, state: TrainingState, rate: Callable[[int], float]) -> None:
        super().__init__(parts, state)
        self._rate = rate
        self._factor = batch_factor(self.config.refinements.reference_batch_size, self.config.batch_size)

    def steps(self, epochs: int | None) -> Iterator[Tensor]:
        """Train, for ever if `epochs` is None; yield the cost of each step, 0-dimensional on the device.

        Raises:
            DivergedError: the cost is infinite or not a number.
        """
        position, momentum = self.state.position, self.config.optimizer.momentum
        while epochs is None or position.epoch < epochs:
            batches = self.parts.training.subepoch(position.epoch, position.subepoch)
            self.network.train()
            for index in range(len(batches)):
                rate = self._rate(position.step) * self._factor
                cost, _ = self._step(batches[index], rate, momentum)
                self._guard.watch(Step(cost, position.step, rate, partial(batches.case_names, index)))
                position.step += 1
                self.parts.interruption.raise_if_requested()
                yield cost
            position.next_subepoch()
            if position.subepoch == self.config.subepochs:
                position.next_epoch()

    def check(self) -> None:
        """Raise `DivergedError` if the last cost or any parameter is infinite or not a number."""
        self._guard.check_parameters()

    def judge(self) -> tuple[float, float]:
        """Return mean cost and mean foreground Dice on the validation segments, the same ones whenever asked."""
        source, classes = self.parts.validation, self.network.architecture.classes
        assert source is not None
        batches, tally, loss = source.subepoch(0, 0), self._new_tally(), self.config.loss
        self.network.eval()
        with self._averaged(), torch.inference_mode():
            for index in range(len(batches)):
                segments = batches[index]
                labels, logits = segments.labels, self._logits(segments)
                assert labels is not None
                weights = class_weights(loss.reweighting, labels, 0, self.session.total_epochs, classes)
                tally.add(self._counts(logits, labels), training_cost(logits, labels, loss, weights))
                self.parts.interruption.raise_if_requested()
        record = tally.record()
        dice = History(samples={("validation", 0, 0): record}).samples_score(0)
        assert record.cost is not None
        return record.cost, math.nan if dice is None else dice
