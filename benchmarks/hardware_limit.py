"""Which share of what this machine can compute do training and inference of the default model reach?

    python benchmarks/hardware_limit.py [--roi MASK.nii.gz] [--device cuda] [--precision float32 tf32 bf16]
        [--repetitions 3] [--output results.json]

The limit is the rate of a large matrix product on the same device, with the same precision, measured before and after
the work. The work is a forward pass over one volume of 240x240x155 voxels (the ROI is the mask given, or an ellipsoid)
and the forward and backward pass of a training step of ten segments of 37^3. Two numbers are told of each: operations
that were carried out, counted as they ran, and the fewest that would do, for the voxels of the ROI alone without any
margin, or what the step computed. The share is the time that the limit would take for what was carried out, divided by
the time that it took.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from throughput import BATCH, default_model, scan, scan_options
from torch.utils.flop_counter import FlopCounterMode

from deepmedic import devices
from deepmedic.config.architecture import Architecture
from deepmedic.config.sections import ExecutionConfig
from deepmedic.data.segments import SegmentBatch
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_volume
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.recorded_step import RecordedStep

SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices whose product is the limit."""
BEFORE = {"cpu": 0, "cuda": 5}
"""Times that a work is done before it counts: kernels are chosen, a step is recorded."""


def main(words: list[str] | None = None) -> None:
    """Command line."""
    arguments = scan_options(__doc__).parse_args(words)
    device = devices.choose_device(arguments.device)
    config = default_model()
    case = scan(config.architecture.input_channels, arguments.roi)
    network = DeepMedicNet(config.architecture).to(device)
    results: dict[str, dict[str, float]] = {}
    print(f"{devices.describe(device)}, torch {torch.__version__}")
    print(f"{'':18}{'carried out':>13}{'fewest':>13}{'took':>10}{'rate':>15}{'limit':>15}{'share':>8}")
    for precision in arguments.precision:
        settings = InferenceSettings(
            segment=config.segment_size_inference, tiling="auto", precision=precision, device=device
        )
        works: dict[str, tuple[Callable[[], object], float]] = {
            "scan": (
                partial(predict_volume, network, case, settings),
                fewest(config.architecture, int(case.roi.sum())),
            ),
            "step": (Step(network, config.segment_size_train, device, precision), 0.0),
        }
        with devices.session_numerics(device, ExecutionConfig(precision=precision, deterministic=False)):
            for name, (work, least) in works.items():
                found = measure(work, least, device, precision, arguments.repetitions)
                results[f"{name}, {precision}"] = found
                print(
                    f"{name:6} {precision:11}{found['operations'] / 1e12:8.2f} TFLO{found['fewest'] / 1e12:8.2f} TFLO"
                    f"{found['seconds']:8.3f} s{found['rate'] / 1e9:9.0f} GFLO/s{found['limit'] / 1e9:9.0f} GFLO/s"
                    f"{found['share']:8.0%}"
                )
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


class Step:
    """Forward and backward pass of batches, on a GPU recorded as in a training."""

    def __init__(
        self, network: DeepMedicNet, segment: tuple[int, int, int], device: torch.device, precision: devices.Precision
    ) -> None:
        self._network, self._device, self._precision = network, device, precision
        sizes = network.architecture.input_sizes(segment)
        shapes = [(BATCH, network.architecture.input_channels, *size) for size in sizes]
        self._batch = SegmentBatch(tuple(torch.randn(shape, device=device) for shape in shapes), None)
        trained = list(network.parameters())
        self._step = RecordedStep(
            self._compute, network, lambda: trained, lambda: None, device=device, possible=device.type == "cuda"
        )

    def __call__(self) -> None:
        self._network.train()
        self._step(self._batch)

    def _compute(self, batch: SegmentBatch) -> tuple[torch.Tensor, ...]:
        with devices.numerical_precision(self._precision, self._device):
            logits = self._network(*batch.inputs)
        cost = logits.float().square().mean()
        cost.backward()
        return (cost.detach(),)


def measure(
    work: Callable[[], object], least: float, device: torch.device, precision: devices.Precision, repetitions: int
) -> dict[str, float]:
    """Operations, seconds (median) and rates of a work, after it was run once to count them."""
    operations = counted(work)
    for _ in range(BEFORE[device.type]):
        work()
    limits, seconds = [product_rate(device, precision)], []
    for _ in range(repetitions):
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    limits.append(product_rate(device, precision))
    took, limit = statistics.median(seconds), max(limits)
    rate = operations / took
    return {
        "operations": operations,
        "fewest": least or operations,
        "seconds": took,
        "rate": rate,
        "limit": limit,
        "share": rate / limit,
    }


def product_rate(device: torch.device, precision: devices.Precision) -> float:
    """Operations per second of a large matrix product, the best of ten."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = SIDE[device.type]
    matrices = [torch.randn(side, side, device=device).to(dtype) for _ in range(2)]
    best = float("inf")
    with devices.numerical_precision("tf32" if precision == "tf32" else "float32", device):
        for _ in range(10):
            _synchronize(device)
            started = time.perf_counter()
            torch.mm(*matrices)
            _synchronize(device)
            best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def counted(work: Callable[[], object]) -> float:
    """Additions and multiplications of all convolutions and matrix products."""
    by_onednn: Any = torch.ops.aten.mkldnn_convolution
    with FlopCounterMode(display=False, custom_mapping={by_onednn: _of_convolution}) as counter:
        work()
    return float(counter.get_total_flops())


def fewest(architecture: Architecture, voxels: int) -> float:
    """Operations for so many voxels without any margin, each cell of low resolution computed once."""
    total = 0
    for pathway in architecture.pathways:
        channels = architecture.input_channels
        if pathway is architecture.fc:
            channels = architecture.normal.feature_maps[-1]
        share = 1 / np.prod(pathway.factor)
        for maps, kernel in zip(pathway.feature_maps, pathway.kernels, strict=True):
            total += share * maps * channels * np.prod(kernel)
            channels = maps
        if pathway in architecture.subsampled:
            # Its part of the first FC layer: as many products per cell as the kernel has taps.
            total += share * architecture.fc.feature_maps[0] * channels * np.prod(architecture.fc.kernels[0])
    return 2.0 * voxels * float(total)


def _of_convolution(images: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * int(np.prod(out_shape)) * int(np.prod(weight[1:]))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
