"""The headers of all images of a case, compared with each other: what is wrong with a data set before any voxel.

Without torch, so that a config that is refused is told of together with what is wrong with the data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from deepmedic.config.options import Size3
from deepmedic.config.sections import DataConfig, PreprocessingConfig
from deepmedic.data import geometry_checks, nifti_affine
from deepmedic.data.cases import Case, ImageRef, read_cases
from deepmedic.data.nifti import VolumeHeader, in_axes, read_header
from deepmedic.data.nifti_affine import Spacing
from deepmedic.data.nifti_header import check_memory
from deepmedic.errors import DeepMedicError, ProblemList

_SAME_GRID = 0.01
"""Voxels by which the ends of two grids of different spacing may lie apart and still be taken as one grid."""


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
    def images(self) -> tuple[VolumeHeader | None, ...]:
        """Of all images, in the order of `images_of`."""
        return (*self.channels, self.labels, self.roi, *self.weight_maps)

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
        return max(image.voxel_bytes + 8 * image.n_voxels for image in self.images if image)


def images_of(case: Case) -> list[tuple[str, ImageRef | None]]:
    """Return all images of a case, each with what it is to it: "channel 1", "labels"."""
    channels = [(f"channel {number}", ref) for number, ref in enumerate(case.channels, 1)]
    weights = [(f"weight map {number}", ref) for number, ref in enumerate(case.weight_maps, 1)]
    return [*channels, ("labels", case.labels), ("ROI mask", case.roi), *weights]


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


def check_without_model(
    config: DataConfig,
    role: str,
    preprocessing: PreprocessingConfig,
    problems: ProblemList,
    *,
    needs_labels: bool,
) -> None:
    """Add to `problems` what is wrong with a data set as far as that can be said when the model could not be read."""
    cases = read_cases(config, role, problems, needs_labels=needs_labels)
    # The spacing of the model is not known, and has no part in what can be said of the files.
    check_cases(cases, replace(preprocessing, resample_to=None), problems, [])


def resampled_header(header: VolumeHeader, spacing: Spacing) -> VolumeHeader:
    """The header of the same volume with another voxel spacing, about the same centre.

    Args:
        header: in the axes of memory.
        spacing: millimetres per voxel along these axes.

    Returns:
        `header` itself if it has this spacing already; otherwise one that knows it as `resampled_from`.
    """
    factors = [new / old for new, old in zip(spacing, header.spacing, strict=True)]
    if all(abs(factor - 1) * size < _SAME_GRID for factor, size in zip(factors, header.shape, strict=True)):
        return header
    x, y, z = (max(1, round(size / factor)) for size, factor in zip(header.shape, factors, strict=True))
    offset = [
        (old - 1) / 2 - factor * (new - 1) / 2
        for old, new, factor in zip(header.shape, (x, y, z), factors, strict=True)
    ]
    to_old = np.eye(4)
    to_old[:3, :3], to_old[:3, 3] = np.diag(factors), offset
    affine = header.affine @ to_old
    return replace(header, shape=(x, y, z), affine=affine, spacing=nifti_affine.spacing(affine), resampled_from=header)


def _check(
    case: Case, preprocessing: PreprocessingConfig, problems: ProblemList
) -> tuple[CaseHeaders | None, list[tuple[str, str]]]:
    """Return the headers of a case, and pairs of place and text of what is unusual about them."""
    before = len(problems.problems)
    images = [(title, _header(case, title, ref, problems)) for title, ref in images_of(case)]
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
    with problems.gather():
        _check_resampled_size(case, found)
        return found, remarks
    return None, []


def _check_resampled_size(case: Case, headers: CaseHeaders) -> None:
    """Refuse a grid that memory cannot hold: a wrong unit or spacing in a header makes a small file an immense one."""
    header, native = headers.header, headers.header.resampled_from
    if native is None:
        return
    from_spacing, to_spacing = (" x ".join(f"{size:.4g}" for size in grid.spacing) for grid in (native, header))
    check_memory(
        f"case {case.name}: resampled from {from_spacing} to {to_spacing} mm it has "
        f"{' x '.join(map(str, header.shape))} voxels, which",
        headers.loaded_bytes,
        "Correct the voxel sizes and their unit in the headers, choose larger voxels, or use a larger machine.",
    )


def _header(case: Case, title: str, ref: ImageRef | None, problems: ProblemList) -> VolumeHeader | None:
    with problems.gather(), named_image(case, title):
        return None if ref is None else read_header(ref)
    return None


@contextmanager
def named_image(case: Case, title: str) -> Iterator[None]:
    """Name case and image in what is raised inside the block."""
    try:
        yield
    except DeepMedicError as problem:
        raise type(problem)(f"case {case.name}, {title}: {problem}") from problem
