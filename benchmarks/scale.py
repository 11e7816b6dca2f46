"""How time and memory of a training grow with the number of subjects, the size of volumes, channels and classes.

    python benchmarks/scale.py [--subjects 2000] [--size 256] [--channels 16] [--classes 64] [--output FOLDER]

Each line of the table is one training of a small network, in a process of its own, on volumes generated for it: one
epoch, four sub-epochs, with a `memoryBudget` that holds only some of the volumes. Reported are the seconds until the
session begins (listing files and headers of all subjects are checked before) and of the whole command without imports,
both of processor time, so that other programs do not count, and the peak of resident memory (RSS) above that of the
imports alone. The options give the largest number of each kind, 0 leaves a kind out; the full range is
`--subjects 10000 --size 512 --channels 64 --classes 256`. Writes `scale.json` and `scale.png` (with matplotlib).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from deepmedic import cli
from deepmedic.data.memory import bytes_as_text
from deepmedic.plots.canvas import COLOURS, drawing, new_figure, save_figure
from deepmedic.sessions.training import training  # noqa: F401 - so that the measured process has imported everything

DISTINCT = 12
"""Subjects that are really generated; the others are further names of their files."""
SEGMENT, MARGIN = 17, 4
MIB = 2**20
LIMITS = {"subjects": 10_000, "size": 512, "channels": 64, "classes": 256}
STEPS = {
    "subjects": (10, 100, 300, 1000, 3000, 10_000),
    "size": (64, 96, 128, 192, 256, 384, 512),
    "channels": (1, 2, 4, 8, 16, 32, 64),
    "classes": (2, 4, 8, 16, 32, 64, 128, 256),
}
NAMES = {
    "subjects": "number of subjects",
    "size": "million voxels of one volume",
    "channels": "image channels",
    "classes": "classes",
}


@dataclass(frozen=True)
class Study:
    """What one training is made of."""

    kind: str
    subjects: int = 40
    size: int = 32
    channels: int = 1
    classes: int = 3

    @property
    def case_bytes(self) -> int:
        """Of one prepared case: float32 channels and one byte for the label, padded by the network's margin."""
        return (1 + (self.size + MARGIN) ** 3) * (4 * self.channels + 1)

    @property
    def cases_per_subepoch(self) -> int:
        return 10 if self.kind == "subjects" else 2

    @property
    def budget(self) -> int:
        """Bytes: room for half as many cases again as one sub-epoch draws from."""
        return self.case_bytes * self.cases_per_subepoch * 3 // 2


@dataclass(frozen=True)
class Measured:
    """What came out."""

    until_session: float
    """Seconds of processor time, all threads together."""
    seconds: float
    """The same of the whole training."""
    wall: float
    """Seconds on the clock."""
    peak: int
    """Bytes of memory above that of the imports alone."""


def studies(largest: dict[str, int]) -> Iterator[Study]:
    """One at a time, each kind up to its largest value."""
    for kind, steps in STEPS.items():
        usual = {"subjects": {"size": 24}, "size": {"subjects": 6}}.get(kind, {"subjects": 6, "size": 64})
        for value in sorted({*(step for step in steps if step <= largest[kind]), largest[kind]} - {0}):
            yield Study(kind, **(usual | {kind: value}))


def write(study: Study, folder: Path) -> None:
    """Write images, lists and configs."""
    images, lists = folder / "images", {"labels": list[str]()}
    images.mkdir()
    generator = np.random.default_rng(0)
    for subject in range(min(study.subjects, DISTINCT)):
        for channel in range(study.channels):
            noise = generator.integers(0, 1000, (study.size, study.size, study.size), dtype=np.int16)
            save(images / f"{subject}_{channel}.nii", noise)
        labels = np.arange(study.size**3, dtype=np.uint32).reshape((study.size,) * 3) // study.size % study.classes
        save(images / f"{subject}_labels.nii", labels.astype(np.uint8))
    for subject in range(study.subjects):
        for kind in [*map(str, range(study.channels)), "labels"]:
            path = images / f"{subject}_{kind}.nii"
            if not path.exists():
                os.link(images / f"{subject % DISTINCT}_{kind}.nii", path)
            lists.setdefault(kind, []).append(str(path))
    for kind, paths in lists.items():
        (folder / f"{kind}.cfg").write_text("\n".join(paths) + "\n")
    write_configs(study, folder)


