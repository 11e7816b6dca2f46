"""What a NIfTI header says, judged before any memory is taken for voxels.

Formats: NIfTI-1 (nifti1.h, https://nifti.nimh.nih.gov/nifti-1) and NIfTI-2 (nifti2.h), both byte orders, single files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from deepmedic.config.options import Size3
from deepmedic.data import nifti_affine
from deepmedic.data.memory import bytes_as_text, memory_limit
from deepmedic.data.nifti_stream import HEADER_STARTS, LARGEST_GZIP_RATIO, FileStart, describe
from deepmedic.errors import DataError, ResourceError

Orientation = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""For each stored array axis: the axis in memory it becomes, and 1, or -1 when it is reversed."""

LARGEST_HEADER = 540
ByteOrder = Literal["<", ">"]
_FLOAT32 = np.dtype("f4")

_RECORDS = {348: nib.nifti1.header_dtype.newbyteorder("<"), 540: nib.nifti2.header_dtype.newbyteorder("<")}
_READABLE = {
    code: np.dtype(name)
    for code, name in {
        2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
    }.items()
}  # fmt: skip
_UNREADABLE = {
    1: "1-bit binary", 32: "complex64", 128: "RGB colour", 1536: "float128", 1792: "complex128", 2048: "complex256",
    2304: "RGBA colour",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """What the header of one 3D image says, after it was judged sound.

    `shape`, `affine`, `spacing` and `axis_codes` describe the array in memory: as stored, unless `in_axes` turned it.
    """

    path: Path
    shape: Size3
    """Voxels along x, y, z (the array axes)."""
    affine: np.ndarray
    """float64 [4, 4]: voxel indices to millimetres."""
    spacing: tuple[float, float, float]
    """Millimetres per voxel along the array axes."""
    axis_codes: str
    """Direction each array axis points to, for instance "RAS" or "LPI"."""
    raw: bytes
    """The header block as stored, from which results inherit geometry, codes and units."""
    dtype: np.dtype[Any] = _FLOAT32
    """Of the stored voxels, byte order included."""
    slope: float = 1.0
    inter: float = 0.0
    """Voxel value = stored value * slope + inter."""
    data_offset: int = 352
    """Byte of the uncompressed content at which the first voxel of this volume stands."""
    total_bytes: int = 0
    """Uncompressed bytes that the whole file must hold."""
    compressed: bool = False
    mark: str = ""
    """By what a file that was changed in place is noticed without reading it: of a compressed one the checksum and
    length at its end, of others size and time of modification. Empty for arrays."""
    n_volumes: int = 1
    """Volumes in the file, of which this is one."""
    orientation: Orientation | None = None
    """How `in_axes` turned the array; None: as stored."""
    notes: tuple[str, ...] = ()
    """What is unusual about the header but harmless."""
    resampled_from: VolumeHeader | None = None
    """The same volume in the axes of memory before it was resampled to this grid; None: it was not."""

    @property
    def n_voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def voxel_bytes(self) -> int:
        """Bytes of this volume as stored, uncompressed."""
        return self.n_voxels * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def stored_shape(self) -> Size3:
        """Voxels along the axes of the file."""
        if self.orientation is None:
            return self.shape
        x, y, z = (self.shape[axis] for axis, _ in self.orientation)
        return x, y, z


@np.errstate(invalid="ignore", over="ignore")  # whatever the fields hold is judged, not warned about
def judge(path: Path, start: FileStart, volume: int | None) -> VolumeHeader:
    """Return what the header at the start of a file says.

    Raises:
        DataError: it is no NIfTI file, or its header is unsound, of a kind that is not read, or at odds with the size
            of the file.
        ResourceError: the volume does not fit in the memory of this machine.
    """
    record, order = _record(path, start.content)
    dtype = _stored_dtype(path, record).newbyteorder(order)
    dims, notes = _dimensions(path, record, volume)
    shape, n_volumes = (dims[0], dims[1], dims[2]), dims[3]
    slope, inter = _scaling(path, record, notes)
    offset = _voxel_offset(path, record)
    bytes_per_volume = math.prod(shape) * dtype.itemsize
    total = offset + bytes_per_volume * n_volumes
    declared = " x ".join(map(str, dims if n_volumes > 1 else shape))
    _check_file_size(path, start, total, f"{declared} {dtype.name} voxels")
    _check_memory(path, shape, bytes_per_volume, scaled=(slope, inter) != (1.0, 0.0))
    affine = nifti_affine.stored_affine(path, record, shape, notes)
    return VolumeHeader(
        path=path,
        shape=shape,
        affine=affine,
        spacing=nifti_affine.spacing(affine),
        axis_codes=nifti_affine.axis_codes(affine),
        raw=start.content[: record.dtype.itemsize],
        dtype=dtype,
        slope=slope,
        inter=inter,
        data_offset=offset + bytes_per_volume * (volume or 0),
        total_bytes=total,
        compressed=start.compressed,
        mark=_mark(start, total),
        n_volumes=n_volumes,
        notes=tuple(notes),
    )


def array_header(shape: Size3, affine: np.ndarray | None = None) -> VolumeHeader:
    """Return a header for an array that comes from no file, so that results of it can be written.

    Args:
        shape: voxels along x, y, z.
        affine: voxel indices to millimetres, [4, 4]; None: 1 mm voxels along right, anterior, superior.
    """
    matrix = np.eye(4) if affine is None else np.array(affine, np.float64)
    spacing = nifti_affine.spacing(matrix)
    header = nib.Nifti1Header() if max(shape) <= np.iinfo(np.int16).max else nib.Nifti2Header()
    header["magic"] = header.single_magic
    header.set_data_shape(shape)
    header.set_zooms(spacing)
    header.set_sform(matrix, code="aligned")
    header.set_xyzt_units("mm")
    return VolumeHeader(
        path=Path("array"),
        shape=shape,
        affine=matrix,
        spacing=spacing,
        axis_codes=nifti_affine.axis_codes(matrix),
        raw=header.as_byteswapped("<").binaryblock,
    )


def parse(raw: bytes) -> np.ndarray[Any, Any]:
    """Return a header block as a little-endian record array [1] with the fields of nibabel's header, as a copy."""
    size, order = HEADER_STARTS[raw[:4]]
    return np.frombuffer(raw[:size], _RECORDS[size].newbyteorder(order)).astype(_RECORDS[size])


def _record(path: Path, content: bytes) -> tuple[Any, ByteOrder]:
    if content[:4] not in HEADER_STARTS:
        raise DataError(f"{path}: this is no NIfTI image but {describe(content)}.")
    size, order = HEADER_STARTS[content[:4]]
    if len(content) < size:
        raise DataError(
            f"{path}: the file ends within its header, after {len(content)} of {size} bytes. Copy or create it again."
        )
    record = np.frombuffer(content[:size], _RECORDS[size].newbyteorder(order))[0]
    magic = bytes(record["magic"])[:4].rstrip(b"\0")
    if magic in (b"ni1", b"ni2"):
        raise DataError(f"{path}: this is the header of a .hdr and .img pair. Convert the pair to one .nii or .nii.gz.")
    if magic != (b"n+1" if size == 348 else b"n+2"):
        kind = "an ANALYZE 7.5 header, whose orientation is unknown" if size == 348 and not magic else "damaged"
        raise DataError(f"{path}: the header is {kind} (magic {magic!r}, a NIfTI file has b'n+1' or b'n+2').")
    return record, order


def _stored_dtype(path: Path, record: Any) -> np.dtype[Any]:
    code, bits = int(record["datatype"]), int(record["bitpix"])
    if code in _UNREADABLE:
        raise DataError(
            f"{path}: its voxels are {_UNREADABLE[code]} (datatype {code}). Convert the image to one real number per "
            "voxel: integers of 8 to 64 bits, float32 or float64."
        )
    if code not in _READABLE:
        raise DataError(f"{path}: the header is damaged: datatype {code} is none of {sorted(_READABLE)}.")
    dtype = _READABLE[code]
    if bits != dtype.itemsize * 8:
        raise DataError(
            f"{path}: the header contradicts itself: datatype {code} ({dtype.name}) has {dtype.itemsize * 8} bits per "
            f"voxel, bitpix says {bits}. Save the image again with the program that made it."
        )
    return dtype


def _dimensions(path: Path, record: Any, volume: int | None) -> tuple[tuple[int, int, int, int], list[str]]:
    """Return the sizes x, y, z and the number of volumes, trailing axes of one squeezed."""
    count = int(record["dim"][0])
    if not 1 <= count <= 7:
        raise DataError(f"{path}: the header is damaged: {count} dimensions, allowed are 1 to 7.")
    stored = [int(size) for size in record["dim"][1 : count + 1]]
    text = " x ".join(map(str, stored))
    if min(stored) < 1:
        raise DataError(f"{path}: the header is damaged: its size is {text}, and every axis must have at least 1.")
    if count < 3:
        raise DataError(
            f"{path}: this is a {count}D image ({text}), a 3D one is needed. Save a slice as a volume of {text} x 1."
        )
    sizes = list(stored)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > 4:
        raise DataError(f"{path}: this is a {len(sizes)}D image ({text}), a 3D one is needed. Save its volumes singly.")
    n_volumes = sizes[3] if len(sizes) == 4 else 1
    if n_volumes > 1 and volume is None:
        raise DataError(
            f"{path}: this is a 4D image of {n_volumes} volumes ({text}), a 3D one is needed. List one volume as "
            f"{path.name}[0] to {path.name}[{n_volumes - 1}]."
        )
    if volume is not None and volume >= n_volumes:
        raise DataError(
            f"{path}: volume [{volume}] was asked for and the file holds {n_volumes} ({text}); volumes are counted "
            "from 0."
        )
    notes = []
    if n_volumes == 1 and len(stored) > 3:
        notes.append(f"size {text} is taken as {' x '.join(map(str, sizes))}: trailing axes of 1 are left out")
    return (sizes[0], sizes[1], sizes[2], n_volumes), notes


def _scaling(path: Path, record: Any, notes: list[str]) -> tuple[float, float]:
    slope, inter = float(record["scl_slope"]), float(record["scl_inter"])
    if math.isnan(slope):
        notes.append("scl_slope is not a number: voxels are taken unscaled, as nibabel and the NIfTI library do")
    if math.isnan(slope) or slope == 0:
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise DataError(f"{path}: the header's scaling is not finite: scl_slope {slope}, scl_inter {inter}.")
    return slope, inter


def _voxel_offset(path: Path, record: Any) -> int:
    smallest = record.dtype.itemsize + 4
    offset = float(record["vox_offset"])
    if offset == 0:
        return int(smallest)
    if not math.isfinite(offset) or offset < smallest or offset != int(offset):
        raise DataError(
            f"{path}: the header is damaged: vox_offset is {offset:g}, a whole number of {smallest} or more is due."
        )
    return int(record["vox_offset"])


def _mark(start: FileStart, total: int) -> str:
    """What `VolumeHeader.mark` says; `total` is the uncompressed bytes of the whole file."""
    checksum, length = start.trailer[:4], int.from_bytes(start.trailer[4:], "little")
    if start.trailer and length == total % 2**32:
        return f"crc32 {checksum.hex()} {total}"
    # The last of several gzip members, such as the empty one of BGZF, tells nothing of those before.
    return f"stat {start.file_size} {start.modified}"


def _check_file_size(path: Path, start: FileStart, total: int, declared: str) -> None:
    """Refuse a header at odds with the size of its file, before memory is taken."""
    if not start.compressed and total != start.file_size:
        raise DataError(
            f"{path}: the header declares {declared}, which makes {total} bytes, and the file has {start.file_size}. "
            "It is cut short or its header is damaged. Copy or create it again."
        )
    largest = start.file_size * LARGEST_GZIP_RATIO
    if start.compressed and total > largest:
        raise DataError(
            f"{path}: the header declares {declared} ({bytes_as_text(total)}), and a gzip file of {start.file_size} "
            f"bytes can hold at most {bytes_as_text(largest)}. It is cut short or its header is damaged. "
            "Copy or create it again."
        )


def check_memory(what: str, needed: int, remedy: str) -> None:
    """Refuse what takes more memory than there is, before any of it is taken.

    Args:
        what: the beginning of the message, up to "takes".
        needed: bytes.
        remedy: the end of the message.

    Raises:
        ResourceError: names both numbers.
    """
    allowed = _asked_once_a_second(int(time.monotonic()), memory_limit)
    if needed > allowed:
        raise ResourceError(
            f"{what} takes {bytes_as_text(needed)} of memory, and {bytes_as_text(allowed)} is the limit here. {remedy}"
        )


def _check_memory(path: Path, shape: Size3, stored: int, *, scaled: bool) -> None:
    what = f"{path}: reading this volume of {' x '.join(map(str, shape))} voxels"
    needed = stored + math.prod(shape) * (4 + 8 * scaled)
    check_memory(what, needed, "Crop or resample it, or use a larger machine.")


@lru_cache(maxsize=1)
def _asked_once_a_second(second: int, limit: Callable[[], int]) -> int:
    """The memory limit, which takes as long to find out as all else about a header; there may be 100,000 of them."""
    return limit()
