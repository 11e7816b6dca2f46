"""One case in memory as it is on disk: voxels read, checked and brought together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from deepmedic.config.sections import PreprocessingConfig
from deepmedic.data import voxel_checks
from deepmedic.data.case_headers import CaseHeaders, named_image
from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.memory_order import in_c_order
from deepmedic.data.nifti import VolumeHeader, read_voxels, to_memory
from deepmedic.data.resampling import labels_to_model_grid, mask_to_model_grid, to_model_grid
from deepmedic.errors import DataError

Check = Callable[[np.ndarray, list[str]], np.ndarray]
"""Takes voxels and a list for notes; returns the voxels as they are to be used."""


@dataclass
class LoadedCase:
    """Checked voxels of one case; spatial axes x, y, z (of channel 1's file, or those of the key `orientation`)."""

    case: Case
    header: VolumeHeader
    """Of the first channel that is present, in the axes of the arrays here."""
    channels: np.ndarray
    """float32 [channel, x, y, z]; a missing channel is all zero."""
    labels: np.ndarray | None
    """uint8 (uint16 above 255 classes) [x, y, z]."""
    roi: np.ndarray | None
    """bool [x, y, z]."""
    weight_maps: np.ndarray | None
    """float32 [category, x, y, z], not negative."""
    notes: list[str] = field(default_factory=list)
    """What the user should know: rounded labels, replaced voxels, a squeezed axis, an empty ROI."""
    native_labels: np.ndarray | None = None
    """The labels before resampling, when `header` is one of a resampled grid."""
    native_roi: np.ndarray | None = None
    """The ROI before resampling."""


def load_case(case: Case, headers: CaseHeaders, preprocessing: PreprocessingConfig, classes: int) -> LoadedCase:
    """Read and check all voxels of one case.

    Every check is always made, whatever `run_input_checks` says: without them a wrong label or a voxel that is not a
    number would show up as a crash or a useless model hours later.

    Args:
        case: its files.
        headers: what `check_case` found.
        preprocessing: `nonFiniteVoxels` and `orientation` are used here.
        classes: labels must be 0 to classes - 1.

    Raises:
        DataError: a file is damaged, or its voxels cannot be used; names case, image and file.
    """
    loading = _Loading(case, headers)
    intensities = partial(voxel_checks.finite_intensities, non_finite=preprocessing.non_finite_voxels)
    channels = loading.read_all("channel", case.channels, headers.channels, intensities)
    label_map = partial(voxel_checks.label_map, classes=classes)
    labels = loading.read("labels", case.labels, headers.labels, label_map)
    roi = loading.read("ROI mask", case.roi, headers.roi, voxel_checks.roi_mask)
    weight_maps = None
    if case.weight_maps:
        weight_maps = loading.read_all("weight map", case.weight_maps, headers.weight_maps, voxel_checks.weights)
        if not weight_maps.any():
            raise DataError(f"case {case.name}: all weight maps are zero everywhere, so no voxel can be drawn from it.")
    if roi is not None and labels is not None and roi.any() and not labels[roi].any():
        loading.notes.append("the ROI holds no voxel of a foreground class")
    found = LoadedCase(case, headers.header, channels, labels, roi, weight_maps, loading.notes)
    return found if headers.header.resampled_from is None else _with_resampled_labels(found)


def _with_resampled_labels(loaded: LoadedCase) -> LoadedCase:
    """Labels and ROI on the grid that channels were resampled to, beside those that were read."""
    header, labels, roi = loaded.header, loaded.labels, loaded.roi
    return replace(
        loaded,
        labels=None if labels is None else labels_to_model_grid(labels, header),
        roi=None if roi is None else mask_to_model_grid(roi, header),
        native_labels=labels,
        native_roi=roi,
    )


class _Loading:
    """Reads the images of one case; errors and notes name the image."""

    def __init__(self, case: Case, headers: CaseHeaders) -> None:
        self._case = case
        self._header = headers.header
        self.notes: list[str] = []

    def read(
        self,
        title: str,
        ref: ImageRef | None,
        header: VolumeHeader | None,
        check: Check,
        into: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """Return checked voxels [x, y, z] in the axes of memory, or None for an image that the case does not have.

        They are written to `into`, if that is given, without a further copy.
        """
        if ref is None or header is None:
            return None
        notes: list[str] = []
        with named_image(self._case, title):
            voxels = to_memory(read_voxels(ref, header, notes), self._header)
            try:
                voxels = check(voxels, notes)
            except DataError as problem:
                raise DataError(f"{ref}: {problem}") from problem
        self.notes.extend(f"{title}: {note}" for note in notes)
        return in_c_order(voxels, into)

    def read_all(
        self,
        title: str,
        refs: Sequence[ImageRef | None],
        headers: Sequence[VolumeHeader | None],
        check: Check,
    ) -> np.ndarray:
        """Return float32 [image, x, y, z]; zeros for an image that the case does not have."""
        together = np.zeros((len(refs), *self._header.shape), np.float32)
        for number, (ref, header) in enumerate(zip(refs, headers, strict=True)):
            where = f"{title} {number + 1}"
            if self._header.resampled_from is None:
                self.read(where, ref, header, check, together[number])
            elif (voxels := self.read(where, ref, header, check)) is not None:
                together[number] = to_model_grid(voxels, self._header)
        return together
