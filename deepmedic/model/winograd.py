"""Convolutions on a CPU with about half the multiplications, for layers with many feature maps.

Of 4 voxels along an axis and a kernel of 3 taps there are 12 products. Seen as polynomials, both can be multiplied at 6
points and interpolated instead (Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016). Here this is done along x: the planes of a *tile* of an image are
combined, each combination is convolved along y and z with a combination of the kernel's taps along x, and the results
are combined to planes again. Combining is a product with a small matrix; what convolves is oneDNN.

Along one axis only, the rounding error stays that of float32: about twice that of convolving plainly. The points are
among those that Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
Networks" (2020), found to round least.

Shapes: B batch, C input channels, O output channels; images are [B, C, x, y, z], weights [O, C, 3, y, z]. A plane is
one step along x of one image, [y, z, C] in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import polynomial
from torch import Tensor
from torch.nn import functional

from deepmedic.config.options import Size3
from deepmedic.model import compilation

_TAPS = 3
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Infinity is always one more. Tiles of 3 planes take all but the last of these."""
_BYTES_AT_ONCE = 16 * 2**20
"""Of all combinations of a tile: what stays in the cache of a CPU until it is used."""
_FEWEST_CHANNELS = 24
_FEWEST_PRODUCTS = 10_000_000
"""Of one combination with its kernel, all images together, for each thread: what is worth the calls for it."""


