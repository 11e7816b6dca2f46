"""The tasks by which `advice.py` puts the advice of `-analyse` to the test: people, their roles, images and labels.

Everything is written below a folder of work. Of the three people whose scans are shipped, two are the new task and one
is left over to measure, so sources learn from a made-up scan of the shipped atlas. The four BraTS patients (brought to
2 mm) suffice for a source, too. Labels of planted negatives are drawn, or taken from other places.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "examples" / "data"
WHITE_MATTER, OEDEMA = 3, 2
ATLAS = "atlas"
BRIGHTNESS = (0.25, 0.65, 1.0)
"""Of CSF, grey and white matter in a T1-weighted scan, roughly."""
NOISE, FIELD = 0.05, 0.1
"""Standard deviations of noise, and of the smooth field that brightens and darkens regions, in the made-up scan."""
BLOB_WIDTH = 4.0
"""Standard deviation of the noise's smoothing, in voxels."""
NEGATIVES = ("scattered", "blobs", "turned")

Labels = np.ndarray
"""uint8 [x, y, z]."""
Write = Callable[[str, np.ndarray], None]


@dataclass(frozen=True)
class Roles:
    """Whose scans serve for what; nobody has two roles."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    """Cases of the new task, labelled: analysed and trained on."""
    test: str


@dataclass(frozen=True)
class Source:
    """What a source model learnt."""

    name: str
    """Also that of its label files."""
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    people: tuple[str, ...] | None = None
    """Whose scans; None: those of the role."""


@dataclass(frozen=True)
class Study:
    """A new task, and the sources that might help with it."""

    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    people: tuple[str, ...]
    sources: tuple[Source, ...]

    def roles(self, number: int) -> Roles:
        """Roles of a repetition: every order of the people comes up before one is repeated."""
        orders = ORDERS[self.name]
        source, test, *others = orders[number % len(orders)]
        return Roles((source,), tuple(others), test)


TISSUES = ("background", "CSF", "grey matter", "white matter")
PEOPLE = ("subject1", "subject2", "subject3")
PATIENTS = {"pat0003": "validation", "pat0004": "validation", "pat0005": "train", "pat0006": "train"}
ORDERS: dict[str, list[tuple[str, ...]]] = {
    "shipped": [(ATLAS, test, *(one for one in PEOPLE if one != test)) for test in reversed(PEOPLE)],
    "brats": [
        (people[0], people[step], *(one for place, one in enumerate(people) if place not in (0, step)))
        for step in (1, 2, 3)
        for start in range(4)
        for people in [tuple(itertools.islice(itertools.cycle(PATIENTS), start, start + 4))]
    ],
}
"""(source, test, target ...) of each study: after three, or four, repetitions everybody was tested on once."""
STUDIES = {
    "shipped": Study(
        "shipped",
        ("T1",),
        TISSUES,
        PEOPLE,
        (
            Source("tissues", TISSUES, ("T1",)),
            Source("whiteMatter", ("background", "white matter"), ("T1",)),
            Source("blobs", ("background", "one", "other"), ("T1",)),
        ),
    ),
    "brats": Study(
        "brats",
        ("T1c", "Flair"),
        ("background", "oedema", "core"),
        tuple(PATIENTS),
        (
            Source("wholeTumour", ("background", "tumour"), ("T1c", "Flair")),
            Source("tissues", TISSUES, ("T1",), PEOPLE),
        ),
    ),
}


def prepare(study: Study, images: Path, shared: Path | None) -> None:
    """Write the images of a study, unless they are there.

    Args:
        study: which.
        images: folder for `<case>_<kind>.nii.gz`.
        shared: folder with `brats/train` and `brats/validation`; None: not needed.
    """
    done = images / "done"
    if done.exists():
        return
    images.mkdir(parents=True, exist_ok=True)
    for person in PEOPLE:
        _prepare_shipped(person, images)
    _prepare_atlas(images)
    if study.name == "brats":
        if shared is None:
            raise SystemExit("--data brats needs --shared FOLDER, with brats/train and brats/validation below it")
        for patient, part in PATIENTS.items():
            _prepare_patient(patient, shared / "brats" / part / f"brats_2013_{patient}_1", images)
    done.touch()


def source_labels(name: str, labels: Labels, mask: np.ndarray, seed: int) -> Labels:
    """What a source learns in a scan with these labels: a coarser task, the same, or one that cannot be learnt."""
    if name == "whiteMatter":
        return (labels == WHITE_MATTER).astype(np.uint8)
    if name == "wholeTumour":
        return (labels > 0).astype(np.uint8)
    if name == "blobs":
        return blobs(mask, 3, seed)
    return labels


def negative_labels(kind: str, labels: Labels, mask: np.ndarray, seed: int) -> Labels:
    """Labels that have nothing to do with the image: classes of voxels drawn one by one, blobs, or another place's."""
    classes = int(labels.max()) + 1
    if kind == "scattered":
        drawn = np.random.default_rng(seed).integers(0, classes, labels.shape)
        return np.where(mask > 0, drawn, 0).astype(np.uint8)
    if kind == "blobs":
        return blobs(mask, classes, seed)
    axes = ((0, 1), (0, 2), (1, 2))[seed % 3]
    return np.where(mask > 0, np.flip(labels, axes), 0).astype(np.uint8)


