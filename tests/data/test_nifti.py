"""Reading volumes: nibabel is the independent oracle for values and geometry."""

import gzip
import os
import re
import time
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti import in_axes, in_ras, read_header, read_voxels, to_memory, to_native
from deepmedic.errors import DataError, ResourceError

OBLIQUE = np.array([[0.9, -0.3, 0.1, -12.5], [0.2, 1.9, 0.4, 7.25], [-0.1, -0.2, 2.8, 3.0], [0, 0, 0, 1]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE, kind: type = nib.Nifti1Image) -> Path:
    nib.save(kind(array, affine), path)
    return path


def read(path: Path, volume: int | None = None) -> np.ndarray:
    ref = ImageRef(path, volume)
    return read_voxels(ref, read_header(ref))


def counting(shape: tuple[int, ...] = (3, 4, 5), dtype: str = "i2") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("name", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_real_type_is_read_as_nibabel_reads_it(tmp_path: Path, name: str, order: str, kind: type) -> None:
    values = counting(dtype=name)
    if values.dtype.kind == "f":
        values += values.dtype.type(0.3)
    header = kind.header_class(endianness=order)
    header.set_data_dtype(values.dtype)
    path = tmp_path / ("image.nii.gz" if order == "<" else "image.nii")
    nib.save(kind(values, OBLIQUE, header), path)

    header_read = read_header(ImageRef(path))
    voxels = read_voxels(ImageRef(path), header_read)

    np.testing.assert_array_equal(voxels, values)
    assert voxels.dtype == values.dtype
    assert header_read.shape == (3, 4, 5)
    np.testing.assert_array_equal(header_read.affine, nib.load(path).affine)
    np.testing.assert_allclose(header_read.spacing, nib.affines.voxel_sizes(OBLIQUE), rtol=1e-6)


@pytest.mark.parametrize(("slope", "inter"), [(2.0, 5.0), (0.1, 0.0), (-1.5, -7.0), (1.0, 3.0)])
def test_scaling_is_applied_in_float64(tmp_path: Path, slope: float, inter: float) -> None:
    image = nib.Nifti1Image(counting(), OBLIQUE)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "a.nii.gz")
    oracle = nib.load(tmp_path / "a.nii.gz")

    voxels = read(tmp_path / "a.nii.gz")

    assert voxels.dtype == np.float64
    np.testing.assert_allclose(voxels, oracle.get_fdata(), rtol=1e-15)


def with_fields(path: Path, **fields: object) -> Path:
    """A small uncompressed image whose header fields are then overwritten."""
    save(path, counting())
    content = path.read_bytes()
    header = np.frombuffer(content[:348], nib.nifti1.header_dtype).copy()
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.tobytes() + content[348:])
    return path


