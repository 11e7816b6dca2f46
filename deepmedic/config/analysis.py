"""The config of an analysis: which models might be transferred to which data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deepmedic.config.options import option, section
from deepmedic.config.sections import REPORT_DOC, DataConfig, ExecutionConfig, PreprocessingConfig
from deepmedic.config.source import ConfigSource

ANALYSED_CASES: dict[str, str | None] = {
    "table": "dataframeTarget",
    "channels": "channelsTarget",
    "labels": "gtLabelsTarget",
    "roi_masks": "roiMasksTarget",
    "subjects": "subjectsTarget",
    "names": None,
    "weight_maps": None,
}
"""Fields of the cases of the new task -> keys."""
_SOURCE: dict[str, str | None] = {
    "table": "dataframeSource",
    "channels": "channelsSource",
    "labels": "gtLabelsSource",
    "roi_masks": "roiMasksSource",
    "subjects": "subjectsSource",
    "names": None,
    "weight_maps": None,
}


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """An analysis before any training: `-analyse ANALYSIS.cfg`."""

    session_name: str = option(
        "sessionName", "analysis", nonempty=True, doc="Name of the analysis; its folder of results carries it."
    )
    folder_for_output: Path = option(
        "folderForOutput", doc="Folder below which the results are written; it is made when it does not exist."
    )
    models: tuple[Path, ...] | None = option(
        "sourceModels",
        None,
        nonempty=True,
        origin="new",
        default_text="given with -model",
        doc="Trained models that might be transferred: .save files, folders of sessions, or folders of those. Several "
        "are ranked. A model named on the command line takes precedence.",
    )
    target_model: Path | None = option(
        "modelConfig",
        None,
        origin="new",
        default_text="the architecture of each source model",
        doc="Model config of the new model, where it differs from the source models in more than its classes.",
    )
    training: Path | None = option(
        "trainConfig",
        None,
        origin="new",
        default_text="one for the listed cases, with the program's defaults",
        doc="Train config of the new task, written as for a training from scratch: its training cases are the target, "
        "normalised as it says, and the advice is filled in to it. Instead of listing cases here.",
    )
    class_names: tuple[str, ...] | None = option(
        "classNamesTarget",
        None,
        nonempty=True,
        origin="new",
        default_text="those of the source model, or of modelConfig",
        doc="Names of the classes of the new task, the background first.",
    )
    data: DataConfig = section(DataConfig, ANALYSED_CASES)
    source_data: DataConfig = section(DataConfig, _SOURCE)
    voxels_per_class: int = option(
        "voxelsPerClass",
        48,
        minimum=2,
        origin="new",
        doc="Most voxels of each class that are taken from one case. More take longer and give narrower intervals "
        "within cases, not over cases.",
    )
    segments_per_case: int = option(
        "segmentsPerCase",
        24,
        minimum=1,
        origin="new",
        doc="Most segments of one case that the voxels come from; few segments are fast, many are more varied. A case "
        "with more classes than that has one segment for each of its classes.",
    )
    random_networks: int = option(
        "randomNetworks",
        3,
        minimum=1,
        origin="new",
        doc="How many networks with random weights the model is compared with.",
    )
    shares: tuple[float, ...] = option(
        "learningCurveShares",
        (0.25, 0.5, 0.75, 1.0),
        above=0,
        maximum=1,
        nonempty=True,
        origin="new",
        doc="Shares of the cases that linear probes learn from, for the learning curve.",
    )
    smallest_gain: float = option(
        "smallestGain",
        0.02,
        above=0,
        below=1,
        origin="new",
        doc="Dice (0 to 1) below which a difference does not matter for the advice.",
    )
    report: bool = option("report", True, origin="new", doc=REPORT_DOC)
    preprocessing: PreprocessingConfig = section(PreprocessingConfig)
    execution: ExecutionConfig = section(ExecutionConfig)
    source: ConfigSource = field(default_factory=ConfigSource, compare=False)

    @property
    def has_source_data(self) -> bool:
        """Whether cases of the source models' own task are listed."""
        return self.source_data.channels is not None or self.source_data.table is not None
