"""The plain way is `resample_affine`, volume by volume, which is tested against scipy itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from deepmedic.data import content_resampling
from deepmedic.data.affine import affine_matrix
from deepmedic.data.content_resampling import Volumes, content_of, resample_together
from deepmedic.data.interpolation import resample_affine

AIR = (0.25, -3.0)


def volumes_in_air(size, low, high, seed):
    """Two images, labels and a mask with content in the box low <= voxel < high, of which labels fill a part."""
    random = np.random.default_rng(seed)
    box = tuple(slice(begin, end) for begin, end in zip(low, high, strict=True))
    inner = tuple(slice(begin, max(begin, end - 1)) for begin, end in zip(low, high, strict=True))
    shape = tuple(end - begin for begin, end in zip(low, high, strict=True))
    images = np.tile(np.array(AIR, np.float32)[:, None, None, None], (1, *size))
    images[(slice(None), *box)] = random.normal(size=(2, *shape))
    labels, mask = np.zeros((1, *size), np.uint8), np.zeros((1, *size), bool)
    labels[(0, *inner)], mask[(0, *box)] = 3, random.random(shape) > 0.3
    return [torch.from_numpy(array) for array in (images, labels, mask)]


def parts_of(images, labels, mask, order):
    zeros = torch.zeros(1)
    fill = torch.tensor([7.0, 8.0])
    return [Volumes(images, order, fill), Volumes(labels, 0, zeros), Volumes(mask, 0, zeros)]


@st.composite
def boxes(draw):
    size = draw(st.tuples(*[st.integers(1, 11)] * 3))
    low = tuple(draw(st.integers(0, length - 1)) for length in size)
    high = tuple(draw(st.integers(begin + 1, length)) for begin, length in zip(low, size, strict=True))
    return size, low, high


RIGHT_ANGLES = st.tuples(*[st.sampled_from([0.0, 90.0, 180.0])] * 3)
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)


@settings(max_examples=150, deadline=None)
@given(
    box=boxes(),
    angles=RIGHT_ANGLES | ANGLES,
    scale=st.floats(0.3, 3),
    order=st.integers(0, 3),
    mode=st.sampled_from(["nearest", "constant", "mirror"]),
    voxels=st.sampled_from([1, 70, 2**17]),
    seed=st.integers(0, 1000),
)
def test_as_one_volume_after_the_other(box, angles, scale, order, mode, voxels, seed):
    matrix = affine_matrix(angles, scale)
    parts = parts_of(*volumes_in_air(*box, seed), order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(content_resampling.VOXELS_AT_ONCE, "cpu", voxels)
        found = resample_together(parts, matrix, mode)
    for part, values in zip(parts, found, strict=True):
        plain = resample_affine(part.images, matrix, part.order, mode, part.fill)
        assert values.dtype == part.images.dtype
        torch.testing.assert_close(values, plain, rtol=1e-6, atol=1e-6 if part.order else 0)


@pytest.mark.parametrize("low", [0, 2], ids=["at the border", "inside"])
@pytest.mark.parametrize("mode", ["nearest", "constant"])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("empty", [False, True], ids=["content", "empty"])
def test_scipy(order, mode, low, empty):
    """What lies far from the content has the value of the corner, as scipy gives it."""
    random = np.random.default_rng(low)
    images = np.tile(np.array(AIR, dtype=np.float32)[:, None, None, None], (1, 9, 8, 10))
    if not empty:
        images[0, low:5, low:6, low:7] = random.normal(size=(5 - low, 6 - low, 7 - low))
        images[1, 3:6, 3:6, low:9] = 1.0
    matrix = np.eye(3) + 0.3 * random.normal(size=(3, 3))
    (result,) = resample_together([Volumes(torch.from_numpy(images), order, torch.tensor([7.0, 8.0]))], matrix, mode)
    centre = np.floor(0.5 * np.array(images.shape[1:]))
    for image, fill, values in zip(images, (7.0, 8.0), result, strict=True):
        expected = ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=order, mode=mode, cval=fill)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_air_is_not_computed(monkeypatch):
    """Of 40^3 voxels no more are looked at than a box about the content, and air keeps its value to the last bit."""
    seen = []
    original = content_resampling.input_positions

    def watched(matrix, size, where, device):
        seen.append(np.prod([end - begin for begin, end in where]))
        return original(matrix, size, where, device)

    monkeypatch.setattr(content_resampling, "input_positions", watched)
    parts = parts_of(*volumes_in_air((40, 40, 40), (15, 15, 15), (25, 25, 25), 0), 1)
    images = resample_together(parts, affine_matrix((30.0, 20.0, 10.0), 1.0), "nearest")[0]
    assert sum(seen) < 0.3 * 40**3
    for image, air in zip(images, AIR, strict=True):
        assert torch.all(image[:10] == air)


@settings(max_examples=60, deadline=None)
@given(box=boxes(), seed=st.integers(0, 1000))
def test_box_of_content(box, seed):
    volumes = volumes_in_air(*box, seed)
    differs = np.any([np.any((v != v[:, :1, :1, :1]).numpy(), axis=0) for v in volumes], axis=0)
    where = np.argwhere(differs)
    expected = [(0, 1)] * 3 if len(where) == 0 else list(zip(where.min(0), where.max(0) + 1, strict=True))
    assert list(content_of(volumes)) == expected
