"""Where blocks lie in a line of elements: first fit, eviction of what was used least recently, compaction."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass


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
    """Blocks that do not overlap, by key."""

    def __init__(self) -> None:
        self._blocks: dict[Hashable, Block] = {}
        self._last_used: dict[Hashable, int] = {}
        self._clock = 0

    def __getitem__(self, key: Hashable) -> Block:
        return self._blocks[key]

    @property
    def used(self) -> int:
        """Elements in blocks."""
        return sum(block.length for block in self._blocks.values())

    @property
    def end(self) -> int:
        """The element after the last block."""
        return max((block.end for block in self._blocks.values()), default=0)

    def gap(self, length: int, capacity: int) -> int | None:
        """Return the start of the first gap of at least `length` elements before `capacity`, or None."""
        free_from = 0
        for block in self._in_order():
            if block.start - free_from >= length:
                return free_from
            free_from = block.end
        return free_from if capacity - free_from >= length else None

    def place(self, key: Hashable, length: int, capacity: int) -> Block:
        """Put a block into the first gap that is large enough."""
        start = self.gap(length, capacity)
        if start is None or key in self._blocks:
            raise ValueError(f"No gap of {length} elements in {capacity}, or {key} has a block already.")
        self._blocks[key] = Block(start, length)
        self._last_used[key] = self._clock
        return self._blocks[key]

    def remove(self, key: Hashable) -> None:
        del self._blocks[key]
        del self._last_used[key]

    def touch(self, keys: Iterable[Hashable]) -> None:
        """Note that blocks are in use now, as those placed from now on."""
        self._clock += 1
        for key in keys:
            if key in self._blocks:
                self._last_used[key] = self._clock

    def least_recently_used(self, length: int, capacity: int, kept: set[Hashable]) -> list[Hashable]:
        """Return which blocks to remove so that `length` of `capacity` elements are free, in one piece or not.

        Those in `kept` stay; of blocks last used together, those placed first go first.
        """
        used, removed = self.used, []
        for key in sorted(self._blocks, key=lambda key: self._last_used[key]):
            if used + length <= capacity:
                break
            if key not in kept:
                used -= self._blocks[key].length
                removed.append(key)
        return removed

    def compact(self) -> list[tuple[Block, Block]]:
        """Move the blocks to the beginning, in their order; return (old, new) of those moved, in the order to copy."""
        moves = []
        free_from = 0
        for key, block in sorted(self._blocks.items(), key=lambda item: item[1].start):
            if block.start > free_from:
                self._blocks[key] = Block(free_from, block.length)
                moves.append((block, self._blocks[key]))
            free_from += block.length
        return moves

    def _in_order(self) -> list[Block]:
        return sorted(self._blocks.values(), key=lambda block: block.start)
