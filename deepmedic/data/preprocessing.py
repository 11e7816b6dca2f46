"""From a loaded case to the tensors a network sees: padding, then z-score normalisation."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from deepmedic.config.options import Size3
from deepmedic.config.sections import PreprocessingConfig
from deepmedic.data.intensities import described_cutoffs, intensity_fingerprint, mean_and_std, unnormalised_warning
from deepmedic.data.nifti import VolumeHeader
from deepmedic.data.padding import Padding3, extended, reflect
from deepmedic.data.volumes import LoadedCase
from deepmedic.errors import ConfigError, DataError

__all__ = ["PreparedCase", "intensity_fingerprint", "mirrored", "prepare_case", "unnormalised_warning"]

log = logging.getLogger(__name__)

_NO_PADDING: Padding3 = ((0, 0), (0, 0), (0, 0))


@dataclass
class PreparedCase:
    """Padded and normalised tensors of one case, on the CPU; spatial axes x, y, z after padding."""

    name: str
    header: VolumeHeader
    channels: torch.Tensor
    """float32 [channel, x, y, z]."""
    labels: torch.Tensor | None
    """uint8 (int32 above 255 classes) [x, y, z]."""
    roi: torch.Tensor | None
    """bool [x, y, z]."""
    weight_maps: torch.Tensor | None
    """float32 [category, x, y, z]."""
    padding: Padding3
    """Voxels added before and after, per axis."""
    border_values: torch.Tensor
    """float32 [channel]: mean of the 8 corner voxels, the fill of low-resolution segments outside the volume."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, those of the loaded case included."""
    native_labels: torch.Tensor | None = None
    """The labels on the grid of the files [x, y, z], not padded, when the case was resampled."""
    native_roi: torch.Tensor | None = None
    """The ROI likewise, bool."""

    @property
    def size(self) -> Size3:
        x, y, z = self.channels.shape[1:]
        return x, y, z

    @property
    def result_header(self) -> VolumeHeader:
        """Of the grid that results belong on: that of the files, in the axes of memory."""
        return self.header.resampled_from or self.header

    @property
    def result_labels(self) -> torch.Tensor | None:
        """The labels on the grid of results, [x, y, z]."""
        if self.header.resampled_from is not None:
            return self.native_labels
        return None if self.labels is None else self.labels[self.unpadded]

    @property
    def result_roi(self) -> torch.Tensor | None:
        """The ROI on the grid of results, bool [x, y, z]."""
        if self.header.resampled_from is not None:
            return self.native_roi
        return None if self.roi is None else self.roi[self.unpadded]

    @property
    def unpadded(self) -> tuple[slice, slice, slice]:
        """The part of a padded volume that is no padding."""
        x, y, z = (slice(low, size - high) for (low, high), size in zip(self.padding, self.size, strict=True))
        return x, y, z


def prepare_case(
    loaded: LoadedCase,
    margins: Padding3,
    preprocessing: PreprocessingConfig,
    minimum_size: Size3 | None = None,
) -> PreparedCase:
    """Pad a case, then normalise its intensities.

    Everything is padded by reflection without repeating the edge: by the margins that the network does not predict
    (when `padInputImagesBool` is true), and further at the far end where the volume would stay smaller than
    `minimum_size`, in which case the prediction is to be cropped by `padding`. Labels, ROI and weight maps are
    reflected like the intensities they belong to; were the ROI left empty in the further part, a small volume could
    have no voxel at all on which a segment can be centred.

    As in the original, normalisation takes its statistics from the volume padded by the margins, within the ROI padded
    likewise; the further part does not count. A missing channel stays zero. With an empty ROI the whole volume counts.

    Args:
        loaded: the case; notes are added to its list.
        margins: voxels before and after that the network does not predict, along x, y, z.
        preprocessing: `padInputImagesBool` and `norm_zscore_prms` are used here.
        minimum_size: smallest size of the padded volume, commonly that of a segment.

    Raises:
        DataError: a channel to be normalised is constant within the ROI; names case and channel.
        ConfigError: apply_per_channel has another length than there are channels.
    """
    counted = margins if preprocessing.pad_images else _NO_PADDING
    padding = extended(loaded.header.shape, counted, minimum_size)
    channels = reflect(loaded.channels, padding)
    roi = None if loaded.roi is None else reflect(loaded.roi, padding)
    _normalise(channels, roi, _extent(loaded.header.shape, counted), loaded, preprocessing)
    return PreparedCase(
        name=loaded.case.name,
        header=loaded.header,
        channels=torch.from_numpy(channels),
        labels=None if loaded.labels is None else _label_tensor(reflect(loaded.labels, padding)),
        roi=None if roi is None else torch.from_numpy(roi),
        weight_maps=None if loaded.weight_maps is None else torch.from_numpy(reflect(loaded.weight_maps, padding)),
        padding=padding,
        border_values=_corner_means(channels),
        notes=loaded.notes,
        native_labels=None if loaded.native_labels is None else _label_tensor(loaded.native_labels),
        native_roi=None if loaded.native_roi is None else torch.from_numpy(loaded.native_roi),
    )


