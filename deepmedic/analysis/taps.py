"""What every layer of a network gives to the layers after it, seen during a forward pass.

A layer is named `<pathway>/<number>` as in the names of its parameters. Its output is that of its convolution with the
residual, if it has one. `PENULTIMATE` is what the classification layer's convolution sees: the output of the last
hidden layer (without hidden FC layers: of all pathways) after normalisation, activation and dropout.

Shapes: images are [B, channels, x, y, z].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepmedic import geometry
from deepmedic.config.architecture import Architecture, Pathway, layer_names
from deepmedic.config.options import Size3
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.pathway import Block, spatial_size

PENULTIMATE = "penultimate"


def all_layers(architecture: Architecture) -> tuple[str, ...]:
    """Names of all layers in the order normal, subsampled, FC; `PENULTIMATE` before the classification layer."""
    names = [f"{pathway.name}/{layer}" for pathway, layer in layer_names(architecture)]
    return (*names[:-1], PENULTIMATE, names[-1])


def hidden_layers(architecture: Architecture) -> tuple[str, ...]:
    """The layers that are transferred by default: all but the classification layer, with `PENULTIMATE`."""
    return all_layers(architecture)[:-1]


def channels_of(architecture: Architecture, layer: str) -> int:
    """Number of channels of a layer's output.

    Raises:
        ValueError: there is no such layer.
    """
    if layer == PENULTIMATE:
        hidden = architecture.fc.feature_maps[:-1]
        return hidden[-1] if hidden else sum(pathway.feature_maps[-1] for pathway in architecture.parallel)
    for pathway, number in layer_names(architecture):
        if layer == f"{pathway.name}/{number}":
            return pathway.feature_maps[number - 1]
    raise ValueError(f"layer {layer}: the model has the layers {', '.join(all_layers(architecture))}")


def pathway_of(architecture: Architecture, layer: str) -> Pathway:
    """The pathway that a layer belongs to; `PENULTIMATE` belongs to the FC pathway."""
    name = layer.partition("/")[0]
    return next((pathway for pathway in architecture.parallel if pathway.name == name), architecture.fc)


@contextmanager
def watched(network: DeepMedicNet, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside the block, every forward pass puts the outputs [B, channels, x, y, z] of `layers` into the dict yielded.

    Outputs have the size and resolution that they have in the network; `at_voxels` aligns them.
    """
    outputs: dict[str, Tensor] = {}
    wanted = set(layers)
    with ExitStack() as stack, _at_full_resolution(network):

        def keep(name: str, tensor: Tensor) -> None:
            outputs[name] = tensor

        for sequence in (*network.parallel, network.fc):
            blocks = list(sequence.blocks)
            for number in range(1, len(blocks) + 1):
                name = f"{sequence.pathway.name}/{number}"
                if name not in wanted:
                    continue
                # The next layer is given the output with the residual; the last layer's is that of the sequence.
                handle = (
                    _on_input(blocks[number], name, keep)
                    if number < len(blocks)
                    else sequence.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
                )
                stack.callback(handle.remove)
        if PENULTIMATE in wanted:
            classifier = network.fc.blocks[-1]
            assert isinstance(classifier, Block)
            scale = classifier.dropout.scale  # which goes into the weights at inference

            def keep_scaled(name: str, tensor: Tensor) -> None:
                keep(name, tensor * scale)

            stack.callback(_on_input(classifier.convolution, PENULTIMATE, keep_scaled).remove)
        yield outputs


@contextmanager
def watched_inputs(network: DeepMedicNet) -> Iterator[dict[str, Tensor]]:
    """Inside the block, every forward pass gives what each layer's normalisation sees, by name of the layer."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        inputs[name] = tensor

    with ExitStack() as stack, _at_full_resolution(network):
        for pathway, layer, block in network.named_blocks():
            # The first layer of a block, which a CPU may compute in one with the next.
            stack.callback(_on_input(block, f"{pathway.name}/{layer}", keep).remove)
        yield inputs


def at_voxels(output: Tensor, pathway: Pathway, output_size: Size3, segments: Tensor, offsets: Tensor) -> Tensor:
    """Return the features [voxel, channels] of voxels of the predicted boxes, aligned as the forward pass aligns them.

    The predicted box is the central part of a layer's output, what later layers do not shrink away. A voxel of a
    low-resolution pathway counts `factor` times along each axis.

    Args:
        output: of a layer of `pathway`, [B, channels, x, y, z].
        pathway: which the layer belongs to.
        output_size: of the predicted box, voxels.
        segments: int64 [voxel], the row of `output` that each voxel is in; on its device.
        offsets: int64 [voxel, 3], the place of each voxel in the predicted box.
    """
    part = geometry.subsampled_output_size(output_size, pathway.factor)
    start = geometry.central_crop_start(spatial_size(output), part)
    x, y, z = (start[axis] + offsets[:, axis] // pathway.factor[axis] for axis in range(3))
    return output[segments, :, x, y, z]


def _on_input(module: nn.Module, name: str, keep: Any) -> torch.utils.hooks.RemovableHandle:
    return module.register_forward_pre_hook(lambda _, inputs: keep(name, inputs[0]))


@contextmanager
def _at_full_resolution(network: DeepMedicNet) -> Iterator[None]:
    """Let the first FC layer compute voxel by voxel, so that what its parts see can be watched; same result."""
    first = network.fc.blocks[0]
    assert isinstance(first, Block)
    before = first.plain_fusion
    first.plain_fusion = True
    try:
        yield
    finally:
        first.plain_fusion = before
