"""Random pairs of a small architecture and a larger one that can compute the same, for property tests."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from transfer_models import K1, K3, inputs_for

from deepmedic.config.architecture import Architecture, Pathway

KERNELS = (K1, K3, (3, 1, 1), (1, 3, 3))
FACTORS = ((3, 3, 3), (2, 2, 2), (3, 1, 2))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Architecture, Architecture]:
    """A small architecture and one that is wider, deeper, sees more channels or has more pathways."""
    small = draw(small_architectures())
    activation = draw(st.sampled_from(["prelu"] if small.activation in ("relu", "linear") else [small.activation]))
    activation = draw(st.sampled_from([small.activation, activation]))
    parallel = _grow_parallel(draw, small, pairs_only=activation not in ("linear", "prelu"))
    return small, replace(
        small,
        input_channels=small.input_channels + draw(st.integers(0, 2)),
        normal=parallel[0],
        subsampled=tuple(
            replace(pathway, name=f"subsampled{number}") for number, pathway in enumerate(parallel[1:], 1)
        ),
        fc=_grow_fc(draw, small, can_be_identity=activation in ("linear", "prelu")),
        activation=activation,
        batch_norm_window=small.batch_norm_window and draw(st.sampled_from([2, 3])),
    )


@st.composite
def small_architectures(draw: st.DrawFn) -> Architecture:
    """Unpadded parallel pathways of one to four layers with the same kernels, up to two of them at low resolution."""
    depth = draw(st.integers(1, 4))
    kernels = tuple(draw(st.sampled_from(KERNELS)) for _ in range(depth))
    residual = tuple(sorted(draw(st.sets(st.integers(3, depth), max_size=1)))) if depth >= 3 else ()
    low_rank = draw(
        st.sets(st.sampled_from([layer for layer in range(1, depth + 1) if layer not in residual]), max_size=1)
    )

    def pathway(name: str, factor=(1, 1, 1)) -> Pathway:
        maps = tuple(draw(st.integers(3, 5)) for _ in range(depth))
        rates = tuple(draw(st.sampled_from([0.0, 0.2])) for _ in range(depth))
        return Pathway(name, maps, kernels, ("valid",) * depth, rates, residual, tuple(low_rank), factor)

    factors = draw(st.lists(st.sampled_from(FACTORS), max_size=2))
    hidden = draw(st.integers(0, 2))
    first = draw(st.sampled_from([(K1, "valid"), (K3, "mirror"), (K3, "zero")]))
    fc_kernels, fc_paddings = (first[0], *(K1,) * hidden), (first[1], *("valid",) * hidden)
    return Architecture(
        input_channels=draw(st.integers(1, 2)),
        classes=3,
        normal=pathway("normal"),
        subsampled=tuple(pathway(f"subsampled{number}", factor) for number, factor in enumerate(factors, 1)),
        fc=Pathway("fc", (*(4,) * hidden, 3), fc_kernels, fc_paddings, (0.0,) * hidden + (0.5,)),
        activation=draw(st.sampled_from(["linear", "relu", "prelu", "elu", "selu"])),
        batch_norm_window=draw(st.sampled_from([0, 3])),
    )


def _grow_parallel(draw: st.DrawFn, small: Architecture, *, pairs_only: bool) -> list[Pathway]:
    """Insert the same layers into all parallel pathways, widen them, and add pathways of other factors."""
    after = draw(st.integers(1, small.normal.depth))
    while after + 1 in small.normal.residual_layers:  # nothing fits between a residual layer and the one before it
        after += 1
    how = draw(st.sampled_from(["none", "pair"] if pairs_only else ["none", "single", "pair"]))
    inserted = {"none": 0, "single": 1, "pair": 2}[how]
    kernels = tuple(draw(st.sampled_from(KERNELS)) for _ in range(inserted))
    grown = []
    for pathway in small.parallel:
        # A residual needs room: then every layer grows by the same.
        least = draw(st.integers(0, 2))
        extra = [least if pathway.residual_layers else draw(st.integers(0, 2)) for _ in range(pathway.depth)]
        if pathway.low_rank_layers:  # each group of kernels must grow
            extra = [3 * more for more in extra]
        maps = [count + more for count, more in zip(pathway.feature_maps, extra, strict=True)]
        grown.append(_with_inserted(draw, pathway, maps, after, kernels, residual=how == "pair"))
    more = draw(st.booleans())
    if more:
        place = draw(st.integers(1, len(grown)))
        grown.insert(place, replace(grown[-1], name="subsampled", factor=(5, 5, 5)))
    return grown


def _with_inserted(draw, pathway: Pathway, maps, after, kernels, *, residual) -> Pathway:
    count = len(kernels)

    def moved(layers) -> tuple[int, ...]:
        return tuple(layer if layer <= after else layer + count for layer in layers)

    widest = max(maps) + draw(st.integers(0, 1))
    rates = tuple(draw(st.sampled_from([0.0, 0.25])) for _ in range(pathway.depth + count))
    return replace(
        pathway,
        feature_maps=(*maps[:after], *(widest,) * count, *maps[after:]),
        kernels=(*pathway.kernels[:after], *kernels, *pathway.kernels[after:]),
        paddings=("valid",) * (pathway.depth + count),
        dropout_rates=rates,
        residual_layers=(*moved(pathway.residual_layers), *((after + 2,) if residual else ())),
        low_rank_layers=moved(pathway.low_rank_layers),
    )


def _grow_fc(draw: st.DrawFn, small: Architecture, *, can_be_identity: bool) -> Pathway:
    """Widen hidden layers, and insert one before the classification layer."""
    fc = small.fc
    maps = [count + draw(st.integers(0, 2)) for count in fc.feature_maps[:-1]]
    if not (can_be_identity and maps and draw(st.booleans())):
        return replace(fc, feature_maps=(*maps, 3))
    kernel, padding = draw(st.sampled_from([(K1, "valid"), (K3, "mirror"), ((1, 2, 3), "zero")]))
    last = len(maps)
    return replace(
        fc,
        feature_maps=(*maps, maps[-1] + draw(st.integers(0, 2)), 3),
        kernels=(*fc.kernels[:last], kernel, fc.kernels[last]),
        paddings=(*fc.paddings[:last], padding, fc.paddings[last]),
        dropout_rates=(*fc.dropout_rates[:last], 0.3, fc.dropout_rates[last]),
    )


def matching_inputs(small: Architecture, large: Architecture, seed: int = 0):
    """Return inputs of both networks that predict the same box; the larger one's have larger margins.

    Pathways of the small network are paired with those of the same factor, image channels by position.
    """
    normal = [large.normal.receptive_field[axis] - small.normal.receptive_field[axis] for axis in range(3)]
    unpadded = [
        sum(k[axis] - 1 for k, p in zip(large.fc.kernels, large.fc.paddings, strict=True) if p == "valid")
        - sum(k[axis] - 1 for k, p in zip(small.fc.kernels, small.fc.paddings, strict=True) if p == "valid")
        for axis in range(3)
    ]
    fc_rest = [sum(k[axis] - 1 for k in small.fc.kernels) for axis in range(3)]
    segment = tuple(small.normal.receptive_field[axis] + fc_rest[axis] + 2 for axis in range(3))
    larger = tuple(size + grown + more for size, grown, more in zip(segment, normal, unpadded, strict=True))
    large_inputs = inputs_for(large, larger, seed)
    rest = dict(enumerate(large.parallel))
    small_inputs = []
    for pathway, size in zip(small.parallel, small.input_sizes(segment), strict=True):
        number = next(number for number, other in rest.items() if other.factor == pathway.factor)
        del rest[number]
        small_inputs.append(_middle(large_inputs[number], size)[:, : small.input_channels])
    return small_inputs, large_inputs


def _middle(images: torch.Tensor, size) -> torch.Tensor:
    for axis, length in enumerate(size, 2):
        surplus = images.shape[axis] - length
        assert surplus % 2 == 0
        images = images.narrow(axis, surplus // 2, length)
    return images
