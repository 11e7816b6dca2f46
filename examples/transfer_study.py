"""Does transfer help, and does a second phase? Few labels, several seeds, and intervals.

    python examples/transfer_study.py [--seeds 10] [--device auto]

A source model learns to find white matter on the scan of one person. The target task is another one, three tissues,
with few labels: a cube of 24 voxels of a second person's scan. For every seed three trainings of equal length are
compared on the whole scan of a third person:

    from scratch   new parameters, all layers trained
    one phase      the source's parameters, all layers trained
    two phases     the source's parameters; first the FC pathway alone, then all layers at a tenth of the rate

What is finished stays: repeated, the script only prints the table.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import stats

import deepmedic
from deepmedic.config.load import load_train_config

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "examples" / "transfer_study"
OUTPUT = ROOT / "examples" / "output" / "transferStudy"
WHITE_MATTER = 3
CUBE = (slice(33, 57), slice(45, 69), slice(35, 59))
"""The labelled part of the second person's scan: ventricles, and grey and white matter around them."""
PREDICTED = 13
"""Edge of what the network predicts of a segment, 19 - (7 - 1) voxels."""
LEVEL = 0.95
METHODS = ("from scratch", "one phase", "two phases")


@dataclass(frozen=True)
class Scores:
    """Mean foreground Dice on the third person's scan, half-way and at the end of a training."""

    half_way: float
    end: float


def main() -> None:
    """Run what is not finished yet, and print the table."""
    arguments = _arguments()
    make_data()
    found: dict[str, list[Scores]] = {method: [] for method in METHODS}
    for seed in range(arguments.seeds):
        untrained = deepmedic.new_model(CONFIGS / "model_source.cfg", seed)
        source = _train("train_source", "source", untrained, seed, arguments)
        new = deepmedic.new_model(CONFIGS / "model_target.cfg", seed)
        received = deepmedic.transfer_parameters(source.model, new).model
        for method, name, model in (
            ("from scratch", "scratch", new),
            ("one phase", "onePhase", received),
            ("two phases", "twoPhases", received),
        ):
            config = "train_two_phases" if method == "two phases" else "train_one_phase"
            found[method].append(_scores(_train(config, name, model, seed, arguments).metrics))
    print_table(found)


def make_data() -> None:
    """Write the labels and listing files of both tasks; the scans themselves are used where they are."""
    folder = OUTPUT / "data"
    folder.mkdir(parents=True, exist_ok=True)
    labels = _labels(1)
    _save(folder / "source_labels.nii.gz", labels == WHITE_MATTER, 1)
    labels, few, centres = _labels(2), np.zeros_like(_labels(2)), np.zeros_like(_labels(2))
    few[CUBE] = labels[CUBE]
    margin = PREDICTED // 2
    centres[tuple(slice(side.start + margin, side.stop - margin) for side in CUBE)] = 1
    _save(folder / "target_labels.nii.gz", few, 2)
    _save(folder / "target_centres.nii.gz", centres, 2)
    for task, subject in (("source", 1), ("target", 2)):
        shipped = f"../../../data/subject{subject}"
        lines = {"t1": f"{shipped}/T1.nii.gz", "masks": f"{shipped}/mask.nii.gz", "labels": f"{task}_labels.nii.gz"}
        for kind, line in lines.items():
            (folder / f"{task}_{kind}.cfg").write_text(f"{line}\n")
    (folder / "target_centres.cfg").write_text("target_centres.nii.gz\n")


def print_table(found: dict[str, list[Scores]]) -> None:
    """Print means and intervals, and differences seed by seed."""
    seeds = len(found["one phase"])
    say(f"\nMean Dice of CSF, grey and white matter on the whole scan of a third person, {seeds} seeds.")
    say(f"In brackets {LEVEL:.0%} t intervals of the mean over seeds.\n")
    say(f"{'training':14}{'after 4 epochs':>26}{'after 8 epochs':>26}")
    for method, scores in found.items():
        say(f"{method:14}{_interval([s.half_way for s in scores]):>26}{_interval([s.end for s in scores]):>26}")
    ends = {method: np.array([score.end for score in scores]) for method, scores in found.items()}
    two = found["two phases"]
    differences = {
        "transfer: one phase - from scratch": ends["one phase"] - ends["from scratch"],
        "two phases - one phase": ends["two phases"] - ends["one phase"],
        "second phase: end - half-way": [score.end - score.half_way for score in two],
        "the same epochs of one phase": [score.end - score.half_way for score in found["one phase"]],
    }
    say(f"\n{'difference, seed by seed':36}{'mean and interval':>26}  verdict")
    for name, values in differences.items():
        say(f"{name:36}{_interval(list(values)):>26}  {_verdict(list(values))}")


def _train(
    config: str, name: str, model: deepmedic.SavedModel, seed: int, arguments: argparse.Namespace
) -> deepmedic.TrainingResult:
    settings = replace(load_train_config(CONFIGS / f"{config}.cfg"), session_name=f"{name}_seed{seed}")
    finished = any((OUTPUT / "cnnModels" / settings.session_name).glob("*.final.*.save"))
    say(f"{settings.session_name:20}{'finished before' if finished else 'training ...'}")
    result = deepmedic.train(settings, model, seed=seed, device=arguments.device)
    if not result.finished:
        sys.exit(result.exit_code)
    return result


def _scores(metrics: Path) -> Scores:
    with open(metrics, encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["role"], row["class"]) == ("volumes", "all")]
    half_way, end = (float(row["dice"]) for row in sorted(rows, key=lambda row: int(row["epoch"])))
    return Scores(half_way, end)


def _bounds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its t interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def _interval(values: Sequence[float]) -> str:
    mean, low, high = _bounds(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _verdict(values: Sequence[float]) -> str:
    _, low, high = _bounds(values)
    return "higher" if low > 0 else "lower" if high < 0 else "no evidence of a difference"


def _labels(subject: int) -> np.ndarray:
    return np.asarray(nib.load(_shipped(subject)).dataobj).astype(np.uint8)


def _save(path: Path, voxels: np.ndarray, subject: int) -> None:
    """Save an image, unless it is there with this content."""
    image = nib.Nifti1Image(voxels.astype(np.uint8), nib.load(_shipped(subject)).affine)
    if not path.is_file() or not np.array_equal(np.asarray(nib.load(path).dataobj), voxels):
        nib.save(image, path)


def _shipped(subject: int) -> Path:
    return ROOT / "examples" / "data" / f"subject{subject}" / "labels.nii.gz"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many (default 10)")
    parser.add_argument("--device", default="auto", help="as -dev of the command line")
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
