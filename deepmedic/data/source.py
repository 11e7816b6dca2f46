"""The segments of a session: volumes resident on the device; centres drawn, segments cut and augmented by index."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.config.training import AugmentationConfig, SamplingConfig
from deepmedic.data import augmentation
from deepmedic.data.augmentation import SegmentDraws
from deepmedic.data.dataset import DataSet
from deepmedic.data.pool import PoolLayout, VolumePool
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.sampling import SubepochPlan, SubepochRequest, SubepochSampler
from deepmedic.data.sampling_maps import SamplingRule
from deepmedic.data.segments import SegmentBatch, SegmentGeometry, gather
from deepmedic.errors import DataError

log = logging.getLogger(__name__)

_READERS = 4
"""Threads that read and unpack files ahead; more would fill the memory with cases that wait."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """How segments are drawn from a data set."""

    role: str
    """"train" or "val"; keeps the random streams of training and validation apart."""
    seed: int
    segment: Size3
    segments: int
    """Per subepoch."""
    batch_size: int
    cases: int
    """Cases to draw from per subepoch, at most."""
    sampling: SamplingConfig
    augmentation: AugmentationConfig | None = None


class _UnreadableCase(Exception):
    """A case that cannot be used, while cases may be skipped."""

    def __init__(self, case: int) -> None:
        super().__init__(case)
        self.case = case


class SegmentSource:
    """Gives the segments of any subepoch as a pure function of seed, epoch and subepoch."""

    skipped: dict[str, str]
    """Name of each case that was left out so far -> why."""

    def __init__(
        self,
        data: DataSet,
        architecture: Architecture,
        settings: SourceSettings,
        pool: VolumePool,
        before_reading: Callable[[], None] | None = None,
    ) -> None:
        """Create a source; volumes are read when a subepoch needs them and stay in the pool as long as there is room.

        Args:
            data: the cases.
            architecture: of the network, which says what the inputs of each pathway are.
            settings: how segments are drawn.
            pool: of `pool_for(data, ...)`.
            before_reading: called before a subepoch reads a case; what it raises comes out of `subepoch`.

        Raises:
            ConfigError: proportions that do not fit the categories, or rotations of segments that are not cubes.
        """
        self.data = data
        self.settings = settings
        self.geometry = SegmentGeometry.from_architecture(architecture, settings.segment)
        if settings.augmentation and settings.augmentation.segment:
            augmentation.check_rotation(self.geometry, settings.augmentation.segment)
        self.pool = pool
        self.skipped = {}
        self._before_reading = before_reading
        rule = SamplingRule.from_config(settings.sampling, architecture.classes)
        self.sampler = SubepochSampler(
            pool,
            self._load,
            len(data),
            SubepochRequest(settings.segments, settings.cases, rule, settings.segment),
            settings.seed,
            settings.role,
            settings.augmentation.image if settings.augmentation else None,
        )

    def read_all(self) -> None:
        """Read every case, if the pool has room for all of them, so that a bad one is found before the first step.

        Raises:
            DataError: a case cannot be used, and cases may not be skipped.
        """
        if self.data.total_elements() * self.pool.layout.bytes_per_voxel > self.pool.budget_bytes:
            return
        for case, read in read_ahead(self.data):
            try:
                usable = self.sampler.keep(case, read())
            except DataError as problem:
                self._skip_unreadable(case, problem)
            else:
                if not usable:
                    self._skip_empty(case)

    def subepoch(self, epoch: int, subepoch: int) -> SubepochBatches:
        """Make the cases of a subepoch resident and return its batches; earlier batches are no longer valid.

        Raises:
            DataError: a case cannot be used, and cases may not be skipped.
            ResourceError: the cases of one subepoch do not fit into the pool together.
        """
        plan = self._plan(epoch, subepoch)
        for case in plan.skipped:
            if self.data.cases[case].name not in self.skipped:
                self._skip_empty(case)
        draws = None
        chosen = self.settings.augmentation.segment if self.settings.augmentation else None
        if chosen is not None:
            generator = plan.id.stream("augmentation")
            drawn = augmentation.draw_segment_augmentation(generator, len(plan), self.pool.layout.channels, chosen)
            draws = drawn.to(self.pool.device)
        return SubepochBatches(self, plan, draws)

    def _plan(self, epoch: int, subepoch: int) -> SubepochPlan:
        while True:
            try:
                return self.sampler.plan(epoch, subepoch)
            except _UnreadableCase as unreadable:
                # Another case of the random order takes its place, the same one as if this had been known before.
                self.sampler.leave_out(unreadable.case)

    def _load(self, case: int) -> PreparedCase:
        if self._before_reading is not None:
            self._before_reading()
        try:
            return self.data.load(case)
        except DataError as problem:
            self._skip_unreadable(case, problem)
            raise _UnreadableCase(case) from problem

    def _skip_unreadable(self, case: int, problem: DataError) -> None:
        self._skip(case, problem)
        log.warning("%s: %s is left out: %s", self.data.role, self.data.cases[case].name, problem)
        self.sampler.leave_out(case)

    def _skip_empty(self, case: int) -> None:
        self._skip(case, nothing_to_draw(self.data, case))

    def _skip(self, case: int, problem: DataError) -> None:
        """Remember that a case is left out and why, or refuse to go on without it."""
        if not self.data.preprocessing.allow_skipped_cases:
            raise problem
        self.skipped[self.data.cases[case].name] = str(problem)


class SubepochBatches:
    """The batches of one subepoch, gathered on the device when asked for; the last one, if not full, is left out."""

    def __init__(self, source: SegmentSource, plan: SubepochPlan, draws: SegmentDraws | None) -> None:
        self._source = source
        self._plan = plan
        self._draws = draws
        device = source.pool.device
        self._rows, self._centres = plan.rows.to(device), plan.centres.to(device)

    def __len__(self) -> int:
        return max(len(self._plan) // self._source.settings.batch_size, 1)

    def __getitem__(self, batch: int) -> SegmentBatch:
        if not 0 <= batch < len(self):
            raise IndexError(f"batch {batch} of {len(self)}")
        part = self._part(batch)
        source = self._source
        segments = gather(source.pool, source.geometry, self._rows[part], self._centres[part])
        return segments if self._draws is None else augmentation.apply(segments, self._draws[part])

    def case_names(self, batch: int) -> list[str]:
        """Names of the cases that a batch was drawn from."""
        rows = self._plan.rows[self._part(batch)].unique().tolist()
        return [self._source.data.cases[self._plan.cases[row]].name for row in rows]

    def _part(self, batch: int) -> slice:
        size = self._source.settings.batch_size
        return slice(batch * size, (batch + 1) * size)


def pool_for(data: DataSet, device: torch.device, budget_bytes: int) -> VolumePool:
    """An empty pool for the cases of a data set, with room made at once for as many as the budget allows."""
    return VolumePool(layout_of(data), device, budget_bytes, data.total_elements())


def layout_of(data: DataSet) -> PoolLayout:
    """What the pool keeps for every voxel of a data set."""
    label_type = torch.uint8 if data.needs.classes <= 256 else torch.int32
    has_labels = any(case.labels is not None for case in data.cases)
    return PoolLayout(
        channels=data.needs.channels,
        label_dtype=label_type if has_labels else None,
        roi=any(case.roi is not None for case in data.cases),
        weight_maps=max((len(case.weight_maps) for case in data.cases), default=0),
    )


def nothing_to_draw(data: DataSet, case: int) -> DataError:
    """The refusal of a case from which no segment can be drawn."""
    return DataError(
        f"{data.role}, case {data.cases[case].name}: no segment can be drawn from it: its ROI is empty, or has none of "
        "the classes that are sampled. Correct or remove this case, or set allowSkippedCases = true to go on without "
        "it."
    )


def read_ahead(data: DataSet) -> Iterator[tuple[int, Callable[[], PreparedCase]]]:
    """Give each case's number and a call that returns the case or raises; the next ones are being read already."""
    readers = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1), thread_name_prefix="reader")
    reading: deque[tuple[int, Future[PreparedCase]]] = deque()
    try:
        for case in range(len(data)):
            reading.append((case, readers.submit(data.load, case)))
            if len(reading) > _READERS:
                first, future = reading.popleft()
                yield first, future.result
        for case, future in reading:
            yield case, future.result
    finally:
        readers.shutdown(cancel_futures=True)
