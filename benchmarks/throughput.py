"""How fast are training and inference of the default three-pathway model on this machine, and where does the time go?

    python benchmarks/throughput.py [--device cuda] [--precision float32 tf32 bf16] [--seconds 30] [--cases 50]
        [--skip-inference] [--output results.json]

Training: the trainer of a session on resident volumes of 240 x 240 x 155 voxels, with batches of 10 segments of 37^3 in
sub-epochs of 1000, and everything that belongs to it: centres, gathering, augmentation, forward, backward, optimiser,
counts, records. Only checkpoints are not written. The rate is that of whole sub-epochs one after the other, for so many
seconds after a few that do not count. One more sub-epoch is profiled: how long the device was busy, and with what.

Inference: one volume with an ellipsoid as ROI, by both tilings, from tensors on the host to probabilities on the host;
medians after two runs. One more is profiled.

Data are random: the network does the same work on them as on scans. On a CPU, "busy" is the time within operators.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from deepmedic import devices
from deepmedic.config.augmentation import Gaussian, SegmentAugmentation
from deepmedic.config.load import load_model_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.sections import ExecutionConfig, PreprocessingConfig
from deepmedic.config.training import AugmentationConfig, SamplingConfig, TrainConfig
from deepmedic.data.cases import Case
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.nifti import array_header
from deepmedic.data.pool import PoolLayout, VolumePool, elements_for
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.source import SegmentSource, SourceSettings
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_volume
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.interruption import Interrupted, Interruption
from deepmedic.training.learning import begin_phase
from deepmedic.training.recorder import Recorder, RecorderOutputs
from deepmedic.training.state import TrainingState
from deepmedic.training.trainer import Trainer, TrainerParts

ROOT = Path(__file__).resolve().parent.parent
VOLUME = (240, 240, 155)
BATCH = 10
CLASSES = 5
AUGMENTATION = SegmentAugmentation(
    shift=Gaussian(mean=0.0, std=0.05), scale=Gaussian(mean=1.0, std=0.01), reflect=(0.5, 0.0, 0.0)
)
WARM_UP = 2
"""Sub-epochs that do not count."""
KINDS = (
    ("layouts of images", r"nchwToNhwc|nhwcToNchw|NchwToNhwc|NhwcToNchw|convertTensor|transpose"),
    ("convolutions", r"conv|xmma|fprop|dgrad|wgrad|implicit|cudnn.*engine|cudnn.*tensor|mkldnn"),
    ("matrix products", r"gemm|cutlass|cublas|splitK|nvjet|addmm|\bmm\b"),
    ("copies between host and device", r"Memcpy (HtoD|DtoH)"),
    ("copies and zeros", r"Memcpy|Memset|copy|fill|zero"),
    ("batch norm", r"batch_norm|bn_"),
    ("sums", r"reduce|sum|mean|norm"),
    ("indices: segments, statistics", r"index|gather|scatter"),
    ("optimiser", r"multi_tensor|foreach"),
    ("random numbers", r"distribution|philox|random"),
)
"""Kinds of kernels by their names, the first that fits; the rest goes voxel by voxel."""


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


@dataclass
class Busy:
    """What a device did in some time."""

    wall: float
    """Seconds."""
    busy: float = 0.0
    """Seconds in which anything ran."""
    kernels: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_name: Counter[str] = field(default_factory=Counter)

    def lines(self, per: int, what: str) -> Iterable[str]:
        """A table in milliseconds per step or scan, of which there were so many."""
        yield f"    busy {self.busy / self.wall:.1%} of the time, {self.kernels / per:.0f} kernels a {what}"
        for kind, seconds in self.by_kind.most_common():
            yield f"    {1e3 * seconds / per:9.3f} ms {seconds / max(self.busy, 1e-9):6.1%}  {kind}"
        for name, seconds in self.by_name.most_common(8):
            yield f"    {1e3 * seconds / per:9.3f} ms         {name[:90]}"

    def plain(self) -> dict[str, Any]:
        """For JSON; seconds."""
        return {
            "wall": self.wall,
            "busy": self.busy,
            "kernels": self.kernels,
            "kinds": dict(self.by_kind),
            "names": dict(self.by_name.most_common(40)),
        }


class Watch:
    """Profiles what the device does between two moments."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
        self._profile = profile(activities=[activity])

    def begin(self) -> None:
        self._profile.__enter__()
        _synchronize(self._device)
        self._started = time.perf_counter()

    def end(self) -> Busy:
        _synchronize(self._device)
        found = Busy(time.perf_counter() - self._started)
        self._profile.__exit__(None, None, None)
        kind = torch.autograd.DeviceType.CUDA if self._device.type == "cuda" else torch.autograd.DeviceType.CPU
        events = [event for event in self._profile.events() if event.device_type == kind]
        reached = 0.0
        for event in sorted(events, key=lambda event: event.time_range.start):
            start, end = event.time_range.start / 1e6, event.time_range.end / 1e6
            new = max(0.0, end - max(start, reached))  # time that no earlier one covers
            reached = max(reached, end)
            found.busy += new
            found.kernels += 1
            found.by_kind[_kind(event.name)] += new
            found.by_name[event.name] += new
        return found


