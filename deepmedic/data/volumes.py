"""One case in memory as it is on disk: headers compared, voxels read, checked and brought together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from deepmedic.config.options import Size3
from deepmedic.config.sections import PreprocessingConfig
from deepmedic.data import geometry_checks, voxel_checks
from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.memory_order import in_c_order
from deepmedic.data.nifti import VolumeHeader, in_axes, read_header, read_voxels, to_memory
from deepmedic.data.resampling import labels_to_model_grid, mask_to_model_grid, resampled_header, to_model_grid
from deepmedic.errors import DataError, DeepMedicError, ProblemList

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

    @property
    def roi_is_empty(self) -> bool:
        """The case has an ROI mask, and no voxel is in it."""
        return self.roi is not None and not self.roi.any()


@dataclass(frozen=True, eq=False)
class CaseHeaders:
    """Headers of all images of one case, found to lie on one another; None for images that the case does not have."""

    channels: tuple[VolumeHeader | None, ...]
    labels: VolumeHeader | None
    roi: VolumeHeader | None
    weight_maps: tuple[VolumeHeader | None, ...]
    header: VolumeHeader
    """Of the first channel that is present, in the axes that arrays have in memory; results inherit its geometry."""

    @property
    def shape(self) -> Size3:
        """Voxels along x, y, z in memory."""
        return self.header.shape

    @property
    def result_shape(self) -> Size3:
        """Voxels of results along x, y, z: those of the files, in the axes of memory."""
        return (self.header.resampled_from or self.header).shape

    @property
    def loaded_bytes(self) -> int:
        """Bytes that `load_case` returns: float32 channels and weight maps, one byte per voxel for labels and ROI."""
        bytes_per_voxel = 4 * (len(self.channels) + len(self.weight_maps)) + bool(self.labels) + bool(self.roi)
        return self.header.n_voxels * bytes_per_voxel

    @property
    def reading_bytes(self) -> int:
        """Further bytes needed while one image is read: as stored, and in float64 where it has a scaling."""
        images = [image for image in (*self.channels, self.labels, self.roi, *self.weight_maps) if image]
        return max(image.voxel_bytes + 8 * image.n_voxels for image in images)


def check_case(
    case: Case, preprocessing: PreprocessingConfig, problems: ProblemList, notes: list[str]
) -> CaseHeaders | None:
    """Read and compare the headers of one case; None when something was added to `problems`.

    All images must have one shape, one axis order, and affines that agree within `affineTolerance` millimetres at
    every corner of the volume.
    """
    found, remarks = _check(case, preprocessing, problems)
    notes.extend(f"{where}: {text}" for where, text in remarks)
    return found


def check_cases(
    cases: Sequence[Case], preprocessing: PreprocessingConfig, problems: ProblemList, notes: list[str]
) -> list[CaseHeaders]:
    """Read and compare the headers of all cases; those with a problem are left out of the list.

    Adds a problem when axis orders differ between cases, and a note with the table of voxel spacings when those do.
    """
    headers: list[CaseHeaders] = []
    named: list[tuple[str, VolumeHeader]] = []
    places: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        found, remarks = _check(case, preprocessing, problems)
        for where, text in remarks:
            places[text].append(where)
        if found is not None:
            headers.append(found)
            named.append((case.name, found.header))
    notes.extend(
        f"{where[0]}{f' and {len(where) - 1} further images' if where[1:] else ''}: {text}"
        for text, where in places.items()
    )
    with problems.gather():
        geometry_checks.check_axis_orders(named)
    table = geometry_checks.spacing_table(named)
    if table:
        notes.append(table)
    return headers


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


def _check(
    case: Case, preprocessing: PreprocessingConfig, problems: ProblemList
) -> tuple[CaseHeaders | None, list[tuple[str, str]]]:
    """Return the headers of a case, and pairs of place and text of what is unusual about them."""
    before = len(problems.problems)
    images = [(title, _header(case, title, ref, problems)) for title, ref in _images(case)]
    present = [(title, header) for title, header in images if header]
    if len(problems.problems) == before:
        with problems.gather():
            geometry_checks.check_same_geometry(case.name, present, preprocessing.affine_tolerance)
    if len(problems.problems) > before:
        return None, []
    remarks = [
        (f"case {case.name}, {title}: {header.path}", note) for title, header in present for note in header.notes
    ]
    headers = [header for _, header in images]
    count = len(case.channels)
    first = next(header for header in headers[:count] if header)
    stored = preprocessing.orientation == "asStored"
    in_memory = first if stored else in_axes(first, preprocessing.orientation)
    if preprocessing.resample_to is not None:
        if preprocessing.resample_to == "model":
            raise ValueError("the spacing of the model must be looked up before cases are read")
        in_memory = resampled_header(in_memory, preprocessing.resample_to)
    found = CaseHeaders(
        channels=tuple(headers[:count]),
        labels=headers[count],
        roi=headers[count + 1],
        weight_maps=tuple(headers[count + 2 :]),
        header=in_memory,
    )
    return found, remarks


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
        with _named(self._case, title):
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


def _images(case: Case) -> list[tuple[str, ImageRef | None]]:
    channels = [(f"channel {number}", ref) for number, ref in enumerate(case.channels, 1)]
    weights = [(f"weight map {number}", ref) for number, ref in enumerate(case.weight_maps, 1)]
    return [*channels, ("labels", case.labels), ("ROI mask", case.roi), *weights]


def _header(case: Case, title: str, ref: ImageRef | None, problems: ProblemList) -> VolumeHeader | None:
    with problems.gather(), _named(case, title):
        return None if ref is None else read_header(ref)
    return None


@contextmanager
def _named(case: Case, title: str) -> Iterator[None]:
    try:
        yield
    except DeepMedicError as problem:
        raise type(problem)(f"case {case.name}, {title}: {problem}") from problem
