"""Names of the original's variables in the golden files, and the canonical ones of this program."""

from __future__ import annotations

ROLES = {
    "conv_W": "weight",
    "conv_Wx": "weight_x",
    "conv_Wy": "weight_y",
    "conv_Wz": "weight_z",
    "bias_b": "bias",
    "bn_gamma": "bn_gamma",
    "bn_beta": "bn_beta",
    "bn_roll_mean": "bn_mean_rolling",
    "bn_roll_var": "bn_var_rolling",
    "prelu_a": "prelu_alpha",
}
"""Of parameters and rolling arrays."""


def is_saved(name: str) -> bool:
    """Whether a saved model has the variable; others, such as the statistics of a batch, are only noted."""
    return name.rpartition(".")[2] in ROLES


def canonical(name: str) -> str:
    """`path1.subsampled.block2.conv_W` -> `subsampled1/3/weight`; roles that no saved model has keep their names."""
    layer, _, role = name.rpartition(".")
    role = ROLES.get(role, role)
    if layer == "softmax":
        return f"softmax/{role}"
    path, kind, block = layer.split(".")
    pathway = f"subsampled{path.removeprefix('path')}" if kind == "subsampled" else kind
    return f"{pathway}/{int(block.removeprefix('block')) + 1}/{role}"
