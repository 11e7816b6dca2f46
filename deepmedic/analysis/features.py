"""Features of sampled voxels, at every layer of one or several networks, case by case.

The interface for all analyses of features:

    settings = VoxelSettings(voxels_per_class=48, segments=24, seed=0)
    for case in stream_features({"A": network_a, "B": network_b}, data, segment, FeatureSettings(settings, device)):
        case.features["A"]["normal/3"]      # float32 [voxel, channel]
        case.labels                         # int64 [voxel]

Every case is read once, all networks see the same voxels, and nothing is kept but what is yielded: a voxel takes four
bytes per channel, while feature maps are dropped batch by batch. `data` is prepared by `data.for_segment(segment,
architecture.margins(segment))`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from deepmedic.analysis.taps import at_voxels, channels_of, hidden_layers, pathway_of, watched, watched_inputs
from deepmedic.analysis.voxels import SampledVoxels, VoxelSettings, sample_voxels
from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.data.dataset import DataSet
from deepmedic.data.intensities import intensity_fingerprint
from deepmedic.data.pool import VolumePool
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.segments import SegmentGeometry, gather_at
from deepmedic.data.splits import subject_of
from deepmedic.devices import Precision, numerical_precision
from deepmedic.errors import ModelError
from deepmedic.inference.execution import default_tile_memory
from deepmedic.inference.forward_cost import forward_cost
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.normalization import RollingBatchNorm

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the name of each case, its number from 1, and how many there are; what it raises ends the analysis."""
_FLOAT_BYTES = 4
_CPU = torch.device("cpu")
LOGITS = "logits"
"""Name under which the network's output is kept beside the layers, if it is asked for."""


@dataclass(frozen=True)
class FeatureSettings:
    """Which features are computed, and how."""

    voxels: VoxelSettings = field(default_factory=VoxelSettings)
    device: torch.device = _CPU
    layers: tuple[str, ...] | None = None
    """Names as in `deepmedic.analysis.taps`, and `LOGITS`; None: all but those of the classification layer."""
    precision: Precision = "float32"
    batch_memory: int | None = None
    """Bytes that a forward pass may take; None: by the size of the device's memory."""
    moments_of: tuple[str, ...] = ()
    """Names of the networks of which `CaseFeatures.moments` are computed."""


@dataclass(frozen=True, eq=False)
class CaseFeatures:
    """Features of the sampled voxels of one case, on the CPU."""

    name: str
    subject: str
    """Whose scan it is: the case itself, unless the lists name subjects."""
    voxels: SampledVoxels
    features: dict[str, dict[str, Tensor]]
    """By network and layer: float32 [voxel, channel]."""
    moments: dict[str, dict[str, ChannelMoments]]
    """By network and layer with batch norm: what the normalisation sees of the segments' whole feature maps.

    Only of the networks that `FeatureSettings.moments_of` names.
    """
    intensities: dict[str, Any]
    """`intensity_fingerprint` of the case as the networks see it."""

    @property
    def labels(self) -> Tensor:
        """int64 [voxel]."""
        return self.voxels.labels


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Sums over the voxels of feature maps from which mean and variance follow, of each channel; they add up."""

    count: int
    total: Tensor
    """float64 [channel]."""
    squares: Tensor
    """float64 [channel]."""

    @classmethod
    def of(cls, images: Tensor) -> ChannelMoments:
        """Those of feature maps [B, channel, x, y, z]."""
        values = images.double()
        dims = (0, 2, 3, 4)
        return cls(images.numel() // images.shape[1], values.sum(dims).cpu(), values.square().sum(dims).cpu())

    def __add__(self, other: ChannelMoments) -> ChannelMoments:
        return ChannelMoments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp(min=0)


def stream_features(
    networks: Mapping[str, DeepMedicNet],
    data: DataSet,
    segment: Size3,
    settings: FeatureSettings,
    progress: Progress | None = None,
) -> Iterator[CaseFeatures]:
    """Yield the features of the sampled voxels of each case; the same arguments give the same numbers.

    Args:
        networks: by name, on any device and in inference mode; they have to predict the same boxes for a segment.
        data: labelled cases, prepared for segments of this size.
        segment: of the normal pathway, voxels; usually the model's `segment_size_train`.
        settings: voxels, layers and device.
        progress: called before each case.

    Raises:
        DataError: a case cannot be used (unless cases may be skipped), or has no labels.
        ModelError: the networks do not predict the same voxels.
    """
    first = _with_equal_geometry(networks, segment)
    on_device = {name: network.to(settings.device).eval() for name, network in networks.items()}
    for index in range(len(data)):
        if progress is not None:
            progress(data.cases[index].name, index + 1, len(data))
        case = data.load_if_usable(index)
        if case is None:
            log.warning("%s The case is left out.", data.skipped[data.cases[index].name])
            continue
        voxels = sample_voxels(case, first, segment, settings.voxels)
        found = CaseFeatures(
            name=case.name,
            subject=subject_of(data.cases[index]),
            voxels=voxels,
            features={},
            moments={name: {} for name in settings.moments_of},
            intensities=intensity_fingerprint(case),
        )
        for name, network in on_device.items():
            moments = found.moments.get(name)
            found.features[name] = _of_network(network, case, (segment, voxels), settings, moments)
        yield found


def bytes_per_voxel(architecture: Architecture, layers: Sequence[str] | None = None) -> int:
    """Bytes that the features of one voxel take at the given layers (None: all hidden ones) of one network."""
    names = hidden_layers(architecture) if layers is None else layers
    return _FLOAT_BYTES * sum(_channels(architecture, name) for name in names)


def _with_equal_geometry(networks: Mapping[str, DeepMedicNet], segment: Size3) -> Architecture:
    """The first network's architecture, after a comparison with the others."""
    (name, first), *others = ((name, network.architecture) for name, network in networks.items())
    geometry = SegmentGeometry.from_architecture(first, segment)
    if min(geometry.output_size) < 1:
        raise ModelError(f"segments of {segment} voxels are too small for model {name}: nothing is left of them.")
    for other_name, other in others:
        same = SegmentGeometry.from_architecture(other, segment) == geometry
        if not same or other.input_channels != first.input_channels or other.classes != first.classes:
            raise ModelError(
                f"models {name} and {other_name} do not see and predict the same voxels of a segment, so their "
                "features cannot be compared; give models of the same pathways, kernels, channels and classes."
            )
    return first


