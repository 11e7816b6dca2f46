"""From a prepared volume to probabilities: tiles cut, computed and stitched together on the device."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.config.prediction import UncertaintyKind
from deepmedic.data.pool import VolumePool
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.segments import SegmentGeometry, gather_at
from deepmedic.errors import ResourceError
from deepmedic.inference.auto_tiling import common_multiples
from deepmedic.inference.blending import BlendedVolume, Blending, importance
from deepmedic.inference.execution import (
    Attempt,
    InferenceSettings,
    attempts,
    is_out_of_memory,
    numerical_precision,
)
from deepmedic.inference.feature_maps import FeatureRanges
from deepmedic.inference.tiling import Box, Tiling, filled_count
from deepmedic.metrics import most_probable
from deepmedic.model.network import DeepMedicNet

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the tiles done and all tiles of a volume; what it raises ends the prediction."""


@dataclass
class Prediction:
    """What a network says about one case: tensors on the CPU of the size before padding, axes x, y, z."""

    probabilities: torch.Tensor
    """float32 [class, x, y, z]; 0 for all classes outside the ROI and where the network does not reach."""
    segmentation: torch.Tensor
    """uint8 (int32 above 256 classes) [x, y, z]: the most probable class, 0 outside the ROI."""
    segmentation_everywhere: torch.Tensor
    """The same before the ROI is applied: whatever tiles that touch the ROI predicted."""
    feature_maps: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    """float32 [map, x, y, z] by (pathway, layer), both counted from 0; not limited to the ROI."""
    uncertainty: dict[UncertaintyKind, torch.Tensor] = field(default_factory=dict)
    """float32 [x, y, z] by kind, for what was asked for; 0 outside the ROI."""


def predict_volume(
    net: DeepMedicNet,
    prepared: PreparedCase,
    settings: InferenceSettings,
    wanted_feature_maps: FeatureRanges | None = None,
    progress: Progress | None = None,
    *,
    apply_roi: bool = True,
) -> Prediction:
    """Predict all voxels of a case that tiles covering its ROI reach.

    The network is used in inference mode and left in the mode it was in. When memory runs out, smaller batches, smaller
    tiles (`tiling = "auto"`), stitching on the CPU and at last computing on the CPU are tried in turn, with the same
    result.

    Args:
        net: on `settings.device`.
        prepared: padded and normalised case, on the CPU.
        settings: tiling, batch size, precision and device.
        wanted_feature_maps: see `selected_feature_maps`.
        progress: called after each batch.
        apply_roi: False: the ROI only chooses the tiles, and all that these predict is returned.

    Raises:
        ResourceError: not even the CPU's memory is enough.
    """
    roi = None if prepared.roi is None else prepared.roi.to(settings.device)
    tried = None
    for attempt in attempts(net.architecture, prepared.size, roi, settings):
        if tried:
            log.warning("%s: memory ran out with %s; trying %s.", prepared.name, tried, attempt)
            _release_memory()
        try:
            stitched = _predict(net, prepared, attempt, settings, wanted_feature_maps or {}, progress)
            return stitched.finish(prepared, apply_roi=apply_roi)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        tried = attempt
    x, y, z = prepared.size
    raise ResourceError(
        f"{prepared.name}: memory was not enough to predict a volume of {x}x{y}x{z} voxels"
        f"{f', the last try being {tried}' if tried else ''}. Free memory, use a smaller segmentsDimInference, "
        "or save fewer feature maps."
    )


def _predict(
    net: DeepMedicNet,
    prepared: PreparedCase,
    attempt: Attempt,
    settings: InferenceSettings,
    wanted: FeatureRanges,
    progress: Progress | None,
) -> _Stitched:
    stitched = _Stitched(net, prepared.size, wanted, attempt, settings.blending)
    with torch.inference_mode(), _on(net, attempt.device) as network, _inference_mode(network):
        volume = _Volume(network, prepared, attempt, continue_grid=settings.tiling == "auto")
        _log_tile_count(attempt.tile_count, settings)
        done = 0
        for batch in _batches(attempt):
            inputs = volume.inputs(batch)
            with numerical_precision(settings.precision, attempt.device):
                logits, features = network.forward_features(*inputs, wanted=wanted)
            probabilities = torch.softmax(logits.float(), dim=1)
            stitched.write(probabilities, features, batch.written_boxes(0, len(batch)))
            done += len(batch)
            if progress is not None:
                progress(done, attempt.tile_count)
    return stitched


def _batches(attempt: Attempt) -> Iterator[Tiling]:
    for tiling in attempt.tilings:
        for first in range(0, len(tiling), attempt.batch_size):
            yield tiling.part(first, first + attempt.batch_size)


