"""How many scans a second does an inference segment, from `.nii.gz` to `.nii.gz`, and what limits it?

    python benchmarks/stream.py [--device cuda] [--precision bf16] [--scans 64] [--probability-maps]
        [--channels FLAIR.nii.gz T1C.nii.gz --roi MASK.nii.gz] [--size 240 240 155] [--readers N] [--writers N]
        [--images N] [--without-network [SECONDS]] [--cores 16] [--output results.json]

The default three-pathway model segments copies of one case: the files given, or noise within ellipsoids, whose sizes
differ as brains do, so that no two of eight cases have tiles of one size. All is done
that a session does: files read to their checksums, normalised, predicted, written, synced, read back, recorded. First
the parts are measured alone, in one thread each: reading, computing, writing. Then all together, with as many threads
as a session would take on this machine, or as the options say.

`--without-network` puts a wait in the place of the network, of that many seconds a scan (0 if none are named; 0.06 is
what an H200 is to take), and a copy of one prediction, as from the memory of a GPU: so it shows what the files allow.
The last lines tell what a host with `--cores` cores could reach if its cores were as fast and nothing else limited it.
Files come from the system's cache; a network file system may be slower.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from throughput import Watch

from deepmedic import devices
from deepmedic.config.load import load_model_config
from deepmedic.config.sections import ExecutionConfig, OutputConfig, PreprocessingConfig, ZScoreConfig
from deepmedic.data import gzip_codecs
from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.dataset import CaseNeeds, DataSet, data_set_of
from deepmedic.errors import ProblemList
from deepmedic.inference import segment_cases as segmentation
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.flow import Flow, usable_cores
from deepmedic.inference.predictor import Prediction
from deepmedic.inference.results import Record, ResultFiles, RunIdentity, case_fingerprint
from deepmedic.inference.survey import Saving
from deepmedic.inference.writer import CaseResults, ResultWriter
from deepmedic.model.network import DeepMedicNet

ROOT = Path(__file__).resolve().parent.parent
SIZE = (240, 240, 155)
CLASSES = 5
DISTINCT = 8
"""Cases that have files of their own; those of others are further names of these."""
ALONE = 4
"""Scans from which the parts are measured."""
Predict = Callable[..., Prediction]


@dataclass(frozen=True)
class Part:
    """What one part of the work takes per scan, alone in one thread."""

    wall: float
    """Seconds on the clock."""
    cpu: float
    """Seconds of processor time, of all threads."""


@dataclass
class Clock:
    """Time that passed in calls of a function."""

    seconds: float = 0.0

    def around(self, predict: Predict) -> Predict:
        def timed(*arguments: object) -> Prediction:
            started = time.perf_counter()
            found = predict(*arguments)
            self.seconds += time.perf_counter() - started
            return found

        return timed


def generated(folder: Path, size: tuple[int, int, int]) -> tuple[list[Path], list[Path]]:
    """Two channels of noise, and ellipsoids of several sizes as ROIs."""
    axes = np.meshgrid(*(np.linspace(-1, 1, length, dtype=np.float32) for length in size), indexing="ij")
    random = np.random.default_rng(0)
    rois = {f"roi{number}": _ellipsoid(axes, number) for number in range(DISTINCT)}
    inside = np.logical_or.reduce(list(rois.values()))
    images = {f"channel{number}": random.normal(size=size).astype(np.float32) * inside for number in range(2)}
    for name, values in {**images, **{name: roi.astype(np.uint8) for name, roi in rois.items()}}.items():
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii.gz")
    return [folder / f"{name}.nii.gz" for name in images], [folder / f"{name}.nii.gz" for name in rois]


def _ellipsoid(axes: Sequence[np.ndarray], number: int) -> np.ndarray:
    """One that fills about 0.38 of a volume, as a brain does; `number` makes it longer along one axis than others."""
    factors = [1 + 0.02 * ((number + axis) % 5 - 2) for axis in range(3)]
    inside: np.ndarray = sum((axis * factor) ** 2 for axis, factor in zip(axes, factors, strict=True)) < 0.55
    return inside


def copies(channels: Sequence[Path], rois: Sequence[Path], count: int, folder: Path) -> list[Case]:
    """Cases of these files, with one ROI after the other; they lie in `folder`."""

    def named(source: Path, what: str, number: int) -> ImageRef:
        path = folder / f"{number}_{what}.nii.gz"
        if number < DISTINCT:
            shutil.copyfile(source, path)
        else:
            os.link(folder / f"{number % DISTINCT}_{what}.nii.gz", path)
        return ImageRef(path)

    return [
        Case(
            f"scan{number}",
            tuple(named(path, f"channel{place}", number) for place, path in enumerate(channels)),
            roi=named(rois[number % len(rois)], "roi", number),
            output_name=f"scan{number}",
        )
        for number in range(count)
    ]


def make_network(channels: int, device: torch.device) -> DeepMedicNet:
    """The original's default architecture, with random weights."""
    config = load_model_config(ROOT / "configs" / "deepmedic" / "model.cfg").architecture
    fc = replace(config.fc, feature_maps=(*config.fc.feature_maps[:-1], CLASSES))
    return DeepMedicNet(replace(config, input_channels=channels, classes=CLASSES, fc=fc), seed=0).to(device).eval()