def test_a_slope_of_zero_or_nan_means_no_scaling_and_nan_is_noted(tmp_path: Path) -> None:
    zero = with_fields(tmp_path / "zero.nii", scl_slope=0.0, scl_inter=4.0)
    nan = with_fields(tmp_path / "nan.nii", scl_slope=np.nan, scl_inter=np.nan)
    np.testing.assert_array_equal(read(zero), counting())
    np.testing.assert_array_equal(read(nan), counting())
    assert read_header(ImageRef(zero)).notes == ()
    assert "scl_slope is not a number" in read_header(ImageRef(nan)).notes[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scl_slope": np.inf}, "scaling is not finite: scl_slope inf"),
        ({"scl_inter": np.nan}, "scaling is not finite: scl_slope 1.0, scl_inter nan"),
        ({"datatype": 32}, "complex64 (datatype 32)"),
        ({"datatype": 128}, "RGB colour (datatype 128)"),
        ({"datatype": 1536}, "float128 (datatype 1536)"),
        ({"datatype": 5}, "datatype 5 is none of"),
        ({"bitpix": 8}, "datatype 4 (int16) has 16 bits per voxel, bitpix says 8"),
        ({"dim": (0, 3, 4, 5, 1, 1, 1, 1)}, "0 dimensions, allowed are 1 to 7"),
        ({"dim": (3, 3, -4, 5, 1, 1, 1, 1)}, "its size is 3 x -4 x 5"),
        ({"dim": (3, 3, 4, 6, 1, 1, 1, 1)}, "3 x 4 x 6 int16 voxels, which makes 496 bytes, and the file has 472"),
        ({"dim": (3, 3, 4, 4, 1, 1, 1, 1)}, "which makes 448 bytes, and the file has 472"),
        ({"vox_offset": 100}, "vox_offset is 100, a whole number of 352 or more is due"),
        ({"vox_offset": np.nan}, "vox_offset is nan"),
        ({"pixdim": (1, 0, 1, 1, 0, 0, 0, 0)}, "voxel sizes (pixdim) are 0, 1, 1"),
        ({"pixdim": (1, 1, np.inf, 1, 0, 0, 0, 0)}, "voxel sizes (pixdim) are 1, inf, 1"),
        ({"srow_x": (np.nan, 0, 0, 0)}, "sform has values that are not finite: nan"),
        ({"srow_x": (0, 0, 0, 5)}, "sform puts all voxels in one plane"),
        ({"srow_x": (1, 1, 0, 0), "srow_y": (1, 1, 0, 0)}, "sform puts all voxels in one plane"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 1.5}, "quaternion b, c, d are 1.5"),
        ({"magic": b"ni1"}, "header of a .hdr and .img pair"),
        ({"magic": b""}, "ANALYZE 7.5"),
        ({"magic": b"xx"}, "damaged (magic b'xx'"),
    ],
)
def test_an_unsound_header_is_refused_by_name(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    path = with_fields(tmp_path / "image.nii", **fields)
    with pytest.raises(DataError, match=re.escape(message)) as refusal:
        read_header(ImageRef(path, listed_at="channels.cfg:4"))
    assert str(path) in str(refusal.value)
    assert "(listed at channels.cfg:4)" in str(refusal.value)


def test_the_affine_is_chosen_as_nibabel_chooses(tmp_path: Path) -> None:
    qform = nib.affines.from_matvec(np.diag([2.0, 3.0, -4.0]) @ nib.eulerangles.euler2mat(0.1, 0.2, 0.3), [5, 6, 7])
    qform[:3, :3] = nib.eulerangles.euler2mat(0.1, 0.2, 0.3) * [2.0, 3.0, -4.0]
    for number, (sform_code, qform_code) in enumerate([(1, 0), (2, 1), (0, 1), (0, 3), (0, 0)]):
        image = nib.Nifti1Image(counting(), None)
        image.header.set_qform(qform, qform_code)
        image.header.set_sform(OBLIQUE, sform_code)
        path = tmp_path / f"{number}.nii"
        path.write_bytes(nib.Nifti1Image(counting(), None, image.header).to_bytes())
        expected = nib.load(path)
        found = read_header(ImageRef(path))
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)
        assert found.axis_codes == "".join(nib.aff2axcodes(expected.affine))
        notes = " ".join(found.notes)
        assert ("no orientation" in notes) == (sform_code == qform_code == 0)
        assert ("sform and qform differ by up to" in notes) == (sform_code > 0 and qform_code > 0)


def test_metres_and_micrometres_become_millimetres(tmp_path: Path) -> None:
    millimetres = read_header(ImageRef(with_fields(tmp_path / "mm.nii", xyzt_units=2)))
    micrometres = read_header(ImageRef(with_fields(tmp_path / "um.nii", xyzt_units=3)))
    metres = read_header(ImageRef(with_fields(tmp_path / "m.nii", xyzt_units=1)))
    np.testing.assert_allclose(np.array(micrometres.spacing) * 1000, millimetres.spacing)
    np.testing.assert_allclose(metres.affine[:3] / 1000, millimetres.affine[:3])