def pays(images: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` and `gradients` can take these and are faster than convolving plainly.

    Images that are constant are left to the plain convolution, which gives the same number everywhere: batch norm tells
    by that which channels have nothing to scale.
    """
    out_channels, channels, *taps = weight.shape
    if taps[0] != _TAPS or min(taps) == 1 or min(channels, out_channels) < _FEWEST_CHANNELS:
        return False
    width, height, depth = _Layer.of(images, weight).outputs
    products = len(images) * height * depth * weight[:, :, 0].numel()
    worth_it = bool(_tiles(width)) and products >= _FEWEST_PRODUCTS * torch.get_num_threads()
    return worth_it and not _seem_constant(images)


def convolve(images: Tensor, weight: Tensor) -> Tensor:
    """Return the cross-correlation without padding, [B, O, x, y, z] stored channels-last.

    Args:
        images: float32, stored channels-last.
        weight: with 3 taps along x.
    """
    layer = _Layer.of(images, weight)
    planes, kernels = _planes(images), _combined_kernels(weight, layer)
    width, height, depth = layer.outputs
    result = images.new_empty(layer.batch, width, height * depth * layer.out_channels)
    for part in layer.parts():
        convolved = [
            torch.ops.aten.mkldnn_convolution(combination, kernel, None, (0, 0), (1, 1), (1, 1), 1)
            for combination, kernel in zip(layer.combined(planes, part), kernels[part.tile], strict=True)
        ]
        _multiply(part.transform.results, _flat(convolved), result[layer.of_results(part)])
    return result.view(layer.batch, width, height, depth, layer.out_channels).permute(0, 4, 1, 2, 3)


def gradients(
    upstream: Tensor, images: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `convolve` for images and weight, each where it is wanted.

    Args:
        upstream: gradient of the result, stored channels-last.
        images: as of `convolve`.
        weight: as of `convolve`.
        wanted: the gradient for images, that for weight.
    """
    layer, (of_images, of_weight) = _Layer.of(images, weight), wanted
    planes, upstream_planes, kernels = _planes(images), _planes(upstream), _combined_kernels(weight, layer)
    planes_gradient = torch.zeros_like(planes) if of_images else None
    kernels_gradients = {tile: torch.zeros_like(kernel) for tile, kernel in kernels.items()} if of_weight else {}
    for part in layer.parts():
        combined, spread = layer.combined(planes, part), layer.spread(upstream_planes, part)
        combined_gradients = []
        for number, kernel in enumerate(kernels[part.tile]):
            of_combination, of_kernel, _ = torch.ops.aten.convolution_backward(
                *(spread[number], combined[number], kernel, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1),
                [of_images, of_weight, False],
            )
            combined_gradients.append(of_combination)
            if of_weight:
                kernels_gradients[part.tile][number] += of_kernel
        if planes_gradient is not None:
            of_part = planes_gradient[layer.of_planes(part)]
            _multiply(part.transform.planes.t(), _flat(combined_gradients), of_part, added=True)
    images_gradient, weight_gradient = None, None
    if planes_gradient is not None:
        images_gradient = planes_gradient.view(layer.batch, *layer.size, layer.channels).permute(0, 4, 1, 2, 3)
    if of_weight:
        of_tiles = [_taps_gradient(gradient, tile) for tile, gradient in kernels_gradients.items()]
        weight_gradient = torch.stack(of_tiles).sum(dim=0)
    return images_gradient, weight_gradient


class _Transform(NamedTuple):
    """Matrices of a tile, whose points are as many as its planes and 2 more, infinity the last."""

    planes: Tensor
    """[point, plane]: planes of the images to combinations."""
    kernel: Tensor
    """[point, tap]"""
    results: Tensor
    """[plane, point]: what was convolved to planes of the result."""


class _Part(NamedTuple):
    """What is computed at once: some rows of a tile of some images."""

    images: slice
    first_plane: int
    tile: int
    """Planes of the result."""
    first_row: int
    rows: int
    """Of the result."""

    @property
    def transform(self) -> _Transform:
        return _transform(self.tile)


class _Layer(NamedTuple):
    """The sizes of a convolution."""

    batch: int
    size: Size3
    """Of the images."""
    channels: int
    out_channels: int
    taps: Size3

    @classmethod
    def of(cls, images: Tensor, weight: Tensor) -> _Layer:
        batch, channels, x, y, z = images.shape
        return cls(batch, (x, y, z), channels, len(weight), (weight.shape[2], weight.shape[3], weight.shape[4]))

    @property
    def outputs(self) -> Size3:
        """Size of the result."""
        x, y, z = (size - taps + 1 for size, taps in zip(self.size, self.taps, strict=True))
        return x, y, z

    def parts(self) -> Iterator[_Part]:
        """All tiles of all images, in parts that are as equal as possible."""
        width, height, depth = self.outputs
        numbers = max(self.size[2] * self.channels, depth * self.out_channels) * (len(_POINTS) + 1)
        rows_at_once = _BYTES_AT_ONCE // (numbers * torch.float32.itemsize)
        images, rows = _share(self.batch, rows_at_once // height), _share(height, rows_at_once)
        for first_image in range(0, self.batch, images):
            for first_row in range(0, height, rows):
                for first_plane, tile in _tiles(width):
                    yield _Part(
                        slice(first_image, first_image + images),
                        first_plane,
                        tile,
                        first_row,
                        min(rows, height - first_row),
                    )

    def of_planes(self, part: _Part) -> tuple[slice, slice, slice]:
        """Where the planes that a part sees are among all [image, plane, number]."""
        row = self.size[2] * self.channels
        numbers = slice(part.first_row * row, (part.first_row + part.rows + self.taps[1] - 1) * row)
        return part.images, slice(part.first_plane, part.first_plane + part.tile + _TAPS - 1), numbers

    def of_results(self, part: _Part) -> tuple[slice, slice, slice]:
        """The same of the planes of the result that it gives."""
        row = self.outputs[2] * self.out_channels
        numbers = slice(part.first_row * row, (part.first_row + part.rows) * row)
        return part.images, slice(part.first_plane, part.first_plane + part.tile), numbers

    def combined(self, planes: Tensor, part: _Part) -> Tensor:
        """Return the combinations of a part, [point, image, C, y, z], each of them stored channels-last."""
        return _products(part.transform.planes, planes[self.of_planes(part)], self.size[2], self.channels)

    def spread(self, upstream: Tensor, part: _Part) -> Tensor:
        """Return the gradients of what was convolved, [point, image, O, y, z], each stored channels-last."""
        planes = upstream[self.of_results(part)]
        return _products(part.transform.results.t(), planes, self.outputs[2], self.out_channels)


def _seem_constant(images: Tensor) -> bool:
    """Whether each channel is the same at some voxels all over the images."""
    x, y, z = (max(1, size // 4) for size in images.shape[2:])
    some = images[:, :, ::x, ::y, ::z]
    return bool((some == some[:1, :, :1, :1, :1]).all())


def _share(count: int, most: int) -> int:
    """Return the size of equal shares of `count`, `most` of them or fewer in each, but at least 1."""
    shares = -(-count // max(most, 1))
    return -(-count // shares)


def _planes(images: Tensor) -> Tensor:
    """View images that are stored channels-last as [image, plane, number]."""
    return images.permute(0, 2, 3, 4, 1).flatten(2)


def _products(matrix: Tensor, planes: Tensor, depth: int, channels: int) -> Tensor:
    """Return the combinations of [image, plane, number] in the rows of a matrix, [row, image, channel, y, z]."""
    products = planes.new_empty(len(matrix), len(planes), planes.shape[2])
    _multiply(matrix, planes, products.transpose(0, 1))
    return products.view(*products.shape[:2], -1, depth, channels).permute(0, 1, 4, 2, 3)


def _flat(images: Sequence[Tensor]) -> list[Tensor]:
    """Return [image, channel, y, z], each stored channels-last, as [image, number]."""
    return [image.permute(0, 2, 3, 1).flatten(1) for image in images]


def _multiply(matrix: Tensor, sources: Tensor | list[Tensor], target: Tensor, *, added: bool = False) -> None:
    """Write sums of sources, weighted by the rows of [row, source].

    Args:
        matrix: with at most as many columns as there are points.
        sources: [image, source, number], or one [image, number] for each source; numbers lie side by side in memory.
        target: [image, row, number], written, or added to if `added`; in memory as the sources.
    """
    if compilation.is_possible_for(target):
        _multiply_compiled(matrix, list(sources.unbind(1) if isinstance(sources, Tensor) else sources), target, added)
        return
    for image, products in enumerate(target):
        planes = sources[image] if isinstance(sources, Tensor) else torch.stack([source[image] for source in sources])
        if added:
            products.addmm_(matrix, planes)
        else:
            torch.mm(matrix, planes, out=products)


def _multiply_compiled(matrix: Tensor, sources: list[Tensor], target: Tensor, added: bool) -> None:
    from deepmedic.model import winograd_kernels

    missing = len(_POINTS) + 1 - len(sources)
    sources = sources + sources[:1] * missing  # for smaller tiles, times 0
    images = torch.arange(len(target))[:, None]
    winograd_kernels.multiply(
        functional.pad(matrix, (0, missing)),
        tuple(_numbers(source) for source in sources),
        images * torch.tensor([source.stride(0) for source in sources]),
        _numbers(target),
        images * target.stride(0) + torch.arange(len(matrix)) * target.stride(1),
        target.shape[2],
        added,
    )


def _numbers(planes: Tensor) -> Tensor:
    """Return all memory from the first number of some planes to the last, [number]."""
    last = sum((size - 1) * stride for size, stride in zip(planes.shape, planes.stride(), strict=True))
    return planes.as_strided((last + 1,), (1,))


def _combined_kernels(weight: Tensor, layer: _Layer) -> dict[int, Tensor]:
    """Return kernels [point, O, C, y, z] for each tile of the layer."""
    tiles = {tile for _, tile in _tiles(layer.outputs[0])}
    return {tile: torch.einsum("pt,octyz->pocyz", _transform(tile).kernel, weight).contiguous() for tile in tiles}


def _taps_gradient(kernels_gradient: Tensor, tile: int) -> Tensor:
    """Return the gradient for [O, C, tap, y, z] of that for kernels [point, O, C, y, z]."""
    return torch.einsum("pt,pocyz->octyz", _transform(tile).kernel, kernels_gradient)


@lru_cache(maxsize=1024)
def _tiles(width: int) -> tuple[tuple[int, int], ...]:
    """Return first plane and planes of tiles of 4 and as few as possible of 3; none where these cannot fill `width`."""
    threes = -width % 4
    fours = (width - 3 * threes) // 4
    if fours < 0:
        return ()
    tiles = (*[4] * fours, *[3] * threes)
    return tuple((sum(tiles[:number]), tile) for number, tile in enumerate(tiles))


@cache
def _transform(tile: int) -> _Transform:
    """Return the matrices of a tile of 3 or 4 planes, by the method of Toom and Cook."""
    points = _POINTS[: tile + 1]
    count = len(points) + 1
    planes, kernel, results = np.zeros((count, count)), np.zeros((count, _TAPS)), np.zeros((tile, count))
    for number, point in enumerate(points):
        others = [other for other in points if other != point]
        planes[number, :-1] = polynomial.polyfromroots(others)
        kernel[number] = polynomial.polyvander(point, _TAPS - 1) / np.prod(np.subtract(point, others))
        results[:, number] = polynomial.polyvander(point, tile - 1)
    planes[-1] = polynomial.polyfromroots(points)
    kernel[-1, -1] = results[-1, -1] = 1.0
    return _Transform(*(torch.tensor(matrix, dtype=torch.float32) for matrix in (planes, kernel, results)))
