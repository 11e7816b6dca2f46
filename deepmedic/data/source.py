"""The segments of a session: volumes resident on the device; centres drawn, segments cut and augmented by index."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.config.training import AugmentationConfig, SamplingConfig
from deepmedic.data import augmentation
from deepmedic.data.augmentation import SegmentDraws
from deepmedic.data.dataset import DataSet
from deepmedic.data.pool import VolumePool
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.reading import CaseReader, Reading, read_ahead, workers_of
from deepmedic.data.residency import subepoch_bytes
from deepmedic.data.sampling import SubepochPlan, SubepochRequest, SubepochSampler
from deepmedic.data.sampling_maps import SamplingRule
from deepmedic.data.segments import SegmentBatch, SegmentGeometry, SegmentPlaces, cut, places_around
from deepmedic.devices import return_freed_memory
from deepmedic.errors import DataError

log = logging.getLogger(__name__)

_PLACED_AT_ONCE = 100
"""Batches whose places in the volumes are found together."""
_HORIZON = 20
"""Sub-epochs looked ahead to see which resident cases are wanted again soonest."""


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
    batches_together: int = 1
    """How many batches, at most, are given as one."""
    cases: int
    """Cases to draw from per subepoch, at most."""
    sampling: SamplingConfig
    augmentation: AugmentationConfig | None = None
    subepochs: int | None = None
    """Per epoch, from which follows what is read ahead; None: nothing is."""
    epochs: int | None = None
    """Nothing is read ahead for those after the last one; None: there is no last one."""


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
        reading: Reading | None = None,
    ) -> None:
        """Create a source; volumes are read before a subepoch needs them and stay in the pool as long as there is room.

        Args:
            data: the cases.
            architecture: of the network, which says what the inputs of each pathway are.
            settings: how segments are drawn.
            pool: of `pool_for(data, ...)`.
            before_reading: called before a subepoch waits for a case; what it raises comes out of `subepoch`.
            reading: how cases are read ahead; None: by as many threads as there are cores, at most four.

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
        self.reading = reading or Reading(workers_of(None), 1 + workers_of(None))
        self._reader = CaseReader(data.load, self.reading)
        self._has_room = True
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
        for case, read in read_ahead(self.data.load, len(self.data), self.reading):
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
        missing = self._missing(epoch, subepoch)
        self._reader.want(missing)
        plan = self._plan(epoch, subepoch)
        if missing:
            return_freed_memory()
        self._prepare_for_what_follows(epoch, subepoch)
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

    def keep_what_is_read(self) -> None:
        """Move cases that were read ahead into the pool, as far as these leave room for what is in use."""
        for case, prepared in self._reader.ready() if self._has_room else ():
            self._has_room = self.sampler.keep_ahead(case, prepared)
            if not self._has_room:
                return
            self._reader.take(case)

    def resident(self, case: int) -> PreparedCase | None:
        """A case as it was read, if it is resident: views that are valid until the next batch is asked for."""
        return self.sampler.resident(case)

    def give_up_volumes(self, *, in_use: bool) -> bool:
        """Give up resident cases, for good all but those of one subepoch; return whether that made room.

        Args:
            in_use: whether batches of the last subepoch will still be asked for.
        """
        self._reader.want(())
        self.sampler.close()  # versions computed ahead; the thread comes back when it is needed
        return self.pool.shrink(subepoch_bytes(self.data, self.settings.cases), keep_table=in_use)

    def close(self) -> None:
        """End the threads that read and compute ahead."""
        self._reader.close()
        self.sampler.close()

    def _prepare_for_what_follows(self, epoch: int, subepoch: int) -> None:
        """Start to read what the next subepoch needs, and let the pool know which cases are wanted again, and when."""
        coming = list(islice(self._after(epoch, subepoch), _HORIZON))
        missing = self._missing(*coming[0]) if coming else []
        self._reader.want(missing)
        self._has_room = True
        if missing:
            self.sampler.expect(coming)
        if coming:
            self.sampler.change_ahead(*coming[0])

    def _after(self, epoch: int, subepoch: int) -> Iterator[tuple[int, int]]:
        """The subepochs that follow one."""
        subepochs, epochs = self.settings.subepochs, self.settings.epochs
        while subepochs is not None:
            epoch, subepoch = (epoch, subepoch + 1) if subepoch + 1 < subepochs else (epoch + 1, 0)
            if epochs is not None and epoch >= epochs:
                return
            yield epoch, subepoch

    def _missing(self, epoch: int, subepoch: int) -> list[int]:
        """Cases that a subepoch needs, as far as they are not resident, in the order in which it asks for them."""
        return [case for case in self.sampler.wanted_cases(epoch, subepoch) if not self.sampler.has(case)]

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
            return self._reader.take(case)
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
    """The batches of one subepoch, gathered on the device when asked for; the last one, if not full, is left out.

    With `batches_together`, each is as many batches as one; the last one may be fewer.
    """

    def __init__(self, source: SegmentSource, plan: SubepochPlan, draws: SegmentDraws | None) -> None:
        self._source = source
        self._plan = plan
        self._draws = draws
        settings = source.settings
        self._size = settings.batch_size * settings.batches_together
        self._segments = max(len(plan) // settings.batch_size, 1) * settings.batch_size
        self._first, self._places = 0, self._placed(0)

    def __len__(self) -> int:
        return -(-self._segments // self._size)

    def __getitem__(self, batch: int) -> SegmentBatch:
        if not 0 <= batch < len(self):
            raise IndexError(f"batch {batch} of {len(self)}")
        source, part = self._source, self._part(batch)
        source.keep_what_is_read()
        if batch // _PLACED_AT_ONCE != self._first:
            self._first = batch // _PLACED_AT_ONCE
            self._places = self._placed(self._first)
        before = self._first * _PLACED_AT_ONCE * self._size
        segments = cut(source.pool, self._places[part.start - before : part.stop - before])
        return segments if self._draws is None else augmentation.with_intensities(segments, self._draws[part])

    def _placed(self, number: int) -> SegmentPlaces:
        """The places of so many segments, turned as they were drawn."""
        together = _PLACED_AT_ONCE * self._size
        part = slice(number * together, (number + 1) * together)
        source = self._source
        places = places_around(source.pool, source.geometry, self._plan.rows[part], self._plan.centres[part])
        return places if self._draws is None else augmentation.turned(places, self._draws[part])

    def case_names(self, batch: int) -> list[str]:
        """Names of the cases that a batch was drawn from."""
        rows = self._plan.rows[self._part(batch)].unique().tolist()
        return [self._source.data.cases[self._plan.cases[row]].name for row in rows]

    def _part(self, batch: int) -> slice:
        return slice(batch * self._size, min((batch + 1) * self._size, self._segments))


def nothing_to_draw(data: DataSet, case: int) -> DataError:
    """The refusal of a case from which no segment can be drawn."""
    size = "x".join(map(str, data.needs.segment))
    return DataError(
        f"{data.role}, case {data.cases[case].name}: no segment can be drawn from it: its ROI is empty, or holds no "
        f"voxel of a class that is sampled with a whole segment of {size} voxels around it. Correct or remove this "
        "case, or set allowSkippedCases = true to go on without it."
    )
