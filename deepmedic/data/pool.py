"""Volumes kept on the device: one flat tensor per kind of voxel value, shared by all resident cases.

A case occupies one block of consecutive elements: first one element that holds its border values, then its voxels with
z fastest. The voxel (x, y, z) of a block that begins at `start` is element start + 1 + x*size_y*size_z + y*size_z + z.
Segments of many cases are thus cut by computing one index tensor, without a loop over segments, and an index that
would leave the volume points at the border element instead.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from deepmedic.config.options import Size3
from deepmedic.data.nifti import VolumeHeader
from deepmedic.data.placement import Placement
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.errors import DataError, ResourceError

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")
_GIB = 1024**3


@dataclass(frozen=True)
class PoolLayout:
    """Which values the pool keeps for every voxel."""

    channels: int
    label_dtype: torch.dtype | None = None
    """None: no labels."""
    roi: bool = False
    weight_maps: int = 0
    """Number of sampling categories that have a weight map."""

    @classmethod
    def of(cls, case: PreparedCase) -> PoolLayout:
        """The layout that keeps everything a case has."""
        return cls(
            channels=case.channels.shape[0],
            label_dtype=None if case.labels is None else case.labels.dtype,
            roi=case.roi is not None,
            weight_maps=0 if case.weight_maps is None else case.weight_maps.shape[0],
        )

    @property
    def bytes_per_voxel(self) -> int:
        label_bytes = 0 if self.label_dtype is None else self.label_dtype.itemsize
        return 4 * self.channels + label_bytes + int(self.roi) + 4 * self.weight_maps


@dataclass(frozen=True)
class CaseTable:
    """Where the cases last required lie, one row per case in the order of the request; tensors on the device."""

    starts: torch.Tensor
    """int64 [case]: element of the border values; the voxels follow."""
    sizes: torch.Tensor
    """int64 [case, 3]: voxels along x, y, z."""
    strides: torch.Tensor
    """int64 [case, 3]: elements from one voxel to the next along x, y, z."""


@dataclass
class _Resident:
    """What is kept of a case beside its voxels."""

    name: str
    header: VolumeHeader
    size: Size3
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    derived: dict[Hashable, Any] = field(default_factory=dict)


def elements_for(size: Size3) -> int:
    """Return how many elements of the pool a case of this size takes: its voxels and one for the border values."""
    return 1 + size[0] * size[1] * size[2]


class VolumePool:
    """Resident volumes of several cases, within a budget of bytes.

    Cases that are not needed make room for others: first those of which no use is expected, then those that are used
    again last, then the least recently used. What is gathered from the pool depends on the required cases only, not on
    which blocks they happen to occupy, nor on what else is resident.
    """

    channels: torch.Tensor
    """float32 [channel, element]."""
    labels: torch.Tensor | None
    """Integers [element]; 0 in border elements."""
    roi: torch.Tensor | None
    """bool [element]; False in border elements."""
    weight_maps: torch.Tensor | None
    """float32 [category, element]; 0 in border elements."""
    table: CaseTable
    """One row per case that was required last; the rows that `segments.gather` and plans of segments refer to."""

    def __init__(
        self, layout: PoolLayout, device: torch.device | str, budget_bytes: int, expected_elements: int = 0
    ) -> None:
        """Create an empty pool.

        Args:
            budget_bytes: the most that the pool's tensors may take.
            expected_elements: sum of `elements_for` over the cases to come. Room for them is made at once (within the
                budget), so that the pool need not grow: growing holds the old and the new tensor for a moment.
        """
        self.layout = layout
        self.device = torch.device(device)
        self.budget_bytes = int(budget_bytes)
        self._cases: dict[Hashable, _Resident] = {}
        self._placement = Placement()
        self._next_use: Mapping[Hashable, int] = {}
        self._allocate(min(expected_elements, self._most_elements))
        self._set_table([])

    @classmethod
    def of_cases(cls, cases: Sequence[PreparedCase], device: torch.device | str) -> VolumePool:
        """A pool with these cases as its rows and no room for others, for inference; it keeps what the first has."""
        layout = PoolLayout.of(cases[0])
        elements = sum(elements_for(case.size) for case in cases)
        pool = cls(layout, device, elements * layout.bytes_per_voxel, elements)
        pool.require(range(len(cases)), lambda row: cases[row])
        return pool

    @property
    def capacity(self) -> int:
        """Elements allocated."""
        return self.channels.shape[1]

    @property
    def bytes_allocated(self) -> int:
        return self.capacity * self.layout.bytes_per_voxel

    @property
    def bytes_used(self) -> int:
        """Bytes that hold resident cases."""
        return self._placement.used * self.layout.bytes_per_voxel

    @property
    def keys(self) -> list[Hashable]:
        """Resident cases, in the order they were loaded."""
        return list(self._cases)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._cases

    def require(self, keys: Sequence[Key], load: Callable[[Key], PreparedCase]) -> list[Key]:
        """Make cases resident and make them the rows of the table; return those that had to be loaded.

        Raises:
            ResourceError: the cases do not fit into the budget together.
            DataError: a case that `load` returned lacks something the layout keeps.
        """
        self._placement.touch(keys)
        loaded = []
        for key in keys:
            if key not in self._cases:
                case = load(key)
                self._check(case)
                length = elements_for(case.size)
                if not self._make_room(length, set(keys)):
                    raise self._too_large(length, keys, case.name)
                self._store(key, case)
                loaded.append(key)
        self._set_table(keys)
        return loaded

    def offer(self, key: Hashable, case: PreparedCase) -> bool:
        """Keep a case if there is room without evicting another one; return whether it is kept."""
        self._check(case)
        room = self._has_room(elements_for(case.size))
        if room:
            self._store(key, case)
        return room

    def expect(self, next_use: Mapping[Hashable, int]) -> None:
        """Say which cases will be required again and when: 0 for those required next, 1 for those after them, ..."""
        self._next_use = next_use

    def keep(self, key: Hashable, case: PreparedCase) -> bool:
        """Keep a case that is expected, in place of some expected later or not at all; return whether it is kept.

        The cases last required stay, and so does the table of them: their segments can be gathered as before.
        """
        self._check(case)
        use = self._next_use.get(key, 0)
        stay = {other for other in self._cases if self._next_use.get(other, use + 1) <= use}
        room = self._make_room(elements_for(case.size), stay.union(self._rows))
        if room:
            self._store(key, case)
            self._set_table(self._rows)
        return room

    def shrink(self, budget_bytes: int, *, keep_table: bool = True) -> bool:
        """Give up all cases but those of the table, or all, and the memory they took; return whether there was any.

        Segments of the table's cases can be gathered as before.

        Args:
            budget_bytes: the most that the pool may take from now on, if that is less than before.
            keep_table: whether the cases last required stay.
        """
        before = self.bytes_allocated
        rows = self._rows if keep_table else []
        self.discard(set(self._cases).difference(rows))
        self._compact()
        self.budget_bytes = min(self.budget_bytes, budget_bytes)
        # By way of the host, since the old and the new tensors need not fit into the device's memory together.
        kept = [tensor[..., : self._placement.end].to("cpu", copy=True) for tensor in self._tensors()]
        self._release()
        self._allocate(self._placement.end)
        for tensor, values in zip(self._tensors(), kept, strict=True):
            tensor.copy_(values)
        self._set_table(rows)
        return self.bytes_allocated < before

    def discard(self, keys: Iterable[Hashable]) -> None:
        """Give up cases that will not be needed again."""
        for key in keys:
            if self._cases.pop(key, None) is not None:
                self._placement.remove(key)

    def view(self, key: Hashable) -> PreparedCase:
        """Return a resident case whose tensors are views into the pool, valid until the next change of the pool."""
        case, block = self._cases[key], self._placement[key]
        inside = slice(block.start + 1, block.end)
        x, y, z = case.size
        return PreparedCase(
            name=case.name,
            header=case.header,
            channels=self.channels[:, inside].view(-1, x, y, z),
            labels=None if self.labels is None else self.labels[inside].view(x, y, z),
            roi=None if self.roi is None else self.roi[inside].view(x, y, z),
            weight_maps=None if self.weight_maps is None else self.weight_maps[:, inside].view(-1, x, y, z),
            padding=case.padding,
            border_values=self.channels[:, block.start],
        )

    def derived(self, key: Hashable, name: Hashable, compute: Callable[[PreparedCase], T]) -> T:
        """Return what `compute` gives for a resident case; computed once while the case stays resident."""
        known = self._cases[key].derived
        if name not in known:
            known[name] = compute(self.view(key))
        value: T = known[name]
        return value

    # Room

    @property
    def _most_elements(self) -> int:
        return self.budget_bytes // self.layout.bytes_per_voxel

    def _has_room(self, length: int) -> bool:
        """Return whether `length` elements are free in one piece, after growing as far as the budget allows."""
        if self._placement.gap(length, self.capacity) is not None:
            return True
        wanted = self._placement.end + length
        if wanted > self._most_elements:
            return False
        self._allocate(min(max(wanted, self.capacity + self.capacity // 2), self._most_elements))
        return True

    def _make_room(self, length: int, stay: set[Hashable]) -> bool:
        """Free `length` elements in one piece, by growing, evicting and compacting; return whether that is possible."""
        if self._has_room(length):
            return True
        leaving = self._placement.first_to_go(length, self._most_elements, stay, self._next_use)
        if leaving is None:
            return False
        self.discard(leaving)
        if not self._has_room(length):
            self._compact()
        return self._has_room(length)

    def _too_large(self, length: int, needed: Sequence[Hashable], name: str) -> ResourceError:
        """The refusal of cases that do not fit into memory together."""
        resident = [self._placement[key] for key in set(needed) if key in self._cases]
        together = length + sum(block.length for block in resident)
        need = together * self.layout.bytes_per_voxel / _GIB
        return ResourceError(
            f"{len(set(needed))} cases must be in memory together, and the first {len(resident) + 1} of them (up to "
            f"{name}) need {need:.3g} GiB on {self.device}, but memoryBudget allows "
            f"{self.budget_bytes / _GIB:.3g} GiB. Raise memoryBudget (in GiB) or lower numOfCasesLoadedPerSubepoch."
        )

    def _allocate(self, elements: int) -> None:
        layout = self.layout
        self.channels = self._grown("channels", (layout.channels, elements), torch.float32)
        self.labels = None if layout.label_dtype is None else self._grown("labels", (elements,), layout.label_dtype)
        self.roi = self._grown("roi", (elements,), torch.bool) if layout.roi else None
        weight_shape = (layout.weight_maps, elements)
        self.weight_maps = self._grown("weight_maps", weight_shape, torch.float32) if layout.weight_maps else None

    def _release(self) -> None:
        """Give the memory of all tensors back to the device."""
        for name in ("channels", "labels", "roi", "weight_maps"):
            setattr(self, name, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _grown(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        grown = torch.empty(shape, dtype=dtype, device=self.device)
        present: torch.Tensor | None = getattr(self, name, None)
        if present is not None:
            grown[..., : present.shape[-1]].copy_(present)
        return grown

    def _compact(self) -> None:
        for source, target in self._placement.compact():
            for tensor in self._tensors():
                # A clone, because source and target overlap when the gap is smaller than the block.
                tensor[..., target.start : target.end] = tensor[..., source.start : source.end].clone()

    def _tensors(self) -> list[torch.Tensor]:
        return [t for t in (self.channels, self.labels, self.roi, self.weight_maps) if t is not None]

    # Contents

    def _store(self, key: Hashable, case: PreparedCase) -> None:
        """Copy a case into the first gap that is large enough; there is one."""
        block = self._placement.place(key, elements_for(case.size), self.capacity)
        start, inside = block.start, slice(block.start + 1, block.end)
        self.channels[:, start] = case.border_values.to(self.device)
        self.channels[:, inside] = case.channels.reshape(case.channels.shape[0], -1).to(self.device)
        if self.labels is not None and case.labels is not None:
            self.labels[start] = 0
            self.labels[inside] = case.labels.reshape(-1).to(self.device)
        if self.roi is not None:
            self.roi[start] = False
            self.roi[inside] = True if case.roi is None else case.roi.reshape(-1).to(self.device)
        if self.weight_maps is not None and case.weight_maps is not None:
            self.weight_maps[:, start] = 0
            self.weight_maps[:, inside] = case.weight_maps.reshape(case.weight_maps.shape[0], -1).to(self.device)
        self._cases[key] = _Resident(case.name, case.header, case.size, case.padding)

    def _check(self, case: PreparedCase) -> None:
        layout = self.layout
        if case.channels.shape[0] != layout.channels:
            raise DataError(
                f"{case.name} has {case.channels.shape[0]} channels, the other cases have {layout.channels}; "
                "list the same channels for every case."
            )
        if layout.label_dtype is not None and case.labels is None:
            raise DataError(f"{case.name} has no labels, but labels are needed here; list a label file for every case.")
        if case.labels is not None and layout.label_dtype is not None and case.labels.dtype != layout.label_dtype:
            raise TypeError(f"Labels of {case.name} are {case.labels.dtype}, those of the pool {layout.label_dtype}.")
        weight_maps = 0 if case.weight_maps is None else case.weight_maps.shape[0]
        if layout.weight_maps and weight_maps != layout.weight_maps:
            raise DataError(
                f"{case.name} has {weight_maps} weight maps for sampling, the other cases have {layout.weight_maps}; "
                "list one per sampling category for every case."
            )

    def _set_table(self, keys: Sequence[Hashable]) -> None:
        self._rows = list(keys)
        sizes = torch.tensor([self._cases[key].size for key in keys], dtype=torch.int64).view(-1, 3)
        strides = torch.stack([sizes[:, 1] * sizes[:, 2], sizes[:, 2], torch.ones_like(sizes[:, 2])], dim=1)
        starts = torch.tensor([self._placement[key].start for key in keys], dtype=torch.int64)
        self.table = CaseTable(starts.to(self.device), sizes.to(self.device), strides.to(self.device))
