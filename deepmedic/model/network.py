"""The whole network: parallel pathways at several resolutions, fused and classified by the FC pathway.

Kamnitsas et al., "Efficient multi-scale 3D CNN with fully connected CRF for accurate brain lesion segmentation"
(2017). Shapes: B batch, images are [B, channels, x, y, z].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from deepmedic import geometry
from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.options import Size3
from deepmedic.errors import ConfigError, ModelError
from deepmedic.model.layers import Bias
from deepmedic.model.outputs import PathwayOutputs, repeat
from deepmedic.model.parts import Cuboid, between, is_separable, needed_outputs, surrounding
from deepmedic.model.pathway import Block, BlockSequence, Watcher, crop, spatial_size

ChannelRanges = Mapping[int, Mapping[int, tuple[int, int]]]
"""Feature maps by pathway (FC last) and layer, both counted from 0 as in file names: from and to, the last excluded."""


class DeepMedicNet(nn.Module):
    """A multi-pathway network for segments of any size that its convolutions leave something of.

    A new one has weights drawn from `seed`, whatever the state of torch's global generators.
    """

    def __init__(self, architecture: Architecture, seed: int = 0) -> None:
        super().__init__()
        self.architecture = architecture
        self.parallel = nn.ModuleList(
            BlockSequence(architecture, pathway, architecture.input_channels) for pathway in architecture.parallel
        )
        fused_channels = sum(pathway.feature_maps[-1] for pathway in architecture.parallel)
        self.fc = BlockSequence(architecture, architecture.fc, fused_channels)
        self.softmax = Bias(architecture.classes)
        self._initialize(seed)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return logits [B, classes, x, y, z] of the predicted box of a segment.

        Args:
            inputs: one tensor per parallel pathway, [B, input channels, x, y, z], normal pathway first, of the sizes
                that `architecture.input_sizes` names.

        Raises:
            ModelError: number, channels or sizes of the inputs do not fit the network.
        """
        self._check_inputs(inputs)
        return self._classify(inputs, [None] * len(self.architecture.pathways))

    def forward_features(self, *inputs: Tensor, wanted: ChannelRanges) -> tuple[Tensor, dict[tuple[int, int], Tensor]]:
        """Return logits and, by (pathway, layer), the wanted feature maps [B, maps, x, y, z] of the predicted box.

        Feature maps are outputs of convolutions before a residual is added; those of low-resolution pathways are
        repeated. An end beyond the number of maps means up to the last.

        Raises:
            ModelError: as `forward`.
        """
        self._check_inputs(inputs)
        output_size = self.architecture.output_size(spatial_size(inputs[0]))
        features: dict[tuple[int, int], Tensor] = {}

        def watcher(number: int, pathway: Pathway) -> Watcher | None:
            ranges = wanted.get(number)
            if not ranges:
                return None

            def keep(layer: int, output: Tensor) -> None:
                if layer - 1 in ranges:
                    first, end = ranges[layer - 1]
                    features[number, layer - 1] = _predicted_part(output[:, first:end], pathway.factor, output_size)

            return keep

        watchers = [watcher(number, pathway) for number, pathway in enumerate(self.architecture.pathways)]
        return self._classify(inputs, watchers), features

    def forward_boxes(self, *inputs: Tensor, boxes: Sequence[Cuboid]) -> Iterator[Tensor]:
        """Yield the logits [B, classes, x, y, z] of some boxes of the predicted box, computing little else.

        The same as cutting the boxes from what `forward` returns, apart from rounding. The parallel pathways are
        computed where any box needs them, the FC pathway box by box.

        Args:
            inputs: as of `forward`.
            boxes: at least one, in voxels from the first predicted one.

        Raises:
            ModelError: as `forward`.
        """
        self._check_inputs(inputs)
        if not is_separable(self.architecture):
            logits = self(*inputs)
            yield from (crop(logits, box.start, box.size) for box in boxes)
            return
        output_size = self.architecture.normal.output_size(spatial_size(inputs[0]))
        needs = [needed_outputs(self.architecture, box, output_size) for box in boxes]
        around = surrounding([need.outputs for need in needs])
        outputs = self._outputs_within(inputs, around)
        for box, need in zip(boxes, needs, strict=True):
            x, y, z = (first - begin for first, begin in zip(need.outputs.start, around.start, strict=True))
            part = outputs.box((x, y, z), need.outputs.size)
            logits = self.softmax(self.fc(part, first_unpadded=need.first_unpadded))
            yield crop(logits, need.offset, box.size)

    def named_blocks(self) -> Iterator[tuple[Pathway, int, Block]]:
        """All blocks as (pathway, 1-based layer, block), in the order normal, subsampled, FC."""
        for sequence in (*self.parallel, self.fc):
            for layer, block in enumerate(sequence.blocks, 1):
                yield sequence.pathway, layer, block

    def _classify(self, inputs: tuple[Tensor, ...], watchers: Sequence[Watcher | None]) -> Tensor:
        *parallel_watchers, fc_watcher = watchers
        outputs = [
            sequence(images, watch)
            for sequence, images, watch in zip(self.parallel, inputs, parallel_watchers, strict=True)
        ]
        factors = tuple(pathway.factor for pathway in self.architecture.parallel)
        return self.softmax(self.fc(PathwayOutputs(tuple(outputs), factors), fc_watcher))

    def _outputs_within(self, inputs: tuple[Tensor, ...], around: Cuboid) -> PathwayOutputs:
        """What the parallel pathways give in a box of the normal pathway's output, and in all cells that touch it."""
        outputs, skips = [], []
        for pathway, sequence, images in zip(self.architecture.parallel, self.parallel, inputs, strict=True):
            factor, size = pathway.factor, spatial_size(images)
            first = [start // times for start, times in zip(around.start, factor, strict=True)]
            lost = (full - left for full, left in zip(size, pathway.output_size(size), strict=True))
            end = [-(-last // times) + more for last, times, more in zip(around.end, factor, lost, strict=True)]
            needed = between(first, end)
            outputs.append(sequence(crop(images, needed.start, needed.size)))
            x, y, z = (start % times for start, times in zip(around.start, factor, strict=True))
            skips.append((x, y, z))
        factors = tuple(pathway.factor for pathway in self.architecture.parallel)
        return PathwayOutputs(tuple(outputs), factors, tuple(skips))

    def _check_inputs(self, inputs: tuple[Tensor, ...]) -> None:
        architecture = self.architecture
        if len(inputs) != len(architecture.parallel):
            raise ModelError(
                f"the network takes {len(architecture.parallel)} inputs, one for each of its parallel pathways "
                f"({', '.join(pathway.name for pathway in architecture.parallel)}); found {len(inputs)}"
            )
        segment = spatial_size(inputs[0])
        if min(architecture.output_size(segment)) < 1:
            raise ModelError(
                f"the segment of {segment} voxels is too small for the network: nothing is left of it; "
                f"its receptive field is {architecture.receptive_field}"
            )
        for pathway, images, size in zip(architecture.parallel, inputs, architecture.input_sizes(segment), strict=True):
            expected = (architecture.input_channels, *size)
            if tuple(images.shape[1:]) != expected:
                raise ModelError(
                    f"the input of pathway {pathway.name} is {list(images.shape)}; for a segment of {segment} voxels "
                    f"it must be [batch, channels, x, y, z] = [any, {', '.join(map(str, expected))}]"
                )

    @torch.no_grad()
    def _initialize(self, seed: int) -> None:
        """Draw convolution weights: "fanIn" has variance scale / fan-in (He et al., 2015)."""
        kind, number = self.architecture.weights_init
        if kind not in ("fanIn", "normal"):
            raise ConfigError(f'unknown initialisation "{kind}"; allowed are "fanIn" and "normal"')
        generator = torch.Generator("cpu").manual_seed(seed)
        for pathway, layer, block in self.named_blocks():
            in_channels = next(block.convolution.parameters()).shape[1]
            x, y, z = pathway.kernels[layer - 1]
            deviation = number if kind == "normal" else (number / (in_channels * x * y * z)) ** 0.5
            for weight in block.convolution.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, device="cpu") * deviation)


def _predicted_part(images: Tensor, factor: Size3, output_size: Size3) -> Tensor:
    part = geometry.subsampled_output_size(output_size, factor)
    return repeat(crop(images, geometry.central_crop_start(spatial_size(images), part), part), factor, output_size)
