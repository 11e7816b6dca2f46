"""The segments of every subepoch: a pure function of seed, epoch, subepoch and the data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from deepmedic.config.augmentation import AffineAugmentation
from deepmedic.data.affine import augment_case, draw_affine
from deepmedic.data.centres import SubepochPlan, SubepochRequest, chosen_order, masses_of, plan_segments
from deepmedic.data.changing import Change, ChangedCases
from deepmedic.data.pool import VolumePool
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.randomness import SubepochId, stream
from deepmedic.errors import DataError

logger = logging.getLogger(__name__)

_CORES_FOR_TWO_THINGS = 4
"""Training keeps fewer cores busy by itself, and is slowed by more than a thread beside it saves."""


class CaseKey(NamedTuple):
    """A case, or a version of it made for one subepoch, in the pool."""

    role: str
    case: int
    version: tuple[int, ...] = ()
    """(epoch, subepoch) of an augmented version; empty: the case as it was read."""


class SubepochSampler:
    """Plans subepochs: makes their cases resident and draws their segments.

    Cases from which no centre can be drawn (an empty ROI, a volume smaller than the segment) are passed over, and the
    next ones of the random order take their place. A plan depends on the arguments and the data only: any subepoch
    can be planned at any time, in any process, with the same result.
    """

    def __init__(
        self,
        pool: VolumePool,
        load: Callable[[int], PreparedCase],
        n_cases: int,
        request: SubepochRequest,
        seed: int,
        role: str,
        affine: AffineAugmentation | None = None,
    ) -> None:
        """Create a sampler of one data set.

        Args:
            load: reads and prepares a case, given its number from 0.
            role: "train" or "val"; keeps the random streams, and the cases in a shared pool, apart.
            affine: random rotation and scaling of whole cases, drawn anew for every subepoch.
        """
        self.pool = pool
        self.load = load
        self.n_cases = n_cases
        self.request = request
        self.seed = seed
        self.role = role
        self.affine = affine
        self._unusable: set[int] = set()
        self._changed = ChangedCases(self._resident_original, self._change)

    def wanted_cases(self, epoch: int, subepoch: int) -> list[int]:
        """Return the cases that a subepoch will read, if all are usable; to read ahead."""
        order = chosen_order(self._id(epoch, subepoch), self.n_cases)
        return [case for case in order if case not in self._unusable][: self.request.cases]

    def leave_out(self, case: int) -> None:
        """Pass over a case from now on, as one from which no centre can be drawn."""
        self._unusable.add(case)

    def keep(self, case: int, prepared: PreparedCase) -> bool:
        """Keep a case that was read ahead, if the pool has room; return whether segments can be drawn from it."""
        key = CaseKey(self.role, case)
        if key in self.pool or self.pool.offer(key, prepared):
            return self._is_usable(key)
        return True

    def has(self, case: int) -> bool:
        """Whether a case is resident as it was read."""
        return CaseKey(self.role, case) in self.pool

    def resident(self, case: int) -> PreparedCase | None:
        """A case as it was read, if it is resident; its tensors are views into the pool."""
        key = CaseKey(self.role, case)
        return self.pool.view(key) if key in self.pool else None

    def expect(self, coming: Sequence[tuple[int, int]]) -> None:
        """Let the pool know which cases the coming subepochs, as (epoch, subepoch), want and how soon."""
        next_use: dict[Hashable, int] = {}
        for distance, (epoch, subepoch) in enumerate(coming):
            for case in self.wanted_cases(epoch, subepoch):
                next_use.setdefault(CaseKey(self.role, case), distance)
        self.pool.expect(next_use)

    def keep_ahead(self, case: int, prepared: PreparedCase) -> bool:
        """Keep a case that the next subepoch wants, as far as those in use leave room; return whether it is kept."""
        return self.pool.keep(CaseKey(self.role, case), prepared)

    def change_ahead(self, epoch: int, subepoch: int) -> None:
        """Begin to rotate and scale the resident cases of a subepoch: on a CPU that has cores to spare for it."""
        on_cpu = torch.device(self.pool.device).type == "cpu"
        if self.affine is None or not on_cpu or torch.get_num_threads() < _CORES_FOR_TWO_THINGS:
            return
        subepoch_id = self._id(epoch, subepoch)
        keys = [self._key(subepoch_id, case) for case in self.wanted_cases(epoch, subepoch)]
        self._changed.want(key for key in keys if key.version and key not in self.pool)

    def close(self) -> None:
        """End the thread that rotates and scales cases ahead."""
        self._changed.close()

    def plan(self, epoch: int, subepoch: int) -> SubepochPlan:
        """Make the cases of a subepoch resident and return its segments.

        The rows of the pool's table are then the cases of the plan, until the pool is used for another plan.

        Raises:
            DataError: no case is usable, or one cannot be read.
            ResourceError: the cases do not fit into the pool together.
        """
        subepoch_id = self._id(epoch, subepoch)
        self._discard_other_versions(subepoch_id)
        keys, skipped = self._require_usable(subepoch_id)
        if not keys:
            raise DataError(
                f"None of the {self.n_cases} cases ({self.role}) has a voxel on which a segment of "
                f"{self.request.segment} voxels can be centred, in the sampling categories "
                f"{', '.join(self.request.rule.categories)}. Check labels and ROI masks, sizes of the images and the "
                "proportions of the categories."
            )
        plan = plan_segments(self.pool, keys, [key.case for key in keys], self.request, subepoch_id)
        return replace(plan, skipped=tuple(skipped))

    def _id(self, epoch: int, subepoch: int) -> SubepochId:
        return SubepochId(self.seed, self.role, epoch, subepoch)

    def _require_usable(self, subepoch: SubepochId) -> tuple[list[CaseKey], list[int]]:
        """Make resident the first cases of the random order that are usable; return them, and those passed over."""
        order = chosen_order(subepoch, self.n_cases)
        keys: list[CaseKey] = []
        skipped: list[int] = []
        while order and len(keys) < self.request.cases:
            taken, order = order[: self.request.cases - len(keys)], order[self.request.cases - len(keys) :]
            keys += [self._key(subepoch, case) for case in taken if case not in self._unusable]
            self.pool.require(keys, lambda key: self._load(subepoch, key))
            usable = [key for key in keys if self._is_usable(key)]
            used = {key.case for key in usable}
            skipped += [case for case in taken if case not in used]
            keys = usable
        self.pool.require(keys, lambda key: self._load(subepoch, key))
        return keys, skipped

    def _is_usable(self, key: CaseKey) -> bool:
        wanted = np.asarray(self.request.rule.proportions) > 0
        if bool((masses_of(self.pool, key, self.request).exists & wanted).any()):
            return True
        if not key.version:
            self._unusable.add(key.case)
            logger.warning(
                "%s is passed over: it has no voxel on which a segment of %s voxels can be centred, in the sampling "
                "categories %s (an empty ROI, a class that is absent, or a volume smaller than the segment).",
                self.pool.view(key).name,
                self.request.segment,
                ", ".join(self.request.rule.categories),
            )
        return False

    # Versions of a case ---------------------------------------------------------------------------------------------

    def _key(self, subepoch: SubepochId, case: int) -> CaseKey:
        changed = self._matrix(subepoch, case) is not None
        return CaseKey(self.role, case, (subepoch.epoch, subepoch.subepoch) if changed else ())

    def _matrix(self, subepoch: SubepochId, case: int) -> np.ndarray | None:
        if self.affine is None:
            return None
        if self.affine.seed is not None:
            return draw_affine(stream(self.affine.seed, "affine"), self.affine)
        return draw_affine(subepoch.stream("affine", case), self.affine)

    def _load(self, subepoch: SubepochId, key: CaseKey) -> PreparedCase:
        if not key.version:
            return self.load(key.case)
        changed = self._changed.take(key)
        if changed is not None:
            return changed
        original = CaseKey(self.role, key.case)
        if original in self.pool:
            return self._change(key)(self.pool.view(original))
        case = self.load(key.case)
        self.pool.offer(original, case)
        return self._change(key)(case)

    def _resident_original(self, key: Hashable) -> PreparedCase | None:
        assert isinstance(key, CaseKey)
        return self.resident(key.case)

    def _change(self, key: Hashable) -> Change:
        """How the version of this key is made of the case as it was read."""
        assert isinstance(key, CaseKey)
        epoch, subepoch = key.version
        matrix = self._matrix(self._id(epoch, subepoch), key.case)
        assert self.affine is not None
        assert matrix is not None
        return partial(augment_case, matrix=matrix, config=self.affine, device=self.pool.device)

    def _discard_other_versions(self, subepoch: SubepochId) -> None:
        current = ((), (subepoch.epoch, subepoch.subepoch))
        own = [key for key in self.pool.keys if isinstance(key, CaseKey) and key.role == self.role]
        self.pool.discard([key for key in own if key.version not in current])
