"""The config of a comparison: trainings that differ only in how their model starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deepmedic.config.initialisation import Initialisation
from deepmedic.config.options import option
from deepmedic.config.sections import REPORT_DOC
from deepmedic.config.source import ConfigSource, Refusals


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """A comparison of initialisations by equal trainings: `-compare COMPARE.cfg`."""

    session_name: str = option(
        "sessionName",
        "comparison",
        nonempty=True,
        doc="Name of the comparison; its folder of results carries it, and the sessions of its runs begin with it.",
    )
    folder_for_output: Path = option(
        "folderForOutput",
        doc="Folder below which the runs and the results are written; it is made when it does not exist. Where the "
        "forecasts of -analyse lie below it too, they are scored.",
    )
    sources: tuple[Path, ...] = option(
        "sourceModels",
        nonempty=True,
        origin="new",
        doc="Trained models that are transferred from, compared one by one.",
    )
    models: tuple[Path, ...] = option(
        "modelConfigs",
        nonempty=True,
        origin="new",
        doc="Model configs of the new model; several architectures are compared one by one, and differ in modelName.",
    )
    training: Path = option(
        "trainConfig",
        origin="new",
        doc="Train config of every run. Its sessionName, folderForOutput and cnnModelFilePath do not count.",
    )
    testing: Path | None = option(
        "testConfig",
        None,
        origin="new",
        default_text="the validation cases of trainConfig",
        doc="Test config whose cases, with labels, every run is scored on.",
    )
    initialisations: tuple[str, ...] = option(
        "initialisations",
        ("WT", "ST", "RI"),
        nonempty=True,
        origin="new",
        doc="How the models start: WT transfers weights, ST only mean and deviation of each tensor, WT-ST-3 weights up "
        "to depth 3 as -layers counts it and statistics beyond it, WT-ST-normal weights of one pathway, shuffle and "
        "WT-shuffle-3 values in random order instead of statistics, RI nothing. WT and RI are needed for a verdict.",
    )
    seeds: tuple[int, ...] = option(
        "seeds",
        (0, 1, 2, 3, 4),
        minimum=0,
        nonempty=True,
        origin="new",
        doc="Each initialisation is trained once per seed, which decides new weights, samples and parts of the cases.",
    )
    case_counts: tuple[int, ...] | None = option(
        "numbersOfTrainingCases",
        None,
        minimum=1,
        nonempty=True,
        origin="new",
        default_text="all",
        doc="Numbers of subjects to train on, for curves over the size of the data. The subjects are drawn with the "
        "seed, the same for all initialisations, and fewer are always among the more.",
    )
    scored_model: Literal["final", "best"] = option(
        "modelToScore",
        "final",
        origin="new",
        doc='Which model of each run is scored: the "final" one, or the "best" one on the validation cases (which then '
        "have to be others than those that are scored).",
    )
    smallest_gain: float = option(
        "smallestGain",
        0.02,
        minimum=0,
        below=1,
        origin="new",
        doc="Dice (0 to 1) below which a difference does not matter for the verdict.",
    )
    domain_distances: tuple[float, ...] | None = option(
        "domainDistances",
        None,
        minimum=0,
        nonempty=True,
        origin="new",
        default_text="from an analysis of the source model in the same folderForOutput, or measured",
        doc="How far the new images are from those of each source model, one number per source model, for the picture.",
    )
    report: bool = option("report", True, origin="new", doc=REPORT_DOC)
    source: ConfigSource = field(default_factory=ConfigSource, compare=False)

    @property
    def arms(self) -> tuple[Initialisation, ...]:
        """The initialisations, read."""
        return tuple(Initialisation.of(name) for name in self.initialisations)


def check_comparison(config: ComparisonConfig, refusals: Refusals) -> None:
    """Check what can be known without the configs and models that it names."""
    for name in config.initialisations if refusals.usable("initialisations") else ():
        try:
            Initialisation.of(name)
        except ValueError as problem:
            refusals.refuse("initialisations", str(problem))
    lists = {
        "initialisations": config.initialisations,
        "seeds": config.seeds,
        "numbersOfTrainingCases": config.case_counts or (),
        "sourceModels": config.sources,
        "modelConfigs": config.models,
    }
    for key, values in lists.items():
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated and refusals.usable(key):
            refusals.refuse(key, f"found {', '.join(repeated)} more than once; name each once")
    if refusals.usable("initialisations") and not any(arm.rest != "nothing" for arm in config.arms):
        refusals.refuse("initialisations", "found only RI; add one that transfers, such as WT")
    distances = config.domain_distances
    if distances is not None and len(distances) != len(config.sources):
        refusals.refuse(
            "domainDistances",
            f"found {len(distances)} numbers for {len(config.sources)} sourceModels; give one for each",
        )