def instead_of_network(data: DataSet, seconds: float) -> Predict:
    """A prediction of noise within the ROI, for every case, after a wait."""
    roi = data.read_each(0)[0].result_roi
    assert roi is not None
    probabilities = torch.rand(CLASSES, *roi.shape, generator=torch.Generator().manual_seed(0)) * roi
    labels = (torch.cumsum(roi, 2) // 16 % CLASSES).to(torch.uint8) * roi

    def predict(*_: object) -> Prediction:
        time.sleep(seconds)
        return Prediction(probabilities.clone(), labels.clone(), labels.clone())

    return predict


def alone(work: Callable[[int], object], scans: int) -> Part:
    """Do the work for some scans, the first of which does not count."""
    work(0)
    clock, cpu = time.perf_counter(), time.process_time()
    for number in range(scans):
        work(number)
    return Part((time.perf_counter() - clock) / scans, (time.process_time() - cpu) / scans)


def parts(
    data: DataSet, net: DeepMedicNet, predict: Predict, options: segmentation.SegmentationOptions
) -> dict[str, Part]:
    """Reading, computing and writing, each for itself."""
    saving, scans = options.saving, min(ALONE, len(data))
    assert saving is not None
    members = (segmentation.Member(net, options.inference.segment),)

    def read(number: int) -> object:
        return data.read_each(number), case_fingerprint(data.cases[number], saving.run)

    prepared = data.read_each(0)
    found: list[Prediction] = []

    def compute(_: int) -> None:
        found[:] = [predict(members, prepared, options.inference, options.refinement, {}, None)]

    def write(number: int) -> None:
        with ResultWriter(replace(saving.files, folder=saving.files.folder / "alone"), Flow(images=1)) as writer:
            writer.submit(CaseResults(f"scan{number}", found[0], prepared[0].result_header, Record({"format": 1})))

    measured = {"read": alone(read, scans), "compute": alone(compute, scans)}
    return {**measured, "write": alone(write, scans)}


def settings_of(arguments: argparse.Namespace, data: DataSet, folder: Path) -> segmentation.SegmentationOptions:
    """How the scans are segmented, and where to."""
    device = arguments.device
    flow = Flow.of(device if arguments.without_network is None else torch.device("cuda"))
    asked = {name: getattr(arguments, name) for name in ("readers", "writers", "images") if getattr(arguments, name)}
    inference = InferenceSettings(
        segment=data.needs.segment, tiling="auto", precision=arguments.precision, device=device
    )
    maps = None if arguments.probability_maps else (False,) * CLASSES
    files = ResultFiles(folder / "results", OutputConfig(save_probability_maps=maps), CLASSES, tables=False)
    saving = Saving(files, RunIdentity.of("0" * 64, inference, data.preprocessing), overwrite=True)
    return segmentation.SegmentationOptions(inference=inference, saving=saving, flow=replace(flow, **asked))


def main(words: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="as -dev of deepmedic")
    parser.add_argument("--precision", default="float32", choices=["float32", "tf32", "bf16"])
    parser.add_argument("--scans", type=int, default=32)
    parser.add_argument("--size", type=int, nargs=3, default=SIZE, help="voxels of a generated case")
    parser.add_argument("--channels", type=Path, nargs="+")
    parser.add_argument("--roi", type=Path)
    parser.add_argument("--probability-maps", action="store_true", help="write one map per class beside the labels")
    for name in ("readers", "writers", "images"):
        parser.add_argument(f"--{name}", type=int, help="threads; as a session would take if not given")
    parser.add_argument("--without-network", type=float, nargs="?", const=0.0, metavar="SECONDS")
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(words)
    if (arguments.channels is None) != (arguments.roi is None):
        parser.error("give --channels and --roi together, or neither")
    arguments.device = device = devices.choose_device(arguments.device)
    with tempfile.TemporaryDirectory(prefix="stream") as temporary:
        folder = Path(temporary)
        channels, rois = (
            generated(folder, arguments.size) if arguments.roi is None else (arguments.channels, [arguments.roi])
        )
        net = make_network(len(channels), device)
        segment = (45, 45, 45)
        needs = CaseNeeds(CLASSES, net.architecture.margins(segment), segment, len(channels))
        preprocessing, problems = PreprocessingConfig(zscore=ZScoreConfig(all_channels=True)), ProblemList()
        cases = copies(channels, rois, arguments.scans, folder)
        data = data_set_of(cases, "inference", preprocessing, needs, problems, [])
        problems.raise_if_any()
        options = settings_of(arguments, data, folder)
        seconds = arguments.without_network
        predict = segmentation.predict_case if seconds is None else instead_of_network(data, seconds)
        with devices.session_numerics(device, ExecutionConfig(precision=arguments.precision)):
            report(arguments, options, parts(data, net, predict, options), together(net, data, options, predict))


def together(
    net: DeepMedicNet, data: DataSet, options: segmentation.SegmentationOptions, predict: Predict
) -> dict[str, float]:
    """All scans as a session segments them: seconds on the clock, of processor time, and in which one is computed; on a
    GPU also those in which it computed, from a second time that is profiled."""
    clock, own = Clock(), segmentation.predict_case
    segmentation.predict_case = clock.around(predict)
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        segmentation.segment_cases(net, data, options)
        found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "computing": clock.seconds}
        if options.inference.device.type == "cuda":
            watch = Watch(options.inference.device)
            watch.begin()
            segmentation.segment_cases(net, data, options)
            busy = watch.end()
            copies = sum(busy.by_kind[kind] for kind in busy.by_kind if "host" in kind)
            found |= {"gpuBusy": busy.busy, "gpuCopies": copies, "gpuWall": busy.wall}
    finally:
        segmentation.predict_case = own
    return found


