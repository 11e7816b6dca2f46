"""How fast is this program beside the original DeepMedic, on the same work, alternating on one machine?

    python benchmarks/against_original.py --original FOLDER --python ITS_PYTHON [--work FOLDER] [--repetitions 3]
        [--parts tiny scan step] [--output results.json]

FOLDER is a checkout of the original (version 0.8.4, with the data of its examples), ITS_PYTHON the interpreter of an
environment that runs it: Python 3.11 with tensorflow-cpu==2.15.1, numpy==1.26.4, nibabel==4.0.2, scipy and pandas.
Both are run through their command lines, as a user would, in turn:

  tiny   the original's unmodified tiny example, training and validation, from start to end; its Dice of the whole
         tumour on the validation patients for each seed that was run
  scan   the original's default three-pathway model, with the same weights, on one scan of 240x240x155 voxels: the
         forward pass as each program reports it, and the whole command
  step   ten training steps of the same model with batches of ten segments of 37^3 voxels, as each log tells them

Medians over repetitions. Nothing is written into FOLDER; the work folder holds copies.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("original", "ours")
CONFIGS = Path("examples/configFiles")
TINY_MODEL, DEFAULT_MODEL = (CONFIGS / name / "model" / "modelConfig.cfg" for name in ("tinyCnn", "deepMedic"))
TINY_TRAIN = CONFIGS / "tinyCnn" / "train" / "trainConfigWithValidation.cfg"
TRAIN_FOLDER, TEST_FOLDER = CONFIGS / "deepMedic" / "train", CONFIGS / "deepMedic" / "test"
VALIDATION = Path("examples/dataForExamples/brats2015TrainingData/validation")
STEPS, BATCH = 10, 10
STEPS_CONFIG = f"""
sessionName = "steps"
folderForOutput = "../../../output/"
channelsTraining = ["./trainChannels_flair.cfg", "./trainChannels_t1c.cfg"]
gtLabelsTraining = "./trainGtLabels.cfg"
roiMasksTraining = "./trainRoiMasks.cfg"
numberOfEpochs = 1
numberOfSubepochs = 2
numOfCasesLoadedPerSubepoch = 2
numberTrainingSegmentsLoadedOnGpuPerSubep = {STEPS * BATCH}
batchsize_train = {BATCH}
num_processes_sampling = -1
typeOfLearningRateSchedule = "poly"
"""
SCAN_CONFIG = """
sessionName = "scan"
folderForOutput = "../../../output/"
channels = ["./oneFlair.cfg", "./oneT1c.cfg"]
roiMasks = "./oneRoi.cfg"
namesForPredictionsPerCase = "./oneName.cfg"
batchsize = 10
saveSegmentation = True
saveProbMapsForEachClass = [False, False, False, False, False]
{further}
"""


class Comparison:
    """Both programs, each with its own copy of the original's examples."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.folders = {program: work / program for program in PROGRAMS}
        for folder in self.folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(arguments.original / "examples", folder / "examples")
        self.commands = {
            "original": [str(arguments.python), str(arguments.original / "deepMedicRun")],
            "ours": [sys.executable, str(ROOT / "deepmedic_run.py")],
        }
        self.repetitions = arguments.repetitions

    def run(self, program: str, *words: str | Path) -> tuple[float, str]:
        """Seconds that a command took, and what it printed and logged."""
        command = [*self.commands[program], *map(str, words), "-dev", "cpu"]
        started = time.perf_counter()
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, cwd=self.folders[program], capture_output=True, text=True, env=environment)
        seconds = time.perf_counter() - started
        if done.returncode or "ERROR: Caught exception" in done.stdout:  # the original ends with 0 all the same
            raise SystemExit(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
        logs = sorted((self.folders[program] / "examples/output/logs").glob("*.txt"))
        return seconds, done.stdout + "".join(log.read_text(errors="replace") for log in logs)

    def clear(self, program: str) -> None:
        shutil.rmtree(self.folders[program] / "examples/output", ignore_errors=True)

    def tiny(self) -> dict[str, object]:
        """The tiny example from start to end."""
        seconds: dict[str, list[float]] = {program: [] for program in PROGRAMS}
        dices: dict[str, list[float]] = {program: [] for program in PROGRAMS}
        for repetition in range(self.repetitions):
            for program in PROGRAMS:
                self.clear(program)
                seed = ["-seed", str(repetition)] if program == "ours" else []
                taken, _ = self.run(program, "-model", TINY_MODEL, "-train", TINY_TRAIN, *seed)
                seconds[program].append(taken)
                dices[program].append(self._whole_tumour_dice(program))
                print(f"  tiny, {program}: {taken:.1f} s, whole-tumour Dice {dices[program][-1]:.4f}", flush=True)
        return {"seconds": seconds, "whole-tumour Dice": dices}

    def scan(self) -> dict[str, object]:
        """One scan with the default model and the weights that the original drew."""
        checkpoint = self._first_checkpoint()
        for program, further in (("original", ""), ("ours", 'tiling = "auto"')):
            folder = self.folders[program] / TEST_FOLDER
            patient = sorted((self.folders[program] / VALIDATION).iterdir())[0]
            listings = {"oneFlair": "Flair_subtrMeanDivStd", "oneT1c": "T1c_subtrMeanDivStd", "oneRoi": "brainmask"}
            for name, image in listings.items():
                (folder / f"{name}.cfg").write_text(f"{patient / image}.nii.gz\n")
            (folder / "oneName.cfg").write_text("one.nii.gz\n")
            (folder / "scan.cfg").write_text(SCAN_CONFIG.format(further=further))
        ways = {"original": (), "ours, float32": (), "ours, bf16": ('precision = "bf16"',)}
        forward: dict[str, list[float]] = {way: [] for way in ways}
        whole: dict[str, list[float]] = {way: [] for way in ways}
        labels: dict[str, np.ndarray] = {}
        for _ in range(self.repetitions):
            for way, lines in ways.items():
                program = way.split(",")[0]
                self.clear(program)
                config = TEST_FOLDER / "scan.cfg"
                if program == "ours":
                    text = SCAN_CONFIG.format(further="\n".join(('tiling = "auto"', *lines)))
                    (self.folders[program] / config).write_text(text)
                taken, said = self.run(program, "-model", DEFAULT_MODEL, "-test", config, "-load", checkpoint)
                whole[way].append(taken)
                found = re.findall(r"TIMING: Segmentation of subject: (?:\[Forward Pass:\] )?([\d.]+) secs", said)
                forward[way].append(float(found[-1]))
                labels[way] = self._labels(program, "scan")
                print(f"  scan, {way}: forward pass {forward[way][-1]:.1f} s, whole command {taken:.1f} s", flush=True)
        agreement = {way: float((labels[way] == labels["original"]).mean()) for way in ways}
        return {"forward seconds": forward, "command seconds": whole, "voxels labelled as the original": agreement}

    def step(self) -> dict[str, object]:
        """Training steps of the default model; the first subepoch warms up."""
        seconds: dict[str, list[float]] = {"original": [], "ours, float32": [], "ours, bf16": []}
        for _ in range(self.repetitions):
            for way, times in seconds.items():
                program = way.split(",")[0]
                self.clear(program)
                config = self.folders[program] / TRAIN_FOLDER / "steps.cfg"
                config.write_text(STEPS_CONFIG + ('precision = "bf16"\n' if "bf16" in way else ""))
                _, said = self.run(program, "-model", DEFAULT_MODEL, "-train", TRAIN_FOLDER / "steps.cfg")
                found = re.findall(r"TIMING: Training on batches of this subepoch #1 lasted: ([\d.]+) secs", said)
                times.append(float(found[-1]) / STEPS)
                print(f"  step, {way}: {times[-1]:.2f} s", flush=True)
        return {"seconds per step": seconds}

    def _first_checkpoint(self) -> Path:
        """Weights of the default model: those that the original saves after a few steps."""
        folder = self.folders["original"]
        (folder / TRAIN_FOLDER / "steps.cfg").write_text(STEPS_CONFIG)
        self.clear("original")
        self.run("original", "-model", DEFAULT_MODEL, "-train", TRAIN_FOLDER / "steps.cfg")
        kept = folder / "weights"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder / "examples/output/saved_models/steps", kept)
        return next(kept.glob("*final*.model.ckpt.index")).with_suffix("")

    def _labels(self, program: str, session: str) -> np.ndarray:
        folder = self.folders[program] / "examples/output/predictions" / session / "predictions"
        return np.asanyarray(nibabel.load(next(folder.glob("*_Segm.nii.gz"))).dataobj).astype(np.int16)

    def _whole_tumour_dice(self, program: str) -> float:
        """Mean over the validation patients, of all tumour classes together."""
        dices = []
        predictions = self.folders[program] / "examples/output/predictions/trainSessionWithValidTiny/predictions"
        for patient in sorted((self.folders[program] / VALIDATION).iterdir()):
            truth = np.asanyarray(nibabel.load(patient / "OTMultiClass.nii.gz").dataobj) > 0
            found = next(predictions.glob(f"*{patient.name}*_Segm.nii.gz"))
            predicted = np.asanyarray(nibabel.load(found).dataobj) > 0
            dices.append(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()))
        return float(np.mean(dices))


def table(results: dict[str, dict[str, object]]) -> str:
    """Medians, and how many times faster than the original."""
    lines = [f"{'':34}{'median':>10}{'range':>20}{'times as fast':>16}"]
    for part, measured in results.items():
        for name, ways in measured.items():
            if not isinstance(ways, dict) or not all(isinstance(values, list) for values in ways.values()):
                lines.append(f"{part}: {name}: {ways}")
                continue
            reference = statistics.median(ways["original"])
            for way, values in ways.items():
                middle = statistics.median(values)
                ratio = f"{reference / middle:.2f}" if "seconds" in name else ""
                spread = f"{min(values):.3g} to {max(values):.3g}"
                lines.append(f"{f'{part}, {way} ({name})':48.48}{middle:>10.3f}{spread:>20}{ratio:>10}")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["tiny", "scan", "step"], choices=["tiny", "scan", "step"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    work = (arguments.work or Path(tempfile.mkdtemp(prefix="comparison"))).resolve()
    comparison = Comparison(arguments, work)
    results = {part: getattr(comparison, part)() for part in arguments.parts}
    print(table(results))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
