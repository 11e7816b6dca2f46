"""Small models for tests of transfers between two models."""

from __future__ import annotations

from dataclasses import replace

import torch

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.model import ModelConfig
from deepmedic.model.saved import SavedModel

K3, K331, K1 = (3, 3, 3), (3, 3, 1), (1, 1, 1)


def pathway(name, maps, kernels=None, **others) -> Pathway:
    depth = len(maps)
    kernels = kernels or (K3,) * depth
    others = {"paddings": ("valid",) * depth, "dropout_rates": (0.0,) * depth, **others}
    return Pathway(name, tuple(maps), tuple(kernels), **others)


def architecture(
    normal=(3, 4), subsampled=((3, 3),), hidden=(5,), *, channels=2, classes=2, kernels=None, factors=None, **others
) -> Architecture:
    """A network of 3x3x3 kernels, and 1x1x1 in the FC pathway; `low_rank`, `residual` hold for all parallel ones."""
    factors = factors or ((3, 3, 3), (5, 5, 5))
    shared = {
        "low_rank_layers": tuple(others.pop("low_rank", ())),
        "residual_layers": tuple(others.pop("residual", ())),
    }
    fc_kernels = others.pop("fc_kernels", (K1,) * (len(hidden) + 1))
    fc_paddings = others.pop("fc_paddings", ("valid",) * (len(hidden) + 1))
    dropout = others.pop("fc_dropout", (0.0,) * len(hidden) + (0.5,))
    others.setdefault("batch_norm_window", 3)
    return Architecture(
        input_channels=channels,
        classes=classes,
        normal=pathway("normal", normal, kernels, **shared),
        subsampled=tuple(
            pathway(f"subsampled{number}", maps, kernels if len(maps) == len(normal) else None, factor=factor, **shared)
            for number, (maps, factor) in enumerate(zip(subsampled, factors, strict=False), 1)
        ),
        fc=pathway("fc", (*hidden, classes), fc_kernels, paddings=fc_paddings, dropout_rates=dropout),
        **others,
    )


def model(described: Architecture, name="model", seed=0, channel_names=None, class_names=None) -> SavedModel:
    """An untrained model whose parameters are all random, statistics and slopes too."""
    config = ModelConfig(
        name=name,
        folder_for_output=None,
        architecture=described,
        segment_size_train=(9, 9, 9),
        segment_size_validation=(9, 9, 9),
        segment_size_inference=(9, 9, 9),
        segment_size_inference_given=False,
        channel_names=channel_names,
        class_names=class_names,
    )
    saved = SavedModel.new(config, seed)
    generator = torch.Generator().manual_seed(seed)
    for tensor_name, tensor in saved.parameters.items():
        if "weight" not in tensor_name:
            tensor += 0.5 * torch.rand(tensor.shape, generator=generator)
    return saved


def fresh(described: Architecture, name="new", seed=1, **names) -> SavedModel:
    """An untrained model as `-newModel` makes it."""
    untrained = model(described, name, seed, **names)
    return replace(untrained, parameters=SavedModel.new(untrained.config, seed).parameters)


def probabilities(saved: SavedModel, inputs, precision=torch.float32) -> torch.Tensor:
    with torch.no_grad():
        return saved.network().to(precision)(*(images.to(precision) for images in inputs)).softmax(dim=1)


def inputs_for(described: Architecture, segment=None, seed=0, batch=2) -> list[torch.Tensor]:
    segment = segment or tuple(size + 2 for size in described.receptive_field)
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, described.input_channels, *size, generator=generator)
        for size in described.input_sizes(segment)
    ]


A_DOZEN = {
    "base": (architecture(), {}),
    "wider": (architecture((5, 6), ((4, 5),), (7,)), {}),
    "narrower": (architecture((2, 3), ((2, 2),), (3,)), {}),
    "deeper": (architecture((3, 4, 5), ((3, 3, 4),), (5, 4)), {}),
    "one_pathway": (architecture((4, 4), ()), {}),
    "three_pathways": (architecture((4, 3), ((3, 4), (5, 2))), {}),
    "three_channels": (architecture(channels=3, classes=4), {}),
    "no_hidden": (architecture(hidden=()), {}),
    "low_rank": (architecture((4, 7), ((3, 5),), low_rank=(2,)), {}),
    "low_rank_wider": (architecture((5, 9), ((3, 8),), low_rank=(2,)), {}),
    "no_batch_norm_relu": (architecture(batch_norm_window=0, activation="relu"), {}),
    "window_5_elu": (architecture(batch_norm_window=5, activation="elu"), {}),
    "selu_no_batch_norm": (architecture((3, 5), batch_norm_window=0, activation="selu"), {}),
    "linear": (architecture((3, 4), ((6, 3),), activation="linear"), {}),
    "flat_kernels": (architecture(kernels=(K331, K3)), {}),
    "named": (
        architecture(channels=3, classes=3),
        {"channel_names": ("T1", "T2", "FLAIR"), "class_names": ("background", "oedema", "core")},
    ),
    "named_otherwise": (
        architecture((5, 4), channels=2, classes=4),
        {"channel_names": ("FLAIR", "T1"), "class_names": ("background", "core", "stroke", "oedema")},
    ),
}
"""More than a dozen architectures, by what is special about them, with names of channels and classes."""
