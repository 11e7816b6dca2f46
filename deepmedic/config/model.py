"""The model config: keys of an architecture as they stand in the file, resolved to an `Architecture`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.config.source import ConfigSource


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
    new_channels: Literal["keep", "zero", "mean", "repeat"] = "keep"
    """How channels that a source model lacks start in a transfer into this model."""
    transfer_classes: bool = False
    class_frequencies: tuple[float, ...] | None = None
    batch_size_train: int | None = None
    """Batch sizes stand in the model config only in files of the Theano version."""
    batch_size_validation: int | None = None
    batch_size_inference: int | None = None
    source: ConfigSource = field(default_factory=ConfigSource, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, numbers and text, for a saved model; without folder and source."""
        plain: dict[str, Any] = {"architecture": self.architecture.to_dict()}
        for item in fields(self):
            if item.name not in ("architecture", "folder_for_output", "source"):
                value = getattr(self, item.name)
                plain[item.name] = list(value) if isinstance(value, tuple) else value
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelConfig:
        """Return the inverse of `to_dict`."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        values["architecture"] = Architecture.from_dict(plain["architecture"])
        return cls(folder_for_output=None, **values)
