"""Cases (subjects) of a data set, from listing files or a CSV table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImageRef:
    """One image as it is listed: `path`, or `path[volume]` for one volume of a 4D file."""

    path: Path
    """Absolute."""
    volume: int | None = None
    listed_at: str = ""
    """Where the user wrote it, "listing.cfg:12", for messages."""

    def __str__(self) -> str:
        return str(self.path) if self.volume is None else f"{self.path}[{self.volume}]"


@dataclass(frozen=True)
class Case:
    """The files of one subject."""

    name: str
    """For messages and tables: the output name without extension, else the folder or file that tells cases apart."""
    channels: tuple[ImageRef | None, ...]
    """One per input channel; None: missing, filled with zeros that stay zero after normalisation."""
    labels: ImageRef | None = None
    roi: ImageRef | None = None
    weight_maps: tuple[ImageRef | None, ...] = ()
    """One per sampling category, or empty."""
    output_name: str | None = None
    """Relative name for result files, without `.nii` or `.nii.gz`; checked to stay inside the output folder."""