def _kind(name: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "voxel by voxel")


class CasesInMemory(DataSet):
    """So many names of two cases of noise."""

    def make(self, config: ModelConfig, size: tuple[int, int, int]) -> None:
        channels, classes = config.architecture.input_channels, config.architecture.classes
        self.made = [random_case(number, size, channels, classes) for number in range(2)]

    def load(self, index: int) -> PreparedCase:
        return replace(self.made[index % 2], name=self.cases[index].name)

    def total_elements(self) -> int:
        return len(self.cases) * elements_for(self.made[0].size)


class TimedRecorder(Recorder):
    """Notes when each sub-epoch ended, profiles one, and ends the training."""

    def watched_by(self, watch: Watch, seconds: float, interruption: Interruption) -> None:
        self.watch, self.seconds, self.interruption = watch, seconds, interruption
        self.ends: list[float] = []
        self.found: Busy | None = None
        self._watching = False

    def subepoch_finished(self, *arguments: Any) -> None:
        super().subepoch_finished(*arguments)
        if self._watching:
            self.found = self.watch.end()
            self.interruption.requested = 15
            return
        self.ends.append(time.perf_counter())
        measured = self.ends[-1] - self.ends[min(WARM_UP, len(self.ends)) - 1]
        if len(self.ends) > WARM_UP and measured >= self.seconds:
            self._watching = True
            self.watch.begin()


def training(
    config: ModelConfig, device: torch.device, precision: str, arguments: argparse.Namespace
) -> tuple[dict[str, Any], Busy]:
    """Seconds of whole sub-epochs, and what the device does in one."""
    architecture, segment = config.architecture, config.segment_size_train
    per_subepoch = arguments.steps * BATCH
    train = TrainConfig(
        folder_for_output=ROOT,
        epochs=10**6,
        subepochs=20,
        segments_per_subepoch=per_subepoch,
        batch_size=BATCH,
        execution=ExecutionConfig(precision=precision),  # type: ignore[arg-type]
    )
    cases = [Case(f"case{number}", ()) for number in range(arguments.cases)]
    needs = CaseNeeds.of(architecture, segment, config.channel_names)
    data = CasesInMemory("training", cases, [], PreprocessingConfig(), needs)
    data.make(config, VOLUME)
    layout = PoolLayout.of(data.made[0])
    pool = VolumePool(layout, device, 2**62, data.total_elements())
    settings = SourceSettings(
        role="train",
        seed=0,
        segment=segment,
        segments=per_subepoch,
        batch_size=BATCH,
        cases=arguments.cases,
        sampling=SamplingConfig(kind=3),
        augmentation=AugmentationConfig(image=None, segment=AUGMENTATION),
    )
    source = SegmentSource(data, architecture, settings, pool)
    source.read_all()
    network = DeepMedicNet(architecture).to(device)
    learning = begin_phase(network, train)
    interruption = Interruption()
    recorder = TimedRecorder(train, [str(number) for number in range(architecture.classes)], RecorderOutputs())
    recorder.watched_by(Watch(device), arguments.seconds, interruption)
    parts = TrainerParts(
        config=train,
        device=device,
        network=network,
        optimiser=learning.optimiser,
        training=source,
        validation=None,
        validate_volumes=None,
        recorder=recorder,
        save=lambda state, extra: None,
        interruption=interruption,
    )
    with devices.session_numerics(device, train.execution):
        try:
            Trainer(parts, TrainingState(session="throughput", seed=0, origin={}, settings={})).run()
        except Interrupted:
            pass
        finally:
            source.close()
    assert recorder.found is not None
    ends = recorder.ends[WARM_UP - 1 :]
    subepochs = [later - earlier for earlier, later in pairwise(ends)]
    found = {
        "seconds": ends[-1] - ends[0],
        "segments": per_subepoch * len(subepochs),
        "segmentsPerSecond": per_subepoch * len(subepochs) / (ends[-1] - ends[0]),
        "subepochs": summary(subepochs),
        "steps": arguments.steps,
        "profiled": recorder.found.plain(),
    }
    return found, recorder.found


