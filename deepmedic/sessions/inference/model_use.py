"""Using a trained model on data: how the data differ from those it was trained on, and which tiles it wants."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from deepmedic.config.sections import PreprocessingConfig, ZScoreConfig
from deepmedic.config.source import ConfigSource, Refusals
from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.fingerprints import Fingerprint, channels_unlike_training, order_that_fits_better
from deepmedic.data.nifti_affine import Spacing
from deepmedic.data.preprocessing import PreparedCase, intensity_fingerprint
from deepmedic.errors import ConfigError, DataError, ProblemList
from deepmedic.model.saved import SavedModel
from deepmedic.words import channels_by_number

log = logging.getLogger(__name__)

_WORTH_TELLING = 0.05
"""Relative difference of voxel sizes to those of training from which on a user is told of it, even if it is allowed."""
_ROUNDING = 1e-5
"""Millimetres by which sizes in float32 headers may be off."""
_MOST_NAMED = 3

SpacingRange = tuple[Spacing, Spacing]
"""Smallest and largest voxel spacing along each axis, millimetres."""

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


def as_in_training(
    preprocessing: PreprocessingConfig, source: ConfigSource, model: SavedModel
) -> tuple[PreprocessingConfig, list[str]]:
    """Take from the model what a config leaves to it: the normalisation, and the spacing of `resampleTo = "model"`.

    Returns:
        The settings, and what the user should know of them.

    Raises:
        ConfigError: the model does not know the spacing it was trained with.
    """
    notes = []
    trained = model.data.zscore
    if source.path is not None and "norm_zscore_prms" not in source.given and trained is not None:
        zscore = ZScoreConfig(**trained)
        if zscore.applies and zscore != preprocessing.zscore:
            notes.append(f"norm_zscore_prms is not given: intensities are normalised as in training, {trained}.")
        preprocessing = replace(preprocessing, zscore=zscore)
    return replace(preprocessing, resample_to=resolved_spacing(preprocessing, source, model)), notes


def resolved_spacing(preprocessing: PreprocessingConfig, source: ConfigSource, model: SavedModel) -> Spacing | None:
    """The spacing that `resampleTo` stands for; None: cases stay as they are.

    Raises:
        ConfigError: it is that of a model that does not know it.
    """
    if preprocessing.resample_to != "model":
        return preprocessing.resample_to
    if model.data.spacing is None:
        where = Refusals(source.path, source.lines, ProblemList()).where("resampleTo")
        raise ConfigError(
            f'{where}: resampleTo: found "model", but the model does not know with which spacing it was trained; give '
            "it in millimetres, for instance resampleTo = [1.0, 1.0, 1.0]"
        )
    return trained_spacing(model)


def trained_spacing(model: SavedModel) -> Spacing | None:
    """Median spacing of the training cases in millimetres; None if the model does not know it."""
    if model.data.spacing is None:
        return None
    x, y, z = model.data.spacing
    return x, y, z


def compare_with_training(data: DataSet, model: SavedModel, *, refuse_other_spacing: bool = False) -> list[str]:
    """Refuse cases whose arrays run in other directions than those of training; say where else they differ.

    Args:
        data: the cases.
        model: what they are used with.
        refuse_other_spacing: also refuse cases whose voxel spacing is another one, unless they are resampled.

    Raises:
        DataError: the axis order differs, or the spacing by more than `spacingTolerance`.
    """
    trained = model.data
    notes: list[str] = []
    if trained.axis_order is None or not data.headers:
        return notes
    if data.preprocessing.orientation not in (trained.orientation, trained.axis_order):
        raise DataError(
            f'the model was trained with orientation = "{trained.orientation}", this config says '
            f'"{data.preprocessing.orientation}"; set orientation = "{trained.axis_order}", as its images ran.'
        )
    codes = data.headers[0].header.axis_codes
    if codes != trained.axis_order:
        raise DataError(
            f"{data.headers[0].header.path}: the axes of this image run {codes}, those of the training images ran "
            f"{trained.axis_order}; the network would see it flipped or turned. Set orientation = "
            f'"{trained.axis_order}", which turns each case in memory and returns its results in its own axes.'
        )
    tolerance = data.preprocessing.spacing_tolerance
    spacing = other_spacing(data, model, tolerance)
    if spacing and refuse_other_spacing and data.preprocessing.resample_to is None:
        raise DataError(
            f'{spacing} Set resampleTo = "model", which resamples each case and returns its results on its own grid; '
            f"or raise spacingTolerance (now {tolerance:g}) to segment them as they are."
        )
    spacing = other_spacing(data, model, min(tolerance, _WORTH_TELLING))
    if spacing:
        notes.append(f"{spacing} Resample the images as in training (resampleTo).")
    if trained.zscore is not None and trained.zscore != asdict(data.preprocessing.zscore):
        notes.append(
            f"norm_zscore_prms differ from training: {asdict(data.preprocessing.zscore)} here, {trained.zscore} there. "
            "The network expects intensities as in training."
        )
    return notes


class ComparedWithTraining:
    """Cases that are compared with the intensities of training when they are read, and warned of."""

    def __init__(self, data: DataSet, models: Mapping[str, SavedModel]) -> None:
        """Compare the cases of a data set with those of the training of each model, which go by what they are called.

        The cases must be prepared for as many networks as there are models, in their order.
        """
        self._data = data
        self._models = models
        self._told = False
        """Whether foreign intensities were told of; they are commonly so in all cases."""
        self._untold: dict[int, IntensityWarnings] = {}

    @property
    def cases(self) -> Sequence[Case]:
        return self._data.cases

    def read_each(self, index: int, needs: Sequence[CaseNeeds] = ()) -> list[PreparedCase]:
        """Read one case and prepare it for several models, as the data set does; `tell` says what is unusual.

        Raises:
            DataError: its voxels cannot be used.
        """
        prepared = self._data.read_each(index, needs)
        self._untold[index] = intensity_warnings(prepared, self.cases[index], self._models)
        return prepared

    def bytes_to_read(self, index: int) -> int:
        """As of the data set."""
        return self._data.bytes_to_read(index)

    def tell(self, index: int) -> None:
        """Log what a user should know of a case that was read."""
        self._data.tell(index)
        if index in self._untold:
            self._told = self._untold.pop(index).log(told=self._told)


@dataclass(frozen=True)
class IntensityWarnings:
    """What is unusual about the intensities of a case, beside those of training."""

    order: str | None
    """Its channels resemble those of training in another order."""
    foreign: str | None
    """They do not resemble them at all."""

    def log(self, *, told: bool) -> bool:
        """Warn; `told` leaves out foreign intensities. Returns whether these were told of, now or before."""
        if self.order is not None:
            log.warning("%s", self.order)
        elif self.foreign is not None and not told:
            log.warning("%s", self.foreign)
            return True
        return told


def intensity_warnings(
    prepared: Sequence[PreparedCase], case: Case, models: Mapping[str, SavedModel]
) -> IntensityWarnings:
    """Compare the channels of a case with those that models were trained on; the first that differ are told of.

    Args:
        prepared: the case as each of the models wants it.
        case: its files.
        models: what it is used with, by what they are called in messages.
    """
    found: dict[int, Fingerprint] = {}
    order = foreign = None
    for one, (name, model) in zip(prepared, models.items(), strict=True):
        if id(one) not in found:  # models of one architecture share what was prepared
            found[id(one)] = intensity_fingerprint(one)
        trained = model.data.intensities or []
        training = f"the training of {name}" if len(models) > 1 else "training"
        other = None if order else order_that_fits_better(found[id(one)], trained)
        order = order if other is None else _other_order(case, other, model, training)
        unlike = [] if foreign else channels_unlike_training(found[id(one)], trained)
        foreign = _foreign(one, unlike, model, training) if unlike else foreign
    return IntensityWarnings(order, foreign)


def _other_order(case: Case, order: Sequence[int | None], model: SavedModel, training: str) -> str:
    refs = [None if channel is None else case.channels[channel] for channel in order]
    rows = "".join(
        f"\n    {name}: {given.path.name if given else '-'} is given, {fitting.path.name if fitting else '-'} fits"
        for name, given, fitting in zip(channel_titles(model), case.channels, refs, strict=True)
    )
    return (
        f"THE CHANNELS OF {case.name} MAY BE IN THE WRONG ORDER: their intensities resemble those of {training} more "
        f"in another order.{rows}\n    Check which image is which: with exchanged channels the result is wrong."
    )


def _foreign(prepared: PreparedCase, foreign: Sequence[int], model: SavedModel, training: str) -> str:
    titles = ", ".join(channel_titles(model)[index] for index in foreign)
    advice = "" if prepared.roi is not None else " Was there an ROI mask (such as a brain mask) in training? Give one."
    return (
        f"The intensities of {prepared.name} are unlike those of {training} ({titles}): the result may be poor. "
        f"Prepare the images as those of training were.{advice}"
    )


def channel_titles(model: SavedModel) -> tuple[str, ...]:
    """What the channels of a model are called in messages: their names, else "channel 1", ..."""
    return model.config.channel_names or channels_by_number(model.architecture.input_channels)


def other_spacing(data: DataSet, model: SavedModel, tolerance: float) -> str:
    """Which cases have a voxel spacing outside that of training by more than a share, in words; empty if none has."""
    known = known_spacings(model)
    if known is None:
        return ""
    others = [
        (case.name, found.header.spacing)
        for case, found in data.checked_cases()
        if not overlap((found.header.spacing, found.header.spacing), widened(known, tolerance))
    ]
    if not others:
        return ""
    named = ", ".join(f"{name} {_millimetres(spacing)}" for name, spacing in others[:_MOST_NAMED])
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    return (
        f"{len(others)} of {len(data)} cases have another voxel spacing than in training, {spacings_in_words(known)}: "
        f"{named}{more}. The network knows shapes in voxels."
    )


def known_spacings(model: SavedModel) -> SpacingRange | None:
    """The voxel spacings that a model was trained with; None if it does not know them."""
    if model.data.spacing is None:
        return None
    return model.data.spacing_range or (model.data.spacing, model.data.spacing)


def widened(spacings: SpacingRange, tolerance: float) -> SpacingRange:
    """A range of spacings with a share of each end added to it."""
    (a, b, c), (d, e, f) = spacings
    less, more = 1 - tolerance, 1 + tolerance
    lower = a * less - _ROUNDING, b * less - _ROUNDING, c * less - _ROUNDING
    return lower, (d * more + _ROUNDING, e * more + _ROUNDING, f * more + _ROUNDING)


def overlap(one: SpacingRange, other: SpacingRange) -> bool:
    """Whether some spacing lies in both ranges."""
    ends = zip(*one, *other, strict=True)
    return all(low <= highest and lowest <= high for low, high, lowest, highest in ends)


def spacings_in_words(spacings: SpacingRange) -> str:
    """A range of spacings for messages."""
    low, high = map(_millimetres, spacings)
    return low if low == high else f"{low} to {high}"


def _millimetres(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{size:.3g}" for size in spacing) + " mm"
