"""One case predicted with everything that was asked for: several models, mirroring, the way back to the grid of the
stored images, uncertainty, and removal of components.

Without any of it `predict_volume` is called as it is, so that its numbers do not depend on what this module offers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch

from deepmedic.config.options import Size3
from deepmedic.config.prediction import AXES, PredictionConfig, UncertaintyKind
from deepmedic.data.dataset import CaseNeeds
from deepmedic.data.nifti import VolumeHeader
from deepmedic.data.preprocessing import PreparedCase, mirrored
from deepmedic.data.resampling import needed_for_native, to_native_grid
from deepmedic.devices import is_out_of_memory, numerical_precision
from deepmedic.inference.averaging import MeanPrediction, entropy
from deepmedic.inference.execution import InferenceSettings, tile_memory
from deepmedic.inference.feature_maps import FeatureRanges
from deepmedic.inference.postprocessing import without_small_components
from deepmedic.inference.predictor import Prediction, Progress, predict_tiles, predict_volume
from deepmedic.metrics import most_probable
from deepmedic.model.network import DeepMedicNet

log = logging.getLogger(__name__)

_VOLUMES_AT_ONCE = 7
"""Probabilities of a whole case that are in memory at once: what was averaged so far (with squares for a variance), one
prediction and its mirror image, and what comes of adding it."""


@dataclass(frozen=True)
class Member:
    """One model of an ensemble."""

    net: DeepMedicNet
    """On the device of the inference."""
    segment: Size3
    """Input size of its tiles with `tiling = "segments"`."""
    needs: CaseNeeds | None = None
    """How its cases are prepared; None: as the data set is set up."""


def mirrorings(chosen: PredictionConfig) -> list[tuple[int, ...]]:
    """All combinations of the axes (0 to 2) along which a case is mirrored, the plain pass first."""
    axes = [AXES.index(name) for name in chosen.mirrored_axes]
    return [choice for count in range(len(axes) + 1) for choice in combinations(axes, count)]


def is_plain(members: Sequence[Member], case: PreparedCase, chosen: PredictionConfig) -> bool:
    """Whether a case is predicted by `predict_volume` alone: by one model, on its own grid, without refinements."""
    return len(members) == 1 and not chosen.refines and case.header.resampled_from is None


def predict_case(
    members: Sequence[Member],
    cases: Sequence[PreparedCase],
    settings: InferenceSettings,
    chosen: PredictionConfig,
    wanted_feature_maps: FeatureRanges | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Predict a case with one or several models and all that a config asks for.

    Args:
        members: the models; probabilities are averaged over them and over mirrored passes.
        cases: the case as each of them wants it padded.
        settings: tiling, batch size, precision and device.
        chosen: mirroring, uncertainty, removal of components.
        wanted_feature_maps: of the first model's plain pass, see `selected_feature_maps`.
        progress: called after each batch.

    Raises:
        ModelError: what a network gives is not finite.
        ResourceError: not even the CPU's memory is enough.
    """
    resampled = cases[0].header.resampled_from is not None
    if is_plain(members, cases[0], chosen):
        return predict_volume(members[0].net, cases[0], settings, wanted_feature_maps, progress)
    passes = MeanPrediction(with_variance="variance" in chosen.uncertainty)
    on_device = _average_bytes(cases[0], members[0].net.architecture.classes) <= tile_memory(settings)
    feature_maps: dict[tuple[int, int], torch.Tensor] = {}
    for number, (member, prepared) in enumerate(zip(members, cases, strict=True)):
        case = _with_all_that_results_need(prepared) if resampled else prepared
        own = replace(settings, segment=member.segment)
        for axes in mirrorings(chosen):
            wanted = wanted_feature_maps if number == 0 and not axes else None
            found = predict_tiles(member.net, mirrored(case, axes), own, wanted, progress)
            feature_maps |= found.feature_maps
            passes.add(found.probabilities if on_device else found.probabilities.cpu(), axes)
    only_in_roi = settings.tiling == "auto"
    try:
        return _decided(passes, feature_maps, cases[0], chosen, only_in_roi=only_in_roi)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or passes.device.type == "cpu":
            raise
        log.warning("%s: memory ran out after averaging on %s; trying on the CPU.", cases[0].name, passes.device)
    passes.move_to_cpu()
    return _decided(passes, feature_maps, cases[0], chosen, only_in_roi=only_in_roi)


def _average_bytes(case: PreparedCase, classes: int) -> int:
    """Bytes that averaging takes at most: predictions of the whole case, on its own grid or on that of its results."""
    voxels = max(math.prod(case.size), math.prod(case.result_header.shape))
    return _VOLUMES_AT_ONCE * classes * voxels * 4


def _decided(
    passes: MeanPrediction,
    feature_maps: dict[tuple[int, int], torch.Tensor],
    case: PreparedCase,
    chosen: PredictionConfig,
    *,
    only_in_roi: bool,
) -> Prediction:
    """Classes from the mean probabilities on the grid of results, within the ROI, without unwanted components."""
    probabilities, roi = passes.mean(), case.result_roi
    variance = passes.variance() if "variance" in chosen.uncertainty else None
    if case.header.resampled_from is not None:
        with numerical_precision("float32", probabilities.device):
            probabilities = _probabilities_to_native_grid(probabilities, case.header)
            feature_maps = {layer: to_native_grid(maps, case.header) for layer, maps in feature_maps.items()}
            variance = None if variance is None else to_native_grid(variance, case.header)
    uncertainty: dict[UncertaintyKind, torch.Tensor] = {} if variance is None else {"variance": variance}
    if "entropy" in chosen.uncertainty:
        uncertainty["entropy"] = entropy(probabilities)
    everywhere, probabilities = most_probable(probabilities, dim=0).cpu(), probabilities.cpu()
    uncertainty = {kind: values.cpu() for kind, values in uncertainty.items()}
    segmentation = everywhere if roi is None else everywhere * roi
    everywhere = segmentation if only_in_roi else everywhere
    if chosen.postprocesses:
        segmentation = without_small_components(segmentation, case.result_header.spacing, chosen)
        everywhere = segmentation if roi is None else torch.where(roi, segmentation, everywhere)
    if roi is not None:
        probabilities = probabilities * roi
        uncertainty = {kind: values * roi for kind, values in uncertainty.items()}
    return Prediction(probabilities, segmentation, everywhere, feature_maps, uncertainty)


def _with_all_that_results_need(case: PreparedCase) -> PreparedCase:
    """The case with an ROI, by which tiles are chosen, that holds every voxel from which results are interpolated."""
    if case.roi is None or case.native_roi is None:
        return case
    roi = case.roi.clone()
    roi[case.unpadded] |= needed_for_native(case.native_roi, case.header)
    return replace(case, roi=roi)


def _probabilities_to_native_grid(probabilities: torch.Tensor, header: VolumeHeader) -> torch.Tensor:
    """Interpolated linearly; a voxel that lies mostly where the network does not reach stays 0, others add up to 1."""
    found = to_native_grid(probabilities, header)
    reached = found.sum(dim=0)
    return torch.where(reached > 0.5, found / reached.clamp(min=0.5), 0)
