"""Which network suits a device and the spacing of the voxels."""

from __future__ import annotations

from dataclasses import dataclass

_ANISOTROPIC = 2.5
"""Ratio of the largest spacing to the others from which an axis is treated apart."""


@dataclass(frozen=True)
class NetworkPlan:
    """The layers of a network, as the keys of a model config give them, and why."""

    feature_maps: tuple[int, ...]
    kernels: tuple[tuple[int, int, int], ...]
    factors: tuple[tuple[int, int, int], ...]
    residual_layers: tuple[int, ...]
    fc_feature_maps: tuple[int, ...]
    fc_dropout: tuple[float, ...]
    epochs: int
    subepochs: int
    segments_per_subepoch: int
    reason: str
    reason_of_kernels: str


def choose_network(spacing: tuple[float, float, float], *, gpu: bool) -> NetworkPlan:
    """Return DeepMedic's own network for a GPU and a small one for a CPU, with flat kernels where voxels are flat.

    Args:
        spacing: median millimetres along the axes in memory.
        gpu: whether the training will run on one.
    """
    layers = 8 if gpu else 4
    coarse = _coarse_axis(spacing)
    size = " x ".join(f"{extent:.3g}" for extent in spacing)
    if coarse is None:
        kernels = ((3, 3, 3),) * layers
        reason = f"voxels of {size} mm are about as long as wide: cubic kernels"
    else:
        flat, flat_factor = _along(coarse, 1, 3), coarse
        kernels = (flat,) * (layers // 2) + ((3, 3, 3),) * (layers - layers // 2)
        reason = (
            f"voxels of {size} mm are long along {'xyz'[flat_factor]}: the first half of the kernels does not mix "
            "neighbours along that axis, and no pathway subsamples it"
        )
    factors = [3, 5] if gpu else [3]
    subsampling = tuple((f, f, f) if coarse is None else _along(coarse, 1, f) for f in factors)
    if gpu:
        return NetworkPlan(
            (30, 30, 40, 40, 40, 40, 50, 50), kernels, subsampling, (4, 6, 8), (150, 150), (0.0, 0.5, 0.5),
            35, 20, 1000, "the network of the original DeepMedic, for a GPU", reason,
        )  # fmt: skip
    return NetworkPlan(
        (16, 16, 16, 32), kernels, subsampling, (), (48,), (0.0, 0.0),
        10, 5, 500, "a small network, for a CPU; with -dev cuda the network of the original is written", reason,
    )  # fmt: skip


def _coarse_axis(spacing: tuple[float, float, float]) -> int | None:
    """The axis along which voxels are much longer than along both others."""
    axis = spacing.index(max(spacing))
    others = [size for number, size in enumerate(spacing) if number != axis]
    return axis if spacing[axis] >= _ANISOTROPIC * max(others) else None


def _along(axis: int, value: int, others: int) -> tuple[int, int, int]:
    x, y, z = (value if number == axis else others for number in range(3))
    return x, y, z