def mirrored(prepared: PreparedCase, axes: tuple[int, ...]) -> PreparedCase:
    """Return a case as if its image had been mirrored along some axes (0 to 2 for x to z) before it was padded.

    Only what a prediction needs is mirrored: channels and ROI.
    """
    if not axes:
        return prepared
    inside = (..., *prepared.unpadded)
    channels = _padded_mirror(prepared.channels[inside], axes, prepared.padding)
    roi = None if prepared.roi is None else _padded_mirror(prepared.roi[inside], axes, prepared.padding)
    border = _corner_means(channels.numpy())
    return replace(prepared, channels=channels, labels=None, roi=roi, weight_maps=None, border_values=border)


def _padded_mirror(volume: torch.Tensor, axes: tuple[int, ...], padding: Padding3) -> torch.Tensor:
    return torch.from_numpy(reflect(volume.flip([axis - 3 for axis in axes]).numpy(), padding))


def _extent(size: Size3, padding: Padding3) -> tuple[slice, slice, slice]:
    """The part of a padded volume from which statistics are taken: all but what is added at the far end."""
    x, y, z = (slice(size[axis] + sum(padding[axis])) for axis in range(3))
    return x, y, z


def _normalise(
    channels: np.ndarray,
    roi: np.ndarray | None,
    counted: tuple[slice, slice, slice],
    loaded: LoadedCase,
    preprocessing: PreprocessingConfig,
) -> None:
    """Normalise channels [channel, x, y, z] in place."""
    config, started = preprocessing.zscore, time.monotonic()
    if config.per_channel is not None and len(config.per_channel) != len(channels):
        raise ConfigError(
            f"norm_zscore_prms: apply_per_channel has {len(config.per_channel)} entries, and there are {len(channels)} "
            "channels; give one per channel."
        )
    mask = None if roi is None else roi[counted]
    if mask is not None and not mask.any():
        mask = None
        if config.all_channels or any(config.per_channel or ()):
            loaded.notes.append("the ROI is empty: intensities are normalised by those of the whole volume")
    statistics: dict[int, tuple[float, float]] = {}
    for number, ref in enumerate(loaded.case.channels):
        if ref is None or not config.applies_to(number):
            continue
        try:
            mean, std = mean_and_std(channels[number][counted], mask, config)
        except DataError as problem:
            raise DataError(f"case {loaded.case.name}, channel {number + 1}: {ref}: {problem}") from problem
        for plane in channels[number]:  # one after the other, so that not all are in float64 at once
            plane[...] = (plane.astype(np.float64) - mean) / std
        statistics[number + 1] = mean, std
    if statistics and preprocessing.norm_verbosity > 0:
        seconds = time.monotonic() - started
        for line in _normalisation_lines(loaded.case.name, statistics, preprocessing, seconds):
            log.debug("%s", line)


def _normalisation_lines(
    case: str, statistics: dict[int, tuple[float, float]], preprocessing: PreprocessingConfig, seconds: float
) -> list[str]:
    """What `norm_verbosity_lvl` asks to be logged: from 1 channels, cut-offs and time, from 2 also the statistics."""
    cutoffs = described_cutoffs(preprocessing.zscore)
    channels = ", ".join(map(str, statistics))
    lines = [f"Normalising {case}: channels {channels}, {cutoffs}; took {seconds:.2f} s."]
    if preprocessing.norm_verbosity > 1:
        lines += [
            f"   channel {number}: mean {mean:.6g} and standard deviation {std:.6g} of the voxels that count"
            for number, (mean, std) in statistics.items()
        ]
    return lines


def _label_tensor(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(labels if labels.dtype == np.uint8 else labels.astype(np.int32))


def _corner_means(channels: np.ndarray) -> torch.Tensor:
    last = [0, -1]
    corners = channels[np.ix_(range(len(channels)), last, last, last)]
    return torch.from_numpy(corners.astype(np.float64).mean(axis=(1, 2, 3)).astype(np.float32))