def test_a_volume_of_a_4d_file_is_picked(tmp_path: Path) -> None:
    values = counting((3, 4, 5, 3))
    for name in ("a.nii", "a.nii.gz"):
        path = save(tmp_path / name, values)
        for volume in range(3):
            np.testing.assert_array_equal(read(path, volume), values[..., volume])
    with pytest.raises(DataError, match=r"4D image of 3 volumes \(3 x 4 x 5 x 3\).*List one volume as a.nii\[0\] to a"):
        read_header(ImageRef(tmp_path / "a.nii"))
    with pytest.raises(DataError, match=r"volume \[3\] was asked for and the file holds 3"):
        read_header(ImageRef(tmp_path / "a.nii", 3))


def test_trailing_axes_of_one_are_squeezed_with_a_note_and_other_dimensions_refused(tmp_path: Path) -> None:
    save(tmp_path / "five.nii", counting((3, 4, 5, 1, 1)))
    assert read(tmp_path / "five.nii").shape == (3, 4, 5)
    assert read_header(ImageRef(tmp_path / "five.nii")).notes == (
        "size 3 x 4 x 5 x 1 x 1 is taken as 3 x 4 x 5: trailing axes of 1 are left out",
    )
    save(tmp_path / "vector.nii", counting((3, 4, 5, 1, 2)))
    with pytest.raises(DataError, match=r"5D image \(3 x 4 x 5 x 1 x 2\)"):
        read_header(ImageRef(tmp_path / "vector.nii"))
    save(tmp_path / "flat.nii", counting((3, 4)))
    with pytest.raises(DataError, match=r"2D image \(3 x 4\), a 3D one is needed. Save a slice as a volume of 3 x 4 x"):
        read_header(ImageRef(tmp_path / "flat.nii"))
    save(tmp_path / "slice.nii", counting((3, 4, 1)))
    assert read(tmp_path / "slice.nii").shape == (3, 4, 1)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(12, 12, 12)).astype("f4")
    whole = save(tmp_path / "whole.nii.gz", noise).read_bytes()
    plain = gzip.decompress(whole)
    for fraction in (0.02, 0.5, 0.9, 0.999):
        (tmp_path / "cut.nii.gz").write_bytes(whole[: int(len(whole) * fraction)])
        (tmp_path / "cut.nii").write_bytes(plain[: int(len(plain) * fraction)])
        with pytest.raises(DataError, match=r"cut short|ends within its header|can hold at most"):
            read(tmp_path / "cut.nii.gz")
        with pytest.raises(DataError, match=r"cut short|ends within its header"):
            read(tmp_path / "cut.nii")


def test_no_bit_flip_in_a_gzip_file_changes_a_voxel(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 50, (10, 11, 12)).astype("i2")
    path = save(tmp_path / "a.nii.gz", values)
    whole = path.read_bytes()
    rng = np.random.default_rng(2)
    refused = 0
    positions = [*range(12), *rng.integers(0, len(whole), 140)]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read(path)
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, values)
    assert refused > 130


