"""Architectures, arrays and canonical names of the golden forward passes in `tests/golden/forward`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from original_names import canonical

from deepmedic.config.architecture import Architecture, Pathway

FOLDER = Path(__file__).parent.parent / "golden" / "forward"
ORIGINALS = (
    "aniso_linear_shrink",
    "evenfactor_elu",
    "nosubs_relu_nobn",
    "padmodes_prelu",
    "threepath_residual_mirrorfc",
    "tiny_prelu",
)
ALL = (*ORIGINALS, "lowrank")

_PADDINGS = {"VALID": "valid", None: "valid", "SAME": "zero", "zero": "zero", "MIRROR": "mirror", "mirror": "mirror"}


def read_meta(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name / "meta.json").read_text(encoding="utf-8"))


def read_arrays(name: str, file: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / name / f"{file}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def build_architecture(meta: dict[str, Any]) -> Architecture:
    pathways = [_pathway(meta, index) for index in range(meta["n_pathways"])]
    return Architecture(
        input_channels=meta["fms_in_per_path_per_block"][0][0],
        classes=meta["fms_out_per_path_per_block"][-1][-1],
        normal=pathways[0],
        subsampled=tuple(pathways[1:-1]),
        fc=pathways[-1],
        activation=meta["activation"],
        batch_norm_window=meta["bn_rolling_length"],
    )


def without_dropout(architecture: Architecture) -> Architecture:
    def changed(pathway: Pathway) -> Pathway:
        return replace(pathway, dropout_rates=(0.0,) * pathway.depth)

    return replace(
        architecture,
        normal=changed(architecture.normal),
        subsampled=tuple(changed(pathway) for pathway in architecture.subsampled),
        fc=changed(architecture.fc),
    )


def canonical_name(golden: str, meta: dict[str, Any]) -> str:
    """The canonical name of a variable, whose pathway is of the kind that the original's name says."""
    if golden.startswith("path"):
        path, kind, *_ = golden.split(".")
        assert meta["path_types"][_number(path)] == kind
    return canonical(golden)


def golden_parameters(name: str, *, derived: bool = False) -> dict[str, torch.Tensor]:
    """Parameters and rolling arrays by canonical name; or the derived means and variances."""
    meta = read_meta(name)
    named = {canonical_name(key, meta): array for key, array in read_arrays(name, "params").items()}
    return {key: array for key, array in named.items() if (key.endswith(("/bn_mean", "/bn_var"))) == derived}


def inputs(arrays: dict[str, torch.Tensor], stage: str) -> list[torch.Tensor]:
    low_resolution = sorted((key for key in arrays if key.startswith(f"{stage}.x_sub_")), key=_number)
    return [arrays[f"{stage}.x"], *(arrays[key] for key in low_resolution)]


def _pathway(meta: dict[str, Any], index: int) -> Pathway:
    kind = meta["path_types"][index]
    layers = meta["layers_per_path_per_block"][index]
    return Pathway(
        name=f"subsampled{index}" if kind == "subsampled" else kind,
        feature_maps=tuple(meta["fms_out_per_path_per_block"][index]),
        kernels=tuple(tuple(kernel) for kernel in meta["kernels"][index]),
        paddings=tuple(_PADDINGS[padding] for padding in meta["pad_modes"][index]),
        dropout_rates=tuple(map(float, meta["dropout_rates_used"][index])),
        residual_layers=tuple(block + 1 for block in meta["residual_block_indices_from_0"][index]),
        low_rank_layers=tuple(i for i, kinds in enumerate(layers, 1) if "LowRankConvolutionalLayer" in kinds),
        factor=tuple(meta["subsample_factors"][index]),
    )


def _number(text: str) -> int:
    return int(re.search(r"\d+$", text).group())
