"""Steps that are recorded once on a GPU, as a CUDA graph, and repeated from then on.

A step of the default network is more than a thousand kernels, most of them shorter than the time that launching one
takes a processor core. A graph of them all is launched at once. It repeats the very same kernels on the very same
memory, so batches are copied to where it expects them, and gradients stay where it writes them. Dropout is drawn anew:
kernels in a graph take seed and position from the device's generator as it is when the graph is launched.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deepmedic.data.segments import SegmentBatch
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet

log = logging.getLogger(__name__)

_STEPS_BEFORE = 3
"""Computed as they come, before one is recorded: libraries choose their kernels, and constants reach the device."""
_AGREEMENT = 0.05
"""Relative difference from the plain computation above which a recording is not used. Kernels that add in any order
differ by rounding, which is far below this in bf16 too; a recording that misses an input is far above."""

Outputs = tuple[Tensor, ...]
Compute = Callable[[SegmentBatch], Outputs]


class Replayable(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """Compute everything once more, from the same memory to the same memory."""


@dataclass
class Recording:
    """A computation that can be repeated on another batch."""

    inputs: SegmentBatch
    """Where the batch has to be."""
    outputs: Outputs
    gradients: list[Tensor | None]
    """Of each trained parameter."""
    graph: Replayable


class RecordedStep:
    """Gives what a function gives for a batch, and leaves the same gradients; on a GPU by a recording of it.

    The first batches of a kind are computed as they come. The next one is too, and recorded, and what the recording
    gives is compared: one that fails or disagrees is not used, and no other is made.
    """

    def __init__(
        self,
        compute: Compute,
        network: DeepMedicNet,
        trained: Callable[[], Sequence[Tensor]],
        prepare: Callable[[], None],
        *,
        device: torch.device,
        possible: bool,
    ) -> None:
        """Create it; nothing is computed yet.

        Args:
            compute: gives tensors for a batch, some floating; may store statistics of batch norm, and gradients in
                parameters that have none.
            network: that it computes with.
            trained: the parameters that are given gradients; none: no gradients are computed.
            prepare: called before each computation; seeds the generators that `compute` draws from.
            device: of the batches.
            possible: whether anything is to be recorded.
        """
        self._compute = compute
        self._network = network
        self._trained = trained
        self._prepare = prepare
        self._device = device
        self._possible = possible
        self._kind: Hashable = None
        self._seen = 0
        self._recording: Recording | None = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, batch: SegmentBatch, kind: Hashable = None) -> Outputs:
        """Return what `compute` gives; valid until the next call.

        Args:
            batch: the segments.
            kind: all that changes what `compute` does beside the batch, the weights and the statistics.
        """
        if not self._possible:
            return self._plainly(batch)
        labels = None if batch.labels is None else batch.labels.shape
        kind = (kind, tuple(images.shape for images in batch.inputs), labels)
        if kind != self._kind:
            self.release()
            self._kind = kind
        if self._recording is not None:
            return self._repeated(self._recording, batch)
        self._seen += 1
        return self._plainly(batch) if self._seen <= _STEPS_BEFORE else self._recorded(batch)

    @property
    def is_recorded(self) -> bool:
        """Whether the next batch of the same kind is computed by a recording."""
        return self._recording is not None

    def release(self) -> bool:
        """Give up the recording and the memory it computes in; return whether there was one."""
        recording, self._recording = self._recording, None
        self._kind, self._seen = None, 0
        if recording is None:
            return False
        self._forget_gradients()
        if self._device.type == "cuda":
            del recording
            torch.cuda.empty_cache()
        return True

    def _plainly(self, batch: SegmentBatch) -> Outputs:
        self._forget_gradients()
        self._prepare()
        return self._compute(batch)

    def _repeated(self, recording: Recording, batch: SegmentBatch) -> Outputs:
        for target, images in zip(recording.inputs.inputs, batch.inputs, strict=True):
            target.copy_(images)
        if recording.inputs.labels is not None and batch.labels is not None:
            recording.inputs.labels.copy_(batch.labels)
        self._prepare()
        recording.graph.replay()
        for parameter, gradient in zip(self._trained(), recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.outputs

    def _recorded(self, batch: SegmentBatch) -> Outputs:
        """Compute a batch, record that, and use the recording if it gives the same."""
        if self._device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        rows = parameters.next_rows(self._network)
        # Libraries make room for a stream when it is first used, which is not allowed within a recording.
        with aside(self._stream):
            expected = self._plainly(batch)
        gradients = [parameter.grad for parameter in self._trained()]
        if not all(bool(torch.isfinite(values).all()) for values in expected if values.is_floating_point()):
            return expected
        self._forget_gradients()
        try:
            recording = record(self._compute, batch, self._trained, self._stream)
        except RuntimeError as problem:
            self._possible = False
            why = _first(problem)
            log.warning("Steps cannot be recorded on %s, and are launched kernel by kernel: %s", self._device, why)
            self._take(gradients)
            return expected
        parameters.put_next_rows(self._network, rows)
        found = self._repeated(recording, batch)
        if _agree(expected, found) and _agree(gradients, recording.gradients):
            self._recording = recording
            return found
        self._possible = False
        log.warning("A recorded step differs from the plain one on %s, so none is used.", self._device)
        parameters.put_next_rows(self._network, rows)
        return self._plainly(batch)

    def _forget_gradients(self) -> None:
        for parameter in self._trained():
            parameter.grad = None

    def _take(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self._trained(), gradients, strict=True):
            parameter.grad = gradient


@contextmanager
def aside(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Compute on another stream inside the block, after what came before and before what follows; None: do not."""
    if stream is None:
        yield
        return
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        current.wait_stream(stream)


