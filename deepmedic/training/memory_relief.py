"""What happens when memory runs out in a step: resident volumes go first, then it is found out how much would fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from deepmedic.data.segments import SegmentBatch
from deepmedic.devices import is_out_of_memory
from deepmedic.errors import ResourceError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet

log = logging.getLogger(__name__)

T = TypeVar("T")


def within_memory(
    compute: Callable[[SegmentBatch], T],
    batch: SegmentBatch,
    network: DeepMedicNet,
    make_room: Callable[[], bool],
    key: str,
) -> T:
    """Return what `compute` gives for a batch; where memory runs out, make room and compute it again.

    What counts from the first attempt are the statistics that batch norm stored: the second one overwrites them, so
    that the result is the same as if there had been room at once.

    Args:
        compute: must not change parameters, and may be repeated.
        batch: the segments.
        network: that `compute` uses.
        make_room: gives up memory that can be done without; returns whether there was any.
        key: of the config, that says how many segments a batch has.

    Raises:
        ResourceError: there was no room to make, or it was not enough; says how many segments fit.
    """
    rows = parameters.next_rows(network)
    found, problem = _attempt(compute, batch)
    if found is None and make_room():
        log.warning(
            "Memory ran out in a step (%s). The volumes that it does not need were given up, and it is repeated; they "
            "are read again when they are needed. A lower memoryBudget or %s avoids this.",
            problem,
            key,
        )
        parameters.put_next_rows(network, rows)
        found, problem = _attempt(compute, batch)
    if found is None:
        raise _refusal(compute, batch, key, problem)
    return found[0]


def counted_within_memory(
    count: Callable[[SegmentBatch], Tensor],
    batch: SegmentBatch,
    network: DeepMedicNet,
    make_room: Callable[[], bool],
    most: int,
) -> Tensor:
    """Return what `count` finds in a batch for validation: all at once, or where memory is not enough for that, added
    up over batches of `most` segments, which is `batchsize_val_samples`.

    Raises:
        ResourceError: as `within_memory`, for these.
    """
    if _segments(batch) > most:
        found, _ = _attempt(count, batch)
        if found is not None:
            return found[0]
    parts = [_some(batch, slice(first, first + most)) for first in range(0, _segments(batch), most)]
    # Copies: what a recorded step gives is valid until the next one.
    counts = [within_memory(count, part, network, make_room, "batchsize_val_samples").clone() for part in parts]
    return torch.stack(counts).sum(dim=0)


def _attempt(compute: Callable[[SegmentBatch], T], batch: SegmentBatch) -> tuple[tuple[T] | None, str]:
    """Return the result, or None and why not.

    The error itself does not leave this function, since it would keep alive all tensors of the failed attempt.
    """
    try:
        return (compute(batch),), ""
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        return None, (str(problem).splitlines() or [f"{type(problem).__name__}."])[0]


def _refusal(compute: Callable[[SegmentBatch], T], batch: SegmentBatch, key: str, problem: str) -> ResourceError:
    segments = _segments(batch)
    fitting = _largest_that_fits(compute, batch)
    said = f"Memory ran out in a step with {key} = {segments}, although resident volumes were given up: {problem}"
    if fitting == 0:
        return ResourceError(
            f"{said} Not even one segment at a time fits. Lower segmentsDimTrain or segmentsDimVal in the model "
            "config, or choose a device with more memory, and repeat the command to go on."
        )
    return ResourceError(
        f"{said} {key} = {fitting} fits, as was tried out. Set {key} to {fitting} or less, and repeat the command to "
        "go on."
    )


def _largest_that_fits(compute: Callable[[SegmentBatch], T], batch: SegmentBatch) -> int:
    """Try out how many segments of a batch that does not fit do fit; 0 if not even one does."""
    fits, too_many = 0, _segments(batch)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _attempt(compute, _some(batch, slice(middle)))[0] is None:
            too_many = middle
        else:
            fits = middle
    return fits


def _segments(batch: SegmentBatch) -> int:
    return batch.inputs[0].shape[0]


def _some(batch: SegmentBatch, which: slice) -> SegmentBatch:
    labels: Tensor | None = None if batch.labels is None else batch.labels[which]
    return SegmentBatch(tuple(inputs[which] for inputs in batch.inputs), labels)
