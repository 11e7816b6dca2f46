"""How long do compressed images take to read and results to write, with ISA-L (package isal) and with zlib?

    python benchmarks/gzip_speed.py [IMAGE.nii.gz ...] [--repetitions 5] [--output results.json]

Each image is read as a session reads it, to its checksum; without one, an image of 240 x 240 x 155 with air around a
head of noise is generated. Written are probabilities (noise within the last image's voxels that are not zero, zeros
around) and labels (five classes in blobs there), read back and verified as a session does. Milliseconds of processor
time, medians, the libraries in turn; a first turn is not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from deepmedic.data import gzip_codecs
from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti import VolumeHeader, read_header, read_voxels, write_volume

SIZE = (240, 240, 155)
Work = tuple[str, Callable[[], object], Path]
"""What is done, the doing, and the file whose size is told."""


def generated(folder: Path) -> Path:
    """An image of noise in an ellipsoid, zeros around."""
    inside = (
        sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, length) for length in SIZE), indexing="ij")) < 0.55
    )
    values = np.where(inside, np.random.default_rng(0).normal(size=SIZE), 0).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "generated.nii.gz")
    return folder / "generated.nii.gz"


def results_on(header: VolumeHeader, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels [x, y, z] in the order of a file."""
    probabilities = np.where(inside, np.random.default_rng(1).random(inside.shape, np.float32), np.float32(0))
    blocks = np.add.reduce([index // 12 for index in np.indices(inside.shape, np.int32)])
    labels = np.where(inside, blocks % 5, 0).astype(np.uint8)
    return np.asfortranarray(probabilities), np.asfortranarray(labels)


def works(images: list[Path], folder: Path) -> list[Work]:
    """Everything that is measured."""
    found: list[Work] = []
    headers = [read_header(ImageRef(path)) for path in images]
    for path, header in zip(images, headers, strict=True):
        found.append((f"read {path.name}", lambda path=path, header=header: read_voxels(ImageRef(path), header), path))
    inside = read_voxels(ImageRef(images[-1]), headers[-1]) != 0
    probabilities, labels = results_on(headers[-1], inside)
    for kind, values in (("probability", probabilities), ("labels", labels)):
        target = folder / f"{kind}.nii.gz"
        found.append((f"write {kind}", lambda k=kind, v=values, t=target: write_volume(t, v, headers[-1], k), target))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if not gzip_codecs.is_fast():
        raise SystemExit("The package isal is not installed: pip install -c constraints.txt '.[fast]'")
    fast = gzip_codecs._isal()
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    sizes: dict[tuple[str, str], int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for turn in range(arguments.repetitions + 1):
            for library in ("isal", "zlib"):
                gzip_codecs._isal = lambda library=library: fast if library == "isal" else None
                for name, work, file in works(arguments.images or [generated(folder)], folder):
                    started = time.process_time()
                    work()
                    if turn:
                        times[name, library].append(time.process_time() - started)
                    sizes[name, library] = file.stat().st_size
    rows = []
    print(f"{'':44} {'zlib':>9} {'isal':>9} {'times':>6} {'bytes, zlib':>12} {'isal':>9}")
    for name in dict.fromkeys(name for name, _ in times):
        slow, quick = (1e3 * statistics.median(times[name, library]) for library in ("zlib", "isal"))
        bytes_slow, bytes_quick = sizes[name, "zlib"], sizes[name, "isal"]
        print(f"{name:44} {slow:6.1f} ms {quick:6.1f} ms {slow / quick:6.2f} {bytes_slow:12} {bytes_quick:9}")
        rows.append({"work": name, "zlib": slow, "isal": quick, "bytes_zlib": bytes_slow, "bytes_isal": bytes_quick})
    if arguments.output:
        about = {"python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION, "results": rows}
        arguments.output.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
