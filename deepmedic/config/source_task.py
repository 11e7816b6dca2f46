"""The task that a model knew before it was fine-tuned: its validation cases, and what may be forgotten of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepmedic.config.options import option
from deepmedic.config.sections import DataConfig


@dataclass(frozen=True, kw_only=True)
class SourceTaskConfig:
    """Scoring the source task while another one is trained."""

    channels: tuple[Path, ...] | None = option(
        "channels",
        None,
        nonempty=True,
        origin="new",
        doc="Listing files of the images of the source task's validation cases, one per channel of the model.",
    )
    labels: Path | None = option(
        "gtLabels", None, origin="new", doc="Listing file of their manual segmentations, in the source task's classes."
    )
    roi_masks: Path | None = option("roiMasks", None, origin="new", doc="Listing file of their masks.")
    table: Path | None = option(
        "dataframe", None, origin="new", doc="CSV table of these cases, instead of listing files."
    )
    model: Path | None = option(
        "model",
        None,
        origin="new",
        default_text="the model as it was before its first training step",
        doc="The source model, a .save file or a session's folder: its score on these cases is what the scores during "
        "the training are compared with. If its classes are not those of the trained model, its classification layer "
        "is put on the trained layers below to score them.",
    )
    every_epochs: int = option("everyEpochs", 1, minimum=1, origin="new", doc="Every how many epochs it is scored.")
    largest_loss: float | None = option(
        "largestLoss",
        None,
        minimum=0,
        maximum=1,
        origin="new",
        default_text="any",
        doc="Mean foreground Dice (0 to 1) that the source task may lose, compared with before the training.",
    )
    when_exceeded: Literal["warn", "stop"] = option(
        "whenExceeded",
        "warn",
        origin="new",
        doc='What happens when it loses more than largestLoss: "warn" says so in the log; "stop" ends the training.',
    )

    @property
    def data(self) -> DataConfig:
        """Where its cases are listed."""
        return DataConfig(table=self.table, channels=self.channels, labels=self.labels, roi_masks=self.roi_masks)
