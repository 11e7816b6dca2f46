"""What a transfer between two models is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from deepmedic.errors import ModelError

NewChannels = Literal["keep", "zero", "mean", "repeat"]


@dataclass(frozen=True)
class TransferOptions:
    """How parameters go from a source model into a new model."""

    layers: tuple[int, ...] | None = None
    """Depths in the source model, from 1: its parallel pathways first, then its FC pathway. None: every layer except
    the classification layer."""
    new_channels: NewChannels = "keep"
    """First-layer weights of image channels that the source lacks: "keep" the new model's own random ones (as the
    original did), "zero", the "mean" of the source's, or a "repeat" of the source's in turn. All but "keep" rescale the
    weights so that activations keep their size."""
    transfer_classes: bool = False
    """Transfer the classification layer too: the rows of classes that both models know."""
    grow: Literal["exact"] | None = None
    """"exact": the new model computes what the source computes; it must be as large or larger everywhere."""
    class_frequencies: tuple[float, ...] | None = None
    """Frequency, or count, of each class of the new model; biases that receive nothing start at its logarithm."""
    source_sha256: str | None = None
    """SHA-256 of the source's file, for the provenance of the new model."""

    def __post_init__(self) -> None:
        if self.new_channels not in get_args(NewChannels):
            raise ModelError(f'newChannels is "{self.new_channels}"; allowed are "keep", "zero", "mean" and "repeat"')
        if self.grow not in ("exact", None):
            raise ModelError(f'-grow is "{self.grow}"; the only kind of growth is "exact"')
        if self.grow is None:
            return
        if self.layers is not None:
            raise ModelError("-grow exact takes all layers of the source model over; leave -layers out")
        if self.new_channels in ("mean", "repeat"):
            raise ModelError(
                f'-grow exact starts new image channels from zero, and newChannels is "{self.new_channels}"; leave it '
                "out"
            )


def log_frequencies(frequencies: tuple[float, ...], classes: int) -> list[float]:
    """Return the logarithm of each class's share.

    Raises:
        ModelError: not one number for each class, or one that is not above 0.
    """
    if len(frequencies) != classes:
        raise ModelError(f"{len(frequencies)} class frequencies are given; the new model has {classes} classes")
    for number, frequency in enumerate(frequencies):
        if not (frequency > 0 and math.isfinite(frequency)):
            raise ModelError(
                f"the frequency of class {number} is {frequency:g}; allowed are finite numbers above 0, because its "
                "logarithm is the bias of the class. Leave out a class that never occurs"
            )
    total = math.fsum(frequencies)
    return [math.log(frequency / total) for frequency in frequencies]
