"""Label tables of viewers, read back by the rules of their formats."""

from __future__ import annotations

import re

import pytest

from deepmedic.inference.label_tables import colour_of, fsleyes, itk_snap, write_label_tables

NAMES = ("background", "CSF", 'white "matter"', "lésion  1")
ITK_SNAP_LINE = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"([^"]*)"')


def test_itk_snap_has_every_class_and_a_clear_background():
    lines = itk_snap(NAMES).splitlines()
    assert lines[0] == "# ITK-SnAP Label Description File"
    rows = [ITK_SNAP_LINE.fullmatch(line).groups() for line in lines if not line.startswith("#")]
    assert [(row[0], row[-1]) for row in rows] == [
        ("0", "background"),
        ("1", "CSF"),
        ("2", "white 'matter'"),
        ("3", "lésion 1"),
    ]
    assert rows[0][1:7] == ("0", "0", "0", "0", "0", "0")
    assert all(row[4:7] == ("1", "1", "1") for row in rows[1:])
    assert tuple(map(int, rows[2][1:4])) == colour_of(2)


def test_fsleyes_has_value_colour_from_0_to_1_and_name():
    lines = [line.split(maxsplit=4) for line in fsleyes(NAMES).splitlines()]
    assert [(line[0], line[4]) for line in lines] == [("1", "CSF"), ("2", 'white "matter"'), ("3", "lésion 1")]
    for number, line in enumerate(lines, 1):
        assert [float(channel) for channel in line[1:4]] == pytest.approx(
            [channel / 255 for channel in colour_of(number)], abs=1e-5
        )


def test_every_class_has_a_colour_of_its_own():
    colours = [colour_of(number) for number in range(1, 121)]
    assert len(set(colours)) == len(colours)
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
    assert all(max(colour) > 150 for colour in colours)


def test_both_lie_beside_the_segmentations(tmp_path):
    paths = write_label_tables(tmp_path / "new", "seg_", NAMES)
    assert [path.name for path in paths] == ["seg_labels_itksnap.txt", "seg_labels_fsleyes.lut"]
    assert paths[0].read_text(encoding="utf-8") == itk_snap(NAMES)
    assert paths[1].read_text(encoding="utf-8") == fsleyes(NAMES)