def inference(config: ModelConfig, device: torch.device, precision: str, tiling: str) -> tuple[dict[str, Any], Busy]:
    """Seconds for one volume, from tensors on the host to probabilities on the host."""
    architecture = config.architecture
    network = DeepMedicNet(architecture).to(device).eval()
    case = random_case(0, VOLUME, architecture.input_channels, architecture.classes)
    settings = InferenceSettings(
        segment=config.segment_size_inference,
        tiling=tiling,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        device=device,
    )

    def work() -> None:
        predict_volume(network, case, settings)

    with devices.session_numerics(device, ExecutionConfig(precision=precision)):  # type: ignore[arg-type]
        found = measure(work, 1 if device.type == "cpu" else 7, device)
        watch = Watch(device)
        watch.begin()
        work()
        busy = watch.end()
    return {**found, "profiled": busy.plain()}, busy


def measure(work: Callable[[], object], repetitions: int, device: torch.device) -> dict[str, Any]:
    """Median and quartiles in seconds of `work`, which is run twice before; its first time too."""
    times = []
    for _ in range(repetitions + 2):
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        times.append(time.perf_counter() - started)
    return {"first": times[0], **summary(times[2:])}


def summary(times: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": middle, "first_quartile": low, "third_quartile": high}


def main(words: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "tf32", "bf16"])
    parser.add_argument("--seconds", type=float, help="of training that are measured; 30, on a CPU 1")
    parser.add_argument("--steps", type=int, help="of a sub-epoch; 100, on a CPU 2")
    parser.add_argument("--cases", type=int, help="resident, all drawn from in each sub-epoch; 50, on a CPU 2")
    parser.add_argument("--skip-inference", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    device = devices.choose_device(arguments.device)
    for name, on_cpu, on_gpu in (("seconds", 1.0, 30.0), ("steps", 2, 100), ("cases", 2, 50)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, on_cpu if device.type == "cpu" else on_gpu)
    config = default_model()
    results: dict[str, Any] = {
        "device": devices.describe(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
    }
    print(f"{results['device']}, torch {results['torch']}, cuDNN {results['cudnn']}")
    for precision in arguments.precision:
        found, busy = training(config, device, precision, arguments)
        results[f"training {precision}"] = found
        step = found["seconds"] * BATCH / found["segments"]
        print(
            f"training   {precision:8} {found['segmentsPerSecond']:9.1f} segments a second, {1e3 * step:.2f} ms a step"
        )
        print("\n".join(busy.lines(arguments.steps, "step")))
        if device.type == "cuda":
            results[f"training {precision}"]["memory"] = torch.cuda.max_memory_allocated(device)
            torch.cuda.empty_cache()
        for tiling in () if arguments.skip_inference else ("segments", "auto"):
            found, busy = inference(config, device, precision, tiling)
            results[f"inference {precision} {tiling}"] = found
            times = f"{1e3 * found['median']:9.1f} ms a volume (the first one {found['first']:.2f} s)"
            print(f"inference  {precision:8} {times}, tiling {tiling}")
            print("\n".join(busy.lines(1, "volume")))
        if arguments.output is not None:  # after each precision, should the next one run out of time
            arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
