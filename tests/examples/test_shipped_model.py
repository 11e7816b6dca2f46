"""The model that is shipped: it is what its card says, and segments with one command."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import deepmedic
from deepmedic import cli
from deepmedic.files import sha256_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = EXAMPLES / "models" / "tissues.save"
SUBJECT = EXAMPLES / "data" / "subject3"
CARD = (EXAMPLES / "models" / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_it_is_small_and_without_the_state_of_training():
    model = deepmedic.load_model(MODEL)
    assert MODEL.stat().st_size < 1_000_000
    assert model.training is None
    assert model.trained
    assert model.provenance["stripped"]["position"]["step"] == 1440
    assert b"/tmp/" not in MODEL.read_bytes()


def test_the_card_is_about_this_file():
    model = deepmedic.load_model(MODEL)
    assert sha256_of(MODEL) in CARD
    assert f"{sum(tensor.numel() for tensor in model.network().parameters())} parameters" in CARD
    assert "1 cerebrospinal fluid (CSF), 2 grey matter, 3 white matter" in CARD
    assert model.class_names == ("background", "CSF", "grey matter", "white matter")
    assert (model.config.channel_names, model.data.axis_order, model.data.spacing) == (("T1",), "LAS", (2.0, 2.0, 2.0))


def test_it_segments_a_scan_as_well_as_the_card_says(tmp_path, capsys):
    words = [
        f"T1={SUBJECT / 'T1.nii.gz'}",
        "-roi",
        str(SUBJECT / "mask.nii.gz"),
        "-output",
        str(tmp_path / "seg.nii.gz"),
    ]
    assert cli.main(["-segment", str(MODEL), "-dev", "cpu", "-images", *words]) == 0
    assert capsys.readouterr().err == ""
    found, true = (np.asarray(nib.load(path).dataobj) for path in (tmp_path / "seg.nii.gz", SUBJECT / "labels.nii.gz"))
    for label, name in enumerate(("CSF", "grey matter", "white matter"), 1):
        promised = float(re.search(rf"\| {name} \| ([\d.]+) ", CARD)[1])
        dice = 2 * ((found == label) & (true == label)).sum() / ((found == label).sum() + (true == label).sum())
        assert dice == pytest.approx(promised, abs=0.002)
