"""The search for the parts that a larger pathway's layers take; see `growth_parts`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deepmedic.config.architecture import Pathway
from deepmedic.transfer.growth_parts import Channels, PathwayPlan, Step, padded_axes
from deepmedic.transfer.matching import NEW, Origins, low_rank_groups

Steps = tuple[Step, ...]


class Impossible(Exception):
    """Why layers cannot compute what they should."""


@dataclass
class PathwayPlanner:
    """Searches for the parts of a pathway's layers; layers of the small pathway stay at their index if they can."""

    pathway: Pathway
    source: Pathway
    inputs: Origins
    """Of stage 0."""
    not_identity: str | None
    """Why the activation cannot pass its input on; None if it can."""
    classes: Origins | None = None
    """For the FC pathway: of the classes, which the last layer of both pathways gives."""
    padded: frozenset[int] = frozenset()
    """Axes along which the network pads before this pathway."""
    _failed: set[tuple[object, ...]] = field(default_factory=set)
    _reasons: dict[int, list[str]] = field(default_factory=dict)

    def plan(self) -> PathwayPlan:
        """Return the parts of all layers.

        Raises:
            Impossible: there are none with which both pathways compute the same; says what stood in the way where the
                search got furthest.
        """
        if self.pathway.depth < self.source.depth:
            raise Impossible(f"it has {self.pathway.depth} layers, and the source model's has {self.source.depth}")
        steps = self._complete(())
        if steps is None:
            layer = max(self._reasons)
            raise Impossible(f"layer {layer}: {'; '.join(dict.fromkeys(self._reasons[layer]))}")
        return PathwayPlan(self.pathway, self.source, steps)

    def _complete(self, steps: Steps) -> Steps | None:
        """Return these steps with all that follow, or None if nothing can follow."""
        layer = len(steps) + 1
        if layer > self.pathway.depth:
            return steps
        stages = [self._stage(steps, number) for number in (layer - 1, layer - 2)]
        state = (layer, _source_stage(steps), steps[-1].part if steps else None, *stages)
        if state in self._failed:
            return None
        for attempt in self._attempts(steps, layer):
            try:
                added = attempt(steps, layer)
            except Impossible as reason:
                self._reasons.setdefault(layer, []).append(str(reason))
                continue
            complete = self._complete((*steps, *added))
            if complete is not None:
                return complete
        self._failed.add(state)
        return None

    def _attempts(self, steps: Steps, layer: int) -> list[Callable[[Steps, int], Steps]]:
        """Return what the layer could be, as far as the number of layers says."""
        own, giver = self.pathway, self.source
        source_layer = _source_stage(steps) + 1
        room = own.depth - layer - (giver.depth - source_layer)  # for inserted layers
        last_to_last = self.classes is None or (source_layer == giver.depth) == (layer == own.depth)
        attempts: list[Callable[[Steps, int], Steps]] = []
        if source_layer <= giver.depth and last_to_last:
            attempts.append(self._mapped)
        if room >= 2 and layer + 1 in own.residual_layers:
            attempts.append(self._residual_pair)
        if room >= 1:
            attempts.append(self._identity)
        return attempts

    def _mapped(self, steps: Steps, layer: int) -> Steps:
        source_layer = _source_stage(steps) + 1
        self._require_same_layer(layer, source_layer)
        earlier: Origins = ()
        if layer in self.pathway.residual_layers:
            if steps[-1].part != "mapped":
                raise Impossible("its residual connection would start at an inserted layer")
            earlier = self._stage(steps, layer - 2)
        outputs = [NEW] * self.pathway.feature_maps[layer - 1]
        silent: Channels = frozenset()
        allowed = self._allowed_places(layer, source_layer)
        # A channel that receives a residual has one place only; then the others go where they receive none.
        for channel in sorted(allowed, key=lambda channel: channel not in earlier):
            free = [place for place in allowed[channel] if outputs[place] == NEW]
            if channel in earlier:
                place, silenced = earlier.index(channel), Channels()
                if place not in free:
                    raise Impossible(f"its residual connection cannot meet feature map {channel} of the source model")
            else:
                place, silenced = self._quiet_place(steps, layer, channel, free, earlier)
            outputs[place] = channel
            silent |= silenced
        return (Step("mapped", source_layer, self._stage(steps, layer - 1), tuple(outputs), silent),)

    def _identity(self, steps: Steps, layer: int) -> Steps:
        self._require_insertable(steps, layer)
        if layer in self.pathway.residual_layers:
            raise Impossible("an inserted layer cannot have a residual connection that reaches over a mapped one")
        if self.not_identity is not None:
            raise Impossible(self.not_identity)
        inputs = self._stage(steps, layer - 1)
        width, needed = self.pathway.feature_maps[layer - 1], sum(origin != NEW for origin in inputs)
        if width < needed:
            raise Impossible(f"it has {width} feature maps and must pass on {needed} of the source model")
        outputs = tuple(channel if channel < needed else NEW for channel in range(width))
        return (Step("identity", _source_stage(steps), inputs, outputs),)

    def _residual_pair(self, steps: Steps, layer: int) -> Steps:
        self._require_insertable(steps, layer)
        self._require_insertable(steps, layer + 1)
        inputs = self._stage(steps, layer - 1)
        hidden, width = self.pathway.feature_maps[layer - 1 : layer + 1]
        if any(origin != NEW for origin in inputs[width:]):
            raise Impossible(f"its residual connection passes {width} of {len(inputs)} feature maps on")
        nothing = (NEW,) * hidden
        outputs = (*inputs[:width], *(NEW,) * (width - len(inputs)))
        stage = _source_stage(steps)
        return Step("free", stage, inputs, nothing), Step("shortcut", stage, nothing, outputs)

    def _require_same_layer(self, layer: int, source_layer: int) -> None:
        own, giver = self.pathway, self.source
        kernel, source_kernel = own.kernels[layer - 1], giver.kernels[source_layer - 1]
        where = f"layer {source_layer} of the source model"
        if kernel != source_kernel:
            raise Impossible(f"its kernels are {_size(kernel)} and those of {where} {_size(source_kernel)}")
        padding, source_padding = own.paddings[layer - 1], giver.paddings[source_layer - 1]
        if padding != source_padding and kernel != (1, 1, 1):
            raise Impossible(f'its padding is "{padding}" and that of {where} "{source_padding}"')
        for what, layers, source_layers in (
            ("low-rank kernels", own.low_rank_layers, giver.low_rank_layers),
            ("a residual connection", own.residual_layers, giver.residual_layers),
        ):
            if (layer in layers) != (source_layer in source_layers):
                having, lacking = ("it", where) if layer in layers else (where, "it")
                raise Impossible(f"{having} has {what}, and {lacking} has none")

    def _require_insertable(self, steps: Steps, layer: int) -> None:
        own = self.pathway
        if self.classes is None and layer == 1:
            raise Impossible("the first layer sees the image and cannot be an inserted one")
        kernel = own.kernels[layer - 1]
        if own.paddings[layer - 1] != "valid":
            return
        if any(length % 2 == 0 for length in kernel):
            raise Impossible(f"the inserted layer's kernels of {_size(kernel)} have no voxel in their middle")
        mapped = [number for number, step in enumerate(steps, 1) if step.part == "mapped"]
        if any(kernel[axis] > 1 for axis in self.padded | padded_axes(own, mapped)):
            raise Impossible(
                f"the inserted layer's unpadded kernels of {_size(kernel)} would move borders that layers before it "
                "pad; pad it too, or use kernels of 1x1x1"
            )

    def _allowed_places(self, layer: int, source_layer: int) -> dict[int, range]:
        """Return where each feature map of a layer of the small pathway could be in the larger one."""
        width, source_width = self.pathway.feature_maps[layer - 1], self.source.feature_maps[source_layer - 1]
        if self.classes is not None and layer == self.pathway.depth:
            return {origin: range(place, place + 1) for place, origin in enumerate(self.classes)}
        if layer not in self.pathway.low_rank_layers:
            return dict.fromkeys(range(source_width), range(width))
        own, given = low_rank_groups(width), low_rank_groups(source_width)
        return {channel: own[role] for role, channels in given.items() for channel in channels}

    def _quiet_place(
        self, steps: Steps, layer: int, channel: int, free: list[int], earlier: Origins
    ) -> tuple[int, Channels]:
        """Return a place to which no residual is added, or only new channels that can be silent; at best its own."""
        quiet = {place: frozenset[tuple[int, int]]() for place in free if place >= len(earlier)}
        if not quiet:
            silenced = {place: self._silenced(steps, layer - 2, place) for place in free if earlier[place] == NEW}
            quiet = {place: channels for place, channels in silenced.items() if channels is not None}
        if not quiet:
            width = self.pathway.feature_maps[layer - 1]
            group = " of the same group of low-rank kernels" if layer in self.pathway.low_rank_layers else ""
            raise Impossible(
                f"among its {width} feature maps there is no place{group} for feature map {channel} of the source model"
                + (" without a residual that the source model does not add" if earlier else "")
            )
        place = channel if channel in quiet else min(quiet)
        return place, quiet[place]

    def _silenced(self, steps: Steps, stage: int, channel: int) -> Channels | None:
        """Return which new feature maps must be zero so that a new channel of a stage is; None if it cannot be."""
        if stage == 0:
            return None
        found = frozenset({(stage, channel)})
        if stage in self.pathway.residual_layers:
            earlier = self._stage(steps, stage - 2)
            if channel < len(earlier):
                further = self._silenced(steps, stage - 2, channel) if earlier[channel] == NEW else None
                return None if further is None else found | further
        return found

    def _stage(self, steps: Steps, stage: int) -> Origins:
        return steps[stage - 1].outputs if stage > 0 else self.inputs


def _source_stage(steps: Steps) -> int:
    return steps[-1].source_stage if steps else 0


def _size(kernel: tuple[int, int, int]) -> str:
    return "x".join(map(str, kernel))
