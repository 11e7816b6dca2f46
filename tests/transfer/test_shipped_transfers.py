"""The worked examples of `documentation/transfer.md`: its configs fit, and its numbers are those of the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepmedic.config.load import load_model_config
from deepmedic.errors import ModelError
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.adaptation import adapt_model
from deepmedic.transfer.options import TransferOptions
from deepmedic.transfer.transplant import transplant

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "documentation" / "transfer.md").read_text(encoding="utf-8")


def model(name: str) -> SavedModel:
    return SavedModel.new(load_model_config(ROOT / "configs" / f"{name}.cfg"), seed=0)


def test_the_wider_network_receives_all_of_the_tiny_one() -> None:
    wide = model("transfer/model")
    options = TransferOptions(new_channels=wide.config.new_channels, transfer_classes=wide.config.transfer_classes)
    report = transplant(model("tiny/model"), wide, options).report
    assert report.unused == ()
    assert report.summary() == "3060 of 11514 parameters (26.6%) of model wide come from model tiny"
    assert report.summary() in TEXT


def test_the_deeper_network_is_refused_as_shown() -> None:
    with pytest.raises(ModelError) as refusal:
        transplant(model("tiny/model"), model("transfer/model_deeper"))
    assert str(refusal.value) in TEXT.replace("\n", " ")


def test_the_deeper_network_grows() -> None:
    report = transplant(model("tiny/model"), model("transfer/model_deeper"), TransferOptions(grow="exact")).report
    assert f"{report.summary()}." in TEXT


def test_the_adapted_network() -> None:
    names = ["background", "CSF", "grey matter", "white matter", "lesion"]
    report = adapt_model(model("tiny/model"), class_names=names, class_frequencies=(74, 8, 10, 7, 1)).report
    assert f"{report.summary()}." in TEXT
    assert report.to_text().splitlines()[-1] in TEXT
