"""`-findLr`: which learning rate suits a training, tried on short ones; the model stays as it is."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deepmedic import devices, versions
from deepmedic.arguments import Arguments
from deepmedic.config.model import ModelConfig
from deepmedic.config.plain import digest_of_plain
from deepmedic.config.rate_search import RateSearchConfig
from deepmedic.config.training import TrainConfig
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, CommandLineError, ConfigError
from deepmedic.files import write_json_atomically
from deepmedic.locks import session_lock
from deepmedic.logs import session_log
from deepmedic.plain_content import finite
from deepmedic.plots.canvas import can_draw
from deepmedic.plots.learning_rates import draw_learning_rates
from deepmedic.sessions.common.kept_results import refuse_other_results
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.common.result_tables import write_table
from deepmedic.sessions.reports.reporting import after_session
from deepmedic.sessions.training import training_plan
from deepmedic.sessions.training.segment_sources import segment_source
from deepmedic.sessions.training.training_plan import TrainingPlan
from deepmedic.training.interruption import Interrupted, Interruption
from deepmedic.training.learning import new_learning
from deepmedic.training.rate_search import (
    Ramp,
    RateResult,
    RateSearch,
    highest_dice,
    lowest_cost,
    spaced_rates,
)
from deepmedic.training.recorder import Recorder, RecorderOutputs
from deepmedic.training.trainer import TrainerParts

log = logging.getLogger(__name__)

_NAME = "lr_finder"


@dataclass
class RateFinderPlan:
    """A search that can be made: all checks but those of voxels are passed."""

    arguments: Arguments
    search: RateSearchConfig
    training: TrainingPlan
    """Of a training as the config says, under another name, so that a session of that name does not matter."""
    paths: SessionPaths

    @property
    def request(self) -> str:
        """What was asked for, in short."""
        beginning = self.training.beginning
        settings, state = self.training.request.settings(beginning.model), beginning.state
        asked = {"settings": settings, "origin": state.origin, "files": state.files, "program": versions.VERSION}
        return digest_of_plain(asked)


@dataclass(frozen=True)
class RateFindings:
    """What the search found."""

    grid: tuple[RateResult, ...] = ()
    ramp: Ramp | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    """Name of each case that was left out -> why."""

    @property
    def suggestion(self) -> float | None:
        """The rate of the highest Dice; without a grid that of the ramp; None: no rate can be suggested."""
        best = highest_dice(self.grid) or lowest_cost(self.grid)
        if best is not None:
            return best.rate
        return self.ramp.suggestion if self.ramp is not None and not self.grid else None

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON; what is infinite or not a number is null."""
        cost, dice = lowest_cost(self.grid), highest_dice(self.grid)
        grid = [
            {"learningRate": one.rate, "cost": one.cost, "dice": one.dice, "diverged": one.diverged}
            for one in self.grid
        ]
        ramp = None
        if self.ramp is not None:
            ramp = {
                "learningRates": self.ramp.rates,
                "costs": self.ramp.costs,
                "smoothed": self.ramp.smoothed,
                "suggestion": self.ramp.suggestion,
            }
        plain = {
            "suggestion": self.suggestion,
            "lowestCost": None if cost is None else cost.rate,
            "highestDice": None if dice is None else dice.rate,
            "skippedCases": self.skipped,
            "grid": grid,
            "ramp": ramp,
        }
        return dict(finite(plain))