def report(
    arguments: argparse.Namespace,
    options: segmentation.SegmentationOptions,
    alone: dict[str, Part],
    whole: dict[str, float],
) -> None:
    """Print what was measured and what follows, and write it."""
    flow = options.flow
    for name, part in alone.items():
        print(f"{name + ', alone':20} {1e3 * part.wall:9.1f} ms a scan, {1e3 * part.cpu:9.1f} ms of processor time")
    rate, busy = arguments.scans / whole["wall"], whole["computing"] / whole["wall"]
    print(
        f"{'together':20} {rate:9.2f} scans a second, {1e3 * whole['cpu'] / arguments.scans:9.1f} ms of processor time"
    )
    print(f"{'':20} a scan is being computed {100 * busy:.0f} % of the time; {flow}")
    if "gpuBusy" in whole:
        busy, share = 1e3 * whole["gpuBusy"] / arguments.scans, whole["gpuBusy"] / whole["gpuWall"]
        copied = 1e3 * whole["gpuCopies"] / arguments.scans
        print(f"{'':20} {busy:.1f} ms of GPU time a scan, {copied:.1f} ms of it copies; the GPU is busy {share:.0%}")
    by_device = 1 / max(alone["compute"].wall, 1e-9)
    beside = alone["read"].cpu + alone["write"].cpu + (alone["compute"].cpu if arguments.device.type != "cpu" else 0)
    by_cores = arguments.cores / beside
    print(f"limit of what computes: {by_device:.2f} scans a second")
    print(f"limit of reading and writing on {arguments.cores} such cores: {by_cores:.2f} scans a second")
    if arguments.output:
        about = {"python": platform.python_version(), "torch": str(torch.__version__), "cores": usable_cores()}
        about |= {"isal": gzip_codecs.is_fast(), "scans": arguments.scans, "device": devices.describe(arguments.device)}
        found = {name: vars(part) for name, part in alone.items()}
        limits = {"byDevice": by_device, "byCores": by_cores, "forCores": arguments.cores}
        content = {**about, "flow": vars(flow), "parts": found, "together": whole, "scansPerSecond": rate, **limits}
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
