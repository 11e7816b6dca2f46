"""Writing results with exactly the geometry of the image they belong to.

The fields of the source's header that place its voxels in space are copied as they stand, in its own format (NIfTI-1
or NIfTI-2); everything else is new. Equal results give equal bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from deepmedic.data import gzip_codecs
from deepmedic.data.nifti_header import VolumeHeader, parse
from deepmedic.data.nifti_stream import checksum_of
from deepmedic.errors import DataError, ModelError, ResourceError
from deepmedic.files import write_atomically

Kind = Literal["labels", "probability", "feature"]

_GEOMETRY = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units", "dim_info", "descrip",
)  # fmt: skip
_DATATYPES = {"uint8": 2, "uint16": 512, "float32": 16}


def write_volume(path: Path, array: np.ndarray, like: VolumeHeader, kind: Kind) -> None:
    """Write a result so that it lies exactly on the image `like`; verified, whole or not at all.

    Labels are stored as uint8 (uint16 when one is above 255), probabilities and features as float32, slope 1,
    intercept 0. Affine, both form codes, voxel sizes and units are those of `like`.

    Args:
        path: ends in `.nii.gz` or `.nii`.
        array: [x, y, z] along the axes of the file (`to_native` turns an array from memory back to them).
        like: header of the image.
        kind: what the values are.

    Raises:
        ModelError: a value is not finite.
        ResourceError: the file cannot be written, or does not read back as it was written.
    """
    if array.shape != like.stored_shape:
        raise ValueError(f"{path}: result of shape {array.shape} for an image of shape {like.stored_shape}")
    voxels = _as_stored(path, array, kind)
    header = _header(like, voxels.dtype)
    content = voxels.ravel(order="F").view(np.uint8).data
    checksum = gzip_codecs.crc32(content, gzip_codecs.crc32(header))

    def write(file: BinaryIO) -> None:
        if path.name.endswith(".gz"):
            compressor = gzip_codecs.deflater("labels" if kind == "labels" else "floats")
            file.write(compressor.compress(header))
            file.write(compressor.compress(content))
            file.write(compressor.flush())
        else:
            file.write(header)
            file.write(content)

    def verify(written: Path) -> None:
        total = len(header) + len(content)
        try:
            found = checksum_of(written, total, head=header, compressed=path.name.endswith(".gz"))
        except DataError as problem:
            raise ResourceError(f"{path}: the result does not read back ({problem}). Check the disk.") from problem
        if found != checksum:
            raise ResourceError(f"{path}: the result reads back with other values than were written. Check the disk.")

    write_atomically(path, write, verify)


def _as_stored(path: Path, array: np.ndarray, kind: Kind) -> np.ndarray:
    if kind == "labels":
        largest = int(array.max(initial=0))
        return array.astype("<u1" if largest <= np.iinfo(np.uint8).max else "<u2", copy=False)
    values = array.astype("<f4", copy=False)
    if not np.isfinite(values).all():
        raise ModelError(
            f"{path}: the model gives values that are not finite for this image. Its parameters are damaged, or the "
            "intensities are far from those it was trained on (is normalisation switched on?)."
        )
    return values


def _header(like: VolumeHeader, dtype: np.dtype[Any]) -> bytes:
    source = parse(like.raw)
    size = source.dtype.itemsize
    header = np.zeros_like(source)
    for field in _GEOMETRY:
        header[field] = source[field]
    header["pixdim"][0, :4] = source["pixdim"][0, :4]
    header["sizeof_hdr"] = size
    header["dim"] = (3, *like.stored_shape, 1, 1, 1, 1)
    header["datatype"] = _DATATYPES[dtype.name]
    header["bitpix"] = dtype.itemsize * 8
    header["vox_offset"] = size + 4
    header["scl_slope"] = 1
    if size == 348:
        header["magic"] = b"n+1"
        header["regular"] = b"r"
    else:
        header["magic"] = b"n+2"
        header["eol_check"] = (13, 10, 26, 10)
    return header.tobytes() + bytes(4)
