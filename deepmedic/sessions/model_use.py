"""Using a trained model on data: how the data differ from those it was trained on, and which tiles it wants."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import numpy as np

from deepmedic.config.source import ConfigSource
from deepmedic.data.dataset import DataSet
from deepmedic.errors import DataError
from deepmedic.model.saved import SavedModel

_SPACING_TOLERANCE = 0.05
"""Relative difference of voxel sizes to those of training that is not worth a warning."""

TilingName = Literal["segments", "auto"]


def choose_tiling(asked: TilingName | None, source: ConfigSource, model: SavedModel) -> TilingName:
    """The original's tiles wherever its configs, models or a tile size of the user's are involved; else fast ones.

    Args:
        asked: the key `tiling`, if it is given.
        source: of the session's config.
        model: the model that is used.
    """
    if asked is not None:
        return asked
    original = any(dialect != "toml" for dialect in (source.dialect, model.dialect))
    return "segments" if original or model.config.segment_size_inference_given else "auto"


def compare_with_training(data: DataSet, model: SavedModel) -> list[str]:
    """Refuse cases whose arrays run in other directions than those of training; say where else they differ.

    Raises:
        DataError: the axis order differs.
    """
    trained = model.data
    notes: list[str] = []
    if trained.axis_order is None or not data.headers:
        return notes
    if data.preprocessing.orientation != trained.orientation:
        raise DataError(
            f'the model was trained with orientation = "{trained.orientation}", this config says '
            f'"{data.preprocessing.orientation}"; set orientation = "{trained.orientation}".'
        )
    codes = data.headers[0].header.axis_codes
    if codes != trained.axis_order:
        raise DataError(
            f"{data.headers[0].header.path}: the axes of this image run {codes}, those of the training images ran "
            f"{trained.axis_order}; the network would see it flipped or turned. Store the images as in training, or "
            'train and segment with orientation = "RAS".'
        )
    spacing = data.median_spacing()
    if trained.spacing is not None and not np.allclose(spacing, trained.spacing, rtol=_SPACING_TOLERANCE, atol=0):
        notes.append(
            f"The voxel spacing of these cases is {_millimetres(spacing)}, in training it was "
            f"{_millimetres(trained.spacing)}: the network knows shapes in voxels. Resample the images as in training."
        )
    if trained.zscore is not None and trained.zscore != asdict(data.preprocessing.zscore):
        notes.append(
            f"norm_zscore_prms differ from training: {asdict(data.preprocessing.zscore)} here, {trained.zscore} there. "
            "The network expects intensities as in training."
        )
    return notes


def _millimetres(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{size:.3g}" for size in spacing) + " mm"
