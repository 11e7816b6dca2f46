"""Stands for CUDA graphs on a CPU. As with one, recording computes nothing that stays, and each repetition reads and
writes the same memory."""

from __future__ import annotations

import torch

from deepmedic.data.segments import SegmentBatch
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training import recorded_step


def copied(network: DeepMedicNet) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in parameters.named_tensors(network).items()}


class HostRecording:
    """Repeats a computation from the same memory to the same memory, as a CUDA graph does."""

    def __init__(self, compute, inputs, trained) -> None:
        self.compute, self.inputs, self.trained = compute, inputs, list(trained())
        self.repeated = 0
        self.outputs = compute(inputs)
        self.gradients = [parameter.grad for parameter in self.trained]

    def replay(self) -> None:
        self.repeated += 1
        own = [parameter.grad for parameter in self.trained]
        for parameter in self.trained:
            parameter.grad = None
        for kept, found in zip(self.outputs, self.compute(self.inputs), strict=True):
            kept.copy_(found)
        for parameter, kept, before in zip(self.trained, self.gradients, own, strict=True):
            if kept is not None:
                kept.copy_(parameter.grad)
            parameter.grad = before


class Recorder:
    """Stands for `recorded_step.record`; all that it recorded."""

    def __init__(self) -> None:
        self.made: list[HostRecording] = []
        self.network: DeepMedicNet | None = None
        """Which a recording must leave as it is."""

    def __call__(self, compute, batch, trained, stream):
        labels = None if batch.labels is None else batch.labels.clone()
        inputs = SegmentBatch(tuple(images.clone() for images in batch.inputs), labels)
        before, rows = copied(self.network), parameters.next_rows(self.network)
        graph = HostRecording(compute, inputs, trained)
        parameters.load_tensors(self.network, before)
        parameters.put_next_rows(self.network, rows)
        self.made.append(graph)
        return recorded_step.Recording(inputs, graph.outputs, graph.gradients, graph)
