"""The bytes of a NIfTI file: what it really is, and its uncompressed content read to the very end.

A gzip file ends with a checksum and a length, which count only if the stream is read until there; that catches
damage anywhere in the file. Bytes are counted against what the header announces, so no file can fill the memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from deepmedic.data import gzip_codecs
from deepmedic.data.gzip_codecs import GZIP_MAGIC
from deepmedic.errors import DataError

HEADER_STARTS: dict[bytes, tuple[int, Literal["<", ">"]]] = {
    (348).to_bytes(4, "little"): (348, "<"),
    (348).to_bytes(4, "big"): (348, ">"),
    (540).to_bytes(4, "little"): (540, "<"),
    (540).to_bytes(4, "big"): (540, ">"),
}
"""First four bytes of a NIfTI-1 or NIfTI-2 header: its size, in either byte order."""
LARGEST_GZIP_RATIO = 1032
"""Deflate cannot compress better: its longest match gives 258 bytes for 2 bits."""

_CHUNK = 1 << 18
_TRAILER = 8
_LARGEST_OUTPUT = 1 << 19  # small enough that it is still in the processor's cache when it is copied

_SIGNATURES = (
    (b"version https://git-lfs", 'a git-lfs pointer instead of the image; fetch the image with "git lfs pull"'),
    (b"PK\x03\x04", "a ZIP archive; unpack it first"),
    (b"BZh", "a bzip2 file; unpack it and save it as .nii or .nii.gz"),
    (b"\xfd7zXZ", "an xz file; unpack it and save it as .nii or .nii.gz"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it and save it as .nii or .nii.gz"),
    (b"NRRD", "an NRRD image; convert it to NIfTI"),
    (b"ObjectType", "a MetaImage header; convert it to NIfTI"),
    (b"\x93NUMPY", "a NumPy array; convert it to NIfTI"),
    (b"\x89HDF", "an HDF5 file, for instance MINC; convert it to NIfTI"),
    (b"\x89PNG", "a PNG picture; convert it to NIfTI"),
    (b"\xff\xd8\xff", "a JPEG picture; convert it to NIfTI"),
    (b"%PDF", "a PDF document"),
    (GZIP_MAGIC, "a gzip file inside a gzip file; unpack it once"),
)


@dataclass(frozen=True)
class FileStart:
    """What the first bytes of an image file show."""

    content: bytes
    """The first uncompressed bytes, as many as asked for or as there are."""
    compressed: bool
    file_size: int
    """Bytes on disk."""
    modified: int
    """Time of modification, nanoseconds."""
    trailer: bytes
    """The last bytes of a gzip file: CRC-32 and length of what was compressed (RFC 1952). Empty for other files."""


def read_start(path: Path, size: int) -> FileStart:
    """Return the first `size` uncompressed bytes of a `.nii` or `.nii.gz` file.

    Raises:
        DataError: it is missing, unreadable, no regular file, empty, or its name and content disagree.
    """
    named_gz = _is_named_gz(path)
    with open_image(path) as file:
        status = os.fstat(file.fileno())
        raw = file.read(max(size, 1 << 16))
        compressed = raw.startswith(GZIP_MAGIC)
        trailer = _trailer(file, status.st_size) if compressed else b""
    if not raw:
        raise DataError(f"{path}: the file is empty (0 bytes). Copy or create it again.")
    if compressed and not named_gz:
        raise DataError(f"{path}: this is a gzip file, but it is not named so. Rename it to {path.name}.gz.")
    if named_gz and not compressed:
        raise DataError(
            f"{path}: named as a gzip file, but it is {describe(raw)}. Give a gzip-compressed NIfTI file"
            + (f", or rename it to {path.name[:-3]}." if _begins_like_nifti(raw) else ".")
        )
    content = _inflate_start(path, raw, size) if compressed else raw[:size]
    return FileStart(content, compressed, status.st_size, status.st_mtime_ns, trailer)


def read_range(
    path: Path, start: int, length: int, total: int, *, head: bytes, compressed: bool
) -> tuple[np.ndarray, str | None]:
    """Read the whole content and return `length` of its uncompressed bytes from `start`, and a note or None.

    Args:
        path: the file, whatever its name.
        start: first byte wanted.
        length: number of bytes wanted.
        total: uncompressed bytes that the whole file must hold, exactly.
        head: its first bytes as they were when the header was judged.
        compressed: it is a gzip file.

    Raises:
        DataError: the file is damaged, cut short, longer than announced, or has changed since `head` was read.
    """
    wanted = np.empty(length, np.uint8)
    target = wanted.data

    def keep(position: int, chunk: bytes) -> None:
        first, end = max(position, start), min(position + len(chunk), start + length)
        if first < end:
            target[first - start : end - start] = memoryview(chunk)[first - position : end - position]

    return wanted, _read_whole(path, total, keep, head=head, compressed=compressed)


def checksum_of(path: Path, total: int, *, head: bytes, compressed: bool) -> int:
    """Read the whole content and return its CRC-32; arguments and errors as for `read_range`."""
    found = 0

    def add(position: int, chunk: bytes) -> None:
        nonlocal found
        found = gzip_codecs.crc32(chunk, found if position else 0)

    _read_whole(path, total, add, head=head, compressed=compressed)
    return found


def open_image(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        DataError: it is missing, a dangling link, a folder, no regular file, or may not be read.
    """
    problem = why_unreadable(path)
    if problem is None:
        try:
            return open(path, "rb")
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
    raise DataError(f"{path}: {problem}.")


