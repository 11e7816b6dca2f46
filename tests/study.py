"""A whole study in small: images, listings and configs in a folder, and commands run on them as a user would."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from deepmedic import checkpoints

ROOT = Path(__file__).resolve().parent.parent
SIZE = (20, 18, 16)
CLASSES = 3
IMAGES = ("t1", "t2", "labels", "roi")

MODEL: dict[str, Any] = {
    "modelName": "net",
    "folderForOutput": "out",
    "numberOfOutputClasses": CLASSES,
    "classNames": ["background", "core", "shell"],
    "numberOfInputChannels": 2,
    "numberFMsPerLayerNormal": [3, 4],
    "kernelDimPerLayerNormal": [[3, 3, 3], [3, 3, 3]],
    "useSubsampledPathway": True,
    "subsampleFactor": [[3, 3, 3]],
    "numberFMsPerLayerFC": [5],
    "segmentsDimTrain": [9, 9, 9],
    "segmentsDimInference": [13, 13, 13],
    "rollAverageForBNOverThatManyBatches": 5,
}
TRAIN: dict[str, Any] = {
    "sessionName": "first",
    "folderForOutput": "out",
    "channelsTraining": ["lists/train_t1.cfg", "lists/train_t2.cfg"],
    "gtLabelsTraining": "lists/train_labels.cfg",
    "roiMasksTraining": "lists/train_roi.cfg",
    "numberOfEpochs": 2,
    "numberOfSubepochs": 2,
    "numberTrainingSegmentsLoadedOnGpuPerSubep": 8,
    "batchsize_train": 4,
    "norm_zscore_prms": {"apply_to_all_channels": True},
    "report": False,
}
VALIDATION_CASES: dict[str, Any] = {
    "channelsValidation": ["lists/val_t1.cfg", "lists/val_t2.cfg"],
    "gtLabelsValidation": "lists/val_labels.cfg",
    "roiMasksValidation": "lists/val_roi.cfg",
}
VALIDATION: dict[str, Any] = {
    **VALIDATION_CASES,
    "performValidationOnSamplesThroughoutTraining": True,
    "performFullInferenceOnValidationImagesEveryFewEpochs": True,
    "numberValidationSegmentsLoadedOnGpuPerSubep": 4,
    "batchsize_val_samples": 4,
    "namesForPredictionsPerCaseVal": "lists/val_names.cfg",
}
TEST: dict[str, Any] = {
    "sessionName": "segment",
    "folderForOutput": "out",
    "channels": ["lists/val_t1.cfg", "lists/val_t2.cfg"],
    "gtLabels": "lists/val_labels.cfg",
    "roiMasks": "lists/val_roi.cfg",
    "namesForPredictionsPerCase": "lists/val_names.cfg",
    "norm_zscore_prms": {"apply_to_all_channels": True},
    "report": False,
}
COMPARE: dict[str, Any] = {
    "sessionName": "cmp",
    "folderForOutput": "out",
    "sourceModels": ["A.save"],
    "modelConfigs": ["model.cfg"],
    "trainConfig": "short.cfg",
    "initialisations": ["WT", "RI"],
    "seeds": [0, 1],
}
LEARNING: dict[str, Any] = {
    "batchsize_train": 8,
    "sgd0orAdam1orRms2": 1,
    "numberTrainingSegmentsLoadedOnGpuPerSubep": 80,
}
"""Changes to `TRAIN` by which a model does learn from so few cases."""


@dataclass
class Study:
    """A folder with `images/`, `lists/` and configs; `out/` appears when a command writes something."""

    folder: Path

    def copied_to(self, folder: Path) -> Study:
        """A copy in a folder that does not exist yet."""
        shutil.copytree(self.folder, folder)
        return Study(folder)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def checkpoints(self) -> Path:
        return self.out / "cnnModels" / "first"

    @property
    def log(self) -> str:
        return (self.out / "logs" / "first.txt").read_text()

    @property
    def metrics(self) -> str:
        return (self.out / "logs" / "first.metrics.csv").read_text()

    def image(self, case: int, kind: str) -> Path:
        return self.folder / "images" / f"case{case}_{kind}.nii.gz"

    def write_cases(self, count: int = 3) -> None:
        """Images of noise with two nested boxes of labels, brighter towards the middle; the last case validates."""
        for case in range(count):
            generator = np.random.default_rng(case)
            labels = np.zeros(SIZE, np.uint8)
            labels[4:16, 4:14, 4:12] = 2
            labels[7 + case % 2 : 13, 7:11, 6:10] = 1
            roi = np.zeros(SIZE, np.uint8)
            roi[2:18, 2:16, 1:15] = 1
            signal = np.array([0.0, 3.0, 1.5])[labels]
            self.write_image(case, "labels", labels)
            self.write_image(case, "roi", roi)
            for kind in ("t1", "t2"):
                self.write_image(case, kind, (50 + 10 * (signal + generator.normal(size=SIZE))).astype(np.float32))
        self.list_cases("train", range(count - 1))
        self.list_cases("val", [count - 1])

    def write_image(self, case: int, kind: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
        path = self.image(case, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.2, 1.0]) if affine is None else affine), path)

    def list_cases(self, role: str, cases: Any) -> None:
        lists = self.folder / "lists"
        lists.mkdir(exist_ok=True)
        for kind in IMAGES:
            (lists / f"{role}_{kind}.cfg").write_text(
                "".join(f"../images/case{case}_{kind}.nii.gz\n" for case in cases)
            )
        (lists / f"{role}_names.cfg").write_text("".join(f"case{case}.nii.gz\n" for case in cases))

    def config(self, name: str, base: dict[str, Any], **changes: Any) -> Path:
        """Write `<name>.cfg`; a change to None leaves a key out."""
        path = self.folder / f"{name}.cfg"
        settings = {key: value for key, value in {**base, **changes}.items() if value is not None}
        path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in settings.items()))
        return path

    def model(self, name: str = "model", **changes: Any) -> Path:
        return self.config(name, MODEL, **changes)

    def train(self, name: str = "train", *, validate: bool = False, **changes: Any) -> Path:
        return self.config(name, {**TRAIN, **(VALIDATION if validate else {})}, **changes)

    def test(self, name: str = "test", **changes: Any) -> Path:
        return self.config(name, TEST, **changes)

    def comparison(self, **changes: Any) -> Path:
        return self.config("compare", COMPARE, **changes)

    def newest(self) -> Path:
        """The undated name of the session's newest checkpoint."""
        return self.checkpoints / "net.first.latest.save"

    def saved(self, pattern: str = "net.first.2*.save", session: str = "first") -> list[Path]:
        """Checkpoints of a session, oldest first; by default the dated ones without a tag."""
        return sorted((self.out / "cnnModels" / session).glob(pattern))

    def content(self, path: Path | None = None) -> dict[str, Any]:
        """What a checkpoint holds, by default the newest one."""
        return checkpoints.load(path or self.newest())

    def trained(self, path: Path | None = None) -> dict[str, Any]:
        """The state of training in a checkpoint."""
        return self.content(path)["training"]

    def files(self) -> set[str]:
        """All files and folders below the study's folder but its configs, to see what a command made."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.parent != self.folder}


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def table_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by its head."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def spawn(words: list[Any], fault: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, with a fault to inject."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'tests' / 'faults'}:{ROOT}",
        "FAULT": fault,
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(ROOT / "deepmedic_run.py"), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **{**pipes, **options})
