"""Drawings of an architecture: what they say, and that SVG is sound XML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from small_cases import NASTY

from deepmedic.model.network import DeepMedicNet
from deepmedic.model.parameters import count_parameters
from deepmedic.report import architecture_svg, architecture_text
from deepmedic.report.architecture_facts import layer_table, pathways_of
from deepmedic.report.content import Model

EXPECTED = """\
image: 3 channels (T1, {nasty}, T2), segment 9x9x9
|
+-- normal: full resolution; one output voxel depends on 5x5x5 voxels of the image
|        kernel      maps    receptive field  size   parameters
|     1  conv 3x3x3  3 -> 4  3x3x3            7x7x7  327
|     2  conv 3x3x3  4 -> 4  5x5x5            5x5x5  444         residual
|
"""


def test_sizes_follow_the_data(model: Model) -> None:
    normal, low, fc = pathways_of(model.architecture, (9, 9, 9))

    assert [layer.output for layer in normal.layers] == [(7, 7, 7), (5, 5, 5)]
    assert low.size == (6, 6, 6)
    assert low.layers[-1].output == (2, 2, 2)
    assert low.spans == (13, 13, 13)
    assert (fc.channels_in, fc.size, fc.layers[-1].channels_out) == (6, (5, 5, 5), 3)
    assert fc.spans == (5, 5, 5)


def test_the_table_has_all_parameters(model: Model) -> None:
    table = layer_table(model)

    column = table.columns.index("parameters")
    assert sum(row[column] for row in table.rows) == count_parameters(DeepMedicNet(model.architecture))
    assert len(table.rows) == 6


def test_the_drawing_in_text(model: Model) -> None:
    drawing = architecture_text.draw(model)

    assert drawing.startswith(EXPECTED.format(nasty=NASTY))
    assert "+-- concatenated: 4 + 2 = 6 channels, 5x5x5" in drawing
    assert drawing.isascii()
    assert "  9x9x9    1.0 MiB" in drawing


def test_a_network_without_low_resolution_is_one_line_of_layers(model: Model) -> None:
    single = replace(model, architecture=replace(model.architecture, subsampled=()))

    drawing = architecture_text.draw(single)

    assert drawing.count("+-- ") == 2
    assert "subsampled" not in drawing
    assert "subsampled" not in architecture_svg.draw(single)


def test_the_drawing_in_svg_is_xml_without_anything_active(model: Model) -> None:
    root = ElementTree.fromstring(architecture_svg.draw(model, standalone=True))

    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names == {"svg", "g", "title", "rect", "text", "path", "style"}
    texts = [element.text or "" for element in root.iter() if element.tag.endswith(("text", "title"))]
    assert any(NASTY in text for text in texts)
    assert sum("maps" in text and "parameters" not in text for text in texts) == 6
    assert len(re.findall("arch-residual", architecture_svg.draw(model))) == 1


def test_nothing_reaches_out_of_the_drawing(model: Model) -> None:
    root = ElementTree.fromstring(architecture_svg.draw(model))

    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(box.get("x", 0)) + float(box.get("width", 0)) <= width
        assert float(box.get("y", 0)) + float(box.get("height", 0)) <= height
