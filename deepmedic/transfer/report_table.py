"""The table of a transfer: one block of lines per layer, its tensors grouped by what they received."""

from __future__ import annotations

from collections.abc import Sequence

from deepmedic.transfer.received import LayerTransfer, Run, TensorTransfer

_HEAD = ("layer", "depth", "kernel", "received from", "share", "what")


def table(layers: Sequence[LayerTransfer]) -> list[str]:
    """Return the lines of a table with aligned columns."""
    blocks = [_block(layer) for layer in layers]
    rows = [_HEAD, *(row for block in blocks for row in block)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    return [
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def grouped_names(names: Sequence[str], all_names: Sequence[str]) -> list[str]:
    """Shorten `fc/2/weight`, `fc/2/bias` to `fc/2 (weight, bias)`, or to `fc/2` when the layer has no other tensors."""
    roles = _roles_by_layer(names)
    complete = _roles_by_layer(all_names)
    return [layer if found == complete[layer] else f"{layer} ({', '.join(found)})" for layer, found in roles.items()]


def _roles_by_layer(names: Sequence[str]) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    for name in names:
        layer, _, role = name.rpartition("/")
        roles.setdefault(layer, []).append(role)
    return roles


def _block(layer: LayerTransfer) -> list[tuple[str, ...]]:
    """Return the row of a layer, and below it further rows that only tell about tensors."""
    kernel = "x".join(map(str, layer.pathway.kernels[layer.layer - 1]))
    share = f"{layer.transferred / layer.parameters:.0%}"
    first = (layer.name, str(layer.depth), kernel, layer.source or "-", share)
    found = _groups(layer.tensors)
    groups = list(found) if len(found) == 1 else [f"{what}: {', '.join(names)}" for what, names in found.items()]
    details = [*groups, *([f"({layer.note})"] if layer.note else [])]
    return [(*(first if number == 0 else ("",) * len(first)), detail) for number, detail in enumerate(details)]


def _groups(tensors: Sequence[TensorTransfer]) -> dict[str, list[str]]:
    """Group tensors that received the same, by how the table says it."""
    groups: dict[str, list[str]] = {}
    for tensor in tensors:
        what = " ".join(part for part in (tensor.status, _slices(tensor), tensor.note and f"({tensor.note})") if part)
        name = tensor.name if tensor.name.startswith("softmax/") else tensor.role
        groups.setdefault(what, []).append(name)
    return groups


def _slices(tensor: TensorTransfer) -> str:
    """Say which channels came from which: `[0:4, 0:2] of 6x2 <- [0:4, 0:2] of 4x3`; kernels are whole and left out."""
    if tensor.status != "sliced":
        return ""
    own = ", ".join(_axis(runs, source=False) for runs in tensor.slices)
    given = ", ".join(_axis(runs, source=True) for runs in tensor.slices)
    return f"[{own}] of {_size(tensor, tensor.shape)} <- [{given}] of {_size(tensor, tensor.source_shape or ())}"


def _size(tensor: TensorTransfer, shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[: len(tensor.slices)]))


def _axis(runs: tuple[Run, ...] | None, *, source: bool) -> str:
    if runs is None:
        return ":"
    starts = [(run.source_start if source else run.start, run.length) for run in runs]
    return "+".join(str(start) if length == 1 else f"{start}:{start + length}" for start, length in starts)
