"""Small cases computed together: consecutive cases of a list whose tiles make one batch.

It pays where a case has fewer tiles than a batch may have, and tiles of the size of the case beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from deepmedic.config.options import Size3
from deepmedic.inference.execution import Attempt
from deepmedic.inference.tiling import Tiling

T = TypeVar("T")


class CaseGroup(Generic[T]):
    """Cases that wait for each other until their tiles fill a batch; what is kept of a case is the caller's affair."""

    def __init__(self, batch_limit: Callable[[Size3], int]) -> None:
        """Create an empty group.

        Args:
            batch_limit: the most tiles of one size in a batch.
        """
        self._batch_limit = batch_limit
        self._cases: list[T] = []
        self._tiles = 0
        self._segment: Size3 | None = None
        self.last_size = 1
        """Cases that were released together last."""

    def admits(self, way: Attempt | None) -> bool:
        """Whether a case to be predicted in this way has room beside those that wait already."""
        if not self._cases:
            return True
        tiling = _shareable(way)
        if tiling is None or tiling.segment != self._segment:
            return False
        return self._tiles + len(tiling) <= self._batch_limit(tiling.segment)

    def add(self, case: T, way: Attempt | None) -> None:
        """Add a case that the group admits."""
        tiling = _shareable(way)
        self._cases.append(case)
        self._segment = None if tiling is None else tiling.segment
        self._tiles += 0 if tiling is None else len(tiling)

    @property
    def is_full(self) -> bool:
        """Whether no other case can join: there is no room for a tile, or the one case in it is computed alone."""
        if not self._cases:
            return False
        return self._segment is None or self._tiles >= self._batch_limit(self._segment)

    def release(self) -> list[T]:
        """Return the cases to be computed together now, and begin anew without any."""
        released, self._cases = self._cases, []
        self._tiles, self._segment = 0, None
        self.last_size = max(1, len(released))
        return released


def _shareable(way: Attempt | None) -> Tiling | None:
    """The tiles of a case whose tiles are all of one size; None: it is computed alone."""
    if way is None or len(way.tilings) != 1 or not len(way.tilings[0]):
        return None
    return way.tilings[0]
