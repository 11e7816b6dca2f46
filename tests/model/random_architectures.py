"""Small random architectures for property tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.model.network import DeepMedicNet

Size3 = tuple[int, int, int]
ACTIVATIONS = ("linear", "relu", "prelu", "elu", "selu")


@st.composite
def architectures(draw: st.DrawFn, *, padded: bool = True) -> Architecture:
    """Networks with up to two low-resolution pathways; those without any may pad their normal pathway."""
    depth = draw(st.integers(1, 3))
    kernel = st.tuples(*[st.integers(1, 3)] * 3)
    kernels = tuple(draw(st.lists(kernel, min_size=depth, max_size=depth)))
    factors = draw(st.lists(st.tuples(*[st.integers(1, 3)] * 3), max_size=2))
    any_padding = st.sampled_from(["valid", "zero", "mirror"] if padded else ["valid"])
    parallel_padding = st.just("valid") if factors else any_padding

    def pathway(name: str, own_kernels: tuple[Size3, ...], padding, *, last: int | None = None, **others) -> Pathway:
        layers = len(own_kernels)
        maps = draw(st.lists(st.integers(3, 5), min_size=layers, max_size=layers))
        return Pathway(
            name,
            (*maps[:-1], last or maps[-1]),
            own_kernels,
            tuple(draw(st.lists(padding, min_size=layers, max_size=layers))),
            tuple(draw(st.lists(st.sampled_from([0.0, 0.3]), min_size=layers, max_size=layers))),
            residual_layers=tuple(draw(st.sets(st.integers(2, layers)))) if layers > 1 else (),
            **others,
        )

    normal = pathway("normal", kernels, parallel_padding, low_rank_layers=tuple(draw(st.sets(st.integers(1, depth)))))
    subsampled = tuple(
        pathway(f"subsampled{number}", kernels, st.just("valid"), factor=factor)
        for number, factor in enumerate(factors, 1)
    )
    fc_kernels = tuple(draw(st.lists(kernel, min_size=1, max_size=2)))
    return Architecture(
        input_channels=draw(st.integers(1, 2)),
        classes=2,
        normal=normal,
        subsampled=subsampled,
        fc=pathway("fc", fc_kernels, any_padding, last=2),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        batch_norm_window=draw(st.sampled_from([0, 2])),
    )


def small_architecture(**changes) -> Architecture:
    """Two low-resolution pathways, residuals, a low-rank layer, dropout and mirror padding in the FC pathway."""
    kernels, valid = ((3, 3, 3), (3, 3, 1), (1, 3, 3)), ("valid",) * 3

    def pathway(name: str, maps: tuple[int, ...], **others) -> Pathway:
        return Pathway(name, maps, kernels, valid, (0.0, 0.2, 0.0), residual_layers=(3,), **others)

    values = {
        "input_channels": 2,
        "classes": 3,
        "normal": pathway("normal", (4, 5, 6), low_rank_layers=(2,)),
        "subsampled": (
            pathway("subsampled1", (4, 4, 4), factor=(3, 3, 2)),
            pathway("subsampled2", (3, 4, 5), factor=(2, 5, 3)),
        ),
        "fc": Pathway("fc", (7, 3), ((3, 3, 3), (1, 1, 1)), ("mirror", "valid"), (0.0, 0.5)),
        "batch_norm_window": 3,
    }
    return Architecture(**{**values, **changes})


def random_inputs(architecture: Architecture, segment: Size3, batch: int = 2, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = architecture.input_sizes(segment)
    return [torch.randn(batch, architecture.input_channels, *size, generator=generator) for size in sizes]


def with_random_statistics(net: DeepMedicNet, seed: int = 0) -> DeepMedicNet:
    """Move everything that starts as zeros and ones, so that it matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if "convolution" not in name and tensor.is_floating_point():
                tensor.add_(0.5 * torch.rand(tensor.shape, generator=generator))
    return net
