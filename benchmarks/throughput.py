"""How fast are training and inference of the default three-pathway model on this machine?

    python benchmarks/throughput.py [--device cuda] [--precision float32 tf32 bf16] [--output results.json]

Training: batches of 10 segments of 37^3 voxels from resident volumes, with everything a step does (centres, gathering,
augmentation, forward, backward, optimiser, counts). Inference: one volume of 240 x 240 x 155 with an ellipsoid as ROI,
by both tilings. Medians over repetitions after a warm-up; the spread is the range from the first to the third quartile.
Data are random: the network does the same work on them as on scans.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import torch

from deepmedic import devices
from deepmedic.config.augmentation import Gaussian, SegmentAugmentation
from deepmedic.config.load import load_model_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.optimisation import OptimizerConfig
from deepmedic.config.training import LossConfig
from deepmedic.data import augmentation
from deepmedic.data.centres import SubepochRequest
from deepmedic.data.nifti import array_header
from deepmedic.data.pool import PoolLayout, VolumePool, elements_for
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.randomness import stream
from deepmedic.data.sampling import SubepochSampler
from deepmedic.data.sampling_maps import SamplingRule
from deepmedic.data.segments import SegmentGeometry, gather
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_volume
from deepmedic.metrics import confusion_counts, most_probable
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.losses import regularization, training_cost
from deepmedic.training.optimisers import make_optimiser

ROOT = Path(__file__).resolve().parent.parent
VOLUME = (240, 240, 155)
BATCH = 10
CLASSES = 5
LOSS = LossConfig()
AUGMENTATION = SegmentAugmentation(
    shift=Gaussian(mean=0.0, std=0.05), scale=Gaussian(mean=1.0, std=0.01), reflect=(0.5, 0.0, 0.0)
)


def default_model() -> ModelConfig:
    """The original's default architecture with two channels and five classes."""
    config = load_model_config(ROOT / "configs" / "deepmedic" / "model.cfg")
    fc = replace(config.architecture.fc, feature_maps=(*config.architecture.fc.feature_maps[:-1], CLASSES))
    return replace(config, architecture=replace(config.architecture, input_channels=2, classes=CLASSES, fc=fc))


def scan_options(description: str | None) -> argparse.ArgumentParser:
    """The options of benchmarks that segment one scan of `VOLUME`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roi", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "tf32", "bf16"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path)
    return parser


def scan(channels: int, roi: Path | None) -> PreparedCase:
    """A volume of noise of the size `VOLUME`; its ROI is the given mask, or an ellipsoid."""
    case = random_case(0, VOLUME, channels, CLASSES)
    return case if roi is None else replace(case, roi=torch.from_numpy(np.asarray(nibabel.load(roi).dataobj) > 0))


def random_case(number: int, size: tuple[int, int, int], channels: int, classes: int) -> PreparedCase:
    """A volume of noise with labels, and an ellipsoid as ROI."""
    generator = torch.Generator().manual_seed(number)
    grid = torch.meshgrid(*(torch.linspace(-1, 1, length) for length in size), indexing="ij")
    return PreparedCase(
        name=f"case{number}",
        header=array_header(size, np.eye(4)),
        channels=torch.randn(channels, *size, generator=generator),
        labels=torch.randint(0, classes, size, generator=generator, dtype=torch.uint8),
        roi=sum(axis.square() for axis in grid) < 0.55,
        weight_maps=None,
        padding=((0, 0), (0, 0), (0, 0)),
        border_values=torch.zeros(channels),
    )


def measure(work: Callable[[], object], repetitions: int, device: torch.device) -> dict[str, float]:
    """Median and quartiles in seconds of `work`, which is run twice before."""
    times = []
    for repetition in range(repetitions + 2):
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        if repetition >= 2:
            times.append(time.perf_counter() - started)
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {"median": middle, "first_quartile": low, "third_quartile": high}


def training(config: ModelConfig, device: torch.device, precision: str, steps: int) -> dict[str, float]:
    """Seconds for `steps` training steps of one subepoch, its planning included."""
    architecture, segment = config.architecture, config.segment_size_train
    network = DeepMedicNet(architecture).to(device).train()
    optimiser = make_optimiser(OptimizerConfig(), parameters.optimizer_order(network))
    regularized = parameters.regularized(network)
    case = random_case(0, VOLUME, architecture.input_channels, architecture.classes)
    pool = VolumePool(PoolLayout.of(case), device, 8 * 2**30, 2 * elements_for(VOLUME))
    rule = SamplingRule(3, architecture.classes, (1 / architecture.classes,) * architecture.classes)
    request = SubepochRequest(steps * BATCH, 2, rule, segment)
    cases = {
        number: random_case(number, VOLUME, architecture.input_channels, architecture.classes) for number in (0, 1)
    }
    sampler = SubepochSampler(pool, cases.__getitem__, len(cases), request, seed=0, role="train")
    geometry = SegmentGeometry.from_architecture(architecture, segment)
    epoch = iter(range(10**6))

    def subepoch() -> None:
        plan = sampler.plan(next(epoch), 0)
        draws = augmentation.draw_segment_augmentation(
            stream(0, "benchmark"), len(plan), architecture.input_channels, AUGMENTATION
        ).to(device)
        rows, centres = plan.rows.to(device), plan.centres.to(device)
        for step in range(steps):
            part = slice(step * BATCH, (step + 1) * BATCH)
            batch = augmentation.apply(gather(pool, geometry, rows[part], centres[part]), draws[part])
            assert batch.labels is not None
            with devices.numerical_precision(precision, device):
                logits = network(*batch.inputs)
            cost = training_cost(logits, batch.labels, LOSS) + regularization(regularized, 1e-6, 1e-4)
            optimiser.zero_grad()
            cost.backward()
            optimiser.step(0.001, 0.6)
            confusion_counts(most_probable(logits.detach(), dim=1), batch.labels, architecture.classes)

    return measure(subepoch, 3 if device.type == "cpu" else 7, device)


def inference(config: ModelConfig, device: torch.device, precision: str, tiling: str) -> dict[str, float]:
    """Seconds for one volume, from tensors on the host to probabilities on the host."""
    architecture = config.architecture
    network = DeepMedicNet(architecture).to(device).eval()
    case = random_case(0, VOLUME, architecture.input_channels, architecture.classes)
    settings = InferenceSettings(
        segment=config.segment_size_inference, tiling=tiling, precision=precision, device=device
    )
    return measure(lambda: predict_volume(network, case, settings), 1 if device.type == "cpu" else 5, device)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "tf32", "bf16"])
    parser.add_argument("--steps", type=int, help="training steps per measurement; 2 on a CPU, 100 on a GPU")
    parser.add_argument("--skip-inference", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = devices.choose_device(arguments.device)
    steps = arguments.steps or (2 if device.type == "cpu" else 100)
    config = default_model()
    results: dict[str, object] = {
        "device": devices.describe(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(f"{results['device']}, torch {results['torch']}")
    for precision in arguments.precision:
        found = training(config, device, precision, steps)
        results[f"training {precision}"] = found
        rate = steps * BATCH / found["median"]
        print(f"training   {precision:8} {found['median'] / steps:9.4f} s a step {rate:10.1f} segments a second")
        for tiling in () if arguments.skip_inference else ("segments", "auto"):
            found = inference(config, device, precision, tiling)
            results[f"inference {precision} {tiling}"] = found
            print(f"inference  {precision:8} {found['median']:9.3f} s a volume, tiling {tiling}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
