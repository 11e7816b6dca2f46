"""Which way of computing a training step is fastest on this GPU, and how far does each stray from float32?

    python benchmarks/step_variants.py [--device cuda] [--precision bf16 tf32] [--launch plain recorded compiled]
        [--repetitions 20] [--output results.json]

Forward and backward pass of ten segments of 37^3 through the default three-pathway model, in each combination of memory
layout (as sessions have it, or channels last), of the first FC layer (at the resolutions of its inputs, or at full
resolution), and of launching (kernel by kernel; recorded as a CUDA graph, as sessions do; or compiled by
`torch.compile` and recorded). Times are medians. The error is that of the gradients of all parameters together,
relative to those of float32 in the first of these ways, without dropout. A way that fails is a line that says why. On a
CPU nothing is recorded.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from throughput import BATCH, default_model

from deepmedic import devices
from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.sections import ExecutionConfig
from deepmedic.data.segments import SegmentBatch
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.recorded_step import RecordedStep

WARM_UP = 6
"""Steps before any is measured: kernels are chosen, a step is recorded."""


def main(words: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["bf16", "tf32"], choices=["float32", "tf32", "bf16"])
    parser.add_argument("--launch", nargs="+", default=["plain", "recorded", "compiled"])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(words)
    device = devices.choose_device(arguments.device)
    config = default_model()
    network = DeepMedicNet(without_dropout(config.architecture)).to(device).train()
    sizes = network.architecture.input_sizes(config.segment_size_train)
    generator = torch.Generator().manual_seed(0)
    shapes = [(BATCH, network.architecture.input_channels, *size) for size in sizes]
    batch = SegmentBatch(tuple(torch.randn(shape, generator=generator).to(device) for shape in shapes), None)
    with devices.session_numerics(device, ExecutionConfig(precision="float32", deterministic=False)):
        expected = gradients_of(network, Way(network, batch, device, "float32", "plain").compute)
    results: dict[str, Any] = {"device": devices.describe(device), "torch": torch.__version__}
    print(f"{results['device']}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    layouts, first_layers = ("contiguous", "channels last"), ("low resolution", "full resolution")
    for precision, launch, layout, first in product(arguments.precision, arguments.launch, layouts, first_layers):
        name = f"{precision}, {launch}, {layout}, first FC layer at {first}"
        try:
            found = tried(network, batch, device, (precision, launch, layout, first), expected, arguments.repetitions)
        except Exception as problem:  # noqa: BLE001 - the other ways are still worth measuring
            found = {"failed": f"{type(problem).__name__}: {str(problem).splitlines()[:1]}"}
        results[name] = found
        print(f"{name:75}", end="")
        if "failed" in found:
            print(found["failed"])
        else:
            print(f"{1e3 * found['median']:9.3f} ms {found['memory'] / 2**30:6.2f} GiB, error {found['error']:.1e}")
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def tried(
    network: DeepMedicNet,
    batch: SegmentBatch,
    device: torch.device,
    way: tuple[Any, str, str, str],
    expected: torch.Tensor,
    repetitions: int,
) -> dict[str, Any]:
    """Seconds of a step, peak memory in bytes, and the error of its gradients."""
    precision, launch, layout, first = way
    own = copy.deepcopy(network)
    own.fc.blocks[0].plain_fusion = first == "full resolution"  # type: ignore[union-attr]
    if layout == "channels last":
        own = own.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        inputs = tuple(images.contiguous(memory_format=torch.channels_last_3d) for images in batch.inputs)
        batch = SegmentBatch(inputs, None)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with devices.session_numerics(device, ExecutionConfig(precision=precision, deterministic=False)):
        step = Way(own, batch, device, precision, launch)
        error = gradients_of(own, step).sub_(expected).norm() / expected.norm()
        times = []
        for repetition in range(WARM_UP + repetitions):
            _synchronize(device)
            started = time.perf_counter()
            step()
            _synchronize(device)
            if repetition >= WARM_UP:
                times.append(time.perf_counter() - started)
    if step.should_be_recorded and not step.recorded.is_recorded:
        raise RuntimeError("it could not be recorded")
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"median": statistics.median(times), "least": min(times), "memory": memory, "error": float(error)}


class Way:
    """A step, launched in one of the ways."""

    def __init__(
        self, network: DeepMedicNet, batch: SegmentBatch, device: torch.device, precision: Any, launch: str
    ) -> None:
        self._batch, self._device, self._precision = batch, device, precision
        self._forward: Callable[..., torch.Tensor] = torch.compile(network) if launch == "compiled" else network
        self.should_be_recorded = device.type == "cuda" and launch != "plain"
        trained = list(network.parameters())
        self.recorded = RecordedStep(
            self._compute, network, lambda: trained, lambda: None, device=device, possible=self.should_be_recorded
        )

    def __call__(self) -> None:
        self.recorded(self._batch)

    compute = __call__

    def _compute(self, batch: SegmentBatch) -> tuple[torch.Tensor, ...]:
        with devices.numerical_precision(self._precision, self._device):
            logits = self._forward(*batch.inputs)
        cost = torch.softmax(logits.float(), dim=1).square().mean()
        cost.backward()
        return (cost.detach(),)


def gradients_of(network: DeepMedicNet, step: Callable[[], None]) -> torch.Tensor:
    """The gradients of all parameters after a step, float64 in one line."""
    step()
    found = [parameter.grad for parameter in network.parameters()]
    return torch.cat([gradient.double().flatten() for gradient in found if gradient is not None])


def without_dropout(architecture: Architecture) -> Architecture:
    """The same network, whose steps are the same whatever is drawn."""

    def plain(pathway: Pathway) -> Pathway:
        return replace(pathway, dropout_rates=(0.0,) * pathway.depth)

    subsampled = tuple(map(plain, architecture.subsampled))
    return replace(architecture, normal=plain(architecture.normal), subsampled=subsampled, fc=plain(architecture.fc))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