def test_a_header_that_declares_far_more_than_the_file_can_hold_is_refused_at_once(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((1100, 1000, 1000))
    header.set_data_dtype("f4")
    header["magic"], header["vox_offset"] = b"n+1", 352
    content = header.binaryblock + bytes(4) + np.random.default_rng(0).bytes(230_000)
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(content, mtime=0))
    (tmp_path / "huge.nii").write_bytes(content)
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(DataError, match=r"1100 x 1000 x 1000 float32 voxels \(4.1 GiB\).*at most 22\d\.\d MiB"):
        read_header(ImageRef(tmp_path / "huge.nii.gz"))
    with pytest.raises(DataError, match="which makes 4400000352 bytes, and the file has 230352"):
        read_header(ImageRef(tmp_path / "huge.nii"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - start < 2
    assert peak < 20e6


def test_a_stream_longer_than_announced_is_not_followed(tmp_path: Path) -> None:
    content = nib.Nifti1Image(counting(), OBLIQUE).to_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(content + bytes(50_000_000), 9, mtime=0))
    ref = ImageRef(tmp_path / "bomb.nii.gz")
    tracemalloc.start()
    with pytest.raises(DataError, match=r"announces 472 bytes and it holds more than 472"):
        read_voxels(ref, read_header(ref))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_a_volume_beyond_the_memory_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepmedic.data.nifti_header.memory_limit", lambda: 300)
    with pytest.raises(ResourceError, match=r"volume of 3 x 4 x 5 voxels takes 360 bytes of memory, and 300 bytes is"):
        read_header(ImageRef(save(tmp_path / "a.nii", counting())))


def test_a_file_that_changes_between_header_and_voxels_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", counting())
    header = read_header(ImageRef(path))
    save(path, counting(), np.eye(4))
    with pytest.raises(DataError, match="has changed since its header was read"):
        read_voxels(ImageRef(path), header)


def test_a_mark_knows_the_contents_of_a_compressed_file_and_the_age_of_others(tmp_path: Path) -> None:
    content = save(tmp_path / "a.nii", counting()).read_bytes()
    other = content[:-1] + b"\x07"

    def mark(name: str, stored: bytes, modified: int = 0) -> str:
        (tmp_path / name).write_bytes(stored)
        os.utime(tmp_path / name, (modified, modified))
        return read_header(ImageRef(tmp_path / name)).mark

    whole = mark("whole.nii.gz", gzip.compress(content, 9))
    assert whole == f"crc32 {zlib.crc32(content).to_bytes(4, 'little').hex()} {len(content)}"
    assert mark("quick.nii.gz", gzip.compress(content, 1), modified=5) == whole
    assert mark("other.nii.gz", gzip.compress(other)) != whole
    # Where the last member of several is not the whole, its checksum says nothing of the others.
    halves = [gzip.compress(part) for part in (content[:400], content[400:])]
    for end in (halves[1], halves[1] + gzip.compress(b""), halves[1] + bytes(16)):
        assert mark("members.nii.gz", halves[0] + end, 3) == f"stat {len(halves[0] + end)} 3000000000"
    assert mark("plain.nii", content, 3) == f"stat {len(content)} 3000000000" != mark("plain.nii", content, 4)


def test_bytes_after_the_gzip_stream_are_noted_and_zeros_or_further_members_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = nib.Nifti1Image(counting(), OBLIQUE).to_bytes()
    whole = gzip.compress(content, mtime=0)
    members = gzip.compress(content[:400], mtime=0) + bytes(8) + gzip.compress(content[400:], mtime=0)
    found = {}
    for name, data in {"junk": whole + b"junk", "zeros": whole + bytes(600), "members": members}.items():
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(data)
        notes: list[str] = []
        ref = ImageRef(path)
        np.testing.assert_array_equal(read_voxels(ref, read_header(ref), notes), counting())
        found[name] = notes
    note = "bytes after the end of the gzip stream are ignored; the stream itself is whole"
    assert found == {"junk": [note], "zeros": [], "members": []}
    read(tmp_path / "junk.nii.gz")
    assert "junk.nii.gz: bytes after the end" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nii.gz", b"", "the file is empty (0 bytes)"),
        ("a.nii", b"", "the file is empty (0 bytes)"),
        ("a.nii.gz", b"<!DOCTYPE html><html>login</html>", "it is an HTML page, perhaps from a failed download"),
        ("a.nii", b"\n <html>", "no NIfTI image but an HTML page"),
        ("a.nii.gz", b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
        ("a.nii", b"/annex/objects/SHA256E-s12--ab", "git-annex pointer"),
        ("a.nii", b"PK\x03\x04rest", "a ZIP archive"),
        ("a.nii", bytes(128) + b"DICM" + bytes(400), "a DICOM file"),
        ("a.nii", b"hello there", "a text file that begins with 'hello there'"),
        ("a.nii", b"\xff\xfe\x00\x01" * 200, "binary data of an unknown kind"),
        ("a.nii.gz", gzip.compress(b"<html>", mtime=0), "no NIfTI image but an HTML page"),
        ("a.nii.gz", gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "a gzip file inside a gzip file"),
        ("a.nii.gz", b"\x1f\x8b\x08\x00" + bytes(100), "the gzip stream is damaged"),
        ("a.hdr", b"x", "pairs of .hdr and .img files are not read"),
        ("a.nrrd", b"x", "only single NIfTI files named .nii or .nii.gz are read"),
    ],
)
def test_what_is_no_nifti_is_called_by_its_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read_header(ImageRef(tmp_path / name))