def record(
    compute: Compute,
    batch: SegmentBatch,
    trained: Callable[[], Sequence[Tensor]],
    stream: torch.cuda.Stream | None,
) -> Recording:
    """Record what `compute` does with a batch, without doing it.

    Args:
        compute: as of `RecordedStep`.
        batch: of the kind to be computed.
        trained: as of `RecordedStep`; without gradients.
        stream: where `compute` was called before.

    Raises:
        RuntimeError: something in it cannot be recorded, or memory is not enough.
    """
    inputs = SegmentBatch(
        tuple(images.clone() for images in batch.inputs), None if batch.labels is None else batch.labels.clone()
    )
    graph = torch.cuda.CUDAGraph()
    with _recording_into(graph, stream):
        outputs = compute(inputs)
    return Recording(inputs, outputs, [parameter.grad for parameter in trained()], graph)


@contextmanager
def _recording_into(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Record inside the block; if that fails, leave stream and generator as if it had not been tried."""
    if stream is None:
        raise RuntimeError("only what a GPU computes can be recorded")
    device, collects = stream.device, gc.isenabled()
    current = torch.cuda.current_stream(device)
    gc.collect()
    gc.disable()  # freeing what belongs to the device is not allowed meanwhile
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream):
            yield
    except RuntimeError:
        torch.cuda.set_stream(current)
        # One that failed within a recording refuses to draw outside of it.
        torch.cuda.default_generators[device.index].graphsafe_set_state(torch.Generator(device))
        raise
    finally:
        if collects:
            gc.enable()


def _first(problem: BaseException) -> BaseException:
    """The error that came first: leaving a recording that failed raises another one, which says less."""
    while problem.__context__ is not None:
        problem = problem.__context__
    return problem


def _agree(expected: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> bool:
    """Whether tensors are the same up to rounding, all floating ones taken together, and the same ones are missing."""
    pairs = list(zip(expected, found, strict=True))
    if any((one is None) != (other is None) for one, other in pairs):
        return False
    floating = [(one, other) for one, other in pairs if one is not None and other is not None]
    floating = [(one.double(), other.double()) for one, other in floating if one.is_floating_point()]
    difference = sum(float((one - other).square().sum()) for one, other in floating)
    return difference <= _AGREEMENT**2 * sum(float(one.square().sum()) for one, _ in floating)
