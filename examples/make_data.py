"""Make the quickstart's data (`examples/data`): real MRI, automatically derived labels.

    python examples/make_data.py                      download the two pinned wheels with pip, make the data
    python examples/make_data.py --wheels FOLDER      take the wheels from FOLDER instead
    python examples/make_data.py --output FOLDER      write there instead of to examples/data

The scans come out of the wheel `img2fmri` 1.0, the atlas out of the wheel `nilearn` 0.14.1; both are only read, never
installed or imported. Needs numpy, scipy and nibabel, half a minute and 80 MB for the wheels. The same wheels give
the same bytes again; the checksums printed at the end are those in `examples/data/README.md`. The method is in
`tissue_labels.py`.
"""

import argparse
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tissue_labels import BoolArray, FloatArray, ball, label_scan

SUBJECTS = (1, 2, 3)
ATLAS_BLUR = 2.0
"""Standard deviation in mm of the Gaussian that blurs the atlas maps: about how well anyone's folds match the atlas."""
ENVELOPE_MARGIN = 2.5
"""A brain may reach this many voxels (of 2 mm) beyond the atlas's brain."""


@dataclass(frozen=True)
class Wheel:
    """One pinned download."""

    requirement: str
    """As pip is asked for it."""
    filename: str
    sha256: str


IMG2FMRI = Wheel(
    "img2fmri==1.0",
    "img2fmri-1.0-py3-none-any.whl",
    "b830383d191c4edcae0eef54e045bb6290abbc5b5e436ae674951bff8fb6d6be",
)
NILEARN = Wheel(
    "nilearn==0.14.1",
    "nilearn-0.14.1-py3-none-any.whl",
    "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
)
SCAN_MEMBER = "img2fmri/derivatives/sub{subject}.anat/T1_to_MNI_nonlin.nii.gz"
ATLAS_MEMBER = "nilearn/datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"


@dataclass(frozen=True)
class Volume:
    """Voxels [X, Y, Z] and the 4x4 matrix from voxel indices to millimetres."""

    voxels: FloatArray
    affine: FloatArray


@dataclass(frozen=True)
class Atlas:
    """The ICBM152 maps on the grid of the scans."""

    priors: FloatArray
    """[3, X, Y, Z], probabilities of CSF, grey and white matter that sum to 1; all CSF outside the brain."""
    envelope: BoolArray
    """[X, Y, Z], where a brain can be: the atlas's brain, dilated."""


def download_wheels(folder: Path) -> None:
    """Ask pip for the pinned wheels, without their dependencies. Raises subprocess.CalledProcessError if pip fails."""
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    requirements = [wheel.requirement for wheel in (IMG2FMRI, NILEARN)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *requirements], check=True)


def verified(folder: Path, wheel: Wheel) -> Path:
    """Path of the wheel in `folder`. Raises FileNotFoundError if it is absent, ValueError if it is another file."""
    path = folder / wheel.filename
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: get it with `pip download --no-deps {wheel.requirement}`")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise ValueError(f"{path} has SHA-256 {found}, expected {wheel.sha256}: delete it and download it again")
    return path


def read_member(wheel: Path, member: str) -> Volume:
    """One .nii.gz file out of a wheel, without unpacking the rest."""
    with zipfile.ZipFile(wheel) as archive:
        image = nib.Nifti1Image.from_bytes(gzip.decompress(archive.read(member)))
    return Volume(np.asarray(image.dataobj, dtype=np.float64), np.asarray(image.affine, dtype=np.float64))


def sample(volume: Volume, shape: tuple[int, ...], affine: FloatArray) -> FloatArray:
    """Values at the voxel centres of another grid, [*shape], without interpolation.

    Every centre must be the centre of a voxel of `volume`, along the same axes; ValueError if it is not.
    """
    relation = np.linalg.inv(volume.affine) @ affine
    steps, starts = np.rint(np.diag(relation)[:3]).astype(int), np.rint(relation[:3, 3]).astype(int)
    expected = np.diag([*steps, 1.0])
    expected[:3, 3] = starts
    indices = [start + step * np.arange(size) for start, step, size in zip(starts, steps, shape, strict=True)]
    inside = all(i.min() >= 0 and i.max() < size for i, size in zip(indices, volume.voxels.shape, strict=True))
    if not np.allclose(relation, expected, atol=1e-6) or not inside:
        raise ValueError(f"the grid {shape} does not lie on voxel centres of the volume; its relation is\n{relation}")
    return volume.voxels[np.ix_(*indices)]


