"""From a prepared volume to probabilities: tiles cut, computed and stitched together on the device."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from deepmedic.config.options import Size3
from deepmedic.config.prediction import UncertaintyKind
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.devices import is_out_of_memory, kernels_for, numerical_precision, to_host
from deepmedic.errors import ModelError, ResourceError
from deepmedic.inference.blending import BlendedVolume, importance
from deepmedic.inference.execution import (
    Attempt,
    InferenceSettings,
    attempts,
)
from deepmedic.inference.feature_maps import FeatureRanges
from deepmedic.inference.roi_boxes import boxes_of_tile
from deepmedic.inference.tile_inputs import CaseVolumes, Shares
from deepmedic.inference.tiling import Box, Tiling, filled_count
from deepmedic.metrics import most_probable
from deepmedic.model.network import DeepMedicNet

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Called with the tiles done and all tiles of a volume; what it raises ends the prediction."""


@dataclass
class Prediction:
    """What a network says about one case: tensors of the size before padding, axes x, y, z, on the CPU."""

    probabilities: torch.Tensor
    """float32 [class, x, y, z]; 0 for all classes outside the ROI and where the network does not reach."""
    segmentation: torch.Tensor
    """uint8 (int32 above 256 classes) [x, y, z]: the most probable class, 0 outside the ROI."""
    segmentation_everywhere: torch.Tensor
    """The same before the ROI is applied: whatever tiles that touch the ROI predicted. With `tiling = "auto"`, whose
    tiles depend on memory and device, the same as `segmentation`."""
    feature_maps: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    """float32 [map, x, y, z] by (pathway, layer), both counted from 0; not limited to the ROI."""
    uncertainty: dict[UncertaintyKind, torch.Tensor] = field(default_factory=dict)
    """float32 [x, y, z] by kind, for what was asked for; 0 outside the ROI."""


@dataclass
class TilePrediction:
    """What tiles say about one case, for averaging with other predictions; axes x, y, z of the size before padding."""

    probabilities: torch.Tensor
    """float32 [class, x, y, z], on the device it was stitched on; outside the ROI whatever tiles that touch it say."""
    feature_maps: dict[tuple[int, int], torch.Tensor]
    """As of `Prediction`, on the CPU."""


@dataclass
class CasePlan:
    """A case and the ways to predict it, the best one first."""

    prepared: PreparedCase
    """Padded and normalised, on the CPU."""
    first: Attempt | None
    """None: memory is not enough for any tile."""
    others: Iterator[Attempt]
    """What to try when memory runs out."""


def plan_case(net: DeepMedicNet, prepared: PreparedCase, settings: InferenceSettings) -> CasePlan:
    """Choose the tiles of a case, and log their number."""
    roi = None if prepared.roi is None else prepared.roi.to(settings.device)
    ways = attempts(net.architecture, prepared.size, roi, settings)
    first = next(ways, None)
    if first is not None:
        _log_tile_count(first.tile_count, settings)
    return CasePlan(prepared, first, ways)


