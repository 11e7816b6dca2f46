"""One case predicted with everything that was asked for: several models, mirroring, the way back to the grid of the
stored images, uncertainty, and removal of components.

Without any of it `predict_volume` is called as it is, so that its numbers do not depend on what this module offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch

from deepmedic.config.options import Size3
from deepmedic.config.prediction import AXES, PredictionConfig
from deepmedic.data.dataset import CaseNeeds
from deepmedic.data.preprocessing import PreparedCase, mirrored
from deepmedic.inference.averaging import MeanPrediction, entropy
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.feature_maps import FeatureRanges
from deepmedic.inference.postprocessing import without_small_components
from deepmedic.inference.predictor import Prediction, Progress, predict_volume
from deepmedic.model.network import DeepMedicNet

_NARROW_CLASSES = 256


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
        ResourceError: not even the CPU's memory is enough.
    """
    if len(members) == 1 and not chosen.refines:
        return predict_volume(members[0].net, cases[0], settings, wanted_feature_maps, progress)
    passes = MeanPrediction(with_variance="variance" in chosen.uncertainty)
    feature_maps: dict[tuple[int, int], torch.Tensor] = {}
    for number, (member, case) in enumerate(zip(members, cases, strict=True)):
        own = replace(settings, segment=member.segment)
        for axes in mirrorings(chosen):
            wanted = wanted_feature_maps if number == 0 and not axes else None
            found = predict_volume(member.net, mirrored(case, axes), own, wanted, progress, apply_roi=False)
            feature_maps |= found.feature_maps
            passes.add(found.probabilities.flip([axis + 1 for axis in axes]))
    return _decided(passes, feature_maps, cases[0], chosen)


def _decided(
    passes: MeanPrediction,
    feature_maps: dict[tuple[int, int], torch.Tensor],
    case: PreparedCase,
    chosen: PredictionConfig,
) -> Prediction:
    """Classes from the mean probabilities, within the ROI, without the components that are not wanted."""
    probabilities = passes.mean()
    roi = None if case.roi is None else case.roi[case.unpadded]
    uncertainty = {
        kind: entropy(probabilities) if kind == "entropy" else passes.variance() for kind in chosen.uncertainty
    }
    everywhere = probabilities.argmax(dim=0).to(torch.uint8 if len(probabilities) <= _NARROW_CLASSES else torch.int32)
    segmentation = everywhere if roi is None else everywhere * roi
    if chosen.postprocesses:
        segmentation = without_small_components(segmentation, case.header.spacing, chosen)
        everywhere = segmentation if roi is None else torch.where(roi, segmentation, everywhere)
    if roi is not None:
        probabilities = probabilities * roi
        uncertainty = {kind: values * roi for kind, values in uncertainty.items()}
    return Prediction(probabilities, segmentation, everywhere, feature_maps, uncertainty)
