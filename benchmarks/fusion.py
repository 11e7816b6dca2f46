"""How much time does computing the first FC layer at low resolution save?

    python benchmarks/fusion.py [--device cuda] [--tiles 45 81] [--batch 10] [--repetitions 5] [--output results.json]

The default three-pathway model with two channels and five classes, plain (pathways' outputs repeated, concatenated and
convolved at full resolution) and fused, in turn in one process: forward passes of single tiles for inference, and
training steps (forward and backward) of batches of 37^3 voxels. Times are medians, the spread the range from the first
to the third quartile. Inputs are random. Kernels are launched one by one; how a GPU fares without that is measured by
`step_variants.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from throughput import default_model, summary

from deepmedic import devices
from deepmedic.config.sections import ExecutionConfig
from deepmedic.model.network import DeepMedicNet

TRAINING_SEGMENT = 37


def measure(net: DeepMedicNet, work: Callable[[], object], repetitions: int) -> dict[str, dict[str, float]]:
    """Median and quartiles in seconds of `work`, plain and fused, after one run of each."""
    times: dict[str, list[float]] = {"plain": [], "fused": []}
    for repetition in range(repetitions + 1):
        for way, seconds in times.items():
            net.fc.blocks[0].plain_fusion = way == "plain"
            _synchronize(net)
            started = time.perf_counter()
            work()
            _synchronize(net)
            if repetition > 0:
                seconds.append(time.perf_counter() - started)
    return {way: summary(seconds) for way, seconds in times.items()}


def random_inputs(net: DeepMedicNet, batch: int, segment: int) -> list[torch.Tensor]:
    """One tensor per pathway, on the device of the network."""
    device = next(net.parameters()).device
    sizes = net.architecture.input_sizes((segment, segment, segment))
    return [torch.randn(batch, net.architecture.input_channels, *size, device=device) for size in sizes]


def inference(net: DeepMedicNet, segment: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Forward pass of one tile."""
    inputs = random_inputs(net.eval(), 1, segment)
    with torch.inference_mode():
        return measure(net, lambda: net(*inputs), repetitions)


def training(net: DeepMedicNet, batch: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Forward and backward pass of one batch."""
    inputs = random_inputs(net.train(), batch, TRAINING_SEGMENT)
    return measure(net, lambda: net(*inputs).square().mean().backward(), repetitions)


def main(words: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", choices=["float32", "tf32", "bf16"])
    parser.add_argument("--tiles", nargs="*", type=int, default=[45, 81])
    parser.add_argument("--batch", type=int, default=10, help="of training; 0: do not train")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(words)
    device = devices.choose_device(arguments.device)
    net = DeepMedicNet(default_model().architecture).to(device)
    results: dict[str, object] = {
        "device": devices.describe(device),
        "torch": torch.__version__,
        "precision": arguments.precision,
    }
    print(f"{results['device']}, torch {torch.__version__}, {arguments.precision}")
    print(f"{'':24}{'plain, s':>20}{'fused, s':>20}{'ratio':>8}")
    execution = ExecutionConfig(precision=arguments.precision, deterministic=False)
    with devices.session_numerics(device, execution), devices.numerical_precision(arguments.precision, device):
        for tile in arguments.tiles:
            _report(results, f"tile of {tile}^3", inference(net, tile, arguments.repetitions))
        if arguments.batch:
            name = f"training, {arguments.batch} x {TRAINING_SEGMENT}^3"
            _report(results, name, training(net, arguments.batch, arguments.repetitions))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def _report(results: dict[str, object], name: str, found: dict[str, dict[str, float]]) -> None:
    plain, fused = found["plain"], found["fused"]
    spreads = [
        f"{way['median']:9.4f} ±{(way['third_quartile'] - way['first_quartile']) / 2:7.4f}" for way in (plain, fused)
    ]
    ratio = plain["median"] / fused["median"]
    print(f"{name:24}{spreads[0]:>20}{spreads[1]:>20}{ratio:8.2f}")
    results[name] = {**found, "ratio": ratio}


def _synchronize(net: DeepMedicNet) -> None:
    if next(net.parameters()).device.type == "cuda":
        torch.cuda.synchronize(next(net.parameters()).device)


if __name__ == "__main__":
    main()