def _of_network(
    network: DeepMedicNet,
    case: PreparedCase,
    places: tuple[Size3, SampledVoxels],
    settings: FeatureSettings,
    moments: dict[str, ChannelMoments] | None,
) -> dict[str, Tensor]:
    """Run all segments of a case through a network, in batches; keep the features of the voxels, add to `moments`."""
    architecture, device, (segment, voxels) = network.architecture, settings.device, places
    layers = hidden_layers(architecture) if settings.layers is None else settings.layers
    pool = VolumePool.of_cases([replace(case, labels=None, roi=None, weight_maps=None)], device)
    geometry = SegmentGeometry.from_architecture(architecture, segment)
    features = {name: torch.empty((len(voxels), _channels(architecture, name))) for name in layers}
    batch = _batch_size(architecture, segment, settings, len(voxels.starts))
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        outputs = stack.enter_context(watched(network, layers))
        seen = stack.enter_context(watched_inputs(network)) if moments is not None else {}
        for first in range(0, len(voxels.starts), batch):
            starts = voxels.starts[first : first + batch]
            inputs = gather_at(pool, geometry, torch.zeros(len(starts), dtype=torch.int64), starts).inputs
            with numerical_precision(settings.precision, device):
                outputs[LOGITS] = network(*inputs)
            inside = ((voxels.segments >= first) & (voxels.segments < first + batch)).nonzero()[:, 0]
            local = (voxels.segments[inside] - first).to(device), voxels.offsets[inside].to(device)
            for name in layers:
                pathway = architecture.fc if name == LOGITS else pathway_of(architecture, name)
                features[name][inside] = at_voxels(outputs[name], pathway, geometry.output_size, *local).float().cpu()
            if moments is not None:
                _add_moments(moments, network, seen)
    return features


def _channels(architecture: Architecture, name: str) -> int:
    return architecture.classes if name == LOGITS else channels_of(architecture, name)


def _add_moments(moments: dict[str, ChannelMoments], network: DeepMedicNet, seen: Mapping[str, Tensor]) -> None:
    for pathway, layer, block in network.named_blocks():
        if isinstance(block.normalization, RollingBatchNorm):
            name = f"{pathway.name}/{layer}"
            found = ChannelMoments.of(seen[name])
            moments[name] = moments[name] + found if name in moments else found


def _batch_size(architecture: Architecture, segment: Size3, settings: FeatureSettings, segments: int) -> int:
    """Segments computed together: what the memory allows when the outputs of all layers are held at once."""
    memory = settings.batch_memory or default_tile_memory(settings.device)
    layers = sum(pathway.depth for pathway in architecture.pathways)
    per_segment = int(forward_cost(architecture, segment).memory) * max(1, layers // 2)
    return max(1, min(segments, memory // per_segment))
