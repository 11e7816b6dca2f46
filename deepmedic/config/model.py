"""The model config: keys of an architecture as they stand in the file, resolved to an `Architecture`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model config with every default resolved and every cross-check passed."""

    name: str
    folder_for_output: Path | None
    architecture: Architecture
    segment_size_train: Size3
    segment_size_validation: Size3
    segment_size_inference: Size3
    segment_size_inference_given: bool
    channel_names: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None
