"""ISA-L and zlib: what is read is the same to the last word of a refusal, what is written holds the same values."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deepmedic.data import gzip_codecs
from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti import array_header, read_header, read_voxels, write_volume
from deepmedic.errors import DataError

SIZE = (6, 5, 4)
VALUES = np.random.default_rng(0).integers(0, 9, SIZE).astype(np.int16)
GZIP_HEADER = b"\x1f\x8b\x08\x00" + bytes(6)


def test_the_environment_of_the_tests_has_isal() -> None:
    """Otherwise all that follows would compare zlib with itself."""
    assert gzip_codecs.is_fast()


@contextmanager
def without_isal() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip_codecs, "_isal", lambda: None)
        yield


def nifti_bytes(values: np.ndarray = VALUES) -> bytes:
    return nib.Nifti1Image(values, np.eye(4)).to_bytes()


def verdict(path: Path) -> tuple[bytes, list[str]] | str:
    """The voxels and notes of a file, or the words with which it is refused."""
    ref, notes = ImageRef(path), list[str]()
    try:
        return read_voxels(ref, read_header(ref), notes).tobytes(), notes
    except DataError as refusal:
        return str(refusal)


def verdicts(path: Path, content: bytes) -> tuple[tuple[bytes, list[str]] | str, ...]:
    """What is made of the file with each library."""
    path.write_bytes(content)
    fast = verdict(path)
    with without_isal():
        return fast, verdict(path)


def test_whole_files_are_read_by_the_fast_library_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti_bytes(), mtime=0))
    asked: list[bool] = []
    inflater = gzip_codecs.inflater
    monkeypatch.setattr(
        gzip_codecs, "inflater", lambda start, *, fast: asked.append(fast) or inflater(start, fast=fast)
    )
    assert read_voxels(ImageRef(path), read_header(ImageRef(path))).tobytes() == VALUES.tobytes()
    assert asked == [False, True]  # the header, which is judged once, then the voxels
    assert type(inflater(path.read_bytes(), fast=True)).__module__ != type(zlib.decompressobj()).__module__


def test_every_flipped_bit_has_the_same_verdict(tmp_path: Path) -> None:
    whole = gzip.compress(nifti_bytes(), mtime=0)
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        fast, slow = verdicts(tmp_path / "a.nii.gz", bytes(damaged))
        assert fast == slow
        refused += isinstance(fast, str)
        assert isinstance(fast, str) or fast[0] == VALUES.tobytes()
    assert refused > 0.9 * len(whole)


def test_a_file_cut_short_anywhere_has_the_same_verdict(tmp_path: Path) -> None:
    whole = gzip.compress(nifti_bytes(), mtime=0)
    for length in range(len(whole)):
        fast, slow = verdicts(tmp_path / "a.nii.gz", whole[:length])
        assert fast == slow
        assert isinstance(fast, str)


def member(flags: int, extra: bytes, content: bytes) -> bytes:
    """A gzip member with optional fields in its header, put together by hand after RFC 1952."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    header = bytearray(GZIP_HEADER)
    header[3] = flags
    body = packer.compress(content) + packer.flush()
    return bytes(header) + extra + body + struct.pack("<II", zlib.crc32(content), len(content))


@pytest.mark.parametrize(
    ("flags", "extra", "refused"),
    [
        (0b00000, b"", False),
        (0b00001, b"", False),
        (0b00100, struct.pack("<H", 3) + b"abc", False),
        (0b01000, b"name.nii\0", False),
        (0b10000, b"a comment\0", False),
        (0b11100, struct.pack("<H", 2) + b"ab" + b"name\0" + b"comment\0", False),
        (0b00010, struct.pack("<H", zlib.crc32(GZIP_HEADER[:3] + b"\x02" + bytes(6)) & 0xFFFF), False),
        (0b00010, struct.pack("<H", 12345), True),
        (0b0100000, b"", True),
        (0b1000000, b"", True),
    ],
)
def test_optional_fields_of_the_header_have_the_same_verdict(
    tmp_path: Path, flags: int, extra: bytes, refused: bool
) -> None:
    fast, slow = verdicts(tmp_path / "a.nii.gz", member(flags, extra, nifti_bytes()))
    assert fast == slow
    assert ("gzip stream is damaged" in fast) if refused else (fast == (VALUES.tobytes(), []))


