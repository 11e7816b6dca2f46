"""A pathway: pre-activation blocks in sequence, some of them with residual connections.

Shapes: images are [B, channels, x, y, z].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepmedic import geometry
from deepmedic.config.architecture import Architecture, Padding, Pathway
from deepmedic.config.options import Size3
from deepmedic.model import fusion
from deepmedic.model.activation import BlockLayers, activated
from deepmedic.model.layers import Bias, Convolution, Dropout, LowRankConvolution, build_activation
from deepmedic.model.normalization import RollingBatchNorm
from deepmedic.model.outputs import PathwayOutputs

Watcher = Callable[[int, Tensor], None]
"""Is shown each 1-based layer and the output of its convolution."""


class Block(nn.Module):
    """Batch norm or bias, activation, dropout, convolution (He et al., "Identity Mappings", 2016)."""

    plain_fusion = False
    """Compute at full resolution what could be computed at low resolution, with the same result."""

    def __init__(
        self, architecture: Architecture, pathway: Pathway, layer: int, in_channels: int, *, sees_image: bool
    ) -> None:
        """Build the 1-based `layer` of `pathway`; `sees_image`: its input is the image, not feature maps."""
        super().__init__()
        index = layer - 1
        normalized = architecture.batch_norm_window > 0 and not sees_image
        self.normalization = (
            RollingBatchNorm(in_channels, architecture.batch_norm_window, architecture.batch_norm_epsilon)
            if normalized
            else Bias(in_channels)
        )
        self.activation = build_activation("linear" if sees_image else architecture.activation, in_channels)
        self.dropout = Dropout(pathway.dropout_rates[index])
        convolution = LowRankConvolution if layer in pathway.low_rank_layers else Convolution
        self.convolution = convolution(
            in_channels, pathway.feature_maps[index], pathway.kernels[index], pathway.paddings[index]
        )

    def forward(self, images: Tensor | PathwayOutputs, *, unpadded: bool = False) -> Tensor:
        """Apply the layers; `unpadded`: leave out the padding of the convolution."""
        if isinstance(images, PathwayOutputs):
            return fusion.apply_block(self._layers(), images, unpadded=unpadded)
        padding: Padding | None = "valid" if unpadded else None
        first, convolution = self.normalization, self.convolution
        if isinstance(first, Bias) and isinstance(convolution, Convolution) and self._spares_a_gradient(images):
            return convolution.with_bias(images, first.bias, scale=self.dropout.scale, padding=padding)
        return self.convolution(activated(self._layers(), images), scale=self.dropout.scale, padding=padding)

    def _spares_a_gradient(self, images: Tensor) -> bool:
        """Whether to add the bias after the convolution: the layer is linear up to there, and trained on a CPU."""
        linear = isinstance(self.activation, nn.Identity) and not self.dropout.draws
        possible = linear and self.convolution.padding != "zero" and images.device.type == "cpu"
        return possible and torch.is_grad_enabled() and not images.requires_grad

    def prefers(self, outputs: PathwayOutputs) -> bool:
        """Whether the block is best given `outputs` as they are, not at full resolution."""
        return not self.plain_fusion and fusion.pays(self._layers(), outputs)

    def _layers(self) -> BlockLayers:
        return BlockLayers(self.normalization, self.activation, self.dropout, self.convolution)


class BlockSequence(nn.Module):
    """The blocks of one pathway."""

    def __init__(self, architecture: Architecture, pathway: Pathway, in_channels: int) -> None:
        super().__init__()
        self.pathway = pathway
        is_parallel = pathway is not architecture.fc
        channels = (in_channels, *pathway.feature_maps)
        self.blocks = nn.ModuleList(
            Block(architecture, pathway, layer, channels[layer - 1], sees_image=is_parallel and layer == 1)
            for layer in range(1, pathway.depth + 1)
        )

    def forward(
        self, images: Tensor | PathwayOutputs, watch: Watcher | None = None, *, first_unpadded: bool = False
    ) -> Tensor:
        """Apply all blocks, those of the FC pathway to the outputs of all others.

        `watch` is called with each 1-based layer and its output before any residual is added. `first_unpadded`: the
        voxels that the first layer would pad are there.
        """
        first_block = self.blocks[0]
        if isinstance(images, PathwayOutputs) and not (isinstance(first_block, Block) and first_block.prefers(images)):
            images = images.full_resolution()
        block_input: Tensor | PathwayOutputs = images
        previous_input = images
        for layer, block in enumerate(self.blocks, 1):
            output = block(block_input, unpadded=first_unpadded and layer == 1)
            if watch is not None:
                watch(layer, output)
            if layer in self.pathway.residual_layers:
                # What is watched may be kept, and what has a gradient is needed as it is.
                in_place = watch is None and not torch.is_grad_enabled()
                output = _add_residual(output, previous_input, in_place=in_place)
            block_input, previous_input = output, block_input
        return output


def _add_residual(output: Tensor, earlier: Tensor | PathwayOutputs, *, in_place: bool) -> Tensor:
    """Add the central part of an earlier layer's input; channels it lacks count as zero, surplus ones are cut."""
    if isinstance(earlier, PathwayOutputs):
        earlier = earlier.full_resolution()
    size, earlier_size = spatial_size(output), spatial_size(earlier)
    start = geometry.residual_crop_start(earlier_size, size)
    if in_place:
        channels = min(output.shape[1], earlier.shape[1])
        output[:, :channels] += crop(earlier[:, :channels], start, size)
        return output
    pads = [0, output.shape[1] - earlier.shape[1]]  # last axis first, before and after; below 0 cuts
    for axis in range(3):
        pads = [-start[axis], start[axis] + size[axis] - earlier_size[axis], *pads]
    return output + functional.pad(earlier, pads)


def crop(images: Tensor, start: Size3, size: Size3) -> Tensor:
    """Return the box of `size` voxels that begins at `start`, [..., x, y, z]."""
    (x, y, z), (width, height, depth) = start, size
    return images[..., x : x + width, y : y + height, z : z + depth]


def spatial_size(images: Tensor) -> Size3:
    """Return the size of images [B, channels, x, y, z] in voxels."""
    x, y, z = images.shape[2:]
    return x, y, z