def read_atlas(wheel: Path, shape: tuple[int, ...], affine: FloatArray) -> Atlas:
    """Atlas on the grid of the scans, [*shape]. The wheel holds no CSF map: CSF is what is neither grey nor white."""
    template, grey, white = (read_member(wheel, ATLAS_MEMBER.format(kind=kind)) for kind in ("t1", "gm", "wm"))
    brain = Volume(ndimage.binary_fill_holes(template.voxels > 0).astype(np.float64), template.affine)
    maps = []
    for tissue in (grey, white):
        probability = tissue.voxels / 255.0 * brain.voxels
        spacing = np.abs(np.diag(tissue.affine)[:3])
        blurred = ndimage.gaussian_filter(probability, ATLAS_BLUR / spacing, mode="constant")
        maps.append(sample(Volume(blurred, tissue.affine), shape, affine))
    priors = np.stack([np.clip(1.0 - maps[0] - maps[1], 0.0, 1.0), *maps])
    envelope = ndimage.binary_dilation(sample(brain, shape, affine) > 0, ball(ENVELOPE_MARGIN))
    return Atlas(priors / priors.sum(axis=0), np.asarray(envelope))


def quantised(priors: FloatArray) -> NDArray[np.uint8]:
    """Probabilities [K, X, Y, Z] as bytes [X, Y, Z, K], 255 for certain."""
    return np.moveaxis(np.rint(priors * 255.0).astype(np.uint8), 0, -1)


def nifti_bytes(voxels: NDArray[np.generic], affine: FloatArray, description: str) -> bytes:
    """A .nii.gz file in MNI space (both form codes 4, millimetres) that depends on nothing but the arguments."""
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=4)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(image.to_bytes())
    return buffer.getvalue()


def brain_only(scan: FloatArray, mask: BoolArray) -> NDArray[np.int16]:
    """Rounded intensities [X, Y, Z], at least 1 in the mask and 0 outside: neither face nor skull is left."""
    return np.where(mask, np.clip(np.rint(scan), 1, np.iinfo(np.int16).max), 0).astype(np.int16)


def make_files(img2fmri: Path, nilearn: Path) -> dict[str, bytes]:
    """All files of the data set: path relative to `examples/data` -> content."""
    scans = {subject: read_member(img2fmri, SCAN_MEMBER.format(subject=subject)) for subject in SUBJECTS}
    shape, affine = scans[1].voxels.shape, scans[1].affine
    atlas = read_atlas(nilearn, shape, affine)
    files = {
        "atlas_priors.nii.gz": nifti_bytes(quantised(atlas.priors), affine, "ICBM152 2009a priors: CSF, grey, white")
    }
    for subject, scan in scans.items():
        labels, mask = label_scan(scan.voxels, atlas.priors, atlas.envelope)
        contents: list[tuple[str, NDArray[np.generic], str]] = [
            ("T1", brain_only(scan.voxels, mask), f"BOLD5000 CSI{subject} T1, MNI space, brain only"),
            ("labels", labels, "automatic labels: 1 CSF, 2 grey, 3 white matter"),
            ("mask", mask.astype(np.uint8), "automatic brain mask"),
        ]
        for name, voxels, description in contents:
            files[f"subject{subject}/{name}.nii.gz"] = nifti_bytes(voxels, scan.affine, description)
    return files


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the quickstart's data: real MRI, automatically derived labels.")
    parser.add_argument("--wheels", type=Path, help="folder with both wheels (default: download them with pip)")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "data")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.wheels or Path(temporary)
        try:
            if arguments.wheels is None:
                download_wheels(folder)
            files = make_files(verified(folder, IMG2FMRI), verified(folder, NILEARN))
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"make_data.py: {error}") from error
    for name, content in files.items():
        path = arguments.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"{hashlib.sha256(content).hexdigest()}  {name}")


if __name__ == "__main__":
    main()
