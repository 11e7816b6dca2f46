"""The pictures of documentation/augmentation.md, drawn from the shipped scans."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from deepmedic.config.training import AugmentationConfig

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("affine", "intensity", "reflection", "rotation")


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        yield importlib.import_module("show_augmentation")


@pytest.fixture(scope="module")
def scans(script):
    return script.training_scans()


def test_rows_show_the_same_segments_before_and_after(script, scans):
    """What stands below each other in a picture, computed in another way."""
    before = script.source_of(scans, None).subepoch(0, 0)[0]
    mirror = script.SEGMENT_KINDS["reflection"][1]
    after = script.source_of(scans, AugmentationConfig(segment=mirror)).subepoch(0, 0)[0]
    for values, changed in zip((*before.inputs, before.labels), (*after.inputs, after.labels), strict=True):
        assert torch.equal(values.flip(-3), changed)
    turn = script.SEGMENT_KINDS["rotation"][1]
    after = script.source_of(scans, AugmentationConfig(segment=turn)).subepoch(0, 0)[0]
    angles = [
        next(k for k in (1, 2, 3) if torch.equal(torch.rot90(label, k), changed))
        for label, changed in zip(before.labels, after.labels, strict=True)
    ]
    assert set(angles) == {1, 2, 3}


def test_pictures_are_drawn_and_those_of_the_documentation_are_small(script, scans, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "SHOWN", 2)
    monkeypatch.setattr(script, "training_scans", lambda: scans)
    script.main(tmp_path)
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()] == [
        f"augmentation_{kind}.png" for kind in KINDS
    ]
    page = (ROOT / "documentation" / "augmentation.md").read_text()
    assert re.findall(r"\(pictures/augmentation_(\w+)\.png\)", page) == list(KINDS)
    for kind in KINDS:
        for folder in (tmp_path, ROOT / "documentation" / "pictures"):
            picture = folder / f"augmentation_{kind}.png"
            assert picture.read_bytes().startswith(b"\x89PNG")
            assert 5_000 < picture.stat().st_size < 300_000