def blobs(mask: np.ndarray, classes: int, seed: int) -> Labels:
    """Smooth regions of equal sizes within a mask, anywhere: quantiles of smoothed noise."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=mask.shape), BLOB_WIDTH)
    bounds = np.quantile(noise[mask > 0], np.arange(1, classes) / classes)
    return np.where(mask > 0, np.digitize(noise, bounds), 0).astype(np.uint8)


def made_up_scan(priors: np.ndarray, seed: int) -> tuple[np.ndarray, Labels, np.ndarray]:
    """A scan that an atlas might have, with its tissues and its mask.

    Args:
        priors: float [x, y, z, tissue], probabilities of CSF, grey and white matter.
        seed: of the noise and the field.
    """
    generator = np.random.default_rng(seed)
    mask = ndimage.binary_dilation(priors[..., 1:].sum(axis=-1) > 0.5)
    field = ndimage.gaussian_filter(generator.normal(size=mask.shape), 12)
    scan = (priors @ np.array(BRIGHTNESS)) * (1 + FIELD * (field - field.mean()) / field.std())
    scan += NOISE * generator.normal(size=mask.shape)
    labels = np.where(mask, 1 + priors.argmax(axis=-1), 0).astype(np.uint8)
    return np.where(mask, scan, 0).astype(np.float32), labels, mask.astype(np.uint8)


def merged(labels: np.ndarray) -> Labels:
    """BraTS labels 1 necrosis, 2 oedema, 3 and 4 parts of the core -> 1 oedema, 2 core."""
    return np.select([labels == OEDEMA, labels > 0], [1, 2], 0).astype(np.uint8)


def coarser(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of 2 x 2 x 2 voxels; a last plane without a partner is left out."""
    x, y, z = (size // 2 for size in volume.shape)
    blocks = volume[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2)
    scaled = affine.copy()
    scaled[:3, :3] *= 2
    scaled[:3, 3] += affine[:3, :3].sum(axis=1) / 2
    return blocks.mean(axis=(1, 3, 5)), scaled


def _prepare_shipped(person: str, images: Path) -> None:
    kinds = {"T1": np.int16, "labels": np.uint8, "mask": np.uint8}
    for kind, dtype in kinds.items():
        image = nib.load(SHIPPED / person / f"{kind}.nii.gz")
        _save(images / f"{person}_{kind}.nii.gz", np.asarray(image.dataobj).astype(dtype), image.affine)


def _prepare_atlas(images: Path) -> None:
    image = nib.load(SHIPPED / "atlas_priors.nii.gz")
    volumes = made_up_scan(np.asarray(image.dataobj) / 255, seed=0)
    for kind, voxels in zip(("T1", "labels", "mask"), volumes, strict=True):
        _save(images / f"{ATLAS}_{kind}.nii.gz", voxels, image.affine)


def _prepare_patient(patient: str, folder: Path, images: Path) -> None:
    """Bring a patient's scans to 2 mm and cut away what is outside the head."""
    mask_image = nib.load(folder / "brainmask.nii.gz")
    mask, affine = coarser(np.asarray(mask_image.dataobj) > 0.5, mask_image.affine)
    inside = np.argwhere(mask >= 0.5)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ low
    _save(images / f"{patient}_mask.nii.gz", (mask >= 0.5)[box].astype(np.uint8), moved)
    for channel, name in (("T1c", "T1c_subtrMeanDivStd"), ("Flair", "Flair_subtrMeanDivStd")):
        voxels, _ = coarser(np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj), affine)
        _save(images / f"{patient}_{channel}.nii.gz", voxels[box].astype(np.float32), moved)
    labels = merged(np.asarray(nib.load(folder / "OTMultiClass.nii.gz").dataobj))
    shares = np.stack([coarser(labels == label, affine)[0] for label in range(3)])
    _save(images / f"{patient}_labels.nii.gz", shares.argmax(axis=0)[box].astype(np.uint8), moved)


def write_labels(images: Path, case: str, kind: str, labels: Labels) -> Path:
    """Write labels of another task for a case that has been prepared."""
    path = images / f"{case}_{kind}.nii.gz"
    _save(path, labels, nib.load(images / f"{case}_mask.nii.gz").affine)
    return path


def read(images: Path, case: str, kind: str) -> np.ndarray:
    """The voxels of an image that has been prepared."""
    return np.asarray(nib.load(images / f"{case}_{kind}.nii.gz").dataobj)


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), path)