def test_a_name_that_contradicts_the_compression_is_refused(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", counting()).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(plain)
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain))
    with pytest.raises(DataError, match=r"it is an uncompressed NIfTI file.*or rename it to b.nii"):
        read_header(ImageRef(tmp_path / "b.nii.gz"))
    with pytest.raises(DataError, match=r"this is a gzip file, but it is not named so. Rename it to c.nii.gz"):
        read_header(ImageRef(tmp_path / "c.nii"))


def test_what_cannot_be_opened_is_refused_without_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "dangling.nii").symlink_to("nowhere.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    for name, message in {
        "folder.nii": "a folder, not a file",
        "dangling.nii": "a dangling link to nowhere.nii",
        "pipe.nii": "no regular file",
        "missing.nii": "no such file",
        "null\0.nii": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=message):
            read_header(ImageRef(tmp_path / name))
    locked = save(tmp_path / "locked.nii", counting())
    monkeypatch.setattr("deepmedic.data.nifti_stream.os.access", lambda *_: False)  # chmod does not stop root
    with pytest.raises(DataError, match="this user may not read it"):
        read_header(ImageRef(locked))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL", "PIR", "SRP"])
def test_turning_to_ras_agrees_with_nibabel_and_is_undone_exactly(tmp_path: Path, codes: str) -> None:
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    affine = OBLIQUE @ nib.orientations.inv_ornt_aff(turn, (3, 4, 5))
    values = nib.orientations.apply_orientation(counting(), turn)
    path = save(tmp_path / "a.nii", np.ascontiguousarray(values), affine)
    header = read_header(ImageRef(path))
    assert header.axis_codes == codes

    turned = in_ras(header)
    oracle = nib.as_closest_canonical(nib.load(path))

    in_memory = to_memory(read_voxels(ImageRef(path), header), turned)
    np.testing.assert_array_equal(in_memory, np.asanyarray(oracle.dataobj))
    np.testing.assert_array_equal(in_memory, counting())
    np.testing.assert_allclose(turned.affine, oracle.affine, atol=1e-5)
    assert (turned.shape, turned.axis_codes, turned.stored_shape) == ((3, 4, 5), "RAS", values.shape)
    np.testing.assert_array_equal(to_native(in_memory, turned), values)
    several = np.stack([in_memory, in_memory + 1])
    np.testing.assert_array_equal(to_native(several, turned), np.stack([values, values + 1]))
    np.testing.assert_array_equal(to_memory(to_native(several, turned), turned), several)
    assert to_native(values, header) is values


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL", "PIR"])
def test_turning_to_any_axes_agrees_with_nibabel_and_is_undone_exactly(tmp_path: Path, codes: str) -> None:
    path = save(tmp_path / "a.nii", counting(), OBLIQUE)
    header, image = read_header(ImageRef(path)), nib.load(path)
    wanted = nib.orientations.axcodes2ornt(tuple(codes))
    oracle = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))

    turned = in_axes(header, codes)
    in_memory = to_memory(read_voxels(ImageRef(path), header), turned)
    np.testing.assert_array_equal(in_memory, np.asanyarray(oracle.dataobj))
    np.testing.assert_allclose(turned.affine, oracle.affine, atol=1e-5)
    assert (turned.shape, turned.axis_codes) == (oracle.shape, codes)
    np.testing.assert_array_equal(to_native(in_memory, turned), counting())
