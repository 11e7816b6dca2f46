"""First-layer weights when the image channels of two models differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepmedic.errors import ModelError
from deepmedic.transfer.matching import NEW, Origins, is_identity
from deepmedic.transfer.options import NewChannels


@dataclass(frozen=True)
class Stem:
    """How the first layers' weights of the target's image channels are made of those of the source's."""

    mixing: Tensor
    """Weight of source channel i in that of target channel j, [source channels, channels]."""
    bias_mixing: Tensor
    """The same for the bias that the first layer adds to the image."""
    received: int
    """Channels of the target whose weights are made of the source's."""
    note: str
    bias_note: str

    def weights(self, source: Tensor) -> Tensor:
        """Return [feature maps, channels, x, y, z] from the source's [feature maps, source channels, x, y, z]."""
        return torch.einsum("oaxyz,ab->obxyz", source, self.mixing)

    def bias(self, source: Tensor) -> Tensor:
        """Return [channels] from the source's [source channels]."""
        return source @ self.bias_mixing


def build_stem(origins: Origins, source_count: int, new_channels: NewChannels) -> Stem | None:
    """Return how to make first-layer weights, or None where they are copied channel by channel.

    What a neuron of the first layer receives keeps its size: it is exactly the source's

    - "zero": when the new channels are anything, if none of the source's is missing;
    - "mean": when all channels show the same image;
    - "repeat": when each new channel shows the image of the channel that it repeats, if all of the source's are used.

    Where channels of the source have no part in the target's weights, the others are scaled up in proportion.

    Args:
        origins: for each image channel of the target the source's channel.
        source_count: image channels of the source.
        new_channels: what weights of channels that the source lacks start from; "keep" changes nothing.

    Raises:
        ModelError: "zero" would leave the first layer without any weights.
    """
    if new_channels == "keep" or is_identity(origins, source_count):
        return None
    used = list(origins)
    if new_channels == "repeat":
        used = _repeated(origins, source_count)
    matched = [(origin, channel) for channel, origin in enumerate(used) if origin != NEW]
    if new_channels == "zero" and not matched:
        raise ModelError(
            'newChannels = "zero": no image channel of the new model is one of the source model, so that its first '
            'layers would see nothing; check channelNames in both models, or use newChannels = "mean"'
        )
    mixing = torch.zeros(source_count, len(origins))
    for origin, channel in matched:
        mixing[origin, channel] = 1.0
    bias_mixing = mixing.clone()
    new = [channel for channel, origin in enumerate(origins) if origin == NEW]
    if new_channels == "mean":
        mixing[:, new] = bias_mixing[:, new] = 1.0 / source_count
        factor = source_count / len(origins)
    else:
        factor = source_count / len({origin for origin, _ in matched})
        mixing = mixing / mixing.sum(dim=1, keepdim=True).clamp(min=1.0)  # copies share their channel's weights
    received = len(matched) if new_channels != "mean" else len(origins)
    note = _note(new, used, new_channels)
    scaling = [] if factor == 1 else [f"weights times {factor:.3g}"]
    return Stem(mixing * factor, bias_mixing, received, "; ".join([*note, *scaling]), "; ".join(note))


def _repeated(origins: Origins, source_count: int) -> list[int]:
    """Let new channels repeat the source's in turn."""
    repeated, turn = [], 0
    for origin in origins:
        if origin == NEW:
            origin, turn = turn % source_count, turn + 1
        repeated.append(origin)
    return repeated


def _note(new: list[int], used: list[int], new_channels: NewChannels) -> list[str]:
    if new_channels == "repeat":
        return [f"image channel {channel} repeats {used[channel]}" for channel in new]
    start = "zero" if new_channels == "zero" else "the mean of the source's"
    return [f"image channel {channel} from {start}" for channel in new]
