"""The layers of a block: bias, activation, dropout and convolution; batch norm is in `normalization`.

Attributes that hold tensors are named after their role in canonical parameter names (`weight`, `bn_gamma`, ...).
Shapes: B batch, C channels; images are [B, C, x, y, z].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepmedic import geometry
from deepmedic.config.architecture import ActivationName, Padding
from deepmedic.config.options import Size3
from deepmedic.errors import ConfigError
from deepmedic.model import cpu_convolution, rows
from deepmedic.model.normalization import ALL_CHANNELS, values_of
from deepmedic.model.padding import mirror_pad
from deepmedic.model.random_masks import random_mask

_SMALLEST_DROPOUT_RATE = 0.001


class Bias(nn.Module):
    """Add one number per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, images: Tensor, channels: slice = ALL_CHANNELS) -> Tensor:
        """`channels`: those of the layer that `images` holds."""
        bias = values_of(self.bias, channels).to(images.dtype)
        if images.device.type == "cpu":
            return rows.add(images, bias)
        return images + bias.view(1, -1, 1, 1, 1)


class PReLU(nn.Module):
    """Leaky rectifier with a learnt slope per channel (He et al., "Delving Deep into Rectifiers", 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prelu_alpha = nn.Parameter(torch.full((channels,), 0.01))

    def forward(self, images: Tensor, channels: slice = ALL_CHANNELS) -> Tensor:
        """`channels`: those of the layer that `images` holds."""
        alpha = values_of(self.prelu_alpha, channels).to(images.dtype)
        if images.device.type == "cpu":
            return rows.prelu(images, alpha)
        return functional.prelu(images, alpha)


def build_activation(name: ActivationName, channels: int) -> nn.Module:
    """Return the activation of that name; "selu" is Klambauer et al., "Self-Normalizing Neural Networks" (2017)."""
    match name:
        case "linear":
            return nn.Identity()
        case "relu":
            return nn.ReLU()
        case "prelu":
            return PReLU(channels)
        case "elu":
            return nn.ELU()
        case "selu":
            return nn.SELU()
    raise ConfigError(f'unknown activation "{name}"; allowed are linear, relu, prelu, elu, selu')


class Dropout(nn.Module):
    """Dropout that scales at inference: training zeroes a share of the values, inference multiplies by what is kept.

    Srivastava et al., "Dropout" (2014), in its first form; `torch.nn.Dropout` scales in training instead. Rates below
    0.001 count as none. Random numbers come from the global generator of the device.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def draws(self) -> bool:
        """Whether values of the next images are zeroed at random."""
        return self.training and self.rate >= _SMALLEST_DROPOUT_RATE

    @property
    def scale(self) -> float:
        """What the next images are multiplied by where nothing is drawn: the share that training keeps."""
        return 1.0 if self.training or self.rate < _SMALLEST_DROPOUT_RATE else 1.0 - self.rate

    def forward(self, images: Tensor) -> Tensor:
        if self.rate < _SMALLEST_DROPOUT_RATE:
            return images
        kept = 1.0 - self.rate
        if not self.training:
            return images * kept
        if images.device.type == "cpu" and not torch.compiler.is_compiling():
            return images * rows.as_images(self.mask(images), images)
        return images * torch.rand_like(images, dtype=torch.float32).lt_(kept).to(images.dtype)

    def mask(self, images: Tensor) -> Tensor:
        """Draw for images on a CPU what is kept of them: uint8 [number], in the order of channels-last storage."""
        return random_mask(images.numel(), 1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Convolution(nn.Module):
    """3D convolution without bias; "mirror" padding repeats the voxel at the edge, "zero" adds zeros."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size3, padding: Padding) -> None:
        super().__init__()
        self.padding = padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel))

    def forward(
        self,
        images: Tensor,
        channels: slice = ALL_CHANNELS,
        scale: float = 1.0,
        padding: Padding | None = None,
    ) -> Tensor:
        """Convolve `images` times `scale`.

        `channels`: those of the layer that the images hold, the others count as zero. `padding`: in place of the
        layer's own.
        """
        weight = self.weight if channels == ALL_CHANNELS else self.weight[:, channels]
        return _convolve(images, scaled(weight, scale), padding or self.padding)

    def with_bias(self, images: Tensor, bias: Tensor, scale: float = 1.0, padding: Padding | None = None) -> Tensor:
        """Convolve (`images` + `bias`) times `scale`, `bias` being [in]; not for padding with zeros.

        What is added to all voxels of a channel adds the same to all voxels of the result. Taking it there instead
        spares the gradient for the images, where these are no feature maps but the input of the network.
        """
        padding = padding or self.padding
        if padding == "zero":
            raise ValueError("padding with zeros: what is added to the images is not the same for all voxels")
        weight = scaled(self.weight, scale)
        return _convolve(images, weight, padding, (weight.sum(dim=(2, 3, 4)) * bias).sum(dim=1))


class LowRankConvolution(nn.Module):
    """Three groups of planar kernels, in the planes xy, yz and xz, each for a third of the output channels.

    Ioannou et al., "Training CNNs with Low-Rank Filters for Efficient Image Classification" (2016).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Size3, padding: Padding) -> None:
        super().__init__()
        third = out_channels // 3
        if third == 0:
            raise ConfigError(f"a low-rank layer needs at least 3 feature maps, this one has {out_channels}")
        x, y, z = kernel
        self.kernel = kernel
        self.padding = padding
        self.weight_x = nn.Parameter(torch.empty(third, in_channels, x, y, 1))
        self.weight_y = nn.Parameter(torch.empty(third, in_channels, 1, y, z))
        self.weight_z = nn.Parameter(torch.empty(out_channels - 2 * third, in_channels, x, 1, z))

    def forward(self, images: Tensor, scale: float = 1.0, padding: Padding | None = None) -> Tensor:
        """Convolve `images` times `scale`; `padding`: in place of the layer's own."""
        padding = padding or self.padding
        weights = [scaled(weight, scale) for weight in (self.weight_x, self.weight_y, self.weight_z)]
        return torch.cat([_convolve(self._crop(images, weight, padding), weight, padding) for weight in weights], dim=1)

    def _crop(self, images: Tensor, weight: Tensor, padding: Padding) -> Tensor:
        """Cut off, along the axis that `weight` does not span, what a full unpadded kernel would cut off."""
        if padding != "valid":
            return images
        for axis, (full, own) in enumerate(zip(self.kernel, weight.shape[2:], strict=True), 2):
            images = images.narrow(axis, (full - own) // 2, images.shape[axis] - (full - own))
        return images


def fast_layout(images: Tensor) -> Tensor:
    """Store images channels-last on a CPU: their convolutions take about two thirds of the time."""
    return images.contiguous(memory_format=torch.channels_last_3d) if images.device.type == "cpu" else images


def scaled(weight: Tensor, scale: float) -> Tensor:
    """The weights times a number: the same as scaling what they are applied to, which is far larger."""
    return weight if scale == 1.0 else weight * scale


def _convolve(images: Tensor, weight: Tensor, padding: Padding, bias: Tensor | None = None) -> Tensor:
    """Cross-correlate [B, in, x, y, z] with [out, in, x, y, z] and add `bias`, [out].

    Padding keeps the size, the odd voxel goes after.
    """
    # Repeated at each layer: torch convolves images of few voxels or channels by other means, which lose the layout.
    images = fast_layout(images)
    _, _, width, height, depth = weight.shape
    x, y, z = geometry.same_size_padding((width, height, depth))
    if padding == "mirror":
        images = mirror_pad(images, (x, y, z))
    elif padding == "zero":
        images = functional.pad(images, (*z, *y, *x))
    if cpu_convolution.is_possible(images, weight):
        return cpu_convolution.convolve(images, weight, bias)
    if images.device.type == "cpu" and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():
        return _convolve_by_onednn(images, weight, bias)
    return functional.conv3d(images, weight, bias)


def _convolve_by_onednn(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`functional.conv3d`, which takes a slower way for single images of few rows; inference has many of those."""
    if torch.is_autocast_enabled("cpu"):
        autocast_type = torch.get_autocast_dtype("cpu")
        images, weight = images.to(autocast_type), weight.to(autocast_type)
        bias = None if bias is None else bias.to(autocast_type)
    if images.dtype not in (torch.float32, torch.bfloat16):
        return functional.conv3d(images, weight, bias)
    return cpu_convolution.by_onednn(images, weight, bias)
