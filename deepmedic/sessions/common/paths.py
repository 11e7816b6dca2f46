"""Where a session keeps its files below `folderForOutput`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SessionPaths:
    """All places of one session; nothing is created here."""

    folder: Path
    session: str

    def fold(self, number: int) -> SessionPaths:
        """The training of a fold, counted from 1, when the session is a cross-validation."""
        return SessionPaths(self.folder, f"{self.session}_fold{number}")

    @property
    def held_out(self) -> SessionPaths:
        """The inference session that scores a fold on the cases held out of it."""
        return SessionPaths(self.folder, f"{self.session}_heldOut")

    @property
    def new_models(self) -> Path:
        return self.folder / "cnnModels"

    @property
    def models(self) -> Path:
        return self.new_models / self.session

    @property
    def splits(self) -> Path:
        """How `-split` or `-crossValidate` split the training cases, with listing files of the parts."""
        return self.folder / "splits" / self.session

    @property
    def predictions(self) -> Path:
        """Segmentations and probability maps lie in `predictions/` below it, feature maps in `features/`."""
        return self.folder / "predictions" / self.session

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.session}.txt"

    @property
    def events(self) -> Path:
        return self.folder / "logs" / f"{self.session}.jsonl"

    @property
    def metrics(self) -> Path:
        return self.folder / "logs" / f"{self.session}.metrics.csv"

    @property
    def analyses(self) -> Path:
        """Results of `-analyse`."""
        return self.folder / "analyses" / self.session

    @property
    def comparisons(self) -> Path:
        """Results of `-compare`."""
        return self.folder / "comparisons" / self.session

    @property
    def analysis_log(self) -> Path:
        return self.folder / "logs" / f"{self.session}.analysis.txt"

    @property
    def report(self) -> Path:
        """Images of many cases lie beside it, in `reports/<session>_files/`."""
        return self.folder / "reports" / f"{self.session}.html"

    @property
    def rates(self) -> Path:
        """Results of `-findLr`."""
        return self.folder / "learningRates" / self.session

    @property
    def rates_log(self) -> Path:
        return self.folder / "logs" / f"{self.session}.findLr.txt"

    @property
    def layers(self) -> Path:
        """Results of `-analyseLayers`."""
        return self.folder / "layers" / self.session

    @property
    def layers_log(self) -> Path:
        return self.folder / "logs" / f"{self.session}.layers.txt"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard" / self.session
