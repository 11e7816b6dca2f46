"""Using a trained model on data: how the data differ from those it was trained on, and which tiles it wants."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np

from deepmedic.config.source import ConfigSource
from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.fingerprints import channels_unlike_training, order_that_fits_better
from deepmedic.data.preprocessing import PreparedCase, intensity_fingerprint
from deepmedic.errors import DataError
from deepmedic.model.saved import SavedModel

log = logging.getLogger(__name__)

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


class ComparedWithTraining:
    """Cases that are compared with the intensities of training when they are read, and warned of."""

    def __init__(self, data: DataSet, model: SavedModel) -> None:
        self._data = data
        self._model = model
        self._told = False
        """Whether foreign intensities were told of; they are commonly so in all cases."""

    @property
    def cases(self) -> Sequence[Case]:
        return self._data.cases

    def load(self, index: int) -> PreparedCase:
        """Read and prepare one case, as the data set does.

        Raises:
            DataError: its voxels cannot be used.
        """
        prepared = self._data.load(index)
        self._compare(prepared, self.cases[index])
        return prepared

    def load_each(self, index: int, needs: Sequence[CaseNeeds]) -> list[PreparedCase]:
        """Read one case and prepare it for several models, as the data set does.

        Raises:
            DataError: its voxels cannot be used.
        """
        prepared = self._data.load_each(index, needs)
        self._compare(prepared[0], self.cases[index])
        return prepared

    def _compare(self, prepared: PreparedCase, case: Case) -> None:
        self._told = warn_of_other_intensities(prepared, case, self._model, told=self._told)


def warn_of_other_intensities(prepared: PreparedCase, case: Case, model: SavedModel, *, told: bool = False) -> bool:
    """Warn if the channels of a case resemble those of training in another order, or not at all.

    Args:
        prepared: the case.
        case: its files.
        model: what it is used with.
        told: leave out the warning of foreign intensities.

    Returns:
        Whether foreign intensities were told of, now or before.
    """
    found, trained = intensity_fingerprint(prepared), model.data.intensities or []
    order = order_that_fits_better(found, trained)
    foreign = channels_unlike_training(found, trained)
    if order is not None:
        log.warning("%s", _other_order(case, order, model))
    elif foreign and not told:
        log.warning("%s", _foreign(prepared, foreign, model))
        return True
    return told


def _other_order(case: Case, order: Sequence[int | None], model: SavedModel) -> str:
    refs = [None if channel is None else case.channels[channel] for channel in order]
    rows = "".join(
        f"\n    {name}: {given.path.name if given else '-'} is given, {fitting.path.name if fitting else '-'} fits"
        for name, given, fitting in zip(channel_titles(model), case.channels, refs, strict=True)
    )
    return (
        f"THE CHANNELS OF {case.name} MAY BE IN THE WRONG ORDER: their intensities resemble those of training more "
        f"in another order.{rows}\n    Check which image is which: with exchanged channels the result is wrong."
    )


def _foreign(prepared: PreparedCase, foreign: Sequence[int], model: SavedModel) -> str:
    titles = ", ".join(channel_titles(model)[index] for index in foreign)
    advice = "" if prepared.roi is not None else " Was there an ROI mask (such as a brain mask) in training? Give one."
    return (
        f"The intensities of {prepared.name} are unlike those of training ({titles}): the result may be poor. Prepare "
        f"the images as those of training were.{advice}"
    )


def channel_titles(model: SavedModel) -> tuple[str, ...]:
    """What the channels of a model are called in messages: their names, else "channel 1", ..."""
    numbered = tuple(f"channel {number}" for number in range(1, model.architecture.input_channels + 1))
    return model.config.channel_names or numbered


def _millimetres(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{size:.3g}" for size in spacing) + " mm"
