"""Where blocks lie in a line of elements: first fit, eviction of what is wanted last, compaction."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

_ENDLESS = 2**62
"""End of the gap after the last block."""


@dataclass(frozen=True)
class Block:
    """Consecutive elements."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The element after the last one."""
        return self.start + self.length


class Placement:
    """Blocks that do not overlap, by key.

    The gaps between them are kept in order, so that placing thousands of blocks one after the other takes no longer
    for the last one than for the first.
    """

    def __init__(self) -> None:
        self._blocks: dict[Hashable, Block] = {}
        self._gaps: list[tuple[int, int]] = [(0, _ENDLESS)]
        """Start and end of each, none empty, no two adjacent; the last one is endless."""
        self._used = 0
        self._last_used: dict[Hashable, int] = {}
        self._clock = 0

    def __getitem__(self, key: Hashable) -> Block:
        return self._blocks[key]

    @property
    def used(self) -> int:
        """Elements in blocks."""
        return self._used

    @property
    def end(self) -> int:
        """The element after the last block."""
        return self._gaps[-1][0]

    def gap(self, length: int, capacity: int) -> int | None:
        """Return the start of the first gap of at least `length` elements before `capacity`, or None."""
        number = self._fitting(length, capacity)
        return None if number is None else self._gaps[number][0]

    def place(self, key: Hashable, length: int, capacity: int) -> Block:
        """Put a block into the first gap that is large enough."""
        number = self._fitting(length, capacity)
        if number is None or key in self._blocks:
            raise ValueError(f"No gap of {length} elements in {capacity}, or {key} has a block already.")
        start, end = self._gaps[number]
        self._gaps[number : number + 1] = [(start + length, end)] if start + length < end else []
        self._blocks[key] = Block(start, length)
        self._used += length
        self._last_used[key] = self._clock
        return self._blocks[key]

    def remove(self, key: Hashable) -> None:
        """Take a block away; its elements join the gaps beside it."""
        block = self._blocks.pop(key)
        del self._last_used[key]
        self._used -= block.length
        number = bisect_left(self._gaps, (block.start, block.end))
        start, end, first, last = block.start, block.end, number, number
        if self._gaps[number][0] == end:
            end, last = self._gaps[number][1], number + 1
        if number and self._gaps[number - 1][1] == start:
            start, first = self._gaps[number - 1][0], number - 1
        self._gaps[first:last] = [(start, end)]

    def touch(self, keys: Iterable[Hashable]) -> None:
        """Note that blocks are in use now, as those placed from now on."""
        self._clock += 1
        for key in keys:
            if key in self._blocks:
                self._last_used[key] = self._clock

    def first_to_go(
        self, length: int, capacity: int, kept: set[Hashable], next_use: Mapping[Hashable, int]
    ) -> list[Hashable] | None:
        """Return which blocks to remove so that `length` of `capacity` elements are free, in one piece or not.

        Blocks without a next use go first, then those that are used again last (Belady, 1966, "A study of replacement
        algorithms for a virtual-storage computer"); among equals the one that was used least recently, then the one
        placed first. Those in `kept` stay; None: without them it is impossible.
        """
        excess, removed = self._used + length - capacity, list[Hashable]()
        if excess <= 0:
            return removed
        candidates = [key for key in self._blocks if key not in kept]
        for key in sorted(candidates, key=lambda key: (-next_use.get(key, math.inf), self._last_used[key])):
            excess -= self._blocks[key].length
            removed.append(key)
            if excess <= 0:
                return removed
        return None

    def compact(self) -> list[tuple[Block, Block]]:
        """Move the blocks to the beginning, in their order; return (old, new) of those moved, in the order to copy."""
        moves = []
        free_from = 0
        for key, block in sorted(self._blocks.items(), key=lambda item: item[1].start):
            if block.start > free_from:
                self._blocks[key] = Block(free_from, block.length)
                moves.append((block, self._blocks[key]))
            free_from += block.length
        self._gaps = [(free_from, _ENDLESS)]
        return moves

    def _fitting(self, length: int, capacity: int) -> int | None:
        """Number of the first gap of at least `length` elements before `capacity`."""
        for number, (start, end) in enumerate(self._gaps):
            if min(end, capacity) - start >= length:
                return number
        return None
