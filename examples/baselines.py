"""Two simple methods that a trained network has to beat on the quickstart's test scan.

    python examples/baselines.py

Atlas:  every voxel gets the tissue that is most probable there in the ICBM152 atlas; the scan is not looked at.
Lookup: every voxel gets the tissue that most often has its intensity in the training scans; position and neighbours
        are not looked at.

Both are judged by Dice per tissue within the test scan's brain mask. The data are real MRI with automatically derived
labels, so the numbers say how well a method reproduces those labels, not how well it finds the true anatomy.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

TISSUES = {1: "CSF", 2: "grey matter", 3: "white matter"}
TRAINING_SUBJECTS = (1, 2)
TEST_SUBJECT = 3
BIN_WIDTH = 0.05
"""Of the lookup's histogram, in standard deviations of the brain's intensities."""
BIN_RANGE = 5.0
"""Intensities farther from the mean than this many standard deviations share the first or the last bin."""

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """The voxels of one subject's brain mask, V of them, in the order of numpy's boolean indexing."""

    intensities: FloatArray
    """[V], mean 0 and standard deviation 1 over the mask."""
    labels: IntArray
    """[V], 1 to 3."""
    mask: NDArray[np.bool_]
    """[X, Y, Z]."""


def read_voxels(path: Path) -> NDArray[np.generic]:
    """Voxels of one NIfTI file as stored (the example data have no scaling)."""
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def read_subject(folder: Path) -> Subject:
    """T1, labels and mask of one subject's folder, normalised within the mask."""
    scan, labels, mask = (read_voxels(folder / f"{name}.nii.gz") for name in ("T1", "labels", "mask"))
    inside = mask.astype(bool)
    brain = scan[inside].astype(np.float64)
    return Subject((brain - brain.mean()) / brain.std(), labels[inside].astype(np.uint8), inside)


def atlas_labels(priors: NDArray[np.generic]) -> IntArray:
    """Most probable tissue: priors [X, Y, Z, K] -> labels [X, Y, Z], class k being label k + 1."""
    return np.argmax(priors, axis=-1) + 1


def intensity_bin(intensities: FloatArray) -> IntArray:
    """Histogram bin of normalised intensities, [V] -> [V], from 0."""
    last = round(2 * BIN_RANGE / BIN_WIDTH) - 1
    return np.clip(np.floor((intensities + BIN_RANGE) / BIN_WIDTH), 0, last).astype(np.intp)


def fit_lookup(subjects: list[Subject]) -> IntArray:
    """Most frequent label per intensity bin over all subjects, [number of bins]; empty bins copy the nearest one."""
    counts = np.zeros((len(TISSUES), round(2 * BIN_RANGE / BIN_WIDTH)), dtype=np.int64)
    for subject in subjects:
        np.add.at(counts, (subject.labels.astype(np.intp) - 1, intensity_bin(subject.intensities)), 1)
    filled = np.flatnonzero(counts.sum(axis=0))
    nearest = np.abs(np.arange(counts.shape[1])[:, None] - filled).argmin(axis=1)
    return np.argmax(counts[:, filled[nearest]], axis=0) + 1


def dice_per_tissue(predicted: IntArray, reference: IntArray) -> FloatArray:
    """2 |A and B| / (|A| + |B|) of each tissue, [3]; NaN for a tissue that is in neither."""
    overlap = np.array([np.sum((predicted == label) & (reference == label)) for label in TISSUES])
    sizes = np.array([np.sum(predicted == label) + np.sum(reference == label) for label in TISSUES])
    return np.divide(2.0 * overlap, sizes, out=np.full(len(TISSUES), np.nan), where=sizes > 0)


def baseline_dice(data: Path) -> dict[str, FloatArray]:
    """Dice per tissue of both methods on the test subject: {"atlas": [3], "lookup": [3]}. data: `examples/data`."""
    test = read_subject(data / f"subject{TEST_SUBJECT}")
    lookup = fit_lookup([read_subject(data / f"subject{subject}") for subject in TRAINING_SUBJECTS])
    atlas = atlas_labels(read_voxels(data / "atlas_priors.nii.gz"))
    return {
        "atlas": dice_per_tissue(atlas[test.mask], test.labels),
        "lookup": dice_per_tissue(lookup[intensity_bin(test.intensities)], test.labels),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Dice of two simple methods on the quickstart's test scan.")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parent / "data")
    results = baseline_dice(parser.parse_args().data)
    print("Dice on subject 3  " + "".join(f"{name:>14}" for name in (*TISSUES.values(), "mean")))
    for method, dice in results.items():
        print(f"{method:<19}" + "".join(f"{value:14.3f}" for value in (*dice, dice.mean())))


if __name__ == "__main__":
    main()