def why_unreadable(path: Path) -> str | None:
    """Say why a path cannot be opened as a file, without opening it; None when it can."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if path.is_symlink():
            return f"a dangling link to {os.readlink(path)}; restore its target or correct the link"
        return "no such file; correct the path"
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(status.st_mode):
        return "a folder, not a file; name the image in it (a DICOM series must be converted to NIfTI)"
    if not stat.S_ISREG(status.st_mode):
        return "no regular file but a device, pipe or socket"
    if not os.access(path, os.R_OK):
        return "this user may not read it; correct its rights (chmod u+r)"
    return None


def describe(content: bytes) -> str:
    """Say what bytes that are no NIfTI header look like."""
    if not content:
        return "an empty file (0 bytes)"
    if _begins_like_nifti(content):
        return "an uncompressed NIfTI file"
    for signature, meaning in _SIGNATURES:
        if content.startswith(signature):
            return meaning
    if content[128:132] == b"DICM":
        return "a DICOM file; convert the series to NIfTI"
    beginning = content[:400].lstrip().lower()
    if beginning.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, perhaps from a failed download"
    if b"annex/objects/" in beginning:
        return 'a git-annex pointer instead of the image; fetch the image with "git annex get"'
    text = content[:40].decode("ascii", "replace")
    if text.replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable() and "\ufffd" not in text:
        return f"a text file that begins with {text!r}"
    return "binary data of an unknown kind"


def _begins_like_nifti(content: bytes) -> bool:
    return content[:4] in HEADER_STARTS


def _is_named_gz(path: Path) -> bool:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return name.endswith(".gz")
    pair = (
        " (pairs of .hdr and .img files are not read)" if name.endswith((".hdr", ".img", ".hdr.gz", ".img.gz")) else ""
    )
    raise DataError(
        f"{path}: only single NIfTI files named .nii or .nii.gz are read{pair}. Convert the image to NIfTI."
    )


def _read_whole(
    path: Path, total: int, use: Callable[[int, bytes], None], *, head: bytes, compressed: bool
) -> str | None:
    """Give all content to `use`, piece by piece with the position of each, and return a note or None.

    A file that the fast library refuses is read again by zlib, from position 0 on, which then has the last word.
    """
    if compressed and gzip_codecs.is_fast():
        with suppress(DataError):
            return _read_once(path, total, use, head, lambda file, notes: _inflate(path, file, notes, fast=True))
    if compressed:
        return _read_once(path, total, use, head, lambda file, notes: _inflate(path, file, notes, fast=False))
    return _read_once(path, total, use, head, lambda file, _: _plain(path, file))


def _read_once(
    path: Path,
    total: int,
    use: Callable[[int, bytes], None],
    head: bytes,
    chunks: Callable[[BinaryIO, list[str]], Iterator[bytes]],
) -> str | None:
    notes: list[str] = []
    position = 0
    with open_image(path) as file:
        for chunk in chunks(file, notes):
            if position == 0 and not chunk.startswith(head):
                raise DataError(f"{path}: the file has changed since its header was read. Start the run again.")
            use(position, chunk)
            position += len(chunk)
            if position > total:
                raise DataError(_wrong_length(path, f"more than {total}", total))
    if position < total:
        raise DataError(_wrong_length(path, str(position), total))
    return notes[0] if notes else None


def _trailer(file: BinaryIO, file_size: int) -> bytes:
    file.seek(max(file_size - _TRAILER, 0))
    return file.read(_TRAILER)


def _inflate_start(path: Path, raw: bytes, size: int) -> bytes:
    try:
        return gzip_codecs.inflater(raw, fast=False).decompress(raw, size)
    except gzip_codecs.errors() as error:
        raise DataError(_damaged(path, error)) from error


def _plain(path: Path, file: BinaryIO) -> Iterator[bytes]:
    while chunk := _read_chunk(path, file):
        yield chunk


def _inflate(path: Path, file: BinaryIO, notes: list[str], *, fast: bool) -> Iterator[bytes]:
    """Yield the content of all gzip members; each member's checksum and length are verified at its end."""
    pending = _read_chunk(path, file)
    member = gzip_codecs.inflater(pending, fast=fast)
    while pending:
        try:
            content = member.decompress(pending, _LARGEST_OUTPUT)
        except gzip_codecs.errors() as error:
            raise DataError(_damaged(path, error)) from error
        if content:
            yield content
        pending = member.unconsumed_tail
        if member.eof:
            pending = _after_member(path, file, member.unused_data, notes)
            if pending:
                member = gzip_codecs.inflater(pending, fast=fast)
        elif not pending:
            pending = _read_chunk(path, file)
    if not member.eof:
        raise DataError(
            f"{path}: the gzip stream ends in the middle; the file was cut short, perhaps by an interrupted copy or a "
            "full disk. Copy or create it again."
        )


def _after_member(path: Path, file: BinaryIO, rest: bytes, notes: list[str]) -> bytes:
    """Return the beginning of the next gzip member, or nothing; zeros are padding, anything else is worth a note."""
    while not (rest := rest.lstrip(b"\0")):
        rest = _read_chunk(path, file)
        if not rest:
            return b""
    if len(rest) < len(GZIP_MAGIC):
        rest += _read_chunk(path, file)
    if rest.startswith(GZIP_MAGIC):
        return rest
    notes.append("bytes after the end of the gzip stream are ignored; the stream itself is whole")
    return b""


def _read_chunk(path: Path, file: BinaryIO) -> bytes:
    try:
        return file.read(_CHUNK)
    except OSError as error:
        raise DataError(
            f"{path}: reading failed ({error.strerror}). Check the disk and copy the file again."
        ) from error


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).partition(": ")[2] or str(error)
    return f"{path}: the gzip stream is damaged ({reason}). Copy or create the file again."


def _wrong_length(path: Path, found: str, total: int) -> str:
    return (
        f"{path}: its header announces {total} bytes and it holds {found}. The file is cut short or its header is "
        "damaged. Copy or create it again."
    )