def test_members_padding_and_what_follows_have_the_same_verdict(tmp_path: Path) -> None:
    content = nifti_bytes()
    parts = [gzip.compress(part, mtime=0) for part in (content[:400], content[400:401], content[401:])]
    note = "bytes after the end of the gzip stream are ignored; the stream itself is whole"
    for between in (b"", bytes(3)):
        for end, notes in ((b"", []), (bytes(70_000), []), (b"rest", [note])):
            fast, slow = verdicts(tmp_path / "a.nii.gz", between.join(parts) + end)
            assert fast == slow == (VALUES.tobytes(), notes)


@pytest.mark.parametrize("size", [(16, 16373, 1), (512, 512, 1), (513, 1024, 1), (2512, 313, 1)])
def test_volumes_that_end_where_a_piece_ends(tmp_path: Path, size: tuple[int, int, int]) -> None:
    """Content is unpacked in pieces of 2^19 bytes: 352 before the voxels, 2 for each; the first and the last fit."""
    for values in (np.zeros(size, np.int16), np.random.default_rng(2).integers(0, 999, size).astype(np.int16)):
        fast, slow = verdicts(tmp_path / "a.nii.gz", gzip.compress(nifti_bytes(values), mtime=0))
        assert fast == slow == (values.tobytes(), [])


def probabilities() -> np.ndarray:
    """As a network gives them: noise within an ROI, exact zeros around it."""
    values = np.zeros((48, 48, 40), np.float32)
    values[12:36, 12:36, 10:30] = np.random.default_rng(1).random((24, 24, 20), np.float32)
    return values


def written(path: Path, values: np.ndarray, kind: gzip_codecs.Content) -> bytes:
    write_volume(path, values, array_header(values.shape), "labels" if kind == "labels" else "probability")
    return path.read_bytes()


def test_probabilities_are_the_same_values_in_files_of_much_the_same_size(tmp_path: Path) -> None:
    values, path = probabilities(), tmp_path / "p.nii.gz"
    fast = written(path, values, "floats")
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), values)
    assert written(path, values, "floats") == fast
    with without_isal():
        slow = written(path, values, "floats")
        assert written(path, values, "floats") == slow
    assert gzip.decompress(fast) == gzip.decompress(slow)
    assert len(fast) < 1.1 * len(slow) < 0.5 * values.nbytes
    assert fast[3:8] == slow[3:8] == bytes(5)  # neither name nor time


def test_labels_are_the_same_bytes_with_both(tmp_path: Path) -> None:
    labels = (probabilities() * 3).astype(np.uint8)
    fast = written(tmp_path / "l.nii.gz", labels, "labels")
    with without_isal():
        assert written(tmp_path / "l.nii.gz", labels, "labels") == fast
    assert np.array_equal(np.asanyarray(nib.load(tmp_path / "l.nii.gz").dataobj), labels)


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 500])
def test_checksums_are_those_of_gzip(content: bytes) -> None:
    assert gzip_codecs.crc32(content) == struct.unpack("<II", gzip.compress(content)[-8:])[0]
    assert gzip_codecs.crc32(content[5:], gzip_codecs.crc32(content[:5])) == gzip_codecs.crc32(content)


@pytest.mark.parametrize("kind", ["labels", "floats"])
def test_what_is_packed_in_pieces_is_what_python_unpacks(kind: gzip_codecs.Content) -> None:
    def packed() -> bytes:
        packer = gzip_codecs.deflater(kind)
        return packer.compress(b"header") + packer.compress(memoryview(bytes(5000))) + packer.flush()

    assert gzip.decompress(packed()) == b"header" + bytes(5000)
    with without_isal():
        assert gzip.decompress(packed()) == b"header" + bytes(5000)