def save(path: Path, voxels: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def write_configs(study: Study, folder: Path) -> None:
    model = {
        "modelName": "net",
        "folderForOutput": "out",
        "numberOfOutputClasses": study.classes,
        "numberOfInputChannels": study.channels,
        "numberFMsPerLayerNormal": [4, 4],
        "kernelDimPerLayerNormal": [[3, 3, 3], [3, 3, 3]],
        "numberFMsPerLayerFC": [8],
        "segmentsDimTrain": [SEGMENT] * 3,
    }
    train = {
        "sessionName": "scale",
        "folderForOutput": "out",
        "channelsTraining": [f"{channel}.cfg" for channel in range(study.channels)],
        "gtLabelsTraining": "labels.cfg",
        "typeOfSamplingForTraining": 1,
        "numberOfEpochs": 1,
        "numberOfSubepochs": 4,
        "numOfCasesLoadedPerSubepoch": study.cases_per_subepoch,
        "numberTrainingSegmentsLoadedOnGpuPerSubep": 20,
        "batchsize_train": 5,
        "memoryBudget": study.budget / 2**30,
    }
    for name, settings in (("model", model), ("train", train)):
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines += ["norm_zscore_prms = {apply_to_all_channels = true}"] if name == "train" else []
        (folder / f"{name}.cfg").write_text("\n".join(lines) + "\n")


class SessionBegins(logging.Filter):
    """Notes the processor time at the first message of a session."""

    at: float | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if self.at is None:
            self.at = time.process_time()
        return True


def measure(folder: Path) -> None:
    """Run one training in this process and write what it took."""
    torch.set_num_threads(1)
    begins = SessionBegins()
    logging.getLogger("deepmedic.sessions.training.training_session").addFilter(begins)
    before, started, clock = peak_memory(), time.process_time(), time.perf_counter()
    code = cli.main(["-newModel", str(folder / "model.cfg"), "-train", str(folder / "train.cfg"), "-dev", "cpu"])
    seconds, wall = time.process_time() - started, time.perf_counter() - clock
    if code != 0 or begins.at is None:
        sys.exit(code or 1)
    (folder / "measured.json").write_text(json.dumps([begins.at - started, seconds, wall, peak_memory() - before]))


def peak_memory() -> int:
    """Most bytes that this process had in memory so far."""
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def run(study: Study) -> Measured:
    """Generate the data of a study, measure its training in a fresh process, and remove all of it."""
    folder = Path(tempfile.mkdtemp(prefix="scale"))
    try:
        write(study, folder)
        command = [sys.executable, __file__, "--measure", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{study}: exit {done.returncode}: {done.stderr}")
        return Measured(*json.loads((folder / "measured.json").read_text()))
    finally:
        shutil.rmtree(folder)


def plot(results: dict[str, list[tuple[Study, Measured]]], path: Path) -> None:
    """Time and memory against the numbers of each kind, one column for each."""
    with drawing():
        figure = new_figure(3.1 * len(results), 5.0, "constrained")
        axes = figure.subplots(2, len(results), squeeze=False)
        for column, (kind, of_kind) in enumerate(results.items()):
            values = [study.size**3 / 1e6 if kind == "size" else getattr(study, kind) for study, _ in of_kind]
            measured = [found for _, found in of_kind]
            seconds = {
                "whole training": [found.seconds for found in measured],
                "until it begins": [found.until_session for found in measured],
            }
            memory = {
                "peak": [found.peak / MIB for found in measured],
                "memoryBudget": [study.budget / MIB for study, _ in of_kind],
            }
            for panel, curves in ((axes[0, column], seconds), (axes[1, column], memory)):
                for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
                    panel.plot(values, curve, marker="o", markersize=3, color=colour, label=name)
                panel.set(xlim=(0, None), ylim=(0, None))
                panel.set_xlabel(NAMES[kind])
        axes[0, 0].set_ylabel("seconds of processor time")
        axes[1, 0].set_ylabel("MiB above the imports")
        axes[0, 0].legend()
        axes[1, 0].legend()
        save_figure(figure, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, largest in {"subjects": 2000, "size": 256, "channels": 16, "classes": 64}.items():
        parser.add_argument(f"--{kind}", type=int, default=largest, help=f"largest, up to {LIMITS[kind]}")
    parser.add_argument("--output", type=Path, default=Path("scale"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure)
        return
    results: dict[str, list[tuple[Study, Measured]]] = {}
    print(f"{'kind':9} {'value':>6} {'until it begins':>16} {'whole':>9} {'budget':>10} {'one case':>10} {'peak':>10}")
    for study in studies({kind: getattr(arguments, kind) for kind in STEPS}):
        found = run(study)
        results.setdefault(study.kind, []).append((study, found))
        texts = [bytes_as_text(count) for count in (study.budget, study.case_bytes, found.peak)]
        value = getattr(study, study.kind)
        numbers = f"{found.until_session:14.2f} s {found.seconds:7.2f} s"
        print(f"{study.kind:9} {value:6} {numbers} {' '.join(f'{text:>10}' for text in texts)}", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "torch": str(torch.__version__), "cores": os.cpu_count()}
    rows = [
        {**asdict(study), "budget": study.budget, **asdict(found)} for kind in results.values() for study, found in kind
    ]
    (arguments.output / "scale.json").write_text(json.dumps({**machine, "results": rows}, indent=2) + "\n")
    plot(results, arguments.output / "scale.png")
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    main()
