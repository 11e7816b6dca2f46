"""Mirror padding against numpy's, and its gradient against that of the composed operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deepmedic.model.padding import mirror_pad

SIDES = [((1, 1), (1, 1), (1, 1)), ((0, 0), (1, 2), (2, 2)), ((0, 1), (0, 0), (0, 0)), ((0, 0), (0, 0), (0, 0))]
LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


def images_of(dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    images = torch.randn(2, 3, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return images.to(dtype).contiguous(memory_format=layout).requires_grad_()


def composed(images: Tensor, sides) -> Tensor:
    """The voxels by their indices, which autograd adds up again."""
    for axis, (before, after) in enumerate(sides, 2):
        index = np.pad(np.arange(images.shape[axis]), (before, after), mode="symmetric")
        images = images.index_select(axis, torch.from_numpy(index))
    return images


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels-last"])
def test_voxels_at_the_edge_are_repeated(sides, layout: torch.memory_format) -> None:
    images = images_of(torch.float32, layout)
    expected = np.pad(images.detach().numpy(), ((0, 0), (0, 0), *sides), mode="symmetric")
    np.testing.assert_array_equal(mirror_pad(images, sides).detach().numpy(), expected)
    with torch.no_grad():
        np.testing.assert_array_equal(mirror_pad(images, sides).numpy(), expected)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels-last"])
def test_gradient(sides, layout: torch.memory_format) -> None:
    images = images_of(torch.float64)
    padded = mirror_pad(images, sides)
    upstream = torch.randn(padded.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    upstream = upstream.contiguous(memory_format=layout)
    kept = upstream.clone()
    (found,) = torch.autograd.grad(padded, images, upstream)
    (expected,) = torch.autograd.grad(composed(images, sides), images, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(upstream, kept), "the gradient that came in belongs to others"
    assert torch.autograd.gradcheck(lambda own: mirror_pad(own, sides), (images,))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-2)])
def test_gradient_in_lower_precision(dtype: torch.dtype, tolerance: float) -> None:
    sides = SIDES[0]
    images, exact = images_of(dtype), images_of(torch.float64)
    padded = mirror_pad(images, sides)
    upstream = torch.randn(padded.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (found,) = torch.autograd.grad(padded, images, upstream)
    (expected,) = torch.autograd.grad(composed(exact, sides), exact, upstream.double())
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
