"""The segments of a session: volumes resident on the device, centres drawn, segments gathered and augmented by index."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.config.training import AugmentationConfig, SamplingConfig
from deepmedic.data import augmentation
from deepmedic.data.augmentation import SegmentDraws
from deepmedic.data.dataset import DataSet
from deepmedic.data.pool import PoolLayout, VolumePool
from deepmedic.data.sampling import SubepochPlan, SubepochRequest, SubepochSampler
from deepmedic.data.sampling_maps import SamplingRule
from deepmedic.data.segments import SegmentBatch, SegmentGeometry, gather
from deepmedic.errors import DataError

log = logging.getLogger(__name__)


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
    drop_incomplete: bool = False
    """Leave out a last batch that is not full."""


class SegmentSource:
    """Gives the segments of any subepoch as a pure function of seed, epoch and subepoch."""

    def __init__(
        self,
        data: DataSet,
        architecture: Architecture,
        settings: SourceSettings,
        device: torch.device,
        budget_bytes: int,
    ) -> None:
        """Create a source; volumes are read when a subepoch needs them and stay on the device within the budget.

        Raises:
            ConfigError: proportions that do not fit the categories, or rotations of segments that are not cubes.
        """
        self.data = data
        self.settings = settings
        self.geometry = SegmentGeometry.from_architecture(architecture, settings.segment)
        if settings.augmentation and settings.augmentation.segment:
            augmentation.check_rotation(self.geometry, settings.augmentation.segment)
        rule = SamplingRule.from_config(settings.sampling, architecture.classes)
        self.pool = VolumePool(layout_of(data), device, budget_bytes, data.total_elements())
        self.sampler = SubepochSampler(
            self.pool,
            data.load,
            len(data),
            SubepochRequest(settings.segments, settings.cases, rule, settings.segment),
            settings.seed,
            settings.role,
            settings.augmentation.image if settings.augmentation else None,
        )
        self.skipped: set[int] = set()
        """Cases from which no segment can be drawn."""

    def subepoch(self, epoch: int, subepoch: int) -> SubepochBatches:
        """Make the cases of a subepoch resident and return its batches; earlier batches are no longer valid.

        Raises:
            DataError: a case cannot be used, or cannot be sampled while `allowSkippedCases` is false.
            ResourceError: the cases of one subepoch do not fit into the budget together.
        """
        plan = self.sampler.plan(epoch, subepoch)
        self._note_skipped(plan)
        draws = None
        chosen = self.settings.augmentation.segment if self.settings.augmentation else None
        if chosen is not None:
            generator = plan.id.stream("augmentation")
            drawn = augmentation.draw_segment_augmentation(generator, len(plan), self.pool.layout.channels, chosen)
            draws = drawn.to(self.pool.device)
        return SubepochBatches(self, plan, draws)

    def _note_skipped(self, plan: SubepochPlan) -> None:
        new = set(plan.skipped) - self.skipped
        self.skipped |= new
        if new and not self.data.preprocessing.allow_skipped_cases:
            names = ", ".join(self.data.cases[index].name for index in sorted(new))
            raise DataError(
                f"{self.data.role}: no segment can be drawn from {names}: the ROI is empty, or holds none of the "
                "classes that are sampled, or the image is smaller than the segment. Correct or remove these cases, "
                "or set allowSkippedCases = true to train without them."
            )


class SubepochBatches:
    """The batches of one subepoch, gathered on the device when asked for."""

    def __init__(self, source: SegmentSource, plan: SubepochPlan, draws: SegmentDraws | None) -> None:
        self._source = source
        self._plan = plan
        self._draws = draws
        device = source.pool.device
        self._rows, self._centres = plan.rows.to(device), plan.centres.to(device)

    def __len__(self) -> int:
        size = self._source.settings.batch_size
        full = len(self._plan) // size
        if self._source.settings.drop_incomplete and full:
            return full
        return -(-len(self._plan) // size)

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
