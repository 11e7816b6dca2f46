import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from deepmedic.data.interpolation import BOUNDARY_MODES, resample_affine

GOLDEN = Path(__file__).parents[1] / "golden" / "augmentation"
RECORDS = json.loads((GOLDEN / "augmentation.json").read_text())["affine"]


def oracle(image, matrix, order, mode, fill):
    centre = np.floor(0.5 * np.array(image.shape))
    return ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=order, mode=mode, cval=fill)


@pytest.mark.parametrize("mode", ["nearest", "constant", "min", "mirror", "reflect"])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"matrix{record['k']}")
def test_the_original(record, order, mode, device):
    with np.load(GOLDEN / "augmentation.npz") as arrays:
        image = torch.tensor(arrays["aug.image"], dtype=torch.float32, device=device)[None]
        matrix = arrays[f"aug.matrix{record['k']}"]
        expected = arrays[f"aug.affine{record['k']}.order{order}.{mode}"]
    fill = image.amin().view(1) if mode == "min" else torch.zeros(1, device=device)
    result = resample_affine(image, matrix.T, order, "constant" if mode == "min" else mode, fill)
    np.testing.assert_allclose(result[0].cpu(), expected, rtol=0, atol=1e-5 if order else 0)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"matrix{record['k']}")
def test_labels_of_the_original(record, device):
    with np.load(GOLDEN / "augmentation.npz") as arrays:
        labels = torch.tensor(arrays["aug.labels"].astype(np.uint8), device=device)[None]
        matrix = arrays[f"aug.matrix{record['k']}"]
        expected = arrays[f"aug.affine{record['k']}.labels_order0.nearest"]
    result = resample_affine(labels, matrix.T, 0, "nearest", torch.zeros(1, device=device))
    assert result.dtype == torch.uint8
    np.testing.assert_array_equal(result[0].cpu(), expected)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.integers(3, 9)] * 3),
    order=st.integers(0, 3),
    mode=st.sampled_from(BOUNDARY_MODES),
    seed=st.integers(0, 10**6),
)
def test_scipy(size, order, mode, seed):
    """Random matrices, so that positions are away from ties and edges and reach far outside the volume."""
    rng = np.random.default_rng(seed)
    if mode == "reflect" and order > 1:
        size = tuple(n + 5 for n in size)  # scipy's filter for this mode is not exact on axes of a few voxels
    images = rng.normal(size=(2, *size)).astype(np.float32)
    matrix = rng.normal(size=(3, 3))
    result = resample_affine(torch.from_numpy(images), matrix, order, mode, torch.tensor([1.5, -2.0]))
    for image, fill, values in zip(images, (1.5, -2.0), result, strict=True):
        expected = oracle(image, matrix, order, mode, fill)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5 if order else 0)


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_identity_changes_nothing(order, mode):
    images = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    result = resample_affine(images, np.eye(3), order, mode, torch.zeros(2))
    torch.testing.assert_close(result, images, rtol=0, atol=1e-5 if order > 1 else 0)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", BOUNDARY_MODES)
def test_axes_of_one_voxel(order, mode):
    images = torch.randn(1, 1, 6, 1, generator=torch.Generator().manual_seed(1))
    matrix = np.diag([1.0, 0.8, 1.0])
    expected = oracle(images[0].numpy(), matrix, order, mode, 0.0)
    result = resample_affine(images, matrix, order, mode, torch.zeros(1))
    np.testing.assert_allclose(result[0], expected, atol=1e-5)


def test_slabs_do_not_change_the_result(monkeypatch):
    images = torch.randn(2, 9, 5, 6, generator=torch.Generator().manual_seed(1))
    matrix = np.random.default_rng(2).normal(size=(3, 3))
    whole = resample_affine(images, matrix, 3, "constant", torch.zeros(2))
    monkeypatch.setattr("deepmedic.data.interpolation.VOXELS_AT_ONCE", {"cpu": 70})
    assert torch.equal(resample_affine(images, matrix, 3, "constant", torch.zeros(2)), whole)


@pytest.mark.parametrize(("order", "mode"), [(4, "nearest"), (1, "grid-constant")])
def test_what_is_not_offered(order, mode):
    with pytest.raises(ValueError, match=f"Order {order} with mode {mode}; allowed are"):
        resample_affine(torch.zeros(1, 2, 2, 2), np.eye(3), order, mode, torch.zeros(1))