class _Volume:
    """The volume on the device, from which the inputs of a batch of tiles are cut."""

    def __init__(self, net: DeepMedicNet, prepared: PreparedCase, attempt: Attempt, *, continue_grid: bool) -> None:
        self.architecture = net.architecture
        channels_only = replace(prepared, labels=None, roi=None, weight_maps=None)
        before = _low_resolution_reach(net.architecture) if continue_grid else (0, 0, 0)
        self.pool = VolumePool.of_case(_extended(channels_only, before, attempt.device), attempt.device)
        self.before = torch.tensor(before)
        self.device = attempt.device

    def inputs(self, tiles: Tiling) -> tuple[torch.Tensor, ...]:
        """float32 [tile, channel, x, y, z], one per pathway."""
        geometry = SegmentGeometry.from_architecture(self.architecture, tiles.segment)
        starts = (tiles.starts + self.before).to(self.device)
        rows = torch.zeros(len(tiles), dtype=torch.int64, device=self.device)
        return gather_at(self.pool, geometry, rows, starts).inputs


class _Stitched:
    """Probabilities and feature maps of the padded volume; later tiles overwrite earlier ones, or all are averaged."""

    def __init__(
        self, net: DeepMedicNet, volume: Size3, wanted: FeatureRanges, attempt: Attempt, blending: Blending | None
    ) -> None:
        self.classes = net.architecture.classes
        device = attempt.stitch_on
        self.blended = None
        if blending is None:
            self.probabilities = torch.zeros((self.classes, *volume), device=device)
        else:
            weights = importance(net.architecture.output_size(attempt.tilings[0].segment), blending.sigma)
            self.blended = BlendedVolume(self.classes, volume, weights, device)
        self.feature_maps = {
            (pathway, layer): torch.zeros((end - first, *volume), device=device)
            for pathway, layers in wanted.items()
            for layer, (first, end) in layers.items()
        }

    def write(
        self,
        probabilities: torch.Tensor,
        features: dict[tuple[int, int], torch.Tensor],
        boxes: list[tuple[Box, Box]],
    ) -> None:
        """Write a batch: [tile, class or map, x, y, z], and where each tile belongs."""
        targets = [(self.feature_maps[layer], maps) for layer, maps in features.items()]
        if self.blended is None:
            targets.append((self.probabilities, probabilities))
        else:
            self.blended.write(probabilities, boxes)
        for volume, tiles in targets:
            for (target, source), tile in zip(boxes, tiles.to(volume.device), strict=True):
                volume[(slice(None), *target)] = tile[(slice(None), *source)]

    def finish(self, prepared: PreparedCase, *, apply_roi: bool) -> Prediction:
        """Remove the padding, decide the classes, apply the ROI as a mask if asked, and bring all to the CPU."""
        if self.blended is not None:
            self.probabilities = self.blended.mean()
        inside = (slice(None), *prepared.unpadded)
        probabilities = self.probabilities[inside]
        everywhere = most_probable(probabilities, dim=0).to(torch.uint8 if self.classes <= 256 else torch.int32)
        segmentation = everywhere
        if apply_roi and prepared.roi is not None:
            mask = prepared.roi[prepared.unpadded].to(probabilities.device)
            probabilities *= mask
            segmentation = everywhere * mask
        maps = {layer: volume[inside].cpu().contiguous() for layer, volume in self.feature_maps.items()}
        return Prediction(probabilities.contiguous().cpu(), segmentation.cpu(), everywhere.cpu(), maps)


def _low_resolution_reach(architecture: Architecture) -> Size3:
    """Voxels by which low-resolution segments reach before a tile, rounded up to a multiple of all factors."""
    receptive_field = architecture.normal.receptive_field
    reach = []
    for axis, multiple in enumerate(common_multiples(architecture)):
        furthest = max(pathway.factor[axis] * receptive_field[axis] // 2 for pathway in architecture.parallel)
        reach.append(-(-furthest // multiple) * multiple if multiple > 1 else 0)
    x, y, z = reach
    return x, y, z


def _extended(prepared: PreparedCase, before: Size3, device: torch.device) -> PreparedCase:
    """The case on the device with `before` voxels of border values added at the low end of each axis.

    A segment that begins outside the volume starts its low-resolution grid anew at the border (see
    `deepmedic.data.segments`). With these voxels none does, so the result does not depend on the tiles.
    """
    channels = prepared.channels.to(device)
    if any(before):
        size = [length + added for length, added in zip(prepared.size, before, strict=True)]
        border = prepared.border_values.to(device)[:, None, None, None]
        extended = border.expand(-1, *size).contiguous()
        x, y, z = before
        extended[:, x:, y:, z:] = channels
        channels = extended
    return replace(prepared, channels=channels)


@contextmanager
def _on(net: DeepMedicNet, device: torch.device) -> Iterator[DeepMedicNet]:
    """The network, or a copy of it if it lies on another device."""
    here = next(net.parameters()).device
    yield net if here.type == device.type else copy.deepcopy(net).to(device)


@contextmanager
def _inference_mode(net: nn.Module) -> Iterator[None]:
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _log_tile_count(tiles: int, settings: InferenceSettings) -> None:
    count = filled_count(tiles, settings.batch_size) if settings.tiling == "segments" else tiles
    log.debug("Total number of Segments to process:%d", count)


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
