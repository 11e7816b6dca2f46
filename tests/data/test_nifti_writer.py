"""Results lie exactly on the image they belong to, whatever its header looked like."""

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti import array_header, in_ras, read_header, read_voxels, to_native, write_volume
from deepmedic.errors import ModelError, ResourceError

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([0.9, 1.1, -2.5]), [-31.5, 8.25, 4]
)
SHAPE = (4, 5, 6)
LABELS = np.arange(120, dtype=np.int64).reshape(SHAPE) % 5


def source(
    path: Path, forms: tuple[int, int] = (1, 1), units: str = "mm", dtype: str = "i2", kind: type = nib.Nifti1Image
) -> Path:
    """An image with sform and qform codes, and an intensity scaling of slope 2 and intercept 5."""
    image = kind(np.zeros(SHAPE, dtype), None)
    image.header.set_qform(OBLIQUE, forms[1])
    image.header.set_sform(OBLIQUE if forms[0] else None, forms[0])
    image.header.set_xyzt_units(units)
    image.header.set_slope_inter(2, 5)
    image = kind(np.zeros(SHAPE, dtype), None, image.header)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("forms", [(1, 1), (0, 1), (2, 0), (4, 3), (0, 0)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_geometry_units_and_both_codes_are_those_of_the_image(
    tmp_path: Path, forms: tuple[int, int], kind: type
) -> None:
    path = source(tmp_path / "image.nii.gz", forms, "micron" if forms == (4, 3) else "mm", kind=kind)
    header = read_header(ImageRef(path))

    write_volume(tmp_path / "out" / "labels.nii.gz", LABELS, header, "labels")

    before, after = nib.load(path), nib.load(tmp_path / "out" / "labels.nii.gz")
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), LABELS)
    for key in ("qform_code", "sform_code", "xyzt_units", "quatern_b", "qoffset_x", "srow_x", "srow_z"):
        np.testing.assert_array_equal(after.header[key], before.header[key])
    assert after.header.get_zooms() == before.header.get_zooms()
    assert after.header["pixdim"][0] == before.header["pixdim"][0]
    assert type(after) is type(before)
    found = read_header(ImageRef(tmp_path / "out" / "labels.nii.gz"))
    np.testing.assert_array_equal(found.affine, header.affine)


@pytest.mark.parametrize("dtype", ["i2", "f8"])
def test_labels_are_small_unscaled_integers_whatever_the_image_stores(tmp_path: Path, dtype: str) -> None:
    header = read_header(ImageRef(source(tmp_path / "image.nii.gz", dtype=dtype)))
    for values, expected in ((LABELS, "u1"), (LABELS * 60, "u1"), (LABELS * 100, "u2")):
        write_volume(tmp_path / "labels.nii.gz", values, header, "labels")
        raw = gzip.decompress((tmp_path / "labels.nii.gz").read_bytes())
        stored = nib.Nifti1Header(raw[:348])
        assert stored.get_data_dtype() == np.dtype(expected)
        assert (float(stored["scl_slope"]), float(stored["scl_inter"])) == (1.0, 0.0)
        np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "labels.nii.gz").dataobj), values)


def test_probabilities_are_float32_bit_by_bit(tmp_path: Path) -> None:
    header = read_header(ImageRef(source(tmp_path / "image.nii.gz")))
    values = np.random.default_rng(0).random(SHAPE, np.float32)
    write_volume(tmp_path / "p.nii.gz", values, header, "probability")
    loaded = nib.load(tmp_path / "p.nii.gz")
    assert loaded.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(loaded.dataobj), values)
    write_volume(tmp_path / "f.nii", values * 1000, header, "feature")
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "f.nii").dataobj), values * 1000)


def test_equal_results_give_equal_bytes_at_any_time_and_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = read_header(ImageRef(source(tmp_path / "image.nii.gz")))
    write_volume(tmp_path / "a.nii.gz", LABELS, header, "labels")
    monkeypatch.setattr("time.time", lambda: 1.0e9)
    write_volume(tmp_path / "b.nii.gz", np.asfortranarray(LABELS), header, "labels")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_result_of_turned_axes_returns_to_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    nib.save(nib.Nifti1Image(LABELS.astype("i2"), np.diag([-1.0, -2, 3, 1])[[1, 0, 2, 3]]), path)
    header = in_ras(read_header(ImageRef(path)))
    in_memory = np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj)
    assert in_memory.shape == header.shape != header.stored_shape
    with pytest.raises(ValueError, match=r"result of shape \(5, 4, 6\) for an image of shape \(4, 5, 6\)"):
        write_volume(tmp_path / "out.nii.gz", in_memory, header, "labels")
    write_volume(tmp_path / "out.nii.gz", to_native(in_memory, header), header, "labels")
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), LABELS)
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)


def test_a_volume_of_a_4d_file_gives_a_3d_result(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 3), "i2"), OBLIQUE), tmp_path / "image.nii")
    write_volume(tmp_path / "out.nii.gz", LABELS, read_header(ImageRef(tmp_path / "image.nii", 1)), "labels")
    assert nib.load(tmp_path / "out.nii.gz").shape == SHAPE


def test_a_big_endian_image_gives_a_readable_result(tmp_path: Path) -> None:
    swapped = nib.Nifti1Image(LABELS.astype(">i2"), OBLIQUE, nib.Nifti1Header(endianness=">"))
    nib.save(swapped, tmp_path / "image.nii")
    write_volume(tmp_path / "out.nii.gz", LABELS, read_header(ImageRef(tmp_path / "image.nii")), "labels")
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii.gz").affine, nib.load(tmp_path / "image.nii").affine)
    out = ImageRef(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(read_voxels(out, read_header(out)), LABELS)


def test_a_result_for_an_array_can_be_written(tmp_path: Path) -> None:
    write_volume(tmp_path / "out.nii.gz", LABELS, array_header(SHAPE, OBLIQUE), "labels")
    loaded = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(loaded.affine, OBLIQUE, rtol=1e-6)
    assert loaded.header.get_xyzt_units()[0] == "mm"


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.float32)
    values[1, 2, 3] = np.nan
    with pytest.raises(ModelError, match="the model gives values that are not finite for this image"):
        write_volume(tmp_path / "p.nii.gz", values, array_header(SHAPE), "probability")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_read_back_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(tmp_path / "p.nii.gz", LABELS, array_header(SHAPE), "labels")
    older = (tmp_path / "p.nii.gz").read_bytes()
    plain = zlib.compressobj

    class Faulty:
        """Compresses other values than it is given."""

        def __init__(self, *settings: int) -> None:
            self.compressor = plain(*settings)

        def compress(self, data: bytes) -> bytes:
            return self.compressor.compress(bytes(data).replace(b"\x02", b"\x03"))

        def flush(self) -> bytes:
            return self.compressor.flush()

    monkeypatch.setattr(zlib, "compressobj", Faulty)
    with pytest.raises(ResourceError, match=r"the result does not read back|reads back with other values"):
        write_volume(tmp_path / "p.nii.gz", LABELS, array_header(SHAPE), "labels")
    assert (tmp_path / "p.nii.gz").read_bytes() == older
    assert [path.name for path in tmp_path.iterdir()] == ["p.nii.gz"]
