"""The cases of one role (training, validation, inference), checked by their headers and read on demand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.config.sections import DataConfig, PreprocessingConfig
from deepmedic.data.case_headers import CaseHeaders, check_cases
from deepmedic.data.cases import Case, read_cases
from deepmedic.data.nifti_affine import Spacing
from deepmedic.data.padding import Padding3
from deepmedic.data.pool import PoolLayout, elements_for
from deepmedic.data.preprocessing import PreparedCase, prepare_case, unnormalised_warning
from deepmedic.data.volumes import LoadedCase, load_case
from deepmedic.errors import DataError, ProblemList

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseNeeds:
    """What a network needs from every case."""

    classes: int
    margins: Padding3
    """Unpredicted voxels before and after, by which volumes are padded."""
    segment: Size3
    """Smallest size of a padded volume."""
    channels: int
    channel_names: tuple[str, ...] | None = None
    pad_images: bool | None = None
    """Whether volumes are padded by the margins; None: as the data set is set up (`padInputImagesBool`)."""

    @classmethod
    def of(cls, architecture: Architecture, segment: Size3, channel_names: tuple[str, ...] | None) -> CaseNeeds:
        """What a network of this architecture needs, given segments of this size."""
        margins = architecture.margins(segment)
        return cls(architecture.classes, margins, segment, architecture.input_channels, channel_names)

    def with_own_padding(self, preprocessing: PreprocessingConfig) -> PreprocessingConfig:
        """How cases are prepared, with the padding that this network asks for, if it asks for one."""
        return preprocessing if self.pad_images is None else replace(preprocessing, pad_images=self.pad_images)


@dataclass
class DataSet:
    """Cases with their checked headers; `load` reads, checks and prepares the voxels of one."""

    role: str
    cases: list[Case]
    headers: list[CaseHeaders]
    preprocessing: PreprocessingConfig
    needs: CaseNeeds
    notes: list[str] = field(default_factory=list)
    """What the user should know about the data before the run."""
    observer: Callable[[int, LoadedCase], None] | None = None
    """Shown each case as it is on disk, in the thread that reads it, before it is padded and normalised."""
    skipped: dict[str, str] = field(default_factory=dict)
    """By name, why cases were left out by `load_if_usable`."""
    _noted: set[int | str] = field(default_factory=set)
    """Cases whose notes were logged, and "intensities" when that warning was."""
    _noting: threading.Lock = field(default_factory=threading.Lock)
    _untold: dict[int, tuple[list[str], str | None]] = field(default_factory=dict)
    """Of cases that were read: notes, and the warning about intensities."""

    def __len__(self) -> int:
        return len(self.cases)

    def load(self, index: int) -> PreparedCase:
        """Read, check, pad and normalise one case; several threads may do so at once.

        Raises:
            DataError: its voxels cannot be used; names case, channel and file.
        """
        (prepared,) = self.read_each(index)
        self.tell(index)
        return prepared

    def read_each(self, index: int, needs: Sequence[CaseNeeds] = ()) -> list[PreparedCase]:
        """Read one case once, and prepare it for each of several networks; those with equal needs share it.

        What a user should know is left to `tell`. Without needs the case is prepared as the data set is set up.

        Raises:
            DataError: as `load`.
        """
        needs = needs or [self.needs]
        loaded = load_case(self.cases[index], self.headers[index], self.preprocessing, self.needs.classes)
        if self.observer is not None:
            self.observer(index, loaded)
        warning = unnormalised_warning(loaded, self.preprocessing.zscore)
        prepared = {
            wanted: prepare_case(loaded, wanted.margins, wanted.with_own_padding(self.preprocessing), wanted.segment)
            for wanted in dict.fromkeys(needs)
        }
        self._untold[index] = list(dict.fromkeys(loaded.notes)), warning
        return [prepared[wanted] for wanted in needs]

    def bytes_to_read(self, index: int) -> int:
        """Memory that reading a case takes, by its headers: as it is stored, as it is read, and as it will be kept."""
        headers = self.headers[index]
        kept = elements_for(self.padded_size(index)) * self.layout([self.cases[index]]).bytes_per_voxel
        return headers.loaded_bytes + headers.reading_bytes + kept

    def layout(self, cases: Sequence[Case] | None = None) -> PoolLayout:
        """What a `VolumePool` keeps for every voxel of some of the cases; None: of all."""
        cases = self.cases if cases is None else cases
        label_type = torch.uint8 if self.needs.classes <= 256 else torch.int32
        return PoolLayout(
            channels=self.needs.channels,
            label_dtype=label_type if any(case.labels is not None for case in cases) else None,
            roi=any(case.roi is not None for case in cases),
            weight_maps=max((len(case.weight_maps) for case in cases), default=0),
        )

    def tell(self, index: int) -> None:
        """Log what a user should know of a case that `read_each` read, once."""
        notes, warning = self._untold.pop(index, ([], None))
        self._log_once(index, index, notes)
        self._log_once("intensities", index, [warning] if warning else [])  # all cases were made in the same way

    def load_if_usable(self, index: int) -> PreparedCase | None:
        """Read one case as `load` does; None for one that cannot be used while cases may be skipped."""
        try:
            return self.load(index)
        except DataError as problem:
            if not self.preprocessing.allow_skipped_cases:
                raise
            self.skipped[self.cases[index].name] = str(problem)
            return None

    def for_segment(self, segment: Size3, margins: Padding3) -> DataSet:
        """The same cases, prepared for segments of another size; each note is still logged once."""
        needs = replace(self.needs, segment=segment, margins=margins)
        return replace(self, needs=needs, notes=[])

    def checked_cases(self) -> list[tuple[Case, CaseHeaders]]:
        """The cases with their headers; none if some were refused, for then the two lists do not correspond."""
        return list(zip(self.cases, self.headers, strict=True)) if len(self.cases) == len(self.headers) else []

    def padded_size(self, index: int) -> Size3:
        """Size of one case after padding, from its header."""
        shape, margins = self.headers[index].shape, self.needs.margins
        is_padded = self.needs.with_own_padding(self.preprocessing).pad_images
        pads = [sum(margins[axis]) if is_padded else 0 for axis in range(3)]
        x, y, z = (max(shape[axis] + pads[axis], self.needs.segment[axis]) for axis in range(3))
        return x, y, z

    def total_elements(self) -> int:
        """Elements of a `VolumePool` that would hold all cases."""
        return sum(elements_for(self.padded_size(index)) for index in range(len(self)))

    def _log_once(self, what: int | str, index: int, notes: list[str]) -> None:
        """Log notes about a case, the first time that there are any; cases may be read by several threads."""
        with self._noting:
            known = what in self._noted
            if notes:
                self._noted.add(what)
        for note in () if known else notes:
            log.warning("%s, case %s: %s", self.role, self.cases[index].name, note)

    def spacing_range(self) -> tuple[Spacing, Spacing]:
        """Smallest and largest voxel spacing over the cases along each array axis, millimetres."""
        spacings = np.array([headers.header.spacing for headers in self.headers])
        lowest, highest = spacings.min(axis=0).tolist(), spacings.max(axis=0).tolist()
        return (lowest[0], lowest[1], lowest[2]), (highest[0], highest[1], highest[2])

    def median_spacing(self) -> tuple[float, float, float]:
        """Median voxel spacing over the cases, millimetres along the array axes."""
        x, y, z = np.median([headers.header.spacing for headers in self.headers], axis=0)
        return float(x), float(y), float(z)


def read_data_set(
    config: DataConfig,
    role: str,
    preprocessing: PreprocessingConfig,
    needs: CaseNeeds,
    problems: ProblemList,
    *,
    needs_labels: bool,
    categories: int | None = None,
) -> DataSet:
    """Read the listing files and all headers; every problem is added to `problems`, nothing is raised.

    Args:
        config: where the cases are listed.
        role: "training", "validation" or "inference", for messages.
        preprocessing: how cases are checked and prepared.
        needs: what the network needs.
        problems: collects what is wrong.
        needs_labels: refuse cases without labels.
        categories: number of sampling categories that weight maps must match.
    """
    notes: list[str] = []
    # How many listing files of channels there are was compared with the model when the config was.
    channels = None if config.table is None else needs.channels
    cases = read_cases(
        config,
        role,
        problems,
        notes,
        needs_labels=needs_labels,
        categories=categories,
        channels=channels,
        channel_names=needs.channel_names,
    )
    return data_set_of(cases, role, preprocessing, needs, problems, notes)


def data_set_of(
    cases: list[Case],
    role: str,
    preprocessing: PreprocessingConfig,
    needs: CaseNeeds,
    problems: ProblemList,
    notes: list[str],
) -> DataSet:
    """Read all headers of the cases that `read_cases` found; arguments as there and for `read_data_set`."""
    headers = check_cases(cases, preprocessing, problems, notes) if cases else []
    return DataSet(role, cases, headers, preprocessing, needs, notes)
