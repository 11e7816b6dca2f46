"""An architecture drawn as SVG: pathways from left to right, joined by the FC pathway.

Colours come from style classes of its own, with a variant for dark pages, so the drawing also stands alone as a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from deepmedic.report.architecture_facts import LayerFacts, PathwayFacts, by, drawn_segment, pathways_of
from deepmedic.report.content import Model
from deepmedic.words import counted

_BOX_WIDTH, _BOX_HEIGHT, _GAP = 96, 74, 18
_LEFT, _TOP, _ROW = 132, 34, 132
_LETTER = 7.0
"""Width of a bold letter in the widest of the usual fonts, about."""
_FONT = "font-family='system-ui, sans-serif'"


@dataclass
class _Canvas:
    """Elements so far, and how far they reach."""

    elements: list[str] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0

    def box(self, x: float, y: float, kind: str, lines: list[str], title: str) -> None:
        """A box with centred lines of text; the first is bold."""
        self._reach(x + _BOX_WIDTH, y + _BOX_HEIGHT)
        texts = "".join(
            f'<text x="{x + _BOX_WIDTH / 2:g}" y="{y + 17 + 15 * number:g}" text-anchor="middle" '
            f'class="arch-text{"" if number else " arch-strong"}">{escape(line)}</text>'
            for number, line in enumerate(lines)
        )
        self.elements.append(
            f'<g><title>{escape(title)}</title><rect x="{x:g}" y="{y:g}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" '
            f'rx="6" class="arch-box arch-{kind}"/>{texts}</g>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "arch-text") -> None:
        self._reach(x + _LETTER * len(text), y + 6)
        self.elements.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>')

    def path(self, description: str, kind: str = "arch-line") -> None:
        self.elements.append(f'<path d="{description}" class="{kind}"/>')

    def _reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)


def draw(model: Model, *, standalone: bool = False) -> str:
    """Return the SVG element; `standalone` adds its own colours, for a file outside the page."""
    architecture, segment = model.architecture, drawn_segment(model)
    *parallel, fc = pathways_of(architecture, segment)
    canvas = _Canvas()
    deepest = max(len(pathway.layers) for pathway in parallel)
    middle = _TOP + _ROW * (len(parallel) - 1) / 2
    channels = counted(architecture.input_channels, "channel")
    canvas.box(8, middle, "input", ["image", channels, by(segment)], ", ".join(model.channel_names))
    widest = max(deepest * (_BOX_WIDTH + _GAP), *(_LETTER * len(_label(pathway)) for pathway in parallel))
    join = _LEFT + widest + 14
    for row, pathway in enumerate(parallel):
        _draw_pathway(canvas, pathway, _TOP + row * _ROW, middle, join)
    for number, layer in enumerate(fc.layers):
        _draw_layer(canvas, "fc", layer, join + 30 + number * (_BOX_WIDTH + _GAP), middle)
    canvas.text(join + 30, middle - 12, f"FC: {fc.channels_in} channels joined", "arch-text arch-strong")
    end = join + 30 + len(fc.layers) * (_BOX_WIDTH + _GAP)
    arrow = middle + _BOX_HEIGHT / 2
    canvas.path(f"M{join:g} {arrow:g}h30")
    canvas.path(f"M{end - _GAP:g} {arrow:g}h{_GAP}")
    box = by(architecture.output_size(segment))
    canvas.box(end, middle, "output", ["softmax", f"{architecture.classes} classes", box], ", ".join(model.class_names))
    width, height = canvas.width + 8, canvas.height + 26
    style = f"<style>{_STYLE}</style>" if standalone else ""
    name = f"Architecture: {len(parallel)} pathways, {architecture.classes} classes"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(name)}" {_FONT} class="arch">{style}'
        f"{''.join(canvas.elements)}</svg>"
    )


def _draw_pathway(canvas: _Canvas, pathway: PathwayFacts, y: float, middle: float, join: float) -> None:
    """One row: the line from the image, the layers, and the line to where pathways are joined."""
    arrow, source = y + _BOX_HEIGHT / 2, middle + _BOX_HEIGHT / 2
    canvas.path(f"M{8 + _BOX_WIDTH} {source:g}h8V{arrow:g}H{_LEFT}")
    canvas.text(_LEFT, y - 12, _label(pathway), "arch-text arch-strong")
    for number, layer in enumerate(pathway.layers):
        x = _LEFT + number * (_BOX_WIDTH + _GAP)
        _draw_layer(canvas, "normal" if pathway.factor == (1, 1, 1) else "low", layer, x, y)
        if layer.residual and number:
            start, end, below = x - _GAP - _BOX_WIDTH - 6, x + _BOX_WIDTH + _GAP / 2, y + _BOX_HEIGHT + 14
            canvas.path(f"M{start:g} {arrow:g}V{below:g}H{end:g}V{arrow:g}", "arch-line arch-residual")
    last = _LEFT + len(pathway.layers) * (_BOX_WIDTH + _GAP) - _GAP
    canvas.path(f"M{last:g} {arrow:g}H{join:g}V{source:g}")


def _label(pathway: PathwayFacts) -> str:
    """What stands above a pathway."""
    if pathway.factor == (1, 1, 1):
        return f"{pathway.name}: full resolution, {by(pathway.size)}, sees {by(pathway.spans)}"
    factor = by(pathway.factor)
    return f"{pathway.name}: 1 voxel in {factor}, {by(pathway.size)}, sees {by(pathway.spans)}, then repeated {factor}"


def _draw_layer(canvas: _Canvas, kind: str, layer: LayerFacts, x: float, y: float) -> None:
    if layer.number > 1:
        canvas.path(f"M{x - _GAP:g} {y + _BOX_HEIGHT / 2:g}h{_GAP}")
    lines = [f"{layer.channels_out} maps", by(layer.kernel), f"sees {by(layer.receptive_field)}", by(layer.output)]
    traits = "".join(f"; {trait}" for trait in layer.traits)
    maps = f"{layer.channels_in} -> {layer.channels_out} maps"
    title = f"layer {layer.number}: {maps}, {layer.parameters:,} parameters{traits}"
    canvas.box(x, y, kind, lines, title)


_STYLE = (
    ".arch{background:#fff}.arch-text{font-size:11px;fill:#1b2430}.arch-strong{font-weight:600}"
    ".arch-box{stroke:#566273;fill:#eef2f7}.arch-normal{fill:#d9ebf8}.arch-low{fill:#d9f2e6}.arch-fc{fill:#fbe6d3}"
    ".arch-line{stroke:#566273;fill:none;stroke-width:1.3}.arch-residual{stroke-dasharray:4 3}"
)
