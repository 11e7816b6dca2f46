"""A saved model: everything of a `.save` file as one typed object, and the network built from it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.model import ModelConfig
from deepmedic.errors import ModelError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.words import classes_by_number


@dataclass
class DataDescription:
    """What the training data of a model looked like; all None for a model that was never trained."""

    spacing: tuple[float, float, float] | None = None
    """Median voxel spacing in millimetres along the array axes, after resampling if there was any."""
    spacing_range: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Smallest and largest spacing along each axis; None also for models of earlier versions."""
    axis_order: str | None = None
    """For instance "LPS": where the array axes point to."""
    orientation: str | None = None
    """The key `orientation` in training."""
    zscore: dict[str, Any] | None = None
    """The normalisation used in training, by the sub-keys of `norm_zscore_prms`."""
    pad_images: bool | None = None
    intensities: list[dict[str, Any]] | None = None
    """`intensity_fingerprint` of the first cases, after normalisation."""


@dataclass
class SavedModel:
    """The content of a `.save` file; parameter names are the canonical ones."""

    config: ModelConfig
    parameters: dict[str, torch.Tensor]
    """Trained parameters and batch-norm rolling arrays."""
    dialect: str = "toml"
    """Where the model came from: "toml" or "python" config, or "tensorflow"; decides the default tiling."""
    data: DataDescription = field(default_factory=DataDescription)
    rolling_rows: dict[str, int] = field(default_factory=dict)
    """Next row of each batch-norm rolling array."""
    start_parameters: dict[str, torch.Tensor] | None = None
    """The parameters before the first training step; None for a model that was never trained."""
    training: dict[str, Any] | None = None
    """State of the training session; None for a model that was never trained or without optimiser state."""
    provenance: dict[str, Any] | None = None
    """What the model was made from."""

    def __repr__(self) -> str:
        trained = "trained" if self.trained else "untrained"
        return f"SavedModel({self.name!r}, {self.architecture.classes} classes, {trained})"

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def architecture(self) -> Architecture:
        return self.config.architecture

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes for logs: those of the config, else "background", "class 1", ..."""
        return self.config.class_names or classes_by_number(self.architecture.classes)

    @property
    def trained(self) -> bool:
        return self.start_parameters is not None

    def to_content(self) -> dict[str, Any]:
        """Plain types and tensors, as `checkpoints.save` takes them, with the keys that it looks for."""
        content: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        content["config"] = self.config.to_dict()
        content["data"] = vars(self.data).copy()
        content["modelName"] = self.name
        if self.training is not None:
            content["session"] = self.training["session"]
            content["counter"] = self.training["save_index"]
        return content

    @classmethod
    def from_content(cls, content: dict[str, Any], source: str) -> SavedModel:
        """The inverse of `to_content`; `source` names the file in messages.

        Raises:
            ModelError: the content lacks something or is of another shape.
        """
        names = {item.name for item in fields(cls)}
        try:
            values = {name: value for name, value in content.items() if name in names}
            values["config"] = ModelConfig.from_dict(values["config"])
            values["data"] = DataDescription(**values["data"])
            _refuse_other_types(values)
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{source}: this file is whole but is not a model of this program ({type(error).__name__}: {error}); "
                "name a file that -newModel or -train wrote."
            ) from error

    @classmethod
    def new(cls, config: ModelConfig, seed: int) -> SavedModel:
        """An untrained model with parameters drawn from `seed`."""
        network = DeepMedicNet(config.architecture, seed=seed)
        return cls(
            config=config,
            parameters=tensors_of(network),
            dialect=config.source.dialect,
            provenance={"kind": "new", "seed": seed},
        )

    def with_config(self, config: ModelConfig) -> SavedModel:
        """The same parameters with names and sizes of segments as in another config of the same architecture.

        Names of channels and classes stay where that config gives none.
        """
        named = replace(
            config,
            channel_names=config.channel_names or self.config.channel_names,
            class_names=config.class_names or self.config.class_names,
        )
        return replace(self, config=named)

    def stripped(self, sha256: str) -> SavedModel:
        """The same model without the state of its training: optimiser, schedule and metric history.

        Args:
            sha256: of the file that it was read from, for its provenance.
        """
        state = self.training or {}
        origin = {"sha256": sha256, "session": state.get("session"), "position": state.get("position")}
        return replace(self, training=None, provenance={**(self.provenance or {}), "stripped": origin})

    def network(self) -> DeepMedicNet:
        """Build the network with these parameters, on the CPU and in inference mode.

        Raises:
            ModelError: parameters are missing, unexpected or of another shape than the architecture says.
        """
        network = DeepMedicNet(self.architecture)
        parameters.load_tensors(network, self.parameters)
        if self.rolling_rows:
            parameters.set_rolling_rows(network, self.rolling_rows)
        return network.eval()


def tensors_of(network: DeepMedicNet) -> dict[str, torch.Tensor]:
    """A copy of all parameters and rolling arrays on the CPU, by canonical name."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in parameters.named_tensors(network).items()}


def _refuse_other_types(values: dict[str, Any]) -> None:
    """Raise TypeError where a part of a saved model is of another type than it is written with."""
    for name in ("parameters", "start_parameters"):
        tensors = values[name]
        if tensors is None and name == "start_parameters":
            continue
        if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
            raise TypeError(f"{name} must be tensors by name")
    rows = values["rolling_rows"]
    if not isinstance(rows, dict) or not all(isinstance(row, int) for row in rows.values()):
        raise TypeError("rolling_rows must be whole numbers by name")
    for name in ("training", "provenance"):
        if not isinstance(values[name], dict | None):
            raise TypeError(f"{name} must be a table")
    spacing = values["data"].spacing
    if spacing is not None and not all(isinstance(size, float) for size in spacing):
        raise TypeError("the spacing must be numbers")
