"""An architecture drawn in plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deepmedic.report.architecture_facts import PathwayFacts, by, drawn_segment, pathways_of
from deepmedic.report.content import Model, Table
from deepmedic.report.page_values import shown
from deepmedic.words import counted


def draw(model: Model) -> str:
    """Return the drawing: the way of the data from top to bottom, sizes for a training segment, memory below."""
    architecture, segment = model.architecture, drawn_segment(model)
    *parallel, fc = pathways_of(architecture, segment)
    names = ", ".join(model.channel_names)
    lines = [f"image: {counted(architecture.input_channels, 'channel')} ({names}), segment {by(segment)}", "|"]
    for pathway in parallel:
        lines += [f"+-- {_title(pathway)}", *(f"|     {line}" for line in _layers(pathway))]
        lines += [f"|        repeated {by(pathway.factor)} to full resolution"] * _is_low(pathway) + ["|"]
    together = " + ".join(str(pathway.layers[-1].channels_out) for pathway in parallel)
    lines += [f"+-- concatenated: {together} = {counted(fc.channels_in, 'channel')}, {by(fc.size)}", "|"]
    lines += ["fc: classifies each voxel", *(f"|     {line}" for line in _layers(fc)), "|"]
    predicted = by(architecture.output_size(segment))
    lines += [f"softmax: {', '.join(model.class_names)}; predicted box {predicted}"]
    total = sum(layer.parameters for pathway in (*parallel, fc) for layer in pathway.layers)
    lines += ["", f"{total:,} parameters; activation {architecture.activation}, {_normalisation(architecture)}"]
    if model.memory is not None:
        lines += ["", "memory of one segment, estimated (float32):", *(f"  {line}" for line in _table(model.memory))]
    return "\n".join(lines)


def _title(pathway: PathwayFacts) -> str:
    low = _is_low(pathway)
    resolution = f"1 voxel in {by(pathway.factor)}, input {by(pathway.size)}" if low else "full resolution"
    return f"{pathway.name}: {resolution}; one output voxel depends on {by(pathway.spans)} voxels of the image"


def _is_low(pathway: PathwayFacts) -> bool:
    return pathway.factor != (1, 1, 1)


def _normalisation(architecture: object) -> str:
    window = getattr(architecture, "batch_norm_window", 0)
    return f"batch norm over {window} iterations" if window > 0 else "no batch norm"


def _layers(pathway: PathwayFacts) -> list[str]:
    head = ["", "kernel", "maps", "receptive field", "size", "parameters", ""]
    rows = [
        [
            str(layer.number),
            f"conv {by(layer.kernel)}",
            f"{layer.channels_in} -> {layer.channels_out}",
            by(layer.receptive_field),
            by(layer.output),
            f"{layer.parameters:,}",
            ", ".join(layer.traits),
        ]
        for layer in pathway.layers
    ]
    return _aligned([head, *rows])


def _table(table: Table) -> list[str]:
    return _aligned([list(table.columns), *([shown(value) for value in row] for row in table.rows)])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Iterable[str], widths: Iterable[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