def prepare(arguments: Arguments, config: TrainConfig, model: ModelConfig | None) -> RateFinderPlan:
    """Read the start model, listing files and headers; check them together.

    Args:
        arguments: of the command line; what starts a training starts the search too.
        config: of the training.
        model: the model config that `-newModel` or `-model` names, if one does.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    search, notes = config.rate_search or RateSearchConfig(), []
    if not (arguments.new_model or arguments.model or arguments.load or config.model_path):
        raise CommandLineError(
            "-findLr needs a model to start from, as -train does: -newModel MODEL.cfg, -model X.save, or "
            "cnnModelFilePath in the config."
        )
    validated = config.validate_on_samples or config.validate_on_volumes
    if not validated and search.method == "grid":
        raise ConfigError(
            f'{config.source.path}: findLr.method = "grid" judges each rate on validation samples, and nothing is '
            "validated; list validation cases and set performValidationOnSamplesThroughoutTraining = true, or take "
            'method = "ramp".'
        )
    if not validated and search.method == "both":
        notes.append("nothing is validated, so that there is no grid of rates: only the ramp is made")
        search = replace(search, method="ramp")
    paths = SessionPaths(config.folder_for_output, config.session_name)
    probed = replace(
        config,
        session_name=f"{config.session_name}.findLr",
        validate_on_samples=search.method != "ramp",
        validate_on_volumes=False,
        source_task=None,
        tensorboard_log=False,
    )
    keeps_weights = arguments.new_model is None and (model is None or arguments.load is not None)
    asked = replace(arguments, train=arguments.find_lr, reset_optimizer=keeps_weights)
    plan = training_plan.prepare(asked, probed, model)
    if plan.config.phases:
        notes.append(f"the rate is that of the first phase, {plan.config.phases[0].name}, of {len(plan.config.phases)}")
    plan.config = plan.config.in_phase(0)
    plan.notes = [*notes, *plan.notes]
    return RateFinderPlan(arguments, search, plan, paths)


def run(plan: RateFinderPlan) -> int:
    """Make the search, write its results below `folderForOutput`, and return the exit code.

    Raises:
        DeepMedicError: a case cannot be used, memory is not enough, or the results of another search are in the way.
    """
    paths, folder = plan.paths, plan.paths.rates
    with ExitStack() as stack:
        stack.enter_context(session_lock(paths.folder, f"{paths.session}.findLr"))
        stack.enter_context(session_log(paths.rates_log))
        if is_finished(plan):
            log.info("This search was made before; its results are in %s.", folder)
            return 0
        for note in plan.training.notes:
            log.warning("%s", note)
        stack.enter_context(devices.session_numerics(plan.training.device, plan.training.config.execution))
        interruption = Interruption()
        try:
            with interruption.listening():
                findings = find(plan, interruption)
        except Interrupted as interrupted:
            log.warning("%s: nothing is written; repeat the command to search anew.", interrupted)
            return interrupted.exit_code
        _write(plan, findings, folder)
    return FINISHED_WITH_SKIPPED_CASES if findings.skipped else 0


def is_finished(plan: RateFinderPlan) -> bool:
    """Whether this very search was made before.

    Raises:
        OutputHeldError: the results of another one are in the way.
    """
    folder = plan.paths.rates
    return refuse_other_results(folder, folder / f"{_NAME}.json", plan.request, overwrite=plan.arguments.overwrite)


def find(plan: RateFinderPlan, interruption: Interruption) -> RateFindings:
    """Try the rates; the same plan gives the same numbers on the same device.

    Raises:
        Interrupted: a signal came.
    """
    training, search = plan.training, plan.search
    config, budgets, model = training.config, training.budgets, training.beginning.model
    source = segment_source(training, training.training, "train", budgets.training, interruption)
    validation = None
    if training.validation is not None:
        validation = segment_source(training, training.validation, "val", budgets.validation, interruption)
    try:
        for one in (source, validation):
            if one is not None:
                one.read_all()
        network = model.network().to(training.device)
        parts = TrainerParts(
            config=config,
            device=training.device,
            network=network,
            optimiser=new_learning(network, config).optimiser,
            training=source,
            validation=validation,
            validate_volumes=None,
            recorder=Recorder(config, model.class_names, RecorderOutputs()),
            save=lambda state, extra: None,
            interruption=interruption,
            start=model.start_parameters or model.parameters,
        )
        rates = RateSearch(parts, training.beginning.state.seed)
        grid = _grid(rates, search) if search.method != "ramp" else ()
        ramp = None
        if search.method != "grid":
            log.info("Ramp: %d steps from %s to %s.", search.ramp_steps, *_ends(search))
            ramp = rates.ramp(spaced_rates(search.lowest_power, search.highest_power, search.ramp_steps))
    finally:
        for one in (source, validation):
            if one is not None:
                one.close()
    skipped = source.skipped | (validation.skipped if validation is not None else {})
    return RateFindings(grid, ramp, skipped)


def _grid(rates: RateSearch, search: RateSearchConfig) -> tuple[RateResult, ...]:
    log.info("Grid: %d rates from %s to %s; epochs of each: %d.", search.resolution, *_ends(search), search.epochs)
    found = []
    grid = spaced_rates(search.lowest_power, search.highest_power, search.resolution)
    for rate in tqdm(grid, desc="learning rates", leave=False, disable=None):
        result = rates.try_rate(rate, search.epochs)
        found.append(result)
        log.info("learning rate %-10s %s", f"{rate:.4g}", _described(result))
    return tuple(found)


def _ends(search: RateSearchConfig) -> tuple[str, str]:
    return f"{10.0**search.lowest_power:.4g}", f"{10.0**search.highest_power:.4g}"


def _described(result: RateResult) -> str:
    return "diverged" if result.diverged else f"cost {result.cost:.4f}, mean foreground Dice {result.dice:.4f}"


def _write(plan: RateFinderPlan, findings: RateFindings, folder: Path) -> None:
    """Write tables and picture, and last the JSON, by which a finished search is known."""
    plain = {
        "format": 1,
        "request": plan.request,
        "seed": plan.training.beginning.state.seed,
        "program": versions.VERSION,
        "notes": plan.training.notes,
        **findings.to_plain(),
    }
    written = []
    if findings.grid:
        rows = [(one.rate, one.cost, one.dice) for one in findings.grid]
        written.append(write_table(folder / f"{_NAME}.csv", [("learning_rate", "cost", "dice"), *rows]))
    if findings.ramp is not None:
        ramp = zip(findings.ramp.rates, findings.ramp.costs, findings.ramp.smoothed, strict=True)
        written.append(write_table(folder / f"{_NAME}_ramp.csv", [("learning_rate", "cost", "smoothed"), *ramp]))
    if can_draw():
        written.append(draw_learning_rates(plain, folder / f"{_NAME}.png"))
    write_json_atomically(folder / f"{_NAME}.json", plain)
    for path in [*written, folder / f"{_NAME}.json"]:
        log.info("Written: %s", path)
    after_session(plan.paths, plan.training.config.report)
    _advise(plan, findings)


def _advise(plan: RateFinderPlan, findings: RateFindings) -> None:
    """Say what was found and what to do with it."""
    cost, dice = lowest_cost(findings.grid), highest_dice(findings.grid)
    if findings.grid and cost is None:
        log.warning("Every rate of the grid diverged; lower minPower and maxPower of findLr.")
    if cost is not None:
        log.info("Lowest validation cost: learning rate %.4g (%s)", cost.rate, _described(cost))
    if dice is not None:
        log.info("Highest Dice: learning rate %.4g (%s)", dice.rate, _described(dice))
    if dice is not None and dice.rate in (findings.grid[0].rate, findings.grid[-1].rate):
        log.warning("It is at the end of the rates that were tried; try further ones with minPower or maxPower.")
    if findings.ramp is not None:
        steepest = findings.ramp.suggestion
        text = (
            "the cost never falls" if steepest is None else f"the cost falls steepest at learning rate {steepest:.4g}"
        )
        log.info("Ramp: %s", text)
    if findings.suggestion is None:
        log.info("No learning rate can be suggested.")
        return
    log.info("Suggestion: learningRate = %.3g", findings.suggestion)
    log.info("Next: set it in %s, and train:\n  %s", plan.arguments.find_lr, training_command(plan.training.arguments))


def training_command(arguments: Arguments) -> str:
    """The command of the training that a learning rate was looked for."""
    words = ["deepmedic"]
    named = (
        ("-newModel", arguments.new_model),
        ("-pretrained", arguments.pretrained),
        ("-pretrainedConfig", arguments.pretrained_config),
        ("-layers", arguments.layers),
        ("-initialisation", arguments.initialisation),
        ("-grow", arguments.grow),
        ("-train", arguments.train),
        ("-split", arguments.split),
        ("-model", arguments.model),
        ("-load", arguments.load),
    )
    for option, value in named:
        if value is not None:
            words += [option, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    if arguments.reset_optimizer:
        words.append("-resetOptimizer")
    if arguments.seed:
        words += ["-seed", str(arguments.seed)]
    return " ".join(words)
