"""How far the images of a new data set are from those a model was trained on: intensities, voxel size, features."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from deepmedic.analysis.bank import Bank
from deepmedic.analysis.features import ChannelMoments
from deepmedic.analysis.frechet import Gaussian, relative_diagonal_distance, relative_distance
from deepmedic.analysis.wasserstein import between_quantiles, shift
from deepmedic.data.dataset import DataSet
from deepmedic.model.saved import SavedModel

_REGULARISATION = 1e-3


@dataclass(frozen=True)
class IntensityShift:
    """One channel, after normalisation as the networks see it; units are those of normalised intensities."""

    channel: str
    shift: float
    """Distance of the means in standard deviations of the source."""
    spread: float
    """Standard deviation of the target over that of the source."""
    wasserstein: float
    """1-Wasserstein distance of the distributions."""


@dataclass(frozen=True)
class FeatureShift:
    """What one layer of the source model sees of source and target."""

    layer: str
    stored: float | None
    """Relative Frechet distance of what its batch norm sees to the statistics stored in the model.

    Channels are taken as independent. None for a layer without batch norm, or whose statistics are not the source's."""
    measured: float | None
    """Relative Frechet distance between the layer's features on source and target cases; None without source cases."""


@dataclass(frozen=True)
class DomainShift:
    """All of it."""

    intensities: tuple[IntensityShift, ...]
    spacing: dict[str, Any]
    """Voxel sizes in millimetres: "source" (None if not known), "target", "ratio" per axis, and the range of sizes."""
    features: tuple[FeatureShift, ...]
    notes: tuple[str, ...]

    @property
    def distance(self) -> float | None:
        """Relative Frechet distance at the deepest layer for which it is known, measured if source cases are there."""
        measured = [one.measured for one in self.features if one.measured is not None]
        stored = [one.stored for one in self.features if one.stored is not None]
        return next(iter([*measured[-1:], *stored[-1:]]), None)

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "intensities": [asdict(one) for one in self.intensities],
            "spacing": self.spacing,
            "features": [asdict(one) for one in self.features],
            "notes": list(self.notes),
        }


def intensity_shifts(
    source: Sequence[Mapping[str, Any]], target: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[IntensityShift, ...]:
    """Compare fingerprints of cases (`intensity_fingerprint`), channel by channel; missing channels are left out.

    Args:
        source: of cases that the model was trained on.
        target: of the new cases.
        names: of the channels.
    """
    shifts = []
    for number, name in enumerate(names):
        one, other = _mean_channel(source, number), _mean_channel(target, number)
        if one is None or other is None:
            continue
        levels = source[0]["quantiles"]
        shifts.append(
            IntensityShift(
                channel=name,
                shift=shift(one["mean"], one["std"], other["mean"]),
                spread=other["std"] / one["std"] if one["std"] > 0 else float("nan"),
                wasserstein=between_quantiles(levels, one["values"], other["values"]),
            )
        )
    return tuple(shifts)


def spacing_shift(model: SavedModel, data: DataSet) -> dict[str, Any]:
    """Compare voxel sizes in millimetres, and say how large the new images are."""
    source, target = model.data.spacing, data.median_spacing()
    shapes = np.array([headers.shape for headers in data.headers])
    sizes = np.array([headers.header.spacing for headers in data.headers])
    return {
        "source": None if source is None else list(source),
        "target": list(target),
        "ratio": None if source is None else [own / other for own, other in zip(target, source, strict=True)],
        "targetRange": [sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()],
        "shapeMedian": np.median(shapes, axis=0).tolist(),
        "shapeRange": [shapes.min(axis=0).tolist(), shapes.max(axis=0).tolist()],
    }


def stored_shift(
    parameters: Mapping[str, Tensor], layers: Collection[str], moments: Mapping[str, ChannelMoments]
) -> dict[str, float]:
    """Compare what each batch norm sees with the statistics that training left in it, by layer.

    Args:
        parameters: of the model, by canonical name.
        layers: whose statistics come from training.
        moments: of the inputs of the layers on the new cases.
    """
    distances = {}
    for layer, found in moments.items():
        stored = _statistics(parameters, layer) if layer in layers else None
        if stored is not None:
            distances[layer] = relative_diagonal_distance(stored, (found.mean, found.variance))
    return distances


def measured_shift(source: Bank, target: Bank, network: str) -> dict[str, float]:
    """Compare the features of a network on source and target voxels, by layer."""
    distances = {}
    for layer, features in target.features[network].items():
        one = Gaussian.fitted(source.features[network][layer], _REGULARISATION)
        distances[layer] = relative_distance(one, Gaussian.fitted(features, _REGULARISATION))
    return distances


def feature_shifts(
    layers: Sequence[str], stored: Mapping[str, float], measured: Mapping[str, float]
) -> tuple[FeatureShift, ...]:
    """Bring both distances together for the layers that have any."""
    known = [layer for layer in layers if layer in stored or layer in measured]
    return tuple(FeatureShift(layer, stored.get(layer), measured.get(layer)) for layer in known)


def _mean_channel(fingerprints: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any] | None:
    """Mean over cases of mean, deviation and quantile function; None for a channel that every case lacks."""
    found = [print_["channels"][number] for print_ in fingerprints if number < len(print_["channels"])]
    present = [channel for channel in found if channel is not None]
    if not present:
        return None
    return {
        "mean": float(np.mean([channel["mean"] for channel in present])),
        "std": float(np.mean([channel["std"] for channel in present])),
        "values": np.mean([channel["values"] for channel in present], axis=0).tolist(),
    }


def _statistics(parameters: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor] | None:
    """Mean and variance [channel] that a layer's batch norm normalises with; None without one."""
    mean, variance = (parameters.get(f"{layer}/bn_{kind}_rolling") for kind in ("mean", "var"))
    return None if mean is None or variance is None else (mean.mean(dim=0), variance.mean(dim=0))