def predict_volume(
    net: DeepMedicNet,
    prepared: PreparedCase,
    settings: InferenceSettings,
    wanted_feature_maps: FeatureRanges | None = None,
    progress: Progress | None = None,
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

    Raises:
        ModelError: what the network gives is not finite.
        ResourceError: not even the CPU's memory is enough.
    """
    plan = plan_case(net, prepared, settings)
    return _predict_alone(net, plan, settings, wanted_feature_maps or {}, progress, _Stitched.decided)


def predict_tiles(
    net: DeepMedicNet,
    prepared: PreparedCase,
    settings: InferenceSettings,
    wanted_feature_maps: FeatureRanges | None = None,
    progress: Progress | None = None,
) -> TilePrediction:
    """Predict as `predict_volume` does, with nothing decided yet: the ROI only chooses the tiles.

    Arguments and errors are those of `predict_volume`.
    """
    plan = plan_case(net, prepared, settings)
    return _predict_alone(net, plan, settings, wanted_feature_maps or {}, progress, _Stitched.undecided)


def predict_together(
    net: DeepMedicNet,
    plans: Sequence[CasePlan],
    settings: InferenceSettings,
    wanted_feature_maps: FeatureRanges | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Predict several cases in one batch of tiles; the same as `predict_volume` of each, apart from rounding.

    When memory runs out, the cases are predicted one by one.

    Args:
        net: on `settings.device`.
        plans: of the cases; those of a `CaseGroup` make one batch. One alone may have any number of batches.
        settings: those of the plans.
        wanted_feature_maps: see `selected_feature_maps`.
        progress: called after each batch, with the numbers of each case in it.

    Raises:
        ModelError: what the network gives for one of them is not finite.
        ResourceError: not even the CPU's memory is enough for one of the cases.
    """
    wanted = wanted_feature_maps or {}
    work = [(plan.prepared, plan.first) for plan in plans if plan.first is not None]
    if len(plans) > 1 and len(work) == len(plans):
        try:
            stitched = _predict(net, work, settings, wanted, progress)
            return [one.decided(prepared) for one, (prepared, _) in zip(stitched, work, strict=True)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        names = ", ".join(plan.prepared.name for plan in plans)
        log.warning("Memory ran out with the tiles of %d cases in one batch; trying one by one: %s.", len(plans), names)
        _release_memory()
    return [_predict_alone(net, plan, settings, wanted, progress, _Stitched.decided) for plan in plans]


def _predict_alone(
    net: DeepMedicNet,
    plan: CasePlan,
    settings: InferenceSettings,
    wanted: FeatureRanges,
    progress: Progress | None,
    finish: Callable[[_Stitched, PreparedCase], Result],
) -> Result:
    prepared, tried = plan.prepared, None
    for attempt in chain([] if plan.first is None else [plan.first], plan.others):
        if tried:
            log.warning("%s: memory ran out with %s; trying %s.", prepared.name, tried, attempt)
            _release_memory()
        try:
            (stitched,) = _predict(net, [(prepared, attempt)], settings, wanted, progress)
            return finish(stitched, prepared)
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
    work: Sequence[tuple[PreparedCase, Attempt]],
    settings: InferenceSettings,
    wanted: FeatureRanges,
    progress: Progress | None,
) -> list[_Stitched]:
    """Predict one case in batches of its tiles, or several cases whose tiles make one batch."""
    stitched = [_Stitched(net, case.size, wanted, attempt, settings) for case, attempt in work]
    case, attempt = work[0]
    device, done = attempt.device, [0] * len(work)
    recurring = settings.tiling == "segments"
    with (
        torch.inference_mode(),
        kernels_for(recurring=recurring),
        _on(net, device) as network,
        _inference_mode(network),
    ):
        volumes = CaseVolumes(network, [case for case, _ in work], device, continue_grid=settings.tiling == "auto")
        for shares in _batches([attempt for _, attempt in work]):
            inputs = volumes.inputs(shares)
            with numerical_precision(settings.precision, device):
                if attempt.in_boxes and len(work) == 1 and not wanted:
                    _predict_boxes(network, shares[0][1], case.roi, inputs, stitched[0])
                else:
                    _predict_tiles(network, shares, wanted, inputs, stitched)
            for row, tiles in shares:
                done[row] += len(tiles)
                if progress is not None:
                    progress(done[row], work[row][1].tile_count)
    return stitched


def _predict_tiles(
    network: DeepMedicNet,
    shares: Shares,
    wanted: FeatureRanges,
    inputs: Sequence[torch.Tensor],
    stitched: Sequence[_Stitched],
) -> None:
    logits, features = network.forward_features(*inputs, wanted=wanted)
    probabilities = torch.softmax(logits.float(), dim=1)
    first = 0
    for row, tiles in shares:
        own = slice(first, first + len(tiles))
        maps = {layer: values[own] for layer, values in features.items()}
        stitched[row].write(probabilities[own], maps, tiles.written_boxes(0, len(tiles)))
        first += len(tiles)


def _predict_boxes(
    network: DeepMedicNet,
    tile: Tiling,
    roi: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    stitched: _Stitched,
) -> None:
    """Predict of one tile what the ROI needs, and not much else."""
    boxes, whole = boxes_of_tile(tile, roi), (slice(None), slice(None), slice(None))
    if not boxes:
        return
    predictions = network.forward_boxes(*inputs, boxes=[in_tile for in_tile, _ in boxes])
    for (_, in_volume), logits in zip(boxes, predictions, strict=True):
        stitched.write(torch.softmax(logits.float(), dim=1), {}, [(in_volume, whole)])


def _batches(ways: Sequence[Attempt]) -> Iterator[Shares]:
    if len(ways) > 1:
        yield [(row, tiling) for row, attempt in enumerate(ways) for tiling in attempt.tilings]
        return
    for tiling in ways[0].tilings:
        for first in range(0, len(tiling), ways[0].batch_size):
            yield [(0, tiling.part(first, first + ways[0].batch_size))]


class _Stitched:
    """Probabilities and feature maps of the padded volume; later tiles overwrite earlier ones, or all are averaged."""

    def __init__(
        self, net: DeepMedicNet, volume: Size3, wanted: FeatureRanges, attempt: Attempt, settings: InferenceSettings
    ) -> None:
        classes, device = net.architecture.classes, attempt.stitch_on
        self.blended, blending = None, settings.blending
        self.only_in_roi = settings.tiling == "auto"
        if blending is None:
            self.probabilities = torch.zeros((classes, *volume), device=device)
        else:
            weights = importance(net.architecture.output_size(attempt.tilings[0].segment), blending.sigma)
            self.blended = BlendedVolume(classes, volume, weights, device)
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

    def undecided(self, prepared: PreparedCase) -> TilePrediction:
        """Remove the padding."""
        probabilities = self._probabilities(prepared).contiguous()
        return TilePrediction(probabilities, self._maps(prepared))

    def decided(self, prepared: PreparedCase) -> Prediction:
        """Remove the padding, decide the classes, apply the ROI as a mask and bring all to the CPU."""
        probabilities = self._probabilities(prepared)
        everywhere = most_probable(probabilities, dim=0)
        segmentation = everywhere
        if prepared.roi is not None:
            mask = prepared.roi[prepared.unpadded].to(probabilities.device)
            probabilities *= mask
            segmentation = everywhere * mask
            everywhere = segmentation if self.only_in_roi else everywhere
        on_host = to_host(segmentation)
        everywhere = on_host if everywhere is segmentation else to_host(everywhere)
        return Prediction(to_host(probabilities.contiguous()), on_host, everywhere, self._maps(prepared))

    def _probabilities(self, prepared: PreparedCase) -> torch.Tensor:
        if self.blended is not None:
            self.probabilities = self.blended.mean()
        probabilities = self.probabilities[(slice(None), *prepared.unpadded)]
        _refuse_what_is_no_number(probabilities, prepared)
        return probabilities

    def _maps(self, prepared: PreparedCase) -> dict[tuple[int, int], torch.Tensor]:
        inside = (slice(None), *prepared.unpadded)
        return {layer: volume[inside].cpu().contiguous() for layer, volume in self.feature_maps.items()}


def _refuse_what_is_no_number(probabilities: torch.Tensor, case: PreparedCase) -> None:
    """Raise `ModelError` where those of the ROI, [class, x, y, z], are not numbers: they would pass for background."""
    unknown = probabilities[0].isnan()  # softmax gives numbers to all classes of a voxel or to none
    if case.roi is not None:
        unknown &= case.roi[case.unpadded].to(unknown.device)
    count = int(unknown.sum())
    if count:
        raise ModelError(
            f"{case.name}: the model gives values that are not finite for {count} voxels of this image. Its parameters "
            "are damaged, or the intensities are far from those it was trained on (is normalisation switched on?)."
        )


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
