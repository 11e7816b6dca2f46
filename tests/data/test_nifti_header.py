"""Damaged headers of every kind: either refused, or the voxels are as sane as the header says. Nothing else escapes."""

import gzip
import math
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deepmedic.data.cases import ImageRef
from deepmedic.data.nifti import array_header, in_ras, read_header, read_voxels
from deepmedic.data.nifti_header import parse
from deepmedic.errors import DataError, ResourceError

AFFINE = np.array([[2.0, 0, 0, -5], [0, -1.5, 0, 7], [0, 0, 3, 9], [0, 0, 0, 1]])
VALUES = np.arange(24, dtype="i2").reshape(2, 3, 4)
ONE = nib.Nifti1Image(VALUES, AFFINE).to_bytes()
TWO = nib.Nifti2Image(VALUES, AFFINE).to_bytes()
FIELDS = [(field, *nib.nifti1.header_dtype.fields[field][:2]) for field in nib.nifti1.header_dtype.names]

mutations = st.lists(st.tuples(st.integers(0, 543), st.integers(0, 255)), min_size=1, max_size=6)


def check_refused_or_sane(path: Path) -> None:
    refusal = ""
    tracemalloc.start()
    try:
        header = read_header(ImageRef(path))
        voxels = read_voxels(ImageRef(path), header)
        turned = in_ras(header)
    except (DataError, ResourceError) as problem:
        refusal = str(problem)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 50e6
    if refusal:
        assert str(path) in refusal
        return
    assert voxels.shape == header.shape
    assert voxels.nbytes < 1e6
    assert np.isfinite(header.affine).all()
    assert min(header.spacing) > 0
    assert turned.axis_codes == "RAS"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=mutations, second=st.booleans(), compressed=st.booleans())
@example(mutations=[(40, 7)], second=False, compressed=True)
@example(mutations=[(70, 64), (71, 0)], second=False, compressed=False)
@example(mutations=[(295, 127)], second=False, compressed=False)  # a signalling NaN
def test_any_bytes_in_a_header_are_refused_or_harmless(
    tmp_path: Path, mutations: list[tuple[int, int]], second: bool, compressed: bool
) -> None:
    content = bytearray(TWO if second else ONE)
    for position, value in mutations:
        content[position % len(content)] = value
    path = tmp_path / ("a.nii.gz" if compressed else "a.nii")
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    check_refused_or_sane(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(FIELDS),
    part=st.integers(0, 7),
    value=st.one_of(st.integers(-(2**15), 2**15 - 1), st.floats(width=32)),
)
def test_any_value_of_a_header_field_is_refused_or_harmless(
    tmp_path: Path, field: tuple[str, np.dtype, int], part: int, value: float
) -> None:
    name, dtype, _ = field
    header = np.frombuffer(ONE[:348], nib.nifti1.header_dtype).copy()
    if dtype.base.kind == "f":
        header[name].reshape(-1)[part % header[name].size] = value
    elif dtype.base.kind in "iu" and math.isfinite(value):
        header[name].reshape(-1)[part % header[name].size] = np.uint64(int(value) % 2**64).astype(dtype.base)
    path = tmp_path / "a.nii"
    path.write_bytes(header.tobytes() + ONE[348:])
    check_refused_or_sane(path)


def test_a_header_for_an_array_has_its_geometry() -> None:
    header = array_header((2, 3, 4), AFFINE)
    record = parse(header.raw)[0]
    assert header.spacing == (2.0, 1.5, 3.0)
    assert header.axis_codes == "RPS"
    np.testing.assert_array_equal([record["srow_x"], record["srow_y"], record["srow_z"]], AFFINE[:3])
    np.testing.assert_array_equal(array_header((2, 3, 4)).affine, np.eye(4))
    assert parse(array_header((40_000, 1, 1)).raw)["sizeof_hdr"][0] == 540


@pytest.mark.parametrize("content", [ONE, TWO])
def test_parsing_gives_little_endian_fields_in_either_byte_order(content: bytes) -> None:
    kind = nib.Nifti1Header if content is ONE else nib.Nifti2Header
    header = kind(content[: 348 if content is ONE else 540])
    swapped = header.as_byteswapped(">").binaryblock
    assert parse(swapped) == parse(header.binaryblock)
    np.testing.assert_array_equal(parse(swapped)["dim"][0, :4], (3, 2, 3, 4))
