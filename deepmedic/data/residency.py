"""How the memory for the volumes of a data set is shared between those that are resident and those read ahead."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepmedic.data.dataset import DataSet
from deepmedic.data.pool import VolumePool, elements_for
from deepmedic.data.reading import Reading


@dataclass(frozen=True)
class Residency:
    """What is kept of a data set, and how the rest is read."""

    pool_bytes: int
    """The most that resident volumes take."""
    reading: Reading
    everything: bool
    """Whether all cases are resident once they were read."""


def residency_of(data: DataSet, budget: int, cases: int, workers: int, device: torch.device) -> Residency:
    """Share a budget of bytes so that what is resident and what is in hand stay within it.

    The one case that is being read may come on top, with all that reading takes; further ones are in hand only as far
    as the budget has room for that. Where volumes are kept on a GPU, those in hand are in the machine's memory, and the
    budget limits each of the two.

    Args:
        data: the cases.
        budget: bytes; at least what the cases of one subepoch take.
        cases: the most that a subepoch draws from.
        workers: threads that read.
        device: where volumes are resident.
    """
    everything = volume_bytes(data) <= budget
    resident = volume_bytes(data) if everything else subepoch_bytes(data, cases)
    one = reading_bytes(data)
    spare = (budget - resident if device.type == "cpu" else budget) // one
    in_hand = min(1 + max(spare, 0), max(2 * workers, 1))
    pool_bytes = budget - (in_hand - 1) * one if device.type == "cpu" else budget
    return Residency(pool_bytes, Reading(workers, in_hand), everything)


def volume_bytes(data: DataSet) -> int:
    """Bytes of all cases of a data set once they are resident."""
    return data.total_elements() * data.layout().bytes_per_voxel


def subepoch_bytes(data: DataSet, cases: int) -> int:
    """Bytes of the volumes of a subepoch, should it draw from the largest cases."""
    sizes = sorted((elements_for(data.padded_size(index)) for index in range(len(data))), reverse=True)
    return sum(sizes[:cases]) * data.layout().bytes_per_voxel


def reading_bytes(data: DataSet) -> int:
    """Most bytes that reading and preparing one of the cases takes."""
    return max(map(data.bytes_to_read, range(len(data))))


def pool_for(data: DataSet, device: torch.device, budget_bytes: int) -> VolumePool:
    """An empty pool for the cases of a data set, with room made at once for as many as the budget allows."""
    return VolumePool(data.layout(), device, budget_bytes, data.total_elements())
